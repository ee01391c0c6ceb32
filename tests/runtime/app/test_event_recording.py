"""--record-events: the video of each event, from files, frames and a camera over http."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from artifacts import coloured, write_colour_model
from videos import write_video

from dvfl_runtime.app.cli import main
from dvfl_runtime.app.event_recording import EventRecordings
from dvfl_runtime.errors import OutputError
from dvfl_runtime.results import Event
from dvfl_runtime.sources import MemorySource, open_source

SPANS = (("red", 100), ("blue", 75), ("red", 100))  # at 25 a second


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("events")
    write_colour_model(path / "m.onnx")
    write_video(path / "v.mp4", coloured(*SPANS), pix_fmt="yuv444p")
    return path


def recognise(folder, *words):
    return main([str(word) for word in (*words, "--model", folder / "m.onnx", "-o", "/dev/null")])


def recordings(folder):
    """The recordings in a folder: what the JSON says, with times and colours of the video."""
    found = []
    for sidecar in sorted(folder.glob("*.json")):
        about = json.loads(sidecar.read_text())
        (name,) = about["files"]
        with contextlib.closing(open_source(folder / name)) as source:
            frames = [(f.time_s, int(f.image.mean(axis=(0, 1)).argmax())) for f in source.frames()]
        found.append((about, frames))
    return sorted(found, key=lambda one: one[0]["start_s"])


def test_events_of_a_file_are_cut_out_of_it(folder, tmp_path):
    words = ("--record-events", tmp_path / "out", "--pre-roll", "1")
    assert recognise(folder, folder / "v.mp4", *words) == 0
    found = recordings(tmp_path / "out")
    assert [about["label"] for about, _ in found] == ["red", "blue", "red"]
    assert len(list((tmp_path / "out").iterdir())) == 6
    for about, frames in found:
        assert about["event"] == "end"
        assert about["files_begin_s"] == pytest.approx(max(0.0, about["start_s"] - 1))
        length_s = about["end_s"] - about["files_begin_s"]
        assert frames[-1][0] == pytest.approx(length_s, abs=0.15)
    blue, frames = found[1]
    times = [blue["files_begin_s"] + time_s for time_s, colour in frames if colour == 2]
    assert times[0] == pytest.approx(4.0, abs=0.1)  # the clock of the file is that of the source


def test_events_of_frames_are_encoded(folder, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    import cv2

    for n, image in enumerate(coloured(("red", 60), ("blue", 60))):
        cv2.imwrite(str(images / f"{n}.png"), image[..., ::-1])
    assert recognise(folder, images, "--record-events", tmp_path / "out", "--pre-roll", "0.5") == 0
    found = recordings(tmp_path / "out")
    assert [about["label"] for about, _ in found] == ["red", "blue"]
    about, frames = found[1]
    times = [about["files_begin_s"] + time_s for time_s, colour in frames if colour == 2]
    assert times[0] == pytest.approx(2.4, abs=0.1)
    assert frames[0][1] == 0  # the pre-roll


def event(number, kind="start", start_s=None, label="wave"):
    start_s = float(number) if start_s is None else start_s
    return Event(kind, label, start_s, start_s + 0.5, start_s + 0.5, 0.9, "cam")


def record_all(folder, keep_bytes, count, label):
    """Record events one after the other."""
    written = EventRecordings(folder, 0.2, keep_bytes, lambda _: None)
    images = np.random.default_rng(0).integers(0, 256, (25 * (count + 1), 64, 96, 3), np.uint8)
    source = MemorySource(images, 25.0)
    with contextlib.closing(written), contextlib.closing(written.watch("cam", source)) as recorder:
        for frame in source.frames():
            recorder.observe(frame)
            number, part = divmod(frame.index, 25)
            if part == 15 and number < count:
                written.write(event(number, label=label))
                recording = next(iter(written._running.values())).recording
                written.write(event(number, "end", label=label))
                assert recording.wait(30)


def test_the_oldest_recordings_make_room_and_nothing_else_goes(tmp_path):
    (tmp_path / "mine.json").write_text("{}")
    (tmp_path / "mine.mp4").write_bytes(bytes(10**6))
    record_all(tmp_path, 1e9, 2, "wave")
    before = {path.name for path in tmp_path.glob("*.json")} - {"mine.json"}
    sizes = [path.stat().st_size for path in tmp_path.iterdir() if "cam" in path.name]
    record_all(tmp_path, sum(sizes) * 1.2, 2, "clap")  # room for two recordings
    left = {path.name for path in tmp_path.iterdir()}
    assert {"mine.json", "mine.mp4"} <= left
    assert len(before) == 2
    assert not before & left
    assert len(left) == 2 + 2 * 2


def test_a_folder_that_goes_away_is_one_line_and_costs_nothing_else(tmp_path):
    lines = []
    written = EventRecordings(tmp_path / "out", 0.2, 1e9, lines.append)
    source = MemorySource(np.zeros((75, 64, 96, 3), np.uint8), 25.0)
    with contextlib.closing(written), contextlib.closing(written.watch("cam", source)) as recorder:
        (tmp_path / "out").rmdir()
        for frame in source.frames():
            recorder.observe(frame)
            if frame.index in (20, 50):
                written.write(event(0, start_s=frame.time_s))
                written.write(event(0, "end", start_s=frame.time_s))
    assert len(lines) == 2
    assert "cannot write" in lines[0]
    assert lines[1] == "--record-events: 2 of 2 failed"


def test_a_source_that_ends_in_the_middle_of_an_event_completes_it(tmp_path):
    written = EventRecordings(tmp_path, 0.2, 1e9, lambda _: None)
    source = MemorySource(np.zeros((50, 64, 96, 3), np.uint8), 25.0)
    with contextlib.closing(written), contextlib.closing(written.watch("cam", source)) as recorder:
        for frame in source.frames():
            recorder.observe(frame)
            if frame.index == 30:
                written.write(event(0, start_s=1.0))
        written.write(event(0, "end", start_s=1.0))
    ((about, _),) = recordings(tmp_path)
    assert about["event"] == "end"


def test_wrong_options_are_one_line(folder, tmp_path, capsys):
    assert recognise(folder, folder / "v.mp4", "--pre-roll", "1") == 2
    assert "--record-events" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert recognise(folder, folder / "v.mp4", "--record-events", tmp_path / "file") == 2
    assert "cannot write" in capsys.readouterr().err
    with pytest.raises(OutputError):
        EventRecordings(tmp_path / "file", 1, 1, lambda _: None)
