"""Folders and file names as people have them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from artifacts import coloured, write_colour_model
from serving import ask
from videos import write_video

from dvfl_runtime import Recognizer
from dvfl_runtime.app import cli
from dvfl_runtime.errors import SourceError
from dvfl_runtime.serve.address import Address, listen
from dvfl_runtime.serve.server import PageServer
from dvfl_runtime.sources import open_source
from dvfl_runtime.sources.folders import sources_in, videos_below
from dvfl_runtime.sources.observed import ObservedSource

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux")


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def names_of(paths: list[str]) -> list[str]:
    return [os.path.basename(path) for path in paths]


def test_a_folder_of_videos_stands_for_its_videos(tmp_path):
    touch(tmp_path / "v", "b10.mp4", "b2.MOV", "._b2.mov", ".a.mp4", "notes.txt", "more/c.mp4")
    assert names_of(sources_in(str(tmp_path / "v"))) == ["b2.MOV", "b10.mp4"]
    images = str(touch(tmp_path / "i", "1.png", "._2.png", "._a.mp4"))
    for other in (images, str(tmp_path / "v" / "b2.MOV"), "", "0", "rtsp://h/x", "gone.mp4"):
        assert sources_in(other) == [other]


def test_other_folders_are_one_clear_line(tmp_path):
    mixed = touch(tmp_path / "m", "1.png", "2.png", "a.mp4")
    for opening in (sources_in, open_source):
        with pytest.raises(SourceError, match="holds 2 images and 1 videos; say which"):
            opening(str(mixed))
    with pytest.raises(SourceError, match=r"holds videos and no images; .*beginning with a2\.mp4"):
        open_source(touch(tmp_path / "v", "a10.mp4", "a2.mp4"))
    with pytest.raises(SourceError, match="holds no images and no videos"):
        open_source(touch(tmp_path / "e", "notes.txt", "._a.mp4"))


def test_the_command_reads_a_folder_of_videos_in_order(tmp_path, capsys):
    model = write_colour_model(tmp_path / "m.onnx")
    (tmp_path / "v").mkdir()
    for number, colour in ((10, "blue"), (9, "red")):
        frames = coloured((colour, 25))
        write_video(tmp_path / "v" / f"{number}.mp4", frames, pix_fmt="yuv444p")
    touch(tmp_path / "v", "._9.mp4")
    words = [str(tmp_path / "v"), "--model", str(model), "--engine", "onnxruntime"]
    assert cli.main([*words, "--format", "jsonl"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = [(os.path.basename(row["source"]), row["label"]) for row in rows]
    assert list(dict.fromkeys(told)) == [("9.mp4", "red"), ("10.mp4", "blue")]
    assert cli.main(["", "--model", str(model)]) == 2
    assert "the source is an empty text" in capsys.readouterr().err


def test_videos_below_a_folder(tmp_path):
    touch(
        tmp_path, "walk/b.mp4", "walk/._b.mp4", "run/deep/a.avi", ".trash/c.mp4", "d.mkv", "e.txt"
    )
    found = [path.relative_to(tmp_path).as_posix() for path in videos_below(tmp_path)]
    assert found == ["d.mkv", "run/deep/a.avi", "walk/b.mp4"]


@LINUX
def test_a_name_that_is_no_text_survives_every_output(tmp_path):
    model = write_colour_model(tmp_path / "m.onnx")
    odd = tmp_path / "odd\n\udcff.mp4"
    os.rename(write_video(tmp_path / "a.mp4", coloured(("red", 50)), pix_fmt="yuv444p"), odd)
    outputs = {kind: tmp_path / f"out.{kind}" for kind in ("jsonl", "srt", "mp4")}
    words = [str(odd), "--model", str(model), "--engine", "onnxruntime", "--hop-s", "0.5"]
    for option, path in zip(("-o", "--segments", "--overlay"), outputs.values(), strict=True):
        words += [option, str(path)]
    assert cli.main(words) == 0
    rows = [json.loads(line) for line in outputs["jsonl"].read_text("utf-8").splitlines()]
    assert {row["source"] for row in rows} == {f"{tmp_path}/odd\\n\\xff.mp4"}
    assert all(path.stat().st_size for path in outputs.values())
    listening, address = listen(Address("127.0.0.1", 0), None)
    with Recognizer(model, engine="onnxruntime") as recognizer:
        info = recognizer.info
        server = PageServer(listening, "127.0.0.1", None, info=info, labels=recognizer.labels)
        try:
            source = ObservedSource(open_source(odd))
            server.watch(source)
            with ask(address.port, "/state") as answer:
                (state,) = json.load(answer)["sources"]
            assert state["source"] == source.name == rows[0]["source"]
        finally:
            server.close()
