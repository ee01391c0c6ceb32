"""The windows of one source, with its pauses and its times of arrival."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from dvfl_runtime import Frame, SourceError
from dvfl_runtime.clips import source_windows
from dvfl_runtime.clips.source_windows import SourceWindows
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.clips.tracked import TrackedBoxes
from dvfl_runtime.clips.windows import Windower

SPEC = ClipSpec(4, (8, 8))


class Given:
    """A source of ten frames a second."""

    name, duration_s, rewindable = "given", None, False

    def __init__(self, count, *, live=True, arrival_ns=0):
        self.count, self.live, self.arrival_ns = count, live, arrival_ns
        self.ended = False

    def frames(self):
        try:
            for n in range(self.count):
                image = np.full((8, 8, 3), n, np.uint8)
                yield Frame(image, n / 10, n, arrival_ns=self.arrival_ns)
        finally:
            self.ended = True

    def close(self): ...


def read(source, window_s=1.0):
    windows = SourceWindows(Windower(SPEC, window_s))
    return windows, [window for found in windows.read(source) for window in found]


def test_each_frame_is_answered_and_the_end_completes_the_rest():
    windows = SourceWindows(Windower(SPEC, 1.0))
    counts = [len(found) for found in windows.read(Given(13, live=False))]
    assert counts == [0] * 10 + [1, 0, 0]
    assert [round(w.end_s, 3) for w in windows.finish()] == [1.25]
    assert windows.finish() == []


def test_a_source_without_frames_is_an_error():
    with pytest.raises(SourceError, match="before its first frame"):
        read(Given(0))


def test_leaving_early_ends_the_pass_of_the_source():
    source = Given(30)
    found = SourceWindows(Windower(SPEC, 1.0)).read(source)
    next(found)
    found.close()
    assert source.ended


def test_only_frames_of_live_sources_that_tell_no_arrival_get_one():
    begin_ns = time.monotonic_ns()
    _, (told,) = read(Given(11, arrival_ns=5))
    _, (untold,) = read(Given(11))
    _, (file,) = read(Given(11, live=False))
    assert (told.arrival_ns, file.arrival_ns) == (5, 0)
    assert untold.arrival_ns >= begin_ns


@pytest.mark.parametrize(("live", "pause_s"), [(True, 2.1), (True, 1.9), (False, 9.0)])
def test_a_pause_of_a_live_source_completes_its_windows_once(monkeypatch, live, pause_s):
    clock = SimpleNamespace(monotonic=lambda: 100.0, monotonic_ns=lambda: 100_000_000_000)
    monkeypatch.setattr(source_windows, "time", clock)
    windows, _ = read(Given(4, live=live))
    clock.monotonic = lambda: 100.0 + pause_s
    ends = [round(window.end_s, 3) for window in windows.end_pause()]
    assert ends == ([0.4] if live and pause_s > source_windows.QUIET_S else [])
    assert windows.end_pause() == []
    assert len(windows.finish()) == 1 - len(ends)


def test_a_finder_that_takes_long_is_no_pause(monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: 100.0, monotonic_ns=lambda: 100_000_000_000)
    monkeypatch.setattr(source_windows, "time", clock)
    meanwhile = []

    def boxes(frame):
        now_s = clock.monotonic() + 9  # longer than any pause: it loads its weights
        clock.monotonic = lambda: now_s
        meanwhile.append(windows.end_pause())
        return {1: (0, 0, 1, 1)}

    windows = SourceWindows(Windower(SPEC, 1.0, finder=TrackedBoxes(boxes, 1.0)))
    found = []
    for cut in windows.read(Given(25)):
        found += [(round(w.start_s, 6), round(w.end_s, 6)) for w in cut]
        assert windows.end_pause() == []
    assert meanwhile == [[]] * len(meanwhile)
    assert found == [(k / 4, k / 4 + 1) for k in range(6)]
