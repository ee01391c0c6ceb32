import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvfl_runtime import Frame, SourceError
from dvfl_runtime.clips.ring import FIRST_CAPACITY
from dvfl_runtime.clips.sampling import window_targets
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.clips.windows import Windower


class Numbered:
    """A windower of pictures that show their own number, and what it did with them."""

    def __init__(self, num_frames=4, window_s=1.0, hop_s=None, **options):
        self.prepared = []
        # pictures of the model's own size: preprocessing leaves them as they are
        spec = ClipSpec(num_frames, (1, 2), crop="letterbox")
        self.windower = Windower(spec, window_s, hop_s, **options)
        self.ring = self.windower.ring
        self._add, self.ring.add = self.ring.add, self._note
        self._count = 0

    def _note(self, image):
        self.prepared.append(int.from_bytes(image.tobytes()[:4], "little"))
        return self._add(image)

    def push(self, time_s, **about):
        image = np.zeros((1, 2, 3), np.uint8)
        image.reshape(-1)[:4] = np.frombuffer(self._count.to_bytes(4, "little"), np.uint8)
        frame = Frame(image, time_s, self._count, **about)
        self._count += 1
        return self.windower.push(frame)

    def numbers(self, window):
        """Return the numbers of the pictures of a window, which is taken."""
        clip = np.empty((len(window.slots), 1, 2, 3), np.uint8)
        window.take(clip)
        return [int.from_bytes(image.tobytes()[:4], "little") for image in clip]

    def run(self, times, gaps=()):
        windows = [w for n, t in enumerate(times) for w in self.push(t, after_gap=n in gaps)]
        windows += self.windower.finish()
        return [(w.start_s, w.end_s, self.numbers(w)) for w in windows]


def run(times, num_frames=4, window_s=1.0, hop_s=None, gaps=(), **options):
    """Return the windows as (start, end, numbers of the pictures)."""
    return Numbered(num_frames, window_s, hop_s, **options).run(times, gaps)


def spans(got):
    """Return the (start, end) of windows, to the microsecond."""
    return [(round(float(start_s), 6), round(float(end_s), 6)) for start_s, end_s, _ in got]


def test_windows_follow_each_other_by_the_hop():
    got = run(np.arange(20) / 10, hop_s=0.5)
    assert [w[:2] for w in got] == [(0.0, 1.0), (0.5, 1.5), (1.0, 2.0)]
    assert got[0][2] == [1, 4, 6, 9]  # targets 0.125 0.375 0.625 0.875
    assert got[2][2] == [11, 14, 16, 19]


def test_a_window_comes_with_the_first_picture_at_or_after_its_end():
    numbered = Numbered(hop_s=0.5)
    counts = [len(numbered.push(n / 4)) for n in range(8)]
    assert counts == [0, 0, 0, 0, 1, 0, 1, 0]
    assert [w.end_s for w in numbered.windower.finish()] == [2.0]


@pytest.mark.parametrize(("last_s", "end_s"), [(0.62, 0.87), (0.63, 1.0), (0.75, 1.0)])
def test_the_last_window_may_lack_half_an_interval(last_s, end_s):
    assert run([0.0, 0.25, 0.5, last_s])[-1][1] == pytest.approx(end_s)


def test_the_clock_of_the_source_need_not_start_at_zero():
    assert [w[:2] for w in run(100 + np.arange(30) / 10, hop_s=1.0)] == [
        (100.0, 101.0),
        (101.0, 102.0),
        (102.0, 103.0),
    ]


@pytest.mark.parametrize(
    ("count", "picks"),
    [(1, [0, 0, 0, 0]), (2, [0, 1, 1, 1]), (5, [1, 2, 3, 4]), (9, [1, 3, 6, 8])],
)
def test_a_short_stream_gives_one_window_over_what_there_is(count, picks):
    ((start, end, numbers),) = run(np.arange(count) / 10)
    assert start == 0.0
    assert end == pytest.approx(count / 10 if count > 1 else 0.25)
    assert numbers == picks


