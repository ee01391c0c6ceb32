"""One answer for a whole video: its views, and its regions."""

import numpy as np
import pytest
from artifacts import LABELS, artifact, coloured, write_colour_model
from frames import Watched

from dvfl_runtime import FakeEngine, Recognizer, SourceError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_colour_model(tmp_path_factory.mktemp("model") / "m.onnx", labels=LABELS)


@pytest.fixture
def r(model):
    with Recognizer(model, num_threads=1) as opened:
        yield opened


def test_classify_takes_frames_from_all_over_the_video():
    seen = []

    def scores(clips):
        seen.append(clips[0, :, 0, 0, 0].tolist())
        return [[0.2, 0.3, 0.5]]

    images = [np.full((8, 8, 3), n, np.uint8) for n in range(40)]
    with Recognizer(artifact(), engine=FakeEngine(scores)) as r:
        for source in (images, iter(images), Watched(images), Watched(images, rewindable=False)):
            got = r.classify(source)
            assert got.label == "blue"
            assert (got.start_s, got.end_s) == (0.0, pytest.approx(40 / (25, 10)[len(seen) > 2]))
        assert seen == [[5, 15, 25, 35]] * 4
        del seen[:]
        source = Watched(images)
        r.classify(source, views="2x3")
        assert seen == [[2, 12, 22, 32]] * 3 + [[7, 17, 27, 37]] * 3
        assert (source.passes, source.ended) == (2, 2)


def test_views_average_the_scores():
    answers = iter([[1.0, 0, 0], [0, 1.0, 0], [0, 0.5, 0.5]])
    with Recognizer(artifact(), engine=FakeEngine(lambda clips: [next(answers)])) as r:
        got = r.classify(coloured(("red", 9)), views="3")
    assert got.scores == pytest.approx([1 / 3, 0.5, 1 / 6])


def test_windows_are_seen_at_the_speed_of_a_stream():
    seen = []

    def scores(clips):
        seen.append(clips[0, :, 0, 0, 0].tolist())
        return [[0.2, 0.3, 0.5]]

    images = [np.full((8, 8, 3), n, np.uint8) for n in range(75)]  # 3 s
    with Recognizer(artifact(), engine=FakeEngine(scores)) as r:
        got = r.classify(images, views="windows")
        assert (got.start_s, got.end_s) == (0.0, pytest.approx(3.0))
        first, *_, last = seen
        assert first == [3, 9, 16, 22]
        assert (len(seen), last) == (9, [53, 59, 66, 72])
        with pytest.raises(ValueError, match=r"views must be 1x1 with regions=.*got windows"):
            r.classify(images, views="windows", regions={"left": (0, 0, 0.5, 1)})


@pytest.mark.parametrize("views", [0, "4x2", "x", "4x3x1", -1, 1.5])
def test_wrong_views_are_refused(r, views):
    with pytest.raises(ValueError, match="views must be"):
        r.classify(coloured(("red", 9)), views=views)


def test_classify_answers_for_each_region_of_a_video(r):
    images = [
        np.concatenate(pair, axis=1)
        for pair in zip(coloured(("red", 40)), coloured(("blue", 40)), strict=True)
    ]
    halves = {"left": (0, 0, 0.5, 1), "right": (0.5, 0, 0.5, 1)}
    for views in (1, "2x1"):
        got = r.classify(images, regions=halves, views=views)
        assert [(p.track_id, p.label) for p in got] == [("left", "red"), ("right", "blue")]
        assert [p.region for p in got] == list(halves.values())
        assert {(p.start_s, p.end_s) for p in got} == {(0.0, 1.6)}
    asked = []

    def boxes(frame):
        asked.append((frame.index, frame.image.shape))
        return {7: (0, 0, 0.4, 1)} if frame.index < 20 else {8: (0.6, 0, 0.4, 1)}

    got = r.classify(images, regions=boxes, views="2x1")
    assert [(p.track_id, p.label) for p in got] == [(7, "red"), (8, "blue")]
    assert asked == sorted(set(asked))
    assert {shape for _, shape in asked} == {images[0].shape}
    assert r.classify(images, regions=lambda _: {}) == []
    (whole,) = r.classify(images, regions="frame")
    assert whole.scores == pytest.approx(r.classify(images).scores)
    with pytest.raises(ValueError, match="views must be 4x1 with regions"):
        r.classify(images, regions=halves, views="4x3")
    with pytest.raises(ValueError, match="within the picture"):
        r.classify(images, regions={"door": (0.9, 0, 0.5, 1)})


def test_classify_refuses_what_has_no_end(r):
    source = Watched(coloured(("red", 9)))
    source.live = True
    with pytest.raises(SourceError, match="is live and has no end"):
        r.classify(source)


def test_a_source_that_shrinks_is_noticed(r):
    class Shrinking(Watched):
        def frames(self):
            self.images = self.images[: 20 // (self.passes + 1)]
            return super().frames()

    with pytest.raises(SourceError, match="fewer frames"):
        r.classify(Shrinking(coloured(("red", 20))))
