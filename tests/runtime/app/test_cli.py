import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from artifacts import COLOURS, artifact, colour_graph, coloured, save, write_colour_model
from bf16 import needs_bf16
from videos import shared_clip, write_video

from dvfl_runtime import Recognizer, recognizer
from dvfl_runtime.app import cli

RUN = [sys.executable, "-m", "dvfl_runtime.app.cli"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model and two videos, which the tests only read."""
    path = tmp_path_factory.mktemp("cli")
    write_colour_model(path / "m.onnx")
    write_video(path / "rg.mp4", coloured(("red", 75), ("green", 75)), pix_fmt="yuv444p")
    write_video(path / "b.mp4", coloured(("blue", 50)), pix_fmt="yuv444p")
    return path


@pytest.fixture
def run(folder, capsys):
    """Run the command on files of `folder`; return status, standard output and error."""

    def call(*args, model="m.onnx"):
        words = [str(folder / a) if (folder / a).is_file() else a for a in map(str, args)]
        try:
            status = cli.main([*words, "--model", str(folder / model)])
        except SystemExit as err:
            status = err.code
        return status, *capsys.readouterr()

    return call


def is_one_error(result, *parts):
    status, out, err = result
    assert status == 2
    assert out == ""
    assert err.startswith("dvfl-recognize: error: ")
    assert err.count("\n") == 1
    assert all(part in err for part in parts), err
    return True


def test_the_table_is_aligned(run, folder):
    status, out, err = run("rg.mp4", "--hop-s", "0.5")
    assert (status, err) == (0, "")
    name, heads, *rows = out.splitlines()
    assert name == str(folder / "rg.mp4")
    assert len(rows) == 11
    where = heads.index("label")
    assert {row[where : where + 5].strip() for row in rows} == {"red", "green"}
    assert rows[0].split()[:2] == ["0.00", "1.00"]
    assert rows[0].split()[2:4] == ["red", "1.00"]


def test_jsonl_has_one_object_a_window(run, folder):
    status, out, _ = run("rg.mp4", "b.mp4", "--format", "jsonl", "--top-k", "2", "--window-s", "2")
    assert status == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert list(rows[0]) == [
        *("schema", "source", "start_s", "end_s", "label", "class_id", "unknown", "confidence"),
        *("top", "latency_ms", "dropped_frames", "region", "track_id"),
    ]
    assert [row["region"] for row in rows] == [[0.0, 0.0, 1.0, 1.0]] * len(rows)
    assert {row["schema"] for row in rows} == {1}
    assert {len(row["top"]) for row in rows} == {2}
    assert [row["source"] for row in rows] == sorted((row["source"] for row in rows), reverse=True)
    assert rows[0]["end_s"] - rows[0]["start_s"] == 2
    assert [row["label"] for row in rows][-1] == "blue"


def test_whole_averages_the_views_that_are_wanted(run):
    scores = {}
    for views in ("1", "windows"):
        status, out, _ = run("rg.mp4", "--whole", "--views", views, "--format", "jsonl")
        assert status == 0
        scores[views] = json.loads(out)["confidence"]
    assert scores["1"] != scores["windows"]


def test_whole_gives_one_answer_a_video(run, folder):
    status, out, _ = run("b.mp4", "b.mp4", "--whole")
    heads, *rows = out.splitlines()
    assert (status, heads.split()) == (0, ["label", "score", "source"])
    assert [row.split() for row in rows] == [["blue", "1.00", str(folder / "b.mp4")]] * 2


def test_segments_in_every_format(run, folder, tmp_path):
    for suffix in (".csv", ".json", ".srt"):
        assert run("rg.mp4", "--segments", tmp_path / f"s{suffix}")[0] == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "s.csv").read_text())))
    assert [row["label"] for row in rows] == ["red", "green"]
    assert float(rows[0]["start_s"]) == 0.0
    assert rows[0]["end_s"] == rows[1]["start_s"]
    assert float(rows[0]["end_s"]) == pytest.approx(3, abs=0.3)
    document = json.loads((tmp_path / "s.json").read_text())
    assert document["schema"] == 1
    assert [s["label"] for s in document["segments"]] == ["red", "green"]
    assert document["segments"][0]["source"] == str(folder / "rg.mp4")
    first, second = (tmp_path / "s.srt").read_text().strip().split("\n\n")
    assert first.startswith("1\n00:00:00,000 --> 00:00:0")
    assert first.endswith("%)")
    assert "green (" in second


def test_parts_of_the_picture_have_answers_of_their_own(run, tmp_path):
    two = [
        np.concatenate(pair, axis=1)
        for pair in zip(coloured(("red", 100)), coloured(("green", 50), ("blue", 50)), strict=True)
    ]
    video = write_video(tmp_path / "two.mp4", two, pix_fmt="yuv444p")
    parts = ("--roi", "door=0,0,0.5,1", "--roi", "far desk=0.5, 0, 0.5, 1")
    status, out, _ = run(video, *parts, "--format", "jsonl", "--segments", tmp_path / "s.csv")
    assert status == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert {(row["track_id"], row["label"]) for row in rows} == {
        *(("door", "red"), ("far desk", "green"), ("far desk", "blue")),
    }
    assert {tuple(row["region"]) for row in rows} == {(0, 0, 0.5, 1), (0.5, 0, 0.5, 1)}
    found = list(csv.DictReader(io.StringIO((tmp_path / "s.csv").read_text())))
    assert [(row["track_id"], row["label"]) for row in found] == [
        *(("far desk", "green"), ("door", "red"), ("far desk", "blue")),
    ]
    assert run(video, *parts, "--segments", tmp_path / "s.srt")[0] == 0
    assert "far desk: blue (" in (tmp_path / "s.srt").read_text()
    _, out, _ = run(video, *parts)
    heads, *rows = out.splitlines()[1:]
    score = heads.index("score")
    assert any("  far desk: blue " in row for row in rows)
    assert all(row[score - 2 : score] == "  " for row in rows)


def test_output_goes_to_a_file_and_its_suffix_chooses_jsonl(run, tmp_path):
    assert run("b.mp4", "-o", tmp_path / "o.txt") == (0, "", "")
    assert (tmp_path / "o.txt").read_text().splitlines()[1].split()[:3] == ["start", "end", "label"]
    assert run("b.mp4", "-o", tmp_path / "o.jsonl") == (0, "", "")
    assert json.loads((tmp_path / "o.jsonl").read_text().splitlines()[0])["label"] == "blue"


def test_the_demo_prints_a_timeline_and_says_what_runs(folder, capsys, monkeypatch):
    monkeypatch.setattr(recognizer, "BUNDLED_MODEL", folder / "m.onnx")
    monkeypatch.setattr(cli, "DEMO_CLIP", folder / "rg.mp4")
    assert cli.main(["--demo", "--engine", "onnxruntime"]) == 0
    out, err = capsys.readouterr()
    heads, *rows = out.splitlines()
    assert heads.split() == ["start", "end", "label", "confidence"]
    assert [row.split()[2] for row in rows] == ["red", "green"]
    assert all("####" in row for row in rows)
    assert "onnxruntime" in err
    assert "CPUExecutionProvider" in err
    assert cli.main(["--demo", "--format", "jsonl"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["label"] == "red"


def test_each_source_has_parts_of_its_own(run, tmp_path):
    (tmp_path / "both").mkdir()
    videos = [
        write_video(tmp_path / name, coloured((colour, 100)), pix_fmt="yuv444p")
        for name, colour in (("both/a.mp4", "red"), ("both/b.mp4", "green"), ("c.mp4", "blue"))
    ]
    parts = (f"left@{videos[0]}=0,0,0.5,1", f"all@{tmp_path}/both/=0,0,1,1")
    rois = [text for part in parts for text in ("--roi", part)]
    status, out, _ = run(tmp_path / "both", videos[2], *rois, "--format", "jsonl")
    assert status == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert {(Path(row["source"]).name, row["track_id"], row["label"]) for row in rows} == {
        *(("a.mp4", "left", "red"), ("a.mp4", "all", "red"), ("b.mp4", "all", "green")),
        ("c.mp4", None, "blue"),
    }
    same = ("--roi", f"d@{videos[2]}=0,0,1,1", "--roi", "d=0,0,1,1")
    assert is_one_error(run(videos[2], *same), "two of the --roi of a source", "name of its own")


@needs_bf16
def test_the_demo_in_bf16(folder, capsys, monkeypatch):
    monkeypatch.setattr(recognizer, "BUNDLED_MODEL", folder / "m.onnx")
    monkeypatch.setattr(cli, "DEMO_CLIP", folder / "rg.mp4")
    assert cli.main(["--demo", "--precision", "bf16"]) == 0
    out, err = capsys.readouterr()
    assert [row.split()[2] for row in out.splitlines()[1:]] == ["red", "green"]
    assert "bf16 on openvino" in err


def test_help_teaches_by_examples(run):
    status, out, _ = run("--help")
    assert status == 0
    assert "examples:" in out
    assert "dvfl-recognize video.mp4 --segments actions.csv" in out
    assert run("--version")[1].startswith("dvfl-recognize 0.")


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        ((), ["no source given", "--demo"]),
        (("none.mp4",), ["none.mp4", "does not exist"]),
        (("b.mp4", "--engine", "caffe"), ["unknown engine 'caffe'", "onnxruntime"]),
        (("b.mp4", "--device", "tpu"), ["unknown device 'tpu'", "cuda"]),
        (("b.mp4", "--precision", "int8"), ["--precision", "'int8'", "bf16"]),
        (
            ("b.mp4", "--precision", "bf16", "--engine", "onnxruntime"),
            ["onnxruntime does not compute in bf16; pass --engine openvino, or --precision file"],
        ),
        (("b.mp4", "--precision", "bf16", "--device", "cuda"), ["pass --device cpu, or --prec"]),
        (("b.mp4", "--segments", "s.txt"), ["s.txt", ".csv, .json, .srt"]),
        (("b.mp4", "b.mp4", "--segments", "s.srt"), ["one video", "--segments s/"]),
        (("b.mp4", "--whole", "--hop-s", "1"), ["--whole has no windows"]),
        (("b.mp4", "--whole", "--views", "x"), ["views must be", "windows", "'x'"]),
        (("b.mp4", "--views", "windows"), ["--views is about the one answer of --whole"]),
        (("b.mp4", "--hop-s", "0"), ["--hop-s", "'0'"]),
        (("b.mp4", "--roi", "0.1,0.2,0.3,0.5"), ["--roi", "NAME=LEFT,TOP,WIDTH,HEIGHT"]),
        (("b.mp4", "--roi", "door=0.1,0.2,0.3"), ["--roi", "'door=0.1,0.2,0.3'"]),
        (("b.mp4", "--roi", "door@=0,0,1,1"), ["--roi", "NAME@SOURCE"]),
        (
            ("b.mp4", "--roi", "d@rtsp://me:secret@cam/1?a=b=0,0,1,1"),
            ["--roi d@rtsp://", "none of the sources"],
        ),
        (("b.mp4", "--roi", "d=0.8,0,0.5,1"), ["--roi d must be", "within the picture", "0.8"]),
        (("b.mp4", "--roi", "d=0,0,nan,1"), ["--roi d must be", "nan"]),
        (("b.mp4", "--roi", "d=0,0,1,1", "--roi", "d=0,0,1,1"), ["same name"]),
        (("b.mp4", "--roi", "d=0,0,1,1", "--focus", "motion"), ["leave out --focus or --roi"]),
        (("b.mp4", "--roi", "d=0,0,1,1", "--whole"), ["leave out --roi and --max"]),
        (("b.mp4", "--max-regions", "2", "--focus", "frame"), ["about what moves", "--focus"]),
        (("b.mp4", "--max-regions", "2", "--roi", "d=0,0,1,1"), ["about what moves", "--roi"]),
        (("b.mp4", "--window-s", "nan"), ["--window-s", "'nan'"]),
        (("b.mp4", "--top-k", "-1"), ["--top-k", "'-1'"]),
        (("b.mp4", "--threads", "x"), ["--threads", "'x'"]),
        (("b.mp4", "--format", "xml"), ["--format"]),
        (("b.mp4", "--nonsense"), ["--nonsense"]),
        (("b.mp4", "--demo"), ["--demo brings its own clip"]),
        (("b.mp4", "-o", "/none/here.txt"), ["/none/here.txt", "existing, writable folder"]),
        (("b.mp4", "-o", "same.csv", "--segments", "same.csv"), ["two files"]),
        (("b.mp4", "--overlay", "o.avi"), ["o.avi", ".mp4, .mov, .mkv"]),
        (("b.mp4", "b.mp4", "--overlay", "o.mp4"), ["one video", "--overlay o/"]),
        (("b.mp4", "--whole", "--overlay", "o.mp4"), ["--whole has no windows"]),
        (("b.mp4", "--append"), ["--append continues", "-o FILE"]),
        (("b.mp4", "--append", "--segments", "s.json"), ["--append", "s.json"]),
        (("b.mp4", "--overlay", "/none/o.mp4"), ["/none/o.mp4", "existing, writable folder"]),
        (("b.mp4", "--overlay", "o.mp4", "-o", "o.mp4"), ["two files"]),
        (("rtsp://",), ["rtsp://", "HOST"]),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(run, args, parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_one_error(run(*args), *parts)
    assert list(tmp_path.iterdir()) == []


def test_no_output_replaces_a_source(run, tmp_path):
    video = write_video(tmp_path / "own.mp4", coloured(("red", 30)))
    before = video.read_bytes()
    assert is_one_error(run(video, "--overlay", video), "a source and --overlay both name")
    assert video.read_bytes() == before


@pytest.fixture
def bad_sources(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("this is not a video\n" * 50)
    (tmp_path / "no_images").mkdir()
    video = write_video(tmp_path / "whole.mp4", coloured(("red", 30)))
    (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[:200])
    return tmp_path


@pytest.mark.parametrize("name", ["empty.mp4", "text.mp4", "no_images", "cut.mp4"])
def test_bad_sources_are_one_line_and_leave_no_output(run, bad_sources, name, tmp_path):
    before = sorted(tmp_path.iterdir())
    outputs = ("-o", tmp_path / "o.jsonl", "--segments", tmp_path / "s.json")
    assert is_one_error(run(bad_sources / name, *outputs), name)
    assert is_one_error(run(bad_sources / name, "--whole"), name)
    assert sorted(tmp_path.iterdir()) == before


@pytest.fixture
def bad_models(folder):
    whole = (folder / "m.onnx").read_bytes()
    (folder / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (folder / "text.onnx").write_text("hello\n")
    (folder / "zero.onnx").write_bytes(b"")
    save(colour_graph(), folder / "foreign.onnx", {})
    save(
        colour_graph(),
        folder / "newer.onnx",
        {"dvfl": artifact().to_json().replace('"format_version": 1', '"format_version": 3')},
    )
    write_colour_model(folder / "labels.onnx", labels=("a", "b", "c", "d"))


@pytest.mark.parametrize(
    ("model", "part"),
    [
        ("none.onnx", "No such file"),
        ("cut.onnx", "truncated"),
        ("text.onnx", "not an ONNX file"),
        ("zero.onnx", "empty"),
        ("foreign.onnx", "dvfl-export"),
        ("newer.onnx", "upgrade"),
        ("labels.onnx", "4 labels for 3 logits"),
    ],
)
def test_bad_models_are_one_line_and_leave_no_output(run, bad_models, model, part, tmp_path):
    assert is_one_error(run("b.mp4", "-o", tmp_path / "o.txt", model=model), model, part)
    assert list(tmp_path.iterdir()) == []


def test_a_corrupt_file_gives_its_good_part_and_one_warning(folder):
    out = subprocess.run(
        [*RUN, shared_clip("dec_corrupted.mp4"), "--model", folder / "m.onnx"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.returncode == 0
    assert len(out.stdout.splitlines()) > 2
    assert out.stderr.count("\n") == 1
    assert out.stderr.startswith("dvfl-recognize: WARNING: ")


def test_a_closed_pipe_is_quiet_and_segments_are_still_completed(folder, tmp_path):
    command = [*RUN, folder / "rg.mp4", "--model", folder / "m.onnx", "--hop-s", "0.01"]
    marks, seen = tmp_path / "s.csv", tmp_path / "o.mp4"
    for extra in ([], ["--segments", marks, "--overlay", seen]):
        with subprocess.Popen(
            [*command, *extra], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.stdout.close()
            assert process.wait(30) == 0
            assert process.stderr is not None
            assert process.stderr.read() == b""
    assert "green" in marks.read_text()
    with av.open(str(seen)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 150


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_is_one_line(run, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        status, _, err = run("b.mp4")
    assert status == 2
    assert "cannot write to standard output: No space left" in err
    assert err.count("\n") == 1


def test_ctrl_c_completes_the_outputs(folder, tmp_path, monkeypatch, capsys):
    real = Recognizer.stream

    def interrupted(self, *args, **kwargs):
        for n, prediction in enumerate(real(self, *args, **kwargs)):
            if n == 6:
                os.kill(os.getpid(), signal.SIGINT)
            yield prediction

    monkeypatch.setattr(Recognizer, "stream", interrupted)
    rows, marks = tmp_path / "o.jsonl", tmp_path / "s.json"
    words = ["--model", folder / "m.onnx", folder / "rg.mp4", "-o", rows, "--segments", marks]
    assert cli.main([str(w) for w in words]) == 130
    assert len([json.loads(line) for line in rows.read_text().splitlines()]) == 6
    (only,) = json.loads(marks.read_text())["segments"]
    assert only["label"] == "red"
    assert capsys.readouterr().err == ""


def test_progress_is_shown_on_a_terminal_only(run, tmp_path, monkeypatch, capsys):
    assert run("b.mp4", "-o", tmp_path / "o.txt")[2] == ""
    monkeypatch.setattr(cli.sys.stderr, "isatty", lambda: True, raising=False)
    err = run("b.mp4", "-o", tmp_path / "o.txt")[2]
    assert "100%" in err
    assert "ETA 0:0" in err
    assert err.endswith("\r\x1b[K")


def test_the_colours_are_the_labels():
    assert tuple(COLOURS) == artifact().labels


def test_no_new_folder_is_left_empty(run, tmp_path):
    words = ("b.mp4", "--overlay", f"{tmp_path}/new/", "-o", tmp_path / "none" / "rows.txt")
    assert run(*words)[0] == 2
    assert list(tmp_path.iterdir()) == []