def test_no_pictures_give_no_window():
    assert run([]) == []


@pytest.mark.parametrize("gap_s", [1.01, 1000])
def test_no_window_spans_a_hole_longer_than_a_window(gap_s):
    after = 1.9 + gap_s + np.arange(20) / 10
    got = run([*(np.arange(20) / 10), *after], hop_s=0.5)
    assert [w[0] for w in got] == pytest.approx([0, 0.5, 1, *(after[0] + [0, 0.5, 1])])
    assert all(max(picks) < 20 or min(picks) >= 20 for _, _, picks in got)


def test_a_slow_source_has_no_holes():
    got = run([0.0, 1.0, 2.0, 3.0], hop_s=1.0)
    assert [w[2] for w in got] == [[0, 0, 1, 1], [1, 1, 2, 2], [2, 2, 3, 3], [3, 3, 3, 3]]


def test_no_window_spans_a_gap_that_the_source_tells_of():
    got = run(np.arange(40) / 10, hop_s=0.5, gaps={15})
    assert [w[0] for w in got] == pytest.approx([0, 0.5, 1.5, 2, 2.5, 3])
    assert all(max(picks) < 15 or min(picks) >= 15 for _, _, picks in got)


def test_a_short_stretch_gives_one_window_over_what_there_is():
    got = run(np.arange(60) / 10, hop_s=1.0, gaps={20, 25, 30})
    assert spans(got) == [(0, 1), (1, 2), (2, 2.5), (2.5, 3), (3, 4), (4, 5), (5, 6)]
    assert [w[2] for w in got[2:4]] == [[21, 22, 23, 24], [26, 27, 28, 29]]
    got = run(np.arange(12) / 10, gaps={6})
    assert spans(got) == [(0, 0.6), (0.6, 1.2)]
    assert [w[2] for w in got] == [[1, 2, 4, 5], [7, 8, 10, 11]]


