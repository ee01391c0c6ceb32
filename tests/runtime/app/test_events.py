"""Actions while they happen: rows of --events, the command of --on-event, the page."""

import csv
import json
import shlex
import sys
import time
from functools import partial

import numpy as np
import pytest
from artifacts import artifact, colour_graph, coloured, save, write_colour_model
from serving import Served, ask, events
from videos import write_video

from dvfl_runtime import Event, OutputError, Prediction, Recognizer
from dvfl_runtime.app import cli
from dvfl_runtime.app.on_event import WAITING, EventCommand
from dvfl_runtime.app.outputs import Outputs
from dvfl_runtime.app.plan import Task
from dvfl_runtime.app.recognition import Recognition
from dvfl_runtime.streams.smoothing import Segmenter

PICTURES = coloured(("red", 60), ("green", 60), ("red", 60), ("blue", 60))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("events")
    write_colour_model(path / "m.onnx", labels=("idle", "green", "blue"))
    write_video(path / "video.mp4", PICTURES, pix_fmt="yuv444p")
    return path


def event(kind="start", label="wave", start_s=1.0):
    return Event(kind, label, start_s, start_s + 2, start_s + 3, 0.95, "door")


def python(code):
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"


def run(folder, *args):
    return cli.main([str(folder / "video.mp4"), "--model", str(folder / "m.onnx"), *map(str, args)])


def test_events_are_rows_and_their_ends_are_the_segments(folder, tmp_path, capsys):
    rows, table = tmp_path / "events.jsonl", tmp_path / "segments.csv"
    assert run(folder, "--events", rows, "--segments", table) == 0
    told = [json.loads(line) for line in rows.read_text().splitlines()]
    assert {row["schema"] for row in told} == {1}
    kinds = [(row["event"], row["label"]) for row in told if row["event"] != "update"]
    assert kinds == [("start", "green"), ("end", "green"), ("start", "blue"), ("end", "blue")]
    assert any(row["event"] == "update" for row in told)
    actions = [r for r in csv.DictReader(table.read_text().splitlines()) if r["label"] != "idle"]
    ends = [row for row in told if row["event"] == "end"]
    assert [f"{e['start_s']:.3f} {e['end_s']:.3f}" for e in ends] == [
        f"{a['start_s']} {a['end_s']}" for a in actions
    ]
    assert run(folder, "--events", rows, "--append") == 0
    assert len(rows.read_text().splitlines()) == 2 * len(told)


class Listener:
    """Remembers what is written to it, in order."""

    def __init__(self):
        self.told = []

    def write(self, told):
        self.told.append(told)


def recognise_together(predict, labels, *videos):
    """Recognise videos at the same time and return predictions and events in order."""
    listener = Listener()
    outputs = Outputs(predictions=[listener], events=[listener])
    recognition = Recognition(predict, partial(Segmenter, labels, None), outputs, print)
    recognition.recognise([[Task(str(video)) for video in videos]])
    recognition.finish()
    return listener.told


def test_an_action_ends_with_its_source_though_others_go_on(folder, tmp_path):
    short = write_video(tmp_path / "short.mp4", coloured(("blue", 75)), pix_fmt="yuv444p")
    with Recognizer(folder / "m.onnx", engine="onnxruntime") as r:

        def predict(sources, regions, on_empty, on_end):
            return r.stream(sources, regions=regions, on_empty=on_empty, on_end=on_end)

        told = recognise_together(predict, r.labels, short, folder / "video.mp4")
    ends = [n for n, one in enumerate(told) if isinstance(one, Event) and one.kind == "end"]
    assert told[ends[0]].source == str(short)
    assert told[ends[0]].end_s == pytest.approx(3.0, abs=0.1)
    assert sum(isinstance(one, Prediction) for one in told[ends[0] :]) > 5
    assert [told[n].label for n in ends] == ["blue", "green", "blue"]


def test_an_action_ends_while_nothing_is_to_be_recognised(folder):
    video = folder / "video.mp4"

    def predict(sources, regions, on_empty, on_end):
        scores = np.array([0.0, 1.0, 0.0], np.float32)
        about = {"source": str(video), "region": (0.1, 0.1, 0.5, 0.5), "track_id": 1}
        for n in range(4):
            yield Prediction("green", 1, 1.0, scores, (("green", 1.0),), n / 2, n / 2 + 2, **about)
        for n in range(4, 12):
            on_empty(str(video), n / 2, n / 2 + 2)
        yield Prediction("blue", 2, 1.0, scores[::-1], (("blue", 1.0),), 9.0, 11.0, **about)

    told = recognise_together(predict, ("idle", "green", "blue"), video)
    end = next(one for one in told if isinstance(one, Event) and one.kind == "end")
    assert end.label == "green"
    assert end.now_s < 8  # long before the next prediction


