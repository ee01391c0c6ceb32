"""What finds the regions of a window, as numbers: boxes, ids, paths and turns."""

import numpy as np
import pytest
from frames import warnings_of

from dvfl_runtime import ArgumentError, ClipSpec, Frame
from dvfl_runtime.clips.finder import WHOLE_PICTURE, WindowPictures
from dvfl_runtime.clips.regions import region_finder
from dvfl_runtime.clips.ring import region_clips
from dvfl_runtime.clips.tracked import MARGIN, TrackedBoxes
from dvfl_runtime.clips.windows import Windower

SPEC = ClipSpec(8, (16, 16), crop="letterbox")
IMAGE = np.zeros((200, 400, 3), np.uint8)
TIMES = np.arange(8) / 4 + 0.125  # of a window of 2 s


def look(finder, times=TIMES, image=IMAGE):
    for n, time_s in enumerate(times):
        finder.look(Frame(image, float(time_s), n))


def tracks(finder, times=TIMES):
    window = WindowPictures(times[0] - 0.125, times[-1] + 0.125, times, list)
    return {track.track_id: track for track in finder.find(window)}


def finder_of(boxes, **options):
    """Returns a finder that has looked at a window; `boxes` gives those of a time."""
    finder = TrackedBoxes(lambda frame: boxes(frame.time_s), 1.0, name="cam", **options)
    look(finder)
    return finder


def px(region):
    return np.array(region) * (400, 200, 400, 200)


def test_the_whole_picture_what_moves_and_boxes_are_of_one_kind():
    assert region_finder("frame", SPEC).find(None) == (WHOLE_PICTURE,)
    assert region_finder(None, SPEC).find(None) == (WHOLE_PICTURE,)
    boxes = region_finder({"door": (0.1, 0.2, 0.3, 0.5), 2: [0, 0, 1, 1]}, SPEC)
    assert boxes.most == 2
    assert [(t.track_id, t.region) for t in boxes.find(None)] == [
        ("door", (0.1, 0.2, 0.3, 0.5)),
        (2, (0.0, 0.0, 1.0, 1.0)),
    ]
    still = [np.zeros((90, 160), np.uint8)] * 8
    window = WindowPictures(0, 2, TIMES, lambda: still)
    assert list(region_finder("motion", SPEC).find(window)) == [WHOLE_PICTURE]


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ("face", "regions must be .*motion"),
        (7, "regions must be"),
        ({}, "regions must be 1 to max_regions=2 boxes, got 0"),
        ({n: (0, 0, 1, 1) for n in range(3)}, "got 3; leave out some, or pass a larger max_reg"),
        ({"door": (0.1, 0.2, 0.3)}, r"regions\['door'\] must be left, top, width and height"),
        ({"door": (0.8, 0.2, 0.3, 0.5)}, "within the picture"),
        ({"door": (-0.1, 0.2, 0.3, 0.5)}, "within the picture"),
        ({"door": (0.1, 0.2, 0.0, 0.5)}, "within the picture"),
        ({"door": (0.1, float("nan"), 0.3, 0.5)}, "within the picture"),
        ({"door": (64, 20, 128, 90)}, "as shares of the picture"),
        ({"door": "left"}, "shares of the picture"),
        ({"door": None}, "shares of the picture"),
        ({1.5: (0, 0, 1, 1)}, "a string or a whole number"),
    ],
)
def test_what_is_no_region_is_refused_at_once(regions, message):
    with pytest.raises(ArgumentError, match=message):
        region_finder(regions, SPEC, most=2)


def test_a_region_holds_its_box_with_a_margin_and_has_the_shape_of_the_input():
    finder = finder_of(lambda _: {7: (0.25, 0.3, 0.05, 0.4)})  # 20 x 80 px at (100, 60)
    (track,) = tracks(finder).values()
    left, top, width, height = px(track.region)
    assert width == pytest.approx(height, abs=0.1)
    assert height == pytest.approx(80 * (1 + MARGIN), abs=0.1)
    assert (left + width / 2, top + height / 2) == pytest.approx((110, 100), abs=0.1)
    assert set(track.path) == {track.region}
    wide = TrackedBoxes(lambda _: {7: (0.25, 0.3, 0.05, 0.4)}, 2.0)
    look(wide)
    _, _, width, height = px(tracks(wide)[7].region)
    assert width == pytest.approx(2 * height, abs=0.1)


