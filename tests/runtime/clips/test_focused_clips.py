"""The same region, found by the same function, wherever clips are made."""

import dataclasses

import cv2
import numpy as np
import pytest
from videos import write_video

from dvfl_models.data.rendered_clips import SyntheticClips
from dvfl_models.data.video_clips import VideoClips
from dvfl_models.recipe.tables import SyntheticTable, VideosTable
from dvfl_models.rendered.synthetic import render_clip, render_video
from dvfl_runtime import Recognizer
from dvfl_runtime.clips.evaluation import Views, sample_video, sample_windows
from dvfl_runtime.clips.preprocess import focused_clip
from dvfl_runtime.clips.ring import ContextRing
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.clips.windows import Windower
from dvfl_runtime.results import WHOLE
from dvfl_runtime.sources import Frame, open_source

SPEC = ClipSpec(num_frames=8, size=(64, 64), crop="letterbox", focus="motion")
WHERE = (380, 150, 110)  # left, top and side of the person's square in 640 x 360


def in_a_room(clip):
    """Returns frames of 640 x 360 with a clip pasted into a textured wall."""
    coarse = np.random.default_rng(1).uniform(70, 170, (9, 16, 3)).astype(np.float32)
    wall = cv2.resize(coarse, (640, 360)).clip(0, 255).astype(np.uint8)
    left, top, side = WHERE
    for image in clip:
        frame = wall.copy()
        frame[top : top + side, left : left + side] = cv2.resize(image, (side, side))
        yield frame


@pytest.fixture(scope="module")
def frames():
    clip = render_clip("wave_two_hands", seed=4, num_frames=8, size=(128, 128), clean=True)
    return np.stack(list(in_a_room(clip.images)))


@pytest.fixture(scope="module")
def recognizer():
    with Recognizer(num_threads=1) as opened:
        yield opened


def shows_the_person(region):
    left, top, width, height = np.array(region) * (640, 360, 640, 360)
    x, y = WHERE[0] + WHERE[2] / 2, WHERE[1] + WHERE[2] / 2
    inside = left < x < left + width and top < y < top + height
    return inside and 0.6 * WHERE[2] < height < 2 * WHERE[2]


def test_a_small_person_is_recognised_by_every_way_in_the_same_region(frames, recognizer):
    predicted = recognizer.predict(frames)
    assert predicted.label == "wave_two_hands"
    assert shows_the_person(predicted.region), predicted.region
    assert predicted.to_dict()["region"] == list(predicted.region)
    classified = recognizer.classify(frames)
    (streamed,) = recognizer.stream(frames, fps=4)  # one window of 2 s
    for other in (classified, streamed):
        assert other.region == predicted.region
        assert (other.scores == predicted.scores).all()
    assert recognizer.spec.focus == "motion"


def test_two_people_have_a_window_each_and_keep_their_numbers(recognizer):
    actions = ([("wave_two_hands", 3.0), ("idle", 1.0)], [("jumping_jack", 4.0)])
    right, left = (render_video(actions[n], seed=4 + n, fps=12.5, size=(128, 128)) for n in (0, 1))
    both = []
    for frame, other in zip(in_a_room(right), left, strict=True):
        frame[100:210, 40:150] = cv2.resize(other, (110, 110))
        both.append(frame)
    found = [p for p in recognizer.stream(both, fps=12.5, regions="motion") if p.end_s <= 3]
    numbers = {p.track_id: shows_the_person(p.region) for p in found}
    assert sorted(numbers) == [1, 2]
    for p in found:
        assert p.label == ("wave_two_hands" if shows_the_person(p.region) else "jumping_jack")
        assert numbers[p.track_id] == shows_the_person(p.region)
    assert len(found) == 2 * len({p.start_s for p in found})
    alone = recognizer.predict(np.stack(both[:24:3]), regions="motion")
    assert {p.label for p in alone} == {"wave_two_hands", "jumping_jack"}
    still = np.stack([both[0]] * 8)
    (nobody,) = recognizer.predict(still, regions="motion")
    assert (nobody.region, nobody.track_id) == (WHOLE, None)


def test_a_small_person_is_recognised_by_a_camera_that_shakes(frames, recognizer):
    grain = np.random.default_rng(8).integers(-40, 40, (90, 160, 1)).astype(np.float32)
    grain = cv2.resize(grain, (640, 360))[..., None]
    grain[130:280, 360:510] = 0  # where the person is
    rng = np.random.default_rng(9)
    shaken = [
        np.roll(np.clip(frame + grain, 0, 255).astype(np.uint8), rng.integers(-12, 13, 2), (0, 1))
        for frame in frames
    ]
    predicted = recognizer.predict(np.stack(shaken))
    assert predicted.label == "wave_two_hands"
    assert shows_the_person(predicted.region), predicted.region


def test_without_focus_the_whole_picture_is_seen(frames):
    with Recognizer(num_threads=1, focus="frame") as whole:
        assert whole.spec.focus == "frame"
        assert whole.artifact.spec.focus == "motion"
        assert whole.predict(frames).region == WHOLE
        assert {p.region for p in whole.stream(frames, fps=4)} == {WHOLE}
    with pytest.raises(ValueError, match="focus must be"):
        Recognizer(focus="face")


def test_several_views_have_the_region_of_all(frames, recognizer):
    views = recognizer.classify(np.concatenate([frames, frames]), views="2x3")
    assert shows_the_person(views.region)