def test_a_command_gets_the_start_and_the_end_of_each_action(folder, tmp_path, capsys):
    seen = tmp_path / "seen.jsonl"
    code = f"import sys; open({str(seen)!r}, 'a').write(sys.stdin.read()); print('not shown')"
    assert run(folder, "--on-event", python(code), "--format", "jsonl") == 0
    found = [json.loads(line) for line in seen.read_text().splitlines()]
    assert [(row["event"], row["label"]) for row in found] == [
        *(("start", "green"), ("end", "green")),
        *(("start", "blue"), ("end", "blue")),
    ]
    out, err = capsys.readouterr()
    assert "not shown" not in out
    assert err == ""


def test_a_command_that_fails_is_reported_once_and_counted(folder, capsys):
    assert run(folder, "--on-event", python("raise SystemExit(3)"), "--format", "jsonl") == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) > 10
    first, last = err.splitlines()
    assert "exit status 3" in first
    assert "4 of 4 runs failed" in last


def test_a_command_that_hangs_is_ended_with_all_that_it_has_started():
    said = []
    sleep = "[sys.executable, '-c', 'import time; time.sleep(60)']"
    code = f"import subprocess, sys; subprocess.run({sleep})"
    command = EventCommand(python(code), said.append, timeout_s=0.5)
    command.write(event())
    began_s = time.monotonic()
    command.close()
    assert time.monotonic() - began_s < 9
    assert command.timed_out == 1
    assert "ended after 0.5 s" in said[0]
    command.close()


def test_a_slow_command_delays_nothing_and_what_has_no_room_is_counted(monkeypatch):
    monkeypatch.setattr("dvfl_runtime.app.on_event.FAREWELL_S", 0.3)
    said = []
    command = EventCommand(python("import time; time.sleep(60)"), said.append)
    began_s = time.monotonic()
    for _ in range(WAITING + 20):
        command.write(event())
        command.write(event("update"))
    assert time.monotonic() - began_s < 1
    command.close()
    assert command.lost >= WAITING + 18
    assert f"{command.lost} events were lost" in said[-1]


@pytest.mark.parametrize(
    ("command", "message"),
    [("no-such-program --now", "no command 'no-such-program'"), ("'", "split"), ("", "no command")],
)
def test_a_command_that_cannot_be_is_one_error_before_the_work(folder, command, message, capsys):
    with pytest.raises(OutputError, match=message):
        EventCommand(command, print)
    if command:
        assert run(folder, "--on-event", command) == 2
        assert message in capsys.readouterr().err


def test_an_action_has_to_be_as_certain_as_enter_says(tmp_path):
    model = save(colour_graph(gain=2.0), tmp_path / "m.onnx", {"dvfl": artifact().to_json()})
    video = write_video(tmp_path / "red.mp4", coloured(("red", 40)), pix_fmt="yuv444p")
    for enter, kinds in (("0.95", []), ("0.5", ["start", "end"])):
        rows = tmp_path / f"{enter}.jsonl"
        words = [video, "--model", model, "--events", rows, "--enter", enter]
        assert cli.main([str(word) for word in words]) == 0
        found = [json.loads(line)["event"] for line in rows.read_text().splitlines()]
        assert [kind for kind in found if kind != "update"] == kinds


@pytest.mark.parametrize("score", ["1.5", "-1", "often"])
def test_a_score_out_of_range_is_one_error(folder, score, capsys):
    with pytest.raises(SystemExit):
        run(folder, "--enter", score)
    assert "--enter" in capsys.readouterr().err
    assert run(folder, "--whole", "--events", "x.jsonl") == 2


def test_the_page_gets_the_last_events(folder):
    words = (folder / "video.mp4", "--model", folder / "m.onnx", "--serve", "0", "--linger", "60")
    with Served(*words) as served, ask(served.port, "/events") as answer:
        found = []
        for kind, number, data in events(answer):
            if kind == "action":
                assert number
                found.append((data["event"], data["label"]))
            if len(found) == 3:
                break
        assert found == [("start", "green"), ("end", "green"), ("start", "blue")]
        with ask(served.port, "/") as page:
            assert b"Last events" in page.read()