def test_regions_at_the_edge_stay_in_the_picture_and_large_ones_fill_it():
    finder = finder_of(lambda _: {1: (-0.1, 0.7, 0.2, 0.5), 2: (0.0, 0.0, 1.0, 1.0)})
    found = tracks(finder)
    left, top, width, height = found[1].region
    assert (left, top + height) == (0, 1)
    assert width * 2 == pytest.approx(height, abs=1e-3)
    assert found[2].region[1::2] == (0, 1)  # as high as the picture


def test_regions_follow_boxes_smoothly_over_jitter_and_misses():
    rng = np.random.default_rng(0)
    jitter = iter(rng.normal(0, 3, 100))

    def boxes(time_s):  # walks by 100 px a second; missed once
        left = 100 + 100 * time_s + next(jitter)
        return {} if time_s == TIMES[4] else {"a": (left / 400, 0.3, 0.1, 0.4)}

    track = tracks(finder_of(boxes))["a"]
    middles = np.array([px(r)[0] + px(r)[2] / 2 for r in track.path])
    sizes = {r[2:] for r in track.path}
    assert len(track.path) == 8
    assert len(sizes) == 1  # no zoom within a window
    assert np.abs(middles[1:-1] - (120 + 100 * TIMES[1:-1])).max() < 5
    assert np.abs(np.diff(middles, n=2)).max() < 12
    assert track.region == track.path[4]


def test_ids_that_are_lost_and_found_have_windows_of_their_own_time():
    where = {"a": (0.1, 0.3, 0.1, 0.3), "b": (0.6, 0.3, 0.1, 0.3)}

    def boxes(time_s):
        return {n: box for n, box in where.items() if (time_s < 3 or time_s > 8 if n == "a" else 1)}

    finder = TrackedBoxes(lambda frame: boxes(frame.time_s), 1.0)
    seen = {}
    for second in range(12):
        times = TIMES[:4] + second
        look(finder, times)
        seen[second] = set(tracks(finder, times))
    assert {n for n, ids in seen.items() if "a" not in ids} == {3, 4, 5, 6, 7}
    assert all("b" in ids for ids in seen.values())
    assert len(finder._times) <= 8  # memory is that of a window
    assert set(map(len, finder._seen.values())) <= {4}


def test_an_id_in_few_frames_of_a_window_has_none():
    brief = finder_of(lambda t: {1: (0, 0, 0.2, 0.5)} if t < 0.4 else {})
    assert set(tracks(brief)) == {1}  # two of eight
    once = finder_of(lambda t: {1: (0, 0, 0.2, 0.5)} if t < 0.2 else {})
    assert tracks(once) == {}


def test_what_is_no_box_is_left_out_counted_and_logged(caplog):
    good = (0.1, 0.1, 0.2, 0.5)
    bad = [
        (1, (0.1, 0.1, 0.0, 0.5)),
        (2, (0.1, float("nan"), 0.2, 0.5)),
        (3, (120, 40, 60, 90)),  # px
        (4, (1.2, 0.1, 0.2, 0.5)),
        (5, (0.1, 0.1, 0.2)),
        (6, None),
        (None, good),
        (1.5, good),
        (7, good),
        (7, (0.5, 0.5, 0.2, 0.2)),
        (np.int64(8), np.array(good)),
        ("nine", list(good)),
    ]
    finder = finder_of(lambda _: bad)
    found = tracks(finder)
    assert set(found) == {7, 8, "nine"}
    assert found[7].region == found[8].region == found["nine"].region
    assert all(type(track_id) is int for track_id in found if track_id != "nine")
    logged = warnings_of(caplog)
    boxes = [line for line in logged if "gave boxes that are left out, as not" in line]
    assert ["(1 so far)" in line or "(10 so far)" in line for line in boxes] == [True, True]
    assert "shares of the picture" in boxes[0]
    assert sum("as no whole numbers or strings" in line for line in logged) == 2
    assert sum("as the second of an id in a frame" in line for line in logged) == 1
    assert len(logged) == 5


