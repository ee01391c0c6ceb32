"""Streams with several regions: each id has predictions and segments of its own."""

import threading
import time

import numpy as np
import pytest
from artifacts import COLOURS, LABELS, SPEC, artifact
from frames import warnings_of

from dvfl_runtime import ArgumentError, FakeEngine, Frame, Prediction, Recognizer
from dvfl_runtime.clips import ring
from dvfl_runtime.streams.smoothing import Segmenter
from dvfl_runtime.streams.tracks import TrackSegmenter

HEIGHT, WIDTH, SIDE = 90, 160, 24


class Scene:
    """Squares that walk through a grey picture: {id: (colour, left at 0 s, px a second, spans)}."""

    def __init__(self, things, seconds=4.0, fps=25, name="scene"):
        self.things, self.count, self.fps, self.name = things, round(seconds * fps), fps, name
        self.converted, self.asked = [], []

    def boxes(self, time_s):
        for track_id, (colour, left, speed, spans) in self.things.items():
            if any(begin <= time_s < end for begin, end in spans):
                yield track_id, colour, left + speed * time_s

    def image(self, n):
        self.converted.append(n)
        image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
        for _, colour, left in self.boxes(n / self.fps):
            image[30 : 30 + SIDE, round(left) : round(left) + SIDE] = COLOURS[colour]
        return image

    def frames(self):
        return [Frame(lambda n=n: self.image(n), n / self.fps, n) for n in range(self.count)]

    def regions(self, frame):
        self.asked.append(frame.index)
        size = SIDE / WIDTH, SIDE / HEIGHT
        return {
            track_id: (left / WIDTH, 30 / HEIGHT, *size)
            for track_id, _, left in self.boxes(frame.time_s)
        }


class Camera:
    """A source of a scene; live if it takes time."""

    duration_s, rewindable, name = None, False, "camera"

    def __init__(self, scene, sleep_s=0.0):
        self.scene, self.sleep_s, self.closed = scene, sleep_s, threading.Event()
        self.live = sleep_s > 0

    def frames(self):
        for frame in self.scene.frames():
            if self.closed.wait(self.sleep_s):
                return
            yield frame

    def close(self):
        self.closed.set()


ALWAYS = [(0, 1e9)]
TWO = {1: ("red", 20, 20, ALWAYS), 2: ("green", 130, 0, ALWAYS)}


class Counting:
    """Scores by the mean colours of clips; notes the sizes of the batches."""

    def __init__(self, sleep_s=0.0):
        self.batches, self.sleep_s = [], sleep_s

    def __call__(self, clips):
        self.batches.append(len(clips))
        time.sleep(self.sleep_s)
        means = clips.astype(float).mean(axis=(1, 2, 3))
        return np.exp(means / 20) / np.exp(means / 20).sum(axis=1, keepdims=True)


def recognizer(scores=None):
    return Recognizer(artifact(), engine=FakeEngine(scores or Counting()))


@pytest.fixture
def r():
    with recognizer() as opened:
        yield opened


def labels_of(predictions):
    """Returns {id: its labels}."""
    found = {}
    for p in predictions:
        found.setdefault(p.track_id, set()).add(p.label)
    return found


def test_each_id_has_a_window_in_each_span_that_follows_it(r):
    scene = Scene(TWO)
    got = list(r.stream(scene.frames(), regions=scene.regions))
    assert labels_of(got) == {1: {"red"}, 2: {"green"}}
    spans = [[(p.start_s, p.end_s) for p in got if p.track_id == n] for n in (1, 2)]
    assert spans[0] == spans[1] == [(p.start_s, p.end_s) for p in r.stream(scene.frames())]
    for p in got:  # the region is that in the middle of the window
        left, _, width, _ = np.array(p.region) * WIDTH
        wanted = TWO[p.track_id][1] + TWO[p.track_id][2] * (p.start_s + p.end_s) / 2
        assert left + width / 2 == pytest.approx(wanted + SIDE / 2, abs=6)
    rows = [p.to_dict() for p in got]
    assert {row["track_id"] for row in rows} == {1, 2}