def test_the_windows_of_a_video_are_those_of_a_stream(recognizer, monkeypatch):
    timeline = [("jumping_jack", 2.0), ("idle", 3.0), ("wave_one_hand", 3.0)]
    video = render_video(timeline, seed=2, fps=12.5, size=(128, 128))
    frames = np.stack(list(in_a_room(video)))
    found, origin = sample_windows(open_source(frames, fps=12.5), recognizer.spec)
    assert (origin.start_s, origin.end_s) == (0, pytest.approx(8, abs=0.05))
    seen, scores = [], recognizer._scorer.scores
    monkeypatch.setattr(
        recognizer._scorer, "scores", lambda clips: seen.extend(clips.copy()) or scores(clips)
    )
    predicted = list(recognizer.stream(frames, fps=12.5, max_batch=1))
    in_stream = [p.tobytes() for p in seen]
    assert len(in_stream) == len(predicted) == 13
    assert set(in_stream) <= {clip.tobytes() for clip in found}
    assert len(found) > len(in_stream)  # a window that remembers nothing is cut otherwise
    whole = recognizer.classify(open_source(frames, fps=12.5), views="windows")
    assert whole.scores == pytest.approx(scores(np.stack(found)).mean(0), abs=1e-5)


def test_a_stream_follows_whoever_stops_and_goes_on(recognizer):
    timeline = [("jumping_jack", 3.0), ("idle", 4.0), ("wave_one_hand", 3.0)]
    video = render_video(timeline, seed=2, fps=12.5, size=(128, 128))
    found = list(recognizer.stream(in_a_room(video), fps=12.5))
    moves = {p.start_s: shows_the_person(p.region) for p in found}
    assert all(moves.values()) or {p.region for p in found if not moves[p.start_s]} == {WHOLE}
    assert all(moves[p.start_s] for p in found if p.end_s <= 3 or p.start_s >= 7.2)
    labels = [
        {p.label for p in found if begin_s <= p.start_s and p.end_s <= end_s}
        for begin_s, end_s in ((0, 3), (3.2, 7), (7.2, 10))
    ]
    assert labels == [{"jumping_jack"}, {"idle"}, {"wave_one_hand"}]


def test_training_sees_the_pictures_that_a_device_sees(tmp_path, frames):
    (tmp_path / "a").mkdir()
    file = write_video(tmp_path / "a" / "x.mp4", frames, rate=4)
    table = VideosTable(kind="videos", name="v", index=str(tmp_path), format="folders")
    clips = VideoClips(table, ["a"], SPEC)
    (wanted,), origin = sample_video(open_source(file), SPEC, Views())
    assert shows_the_person(origin.region)
    assert (clips[0][0] == wanted).all()
    drawn = clips.sample(np.random.default_rng(0)).clip
    assert drawn.shape == wanted.shape
    uncropped = VideoClips(table, ["a"], dataclasses.replace(SPEC, crop="center"), uncropped=True)
    larger = uncropped.sample(np.random.default_rng(0)).clip
    assert larger.shape == (8, 128, 128, 3)


def test_a_ring_keeps_contexts_in_memory_of_its_own_and_only_while_they_are_needed():
    windower = Windower(SPEC, 1.0, 0.25)
    buffers = np.zeros((2, 200, 300, 3), np.uint8)  # of a source that uses its memory again
    taken = []
    for n in range(100):
        buffers[n % 2] = n
        for window in windower.push(Frame(buffers[n % 2], n / 25, n)):
            clip = np.empty((8, 64, 64, 3), np.uint8)
            window.take(clip)
            taken.append(clip[:, 32, 32, 0].tolist())
    ring = windower.ring
    assert isinstance(ring, ContextRing)
    held = [context for context in ring._contexts if context is not None]
    assert len(held) == len(ring) < 14
    assert taken[0] == [2, 5, 8, 11, 14, 17, 20, 23]
    for window in windower.finish():
        window.discard()
    assert len(ring) == 0


def test_small_pictures_are_not_enlarged_and_single_frames_have_no_motion():
    clip = render_clip("bend", seed=1, num_frames=8, size=(40, 60), clean=True).images
    assert focused_clip(clip, SPEC)[0].shape == (8, 64, 64, 3)
    single = dataclasses.replace(SPEC, num_frames=1)
    assert focused_clip(clip[:1], single)[1] == WHOLE


def test_joints_move_with_the_region():
    table = SyntheticTable(kind="synthetic", clean=True)
    whole = dataclasses.replace(SPEC, focus="frame")
    moved = 0
    for seed in range(4):
        (seen, joints), (small, known) = (
            SyntheticClips(table, ["bend"], spec).draw(0, seed, np.random.default_rng(seed))
            for spec in (whole, SPEC)
        )
        (ax, bx), (ay, by) = (
            np.polyfit(joints[..., axis].ravel(), known[..., axis].ravel(), 1) for axis in (0, 1)
        )
        assert ax == pytest.approx(ay)
        matrix = np.array([[ax, 0, bx], [0, ay, by]])
        wanted = np.stack([cv2.warpAffine(image, matrix, (64, 64)) for image in seen])
        shown = wanted.max(-1) > 0  # not the bars
        assert np.abs(wanted[shown].astype(int) - small[shown]).mean() < 4
        moved += ax > 1.05
    assert moved