def test_a_recording_of_short_stretches_has_a_window_for_each():
    times = [5.5 * n + m / 30 for n in range(6) for m in range(45)]
    got = run(times, 8, 2.0)
    assert spans(got) == [(5.5 * n, 5.5 * n + 1.5) for n in range(6)]
    assert all({p // 45 for p in picks} == {n} for n, (_, _, picks) in enumerate(got))


@pytest.mark.parametrize("step_s", [2.5, 5.0, 3600.0])
def test_pictures_further_apart_than_a_window_have_one_each(step_s):
    got = run(np.arange(24) * step_s, 8, 2.0)
    assert [w[0] for w in got] == pytest.approx(np.arange(24) * step_s)
    assert [w[2] for w in got] == [[n] * 8 for n in range(24)]


@pytest.mark.parametrize("hop_s", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("count", [21, 24, 29])
def test_frames_after_the_last_full_window_get_one_that_ends_with_the_stretch(count, hop_s):
    start_s, end_s, picks = run(np.arange(count) / 10, hop_s=hop_s)[-1]
    assert (start_s, end_s) == pytest.approx((count / 10 - 1, count / 10))
    targets = window_targets(start_s, 1.0, 4)
    assert np.abs(np.array(picks) / 10 - targets).max() <= 1 / 8 + 0.05 + 1e-9
    assert len(set(picks)) == 4


def test_a_hop_longer_than_the_window_leaves_out_what_lies_between():
    assert spans(run(np.arange(36) / 10, hop_s=2.0)) == [(0, 1), (2, 3)]
    assert spans(run(np.arange(26) / 10, hop_s=2.0)) == [(0, 1), (2, 2.6)]


def test_no_window_reaches_beyond_the_next_stretch():
    # at one frame a second the last picture would be shown for another second
    times = [*np.arange(11.0), 10.1, 11.1, 12.1]
    for pad in (None, "repeat"):
        got = run(times, window_s=2.0, gaps={11}, pad=pad)
        before = [w for w in got if w[2][0] < 11]
        assert before[-1][1] == 10.1
        assert got[len(before)][0] == 10.1
        centres = [start_s + end_s for start_s, end_s, _ in got]
        assert centres == sorted(centres)


def test_padding_gives_windows_from_the_first_hop_on():
    got = run(np.arange(17) / 10, hop_s=0.25, pad="repeat", gaps={13})
    assert [w[1] for w in got[:5]] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.25])
    assert [w[0] for w in got[:5]] == pytest.approx([0, 0, 0, 0, 0.25])
    assert [w[2] for w in got[:4]] == [[0, 0, 0, 1], [0, 0, 1, 4], [0, 1, 4, 6], [1, 4, 6, 9]]
    # after the gap it begins anew
    assert spans(got[5:]) == [(1.3, 1.55), (1.3, 1.7)]
    assert got[5][2] == [13, 13, 13, 14]


@pytest.mark.parametrize("hop_s", [0.3, 0.4, 1.0, 1.7])
def test_padding_keeps_the_grid_of_full_windows(hop_s):
    full, padded = (run(np.arange(50) / 10, hop_s=hop_s, pad=pad) for pad in (None, "repeat"))
    assert padded[-len(full) :] == full
    assert padded[0][1] <= hop_s + 1e-9 or padded == full


def test_windows_tell_their_frames_their_arrival_and_what_was_dropped():
    numbered = Numbered(hop_s=0.5)
    got = []
    for n in range(25):
        got += numbered.push(n / 10, arrival_ns=1000 + n, dropped=n % 2)
    assert [w.frames for w in got] == [(0, 10), (5, 15), (10, 20)]
    assert [w.arrival_ns for w in got] == [1009, 1014, 1019]
    assert [w.dropped for w in got] == [5, 3, 2]


@pytest.mark.parametrize("fps", [6, 25, 28.052, 29.97, 60])
def test_picks_lie_within_half_a_frame_of_their_targets(fps):
    numbered = Numbered(8, 2.0)
    for n in range(int(9 * fps)):
        for window in numbered.push(n / fps):
            picked = np.array(numbered.numbers(window)) / fps
            targets = window_targets(window.start_s, 2.0, 8)
            assert np.abs(picked - targets).max() <= 0.5 / fps + 1e-9
    # after the first window four a second are enough, eight where targets lie midway between two
    assert len(numbered.prepared) <= 2 * fps + 8 * 7 + 2


def test_memory_is_bounded_by_the_window_and_used_again():
    numbered = Numbered(8, 2.0)
    for n in range(3000):
        for window in numbered.push(n / 30):
            window.discard()
        assert len(numbered.ring) <= (61 if n < 120 else 12)
    assert numbered.ring.capacity == 4 * FIRST_CAPACITY
    for window in numbered.windower.finish():
        window.discard()
    assert len(numbered.ring) == 0


@pytest.mark.parametrize("seconds", [100, 590, 700])
def test_a_window_of_ten_minutes_does_not_keep_every_picture(seconds):
    numbered, got = Numbered(8, 600.0), []
    for n in range(25 * seconds):
        got += numbered.push(n / 25)
        assert len(numbered.ring) < 800  # of 15,000
    window = [*got, *numbered.windower.finish()][0]
    assert window.end_s == min(seconds, 600)
    targets = window_targets(0.0, window.end_s, 8)
    slack_s = 0.02 if seconds > 600 else window.end_s / 8 / 16
    assert np.abs(np.array(numbered.numbers(window)) / 25 - targets).max() <= slack_s + 1e-6


def test_a_window_keeps_its_pictures_until_it_is_released():
    numbered = Numbered(hop_s=0.5)
    windows = [w for n in range(200) for w in numbered.push(n / 10)]
    assert [numbered.numbers(w)[0] for w in windows] == [1 + 5 * k for k in range(len(windows))]


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(st.floats(0, 3), min_size=1, max_size=120),
    gaps=st.sets(st.integers(1, 119), max_size=3),
    window_s=st.floats(0.2, 4),
    hop_part=st.floats(0.1, 1.5),
    num_frames=st.integers(1, 9),
    pad=st.sampled_from([None, "repeat"]),
)
def test_windows_are_regular_and_every_frame_lies_in_one(
    steps, gaps, window_s, hop_part, num_frames, pad
):
    times, hop_s = np.cumsum(steps), window_s * hop_part
    breaks = [
        n
        for n in range(1, len(times))
        if times[n] > times[n - 1] and (n in gaps or times[n] - times[n - 1] > window_s)
    ]
    numbered = Numbered(num_frames, window_s, hop_s, pad=pad)
    windows = []
    for n, time_s in enumerate(times):
        fresh = numbered.push(float(time_s), after_gap=n in gaps)
        assert all(w.end_s <= time_s for w in fresh)
        windows += [(w, numbered.numbers(w)) for w in fresh]
    windows += [(w, numbered.numbers(w)) for w in numbered.windower.finish()]
    assert numbered.prepared == sorted(set(numbered.prepared))
    assert len(numbered.ring) == 0
    centres = [w.start_s + w.end_s for w, _ in windows]
    assert all(b > a for a, b in itertools.pairwise(centres))
    first_k = 0 if pad is None else 1 - math.ceil(window_s / hop_s - 1e-9)
    for begin, end in itertools.pairwise([0, *breaks, len(times)]):
        mine = [(w, picks) for w, picks in windows if begin <= picks[0] < end]
        known, next_s = times[begin:end], times[end] if end < len(times) else math.inf
        assert mine
        if hop_part <= 1:
            spans = np.array([(w.start_s, w.end_s) for w, _ in mine]) + 1e-6 * np.array([-1, 1])
            assert ((spans[:, 0] <= known[:, None]) & (known[:, None] < spans[:, 1])).any(1).all()
        for j, (window, picks) in enumerate(mine):
            assert set(picks) <= set(range(begin, end))
            inside = np.flatnonzero((known >= window.start_s) & (known < window.end_s)) + begin
            assert set(range(*window.frames)) == set(inside.tolist())
            start_s = known[0] + (first_k + j) * hop_s
            end_s = start_s + window_s
            span_s = max(start_s, known[0]), min(end_s, next_s)
            choices = []
            if (window.start_s, window.end_s) == pytest.approx(span_s, abs=1e-9):
                choices.append((start_s, end_s, 0.0))
            assert window.end_s <= next_s
            if j == len(mine) - 1 and known[-1] < window.end_s:  # it may end with the stretch
                if j == 0:  # over what there is
                    part_s = (window.end_s - known[0]) / num_frames
                    choices.append((known[0], window.end_s, part_s / 16))
                else:
                    start_s = start_s if hop_part > 1 else window.end_s - window_s
                    choices.append((start_s, window.end_s, window_s / num_frames))
            assert any(
                are_near(
                    times[picks], known, window_targets(start_s, end_s - start_s, num_frames), s
                )
                for start_s, end_s, s in choices
            )


def are_near(picked, known, targets, slack_s):
    """Return whether no known time is nearer to its target by more than the slack."""
    best = np.abs(known[None] - targets[:, None]).min(axis=1)
    return (np.abs(picked - targets) <= best + slack_s + 1e-6).all()


@pytest.mark.parametrize(
    "bad",
    [(0, 1.0, None), (4, 0.0, None), (4, float("nan"), None), (4, 1.0, 0.0), (4, 1.0, -1.0)],
)
def test_numbers_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="must be"):
        Numbered(*bad)


def test_an_unknown_padding_is_refused():
    with pytest.raises(ValueError, match="pad must be one of None, 'repeat', got 'zero'"):
        Numbered(pad="zero")


@pytest.mark.parametrize("time_s", [0.5, float("nan"), float("inf"), 1e300])
def test_times_that_make_no_sense_are_refused(time_s):
    numbered = Numbered()
    numbered.push(1.0)
    with pytest.raises(SourceError, match="must"):
        numbered.push(time_s)