def test_boxes_are_seen_alone_whatever_is_beside_them(r):
    scene = Scene({1: ("red", 20, 0, ALWAYS), 2: ("green", 100, 0, ALWAYS)})
    boxes = {"left": (0, 0.2, 0.5, 0.6), "right": (0.5, 0.2, 0.5, 0.6)}
    got = list(r.stream(scene.frames(), regions=boxes))
    assert labels_of(got) == {"left": {"red"}, "right": {"green"}}
    assert {(p.track_id, p.region) for p in got} == set(boxes.items())
    one = list(r.stream(scene.frames(), regions="frame"))
    assert {(p.track_id, p.region) for p in one} == {(None, (0, 0, 1, 1))}


def test_a_function_and_decoding_cost_the_same_for_ten_ids_as_for_one(monkeypatch):
    shrunk = []
    shrink = ring.context_frame
    monkeypatch.setattr(ring, "context_frame", lambda *a: shrunk.append(1) or shrink(*a))
    cost = {}
    for count in (1, 10):
        scene = Scene({n: ("red", 12 * n, 0, ALWAYS) for n in range(count)}, seconds=8.0)
        scores = Counting()
        del shrunk[:]
        with recognizer(scores) as r:
            got = list(r.stream(Camera(scene), regions=scene.regions))
        assert len(got) == count * 29 == sum(scores.batches)
        assert len(scene.converted) == len(set(scene.converted))
        cost[count] = len(scene.converted), len(scene.asked), len(shrunk)
        if count == 10:
            assert len(scores.batches) <= 3 * 29
            assert max(scores.batches) == 4  # more cost memory, and little time
    assert cost[1] == cost[10]
    # T a second, and all pictures of the first window, which could have been the last
    assert cost[1] == (4 * 8 + 21, 4 * 8, 4 * 8 + 21)


def test_all_ids_of_all_sources_share_batches():
    scores = Counting(sleep_s=0.002)
    scenes = [Scene(TWO, seconds=3.0) for _ in range(3)]
    with recognizer(scores) as r:
        got = list(
            r.stream(
                [scene.frames() for scene in scenes],
                regions=[scene.regions for scene in scenes],
                max_wait_ms=500,
            )
        )
    assert len(got) == 3 * 2 * 9
    assert max(scores.batches) > 2
    for n in range(3):
        mine = [p for p in got if p.source == f"frames [{n + 1}]"]
        assert labels_of(mine) == {1: {"red"}, 2: {"green"}}


def test_sources_may_have_regions_of_different_kinds(r):
    scene = Scene(TWO)
    got = list(
        r.stream([scene.frames(), scene.frames()], regions=["frame", {"r": (0.5, 0, 0.5, 1)}])
    )
    assert {(p.source, p.track_id) for p in got} == {("frames [1]", None), ("frames [2]", "r")}
    with pytest.raises(ArgumentError, match="a list with one for each of the 1, got a list of 2"):
        r.stream(scene.frames(), regions=["frame", "frame"])
    with pytest.raises(ArgumentError, match="max_regions"):
        r.stream(scene.frames(), max_regions=0)
    with pytest.raises(ArgumentError, match="regions must be"):
        r.segments(scene.frames(), regions="faces")


def test_lost_and_found_ids_have_segments_of_their_own(r):
    scene = Scene(
        {
            1: ("red", 20, 0, [(0, 3), (8, 12)]),
            2: ("green", 60, 0, [(0, 12)]),
            3: ("blue", 110, 0, [(4, 7)]),
        },
        seconds=12,
    )
    got = list(r.segments(scene.frames(), regions=scene.regions))
    spans = {}
    for s in got:
        spans.setdefault((s.track_id, s.label), []).append((s.start_s, s.end_s))
    assert {key: len(times) for key, times in spans.items()} == {
        (1, "red"): 2,
        (2, "green"): 1,
        (3, "blue"): 1,
    }
    for (start_s, end_s), (begin, end) in zip(spans[1, "red"], [(0, 3), (8, 12)], strict=True):
        assert abs(start_s - begin) <= 0.8
        assert abs(end_s - end) <= 0.8
    assert got[0].track_id == 1  # final before the end of the source