def test_a_hundred_ids_take_turns(caplog):
    boxes = {n: (n / 200, 0.3, 0.1, 0.4) for n in range(100)}
    finder = TrackedBoxes(lambda _: boxes, 1.0, name="cam", most=16)
    counts = dict.fromkeys(boxes, 0)
    for second in range(25):
        look(finder, TIMES[:4] + second)
        chosen = tracks(finder, TIMES[:4] + second)
        assert len(chosen) == 16
        for track_id in chosen:
            counts[track_id] += 1
    assert set(counts.values()) <= {3, 4, 5}  # of 25 windows with 16 turns each
    assert ["max_regions=16" in line for line in warnings_of(caplog)] == [True, True]
    assert "100" in warnings_of(caplog)[0]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda _: 1 / 0, "ZeroDivisionError"),
        (lambda _: None, "TypeError"),
        (lambda _: [(0.1, 0.1, 0.2, 0.5)], "ValueError"),
        (lambda: {}, "TypeError"),
    ],
)
def test_a_function_that_fails_is_one_clear_error_and_is_not_called_again(function, reason):
    finder = TrackedBoxes(function, 1.0, name="cam")
    with pytest.raises(ArgumentError, match=f"failed for the frame at 0.125 s of cam, {reason}"):
        look(finder)
    look(finder)
    assert tracks(finder) == {}


def test_a_windower_asks_for_the_frames_that_windows_pick_once_and_in_order():
    asked = []

    def boxes(frame):
        asked.append(frame.index)
        return {1: (0.1, 0.1, 0.2, 0.4)}

    windower = Windower(SPEC, finder=TrackedBoxes(boxes, 1.0))
    windows = []
    for n in range(250):  # 10 s at 25 frames a second
        windows += windower.push(Frame(IMAGE, n / 25, n))
    windows += windower.finish()
    assert asked == sorted(set(asked))
    assert 40 <= len(asked) <= 42  # 8 in 2 s
    assert len(windows) == 17
    assert {w.track.track_id for w in windows} == {1}


@pytest.mark.parametrize("count", [1, 3, 5, 20])
def test_a_short_video_has_boxes_too(count):
    windower = Windower(SPEC, finder=TrackedBoxes(lambda _: {1: (0.1, 0.1, 0.2, 0.4)}, 1.0))
    windows = [w for n in range(count) for w in windower.push(Frame(IMAGE, n / 240, n))]
    (window,) = [*windows, *windower.finish()]
    assert window.track.track_id == 1
    assert window.track.region[0] < 0.2


def test_a_clip_is_cut_to_the_regions_of_its_own_pictures():
    clip = np.zeros((8, 90, 160, 3), np.uint8)
    for n in range(8):
        clip[n, 30:60, 10 * n : 10 * n + 20] = 10 * (n + 1)
    finder = TrackedBoxes(lambda frame: {1: (frame.index / 16, 1 / 3, 1 / 8, 1 / 3)}, 1.0)
    ((found, track),) = region_clips(clip, SPEC, finder)
    assert found.shape == (8, 16, 16, 3)
    assert len(set(track.path)) > 4
    assert found[1:7, 8, 8, 0] == pytest.approx([20, 30, 40, 50, 60, 70], abs=1)
    fixed = region_finder({"left": (0, 0, 0.5, 1), "right": (0.5, 0, 0.5, 1)}, SPEC)
    (left, _), (right, _) = region_clips(clip, SPEC, fixed)
    assert left[0, :, 4:12].any()
    assert not right[0, :, 4:12].any()  # between the bars
