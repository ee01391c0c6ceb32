"""What dvfl-recognize leaves behind, whatever happens to it, its sources and its readers."""

import contextlib
import csv
import fcntl
import json
import os
import pty
import random
import resource
import signal
import struct
import subprocess
import sys
import termios
import time
from concurrent.futures import ThreadPoolExecutor

import av
import pytest
from artifacts import coloured, write_colour_model
from serving import Served, ask, events
from streams import RtspServer, encode
from videos import write_video

from dvfl_runtime.app import cli

RUN = [sys.executable, "-m", "dvfl_runtime.app.cli"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model and videos, which the tests only read."""
    path = tmp_path_factory.mktemp("outputs")
    write_colour_model(path / "m.onnx")
    for colour in ("red", "blue"):
        write_video(path / f"{colour}.mp4", coloured((colour, 50)), pix_fmt="yuv444p")
        short = coloured((colour, 10))
        write_video(path / f"short_{colour}.mp4", short, pix_fmt="yuv444p")
    (path / "bad.mp4").write_bytes((path / "red.mp4").read_bytes()[:300])
    images = coloured(("red", 4000), height=16, width=24)
    write_video(path / "long.mp4", images, options={"preset": "ultrafast"})
    return path


@pytest.fixture
def run(folder, capsys, tmp_path, monkeypatch):
    """Run the command on files of `folder`, in `tmp_path`; return status, output and error."""
    monkeypatch.chdir(tmp_path)

    def call(*args):
        words = [str(folder / a) if os.path.isfile(folder / a) else a for a in map(str, args)]
        status = cli.main([*words, "--model", str(folder / "m.onnx")])
        return status, *capsys.readouterr()

    return call


def start(folder, *args, **how):
    command = [*RUN, folder / "long.mp4", "--model", folder / "m.onnx", "--hop-s", "0.1", *args]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
    return subprocess.Popen([str(word) for word in command], **streams)


def labels_in(path):
    return [json.loads(line)["label"] for line in path.read_text().splitlines()]


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def wait_for(condition):
    end_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_a_source_that_fails_does_not_end_the_others(run, tmp_path):
    sources = ("red.mp4", "bad.mp4", "none.mp4", "blue.mp4")
    for words in (["--format", "jsonl"], [], ["--whole"]):
        status, out, err = run(*sources, *words)
        assert status == 1
        assert "red" in out
        assert "blue" in out
        first, second, last = err.splitlines()
        assert first.startswith("dvfl-recognize: error: ")
        assert "bad.mp4" in first
        assert "none.mp4 does not exist" in second
        assert last == "dvfl-recognize: error: 2 of 4 sources failed"
    marks, document = tmp_path / "s.csv", tmp_path / "s.json"
    assert run(*sources, "-o", "o.jsonl", "--segments", marks)[0] == 1
    assert set(labels_in(tmp_path / "o.jsonl")) == {"red", "blue"}
    assert [row["label"] for row in read_csv(marks)] == ["red", "blue"]
    assert run(*sources, "-o", "o.txt", "--segments", document)[0] == 1
    assert [s["label"] for s in json.loads(document.read_text())["segments"]] == ["red", "blue"]


def test_where_no_source_can_be_read_nothing_is_touched(run, tmp_path):
    for name in ("o.jsonl", "s.csv", "s.json", "o.mp4"):
        (tmp_path / name).write_text("yesterday\n")
    for marks in ("s.csv", "s.json"):
        words = ("-o", "o.jsonl", "--segments", marks)
        status, out, err = run("bad.mp4", "none.mp4", *words)
        assert (status, out, err.count("\n")) == (2, "", 3)
        assert err.endswith("error: 2 of 2 sources failed\n")
        assert run("bad.mp4", *words, "--overlay", "o.mp4")[0] == 2
        assert run("none.mp4", *words, "--overlay", "new.mp4")[0] == 2
    assert {path.read_text() for path in tmp_path.iterdir()} == {"yesterday\n"}
    assert run("none.mp4", "bad.mp4", "-o", "new", "--overlay", "o/", "--segments", "s/")[0] == 2
    assert sorted(os.listdir()) == ["o.jsonl", "o.mp4", "s.csv", "s.json"]


def test_sources_that_run_together_fail_alone(run, folder, tmp_path, caplog):
    words = ("--serve", "0", "-o", "o.jsonl", "--overlay", "seen/")
    status, _, err = run("short_red.mp4", "none.mp4", "bad.mp4", "short_blue.mp4", *words)
    assert status == 1
    assert err.endswith("error: 2 of 4 sources failed\n")
    assert "none.mp4 does not exist" in caplog.text
    assert "bad.mp4" in caplog.text
    assert set(labels_in(tmp_path / "o.jsonl")) == {"red", "blue"}
    assert sorted(os.listdir("seen")) == ["short_blue.mp4", "short_red.mp4"]


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (["-o", "."], "folder"),
        (["-o", "/"], "folder"),
        (["-o", "sub"], "folder"),
        (["-o", "new/"], "folder"),
        (["-o", "x" * 300], "name too long"),
        (["-o", "loop"], "symbolic links"),
        (["-o", "{folder}/m.onnx"], "--model and -o both name"),
        (["-o", "{folder}/red.mp4"], "a source and -o both name"),
        (["-o", "hard.mp4"], "a source and -o both name"),
        (["--segments", "loop.csv"], "symbolic links"),
        (["--segments", "x" * 300 + ".json"], "name too long"),
        (["--segments", "file/"], "file/: "),
        (["--overlay", "{folder}"], "a source and --overlay both name"),
        (["--overlay", "none/new/"], "No such file"),
        (["--overlay", "loop.mp4"], "symbolic links"),
        (["-o", "a.csv", "--segments", "sub/../a.csv"], "-o and --segments both name"),
    ],
)
def test_places_are_checked_before_any_work(run, folder, tmp_path, monkeypatch, place, reason):
    (tmp_path / "sub").mkdir()
    (tmp_path / "file").touch()
    os.link(folder / "red.mp4", tmp_path / "hard.mp4")
    for suffix in ("", ".csv", ".mp4"):
        (tmp_path / f"loop{suffix}").symlink_to(f"loop{suffix}")
    monkeypatch.setattr(cli, "Recognizer", None)  # the work is not begun
    before = sorted(tmp_path.rglob("*"))
    status, out, err = run("red.mp4", *(word.format(folder=folder) for word in place))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert reason in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("limit", "words", "full"),
    [
        (1000, ["-o", "o.jsonl"], "o.jsonl"),
        (1000, ["--segments", "s.json", "--overlay", "o.mp4"], "o.mp4"),
        (100, ["-o", "/dev/null", "--segments", "s.json"], "s.json"),
        (20, ["-o", "/dev/null", "--segments", "s.csv"], "s.csv"),
        (20, ["-o", "/dev/null", "--segments", "s.srt"], "s.srt"),
    ],
)
def test_a_full_disk_is_one_line_and_the_other_outputs_are_completed(
    run, tmp_path, limit, words, full
):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))  # of each file
    try:
        status, _, err = run("red.mp4", *words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (status, err.count("\n")) == (2, 1)
    assert full in err
    assert "File too large" in err
    for path in tmp_path.iterdir():
        if path.suffix == ".jsonl":
            assert set(labels_in(path)) == {"red"}  # whole rows
        elif path.suffix == ".json":
            assert json.loads(path.read_text())["segments"]
        else:
            assert path.read_bytes() == b""
    assert (tmp_path / full).exists() == (full in ("o.jsonl", "s.csv"))
    assert ("--overlay" in words) == (tmp_path / "s.json").exists()


def test_append_continues_rows(run, tmp_path):
    words = ("--append", "-o", "o.jsonl", "--segments", "s.csv")
    assert run("red.mp4", *words)[0] == 0
    count = len(labels_in(tmp_path / "o.jsonl"))
    with (tmp_path / "o.jsonl").open("a") as file:
        file.write('{"half')
    assert run("blue.mp4", *words)[0] == 0
    lines = (tmp_path / "o.jsonl").read_text().splitlines()
    assert lines.pop(count) == '{"half'
    assert {json.loads(line)["label"] for line in lines[count:]} == {"blue"}
    assert [row["label"] for row in read_csv(tmp_path / "s.csv")] == ["red", "blue"]
    assert run("blue.mp4", "-o", "o.jsonl", "--segments", "s.csv")[0] == 0
    assert set(labels_in(tmp_path / "o.jsonl")) == {"blue"}
    assert [row["label"] for row in read_csv(tmp_path / "s.csv")] == ["blue"]


def test_a_folder_takes_a_file_for_each_source(run, folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    write_video(other / "green.mkv", coloured(("green", 50)), pix_fmt="yuv444p")
    (other / "red.mkv").symlink_to("green.mkv")
    sources = ("red.mp4", other / "red.mkv", "bad.mp4", "blue.mp4")
    (tmp_path / "there").mkdir()
    assert run(*sources, "--overlay", "there", "--segments", "new/")[0] == 1
    assert sorted(os.listdir("there")) == ["blue.mp4", "red-2.mp4", "red.mp4"]
    assert sorted(os.listdir("new")) == ["blue.srt", "red-2.srt", "red.srt"]
    for name, label in (("red", "red"), ("red-2", "green"), ("blue", "blue")):
        text = (tmp_path / "new" / f"{name}.srt").read_text()
        assert text.startswith("1\n00:00:00,000 --> 00:00:0")
        assert f"\n{label} (" in text
        with av.open(str(tmp_path / "there" / f"{name}.mp4")) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(frames) == 50
        assert frames[9][4, 4].argmax() == ["red", "green", "blue"].index(label)
    assert run("short_red.mp4", "--segments", "one/", "--serve", "0")[0] == 0
    assert os.listdir("one") == ["short_red.srt"]


def test_on_a_terminal_files_give_segments_and_in_a_pipe_rows(run, monkeypatch):
    in_a_pipe = run("red.mp4", "blue.mp4")[1]
    assert "next" in in_a_pipe
    monkeypatch.setattr(cli.sys.stdout, "isatty", lambda: True, raising=False)
    heads, row = run("red.mp4")[1].splitlines()
    assert heads.split() == ["start", "end", "label", "confidence"]
    assert row.split()[:3] == ["0.00", "2.00", "red"]
    names = [line for line in run("red.mp4", "blue.mp4")[1].splitlines() if ".mp4" in line]
    assert len(names) == 2
    assert run("red.mp4", "blue.mp4", "--format", "table")[1] == in_a_pipe
    assert "score" in run("red.mp4", "--whole")[1]
    monkeypatch.setattr(cli.sys.stderr, "isatty", lambda: True, raising=False)
    _, out, err = run("red.mp4")
    assert out.splitlines() == [heads, row]
    assert "100%" in err
    assert err.endswith("\r\x1b[K")


def test_impatience_does_not_delete_what_is_being_completed(folder, tmp_path):
    seen, marks = tmp_path / "o.mp4", tmp_path / "s.json"
    with start(folder, "--format", "jsonl", "--overlay", seen, "--segments", marks) as process:
        rows = [process.stdout.readline() for _ in range(6)]  # it cannot end: nobody reads the rest
        for pause_s in (0.005, 0.1, 0):
            process.send_signal(signal.SIGINT)
            time.sleep(pause_s)
        out, err = process.communicate()
        assert err == b""
        assert process.returncode in (130, -2)  # a shell calls both 130
    rows += out.splitlines()
    assert {json.loads(row)["label"] for row in rows} == {"red"}
    assert [s["label"] for s in json.loads(marks.read_text())["segments"]] == ["red"]
    with av.open(str(seen)) as container:
        assert 20 < sum(1 for _ in container.decode(video=0)) < 4000
    assert sorted(os.listdir(tmp_path)) == ["o.mp4", "s.json"]


def test_a_hang_up_that_is_ignored_stays_so(folder):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        process = start(folder, "--format", "jsonl")
    finally:
        signal.signal(signal.SIGHUP, before)
    with process:
        assert process.stdout.readline()
        for _ in range(3):
            process.send_signal(signal.SIGHUP)
        assert all(process.stdout.readline() for _ in range(400))  # more than a pipe holds
        process.send_signal(signal.SIGTERM)
        process.communicate()
        assert process.returncode == 143


def test_streams_that_are_closed_at_the_start_are_quiet(folder, tmp_path):
    words = f"{sys.executable} -m dvfl_runtime.app.cli --model {folder / 'm.onnx'}"
    video = folder / "red.mp4"
    shell = f"{words} {video} -o o.jsonl 0<&- >&- 2>&-; {words} {video} none.mp4 >&-"
    done = subprocess.run(
        ["sh", "-c", shell], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "none.mp4 does not exist" in done.stderr
    assert done.stderr.count("\n") == 2
    assert done.stdout == ""
    assert set(labels_in(tmp_path / "o.jsonl")) == {"red"}


def test_a_terminal_and_a_reader_of_errors_that_go_end_nothing(folder, tmp_path):
    terminal, out = pty.openpty()
    reader, errors = os.pipe()
    os.close(reader)
    os.close(terminal)
    videos = [folder / name for name in ("red.mp4", "bad.mp4", "blue.mp4")]
    words = [
        *RUN,
        *videos,
        "--model",
        folder / "m.onnx",
        "--segments",
        "seen/",
        "--format",
        "jsonl",
    ]
    done = subprocess.run(words, cwd=tmp_path, stdout=out, stderr=errors, check=False)
    os.close(out)
    os.close(errors)
    assert done.returncode == 1
    assert sorted(os.listdir(tmp_path / "seen")) == ["blue.srt", "red.srt"]


def test_a_reader_that_stopped_reading_does_not_keep_it(folder, tmp_path):
    marks = tmp_path / "s.json"
    with start(folder, "--format", "jsonl", "--segments", marks) as process:
        with contextlib.suppress(OSError):  # other systems keep 64 kB
            fcntl.fcntl(process.stdout, 1031, 4096)  # F_SETPIPE_SZ of Linux
        wait_for(lambda: pending(process.stdout))
        time.sleep(0.2)  # a page of memory is full now
        process.send_signal(signal.SIGHUP)
        assert process.wait(15) == 129
        assert process.stderr.read() == b""
    assert json.loads(marks.read_text())["segments"]


def pending(stream):
    """Return how many bytes wait in a pipe."""
    return struct.unpack("i", fcntl.ioctl(stream, termios.FIONREAD, b"\0" * 4))[0]


@pytest.fixture(scope="module")
def camera(tmp_path_factory):
    path = tmp_path_factory.mktemp("camera")
    server = RtspServer(path, encode(path / "stream", range(250), 64, 96))
    yield server.url
    server.kill()


def kill_at_random(camera, folder, rows, seed):
    """Kill a run once some predictions have been told; return all that were."""
    words = (camera, "--model", folder / "m.onnx", "--window-s", "0.2", "-o", rows, "--append")
    dice = random.Random(seed)
    with Served(*words, "--serve", "0") as served, ask(served.port, "/events") as answer:
        told = (data for kind, _, data in events(answer) if kind == "message")
        some = [next(told) for _ in range(dice.randint(1, 12))]
        time.sleep(dice.random() / 10)
        served.process.kill()
        with contextlib.suppress(ConnectionError):
            some += told
    return some


def all_that_was_told_is_kept(camera, folder, tmp_path, seeds):
    def lane(first):
        """One service after the other, which continue one file."""
        path = tmp_path / f"rows{first}.jsonl"
        runs = [kill_at_random(camera, folder, path, seed) for seed in seeds[first::3]]
        kept = [json.loads(line) for line in path.read_text().splitlines()]
        assert all(runs)
        return [row for told in runs for row in told if row not in kept]

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lane, range(3))) == [[], [], []]


def test_what_the_page_has_told_is_in_the_file_after_a_kill(camera, folder, tmp_path):
    all_that_was_told_is_kept(camera, folder, tmp_path, range(3))


@pytest.mark.slow
def test_what_the_page_has_told_is_in_the_file_after_many_kills(camera, folder, tmp_path):
    all_that_was_told_is_kept(camera, folder, tmp_path, range(100, 120))