def test_a_segment_is_final_while_nobody_is_there():
    scene = Scene({1: ("red", 20, 0, [(0, 2)])}, seconds=20)
    with recognizer() as r:
        empty = []
        segments = r.segments(scene.frames(), regions=scene.regions, max_batch=2)
        first = next(segments)
        assert first.track_id == 1
        assert len(scene.asked) < 50  # of 80: long before the end
        assert list(segments) == []
        got = list(
            r.stream(scene.frames(), regions=scene.regions, on_empty=lambda *a: empty.append(a))
        )
    assert max(p.end_s for p in got) <= 3.01
    assert {source for source, _, _ in empty} == {"frames"}
    assert len(empty) + len({p.start_s for p in got}) == 4 * 19 + 1


def test_a_function_that_raises_ends_its_source_after_what_was_seen(r, caplog):
    scene = Scene(TWO)

    def regions(frame):
        if frame.time_s > 2:
            raise RuntimeError("out of memory")
        return scene.regions(frame)

    got = []
    with pytest.raises(ArgumentError, match=r"regions= failed .*RuntimeError: out of memory"):
        got.extend(p for p in r.stream(scene.frames(), regions=regions))
    assert labels_of(got) == {1: {"red"}, 2: {"green"}}
    assert max(p.end_s for p in got) >= 2
    both = list(r.stream([scene.frames(), scene.frames()], regions=[regions, scene.regions]))
    assert {p.source for p in both if p.end_s > 3} == {"frames [2]"}
    assert "out of memory" in warnings_of(caplog)[-1]


def test_predict_answers_for_each_region(r):
    scene = Scene(TWO)
    clip = np.stack([scene.image(n) for n in (0, 25, 50, 75)])
    assert isinstance(r.predict(clip), Prediction)
    boxes = {"left": (0.0, 0.2, 0.3, 0.6), "right": (0.6, 0.2, 0.3, 0.6)}
    first, second = r.predict(clip, regions=boxes)
    assert (second.track_id, second.label) == ("right", "green")
    assert first.region == boxes["left"]
    assert [p.track_id for p in r.predict(clip, regions="frame")] == [None]
    assert r.predict(clip, regions=lambda _: {}) == []
    walking = Scene({1: ("red", 20, 100, ALWAYS)}, seconds=1)
    moved = np.stack([walking.image(n) for n in (3, 9, 15, 21)])
    (one,) = r.predict(moved, regions=walking.regions)
    assert (one.track_id, one.label) == (1, "red")
    assert SPEC.num_frames == 4


def prediction(track_id, label, start_s, end_s):
    scores = np.eye(3, dtype=np.float32)[LABELS.index(label)]
    about = {"start_s": start_s, "end_s": end_s, "source": "s", "track_id": track_id}
    return Prediction(label, LABELS.index(label), 1.0, scores, ((label, 1.0),), **about)


def test_segments_of_a_track_end_when_no_window_can_go_on_with_it():
    tracks = TrackSegmenter(lambda: Segmenter(LABELS))
    for start_s in np.arange(0, 3, 0.5):
        assert tracks.push(prediction(1, "red", start_s, start_s + 1)) == []
    assert tracks.push(prediction(2, "green", 3.5, 4.5)) == []  # touches the last one of 1
    (ended,) = tracks.push(prediction(2, "green", 4.0, 5.0))
    assert (ended.track_id, ended.label, ended.end_s) == (1, "red", 3.5)
    assert tracks.push(prediction(1, "red", 4.0, 5.0)) == []
    assert tracks.reach(5.0) == []
    found = tracks.reach(5.5)
    assert {(s.track_id, s.label, s.start_s) for s in found} == {(1, "red", 4.0), (2, "green", 3.5)}
    assert tracks.finish() == []
