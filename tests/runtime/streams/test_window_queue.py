"""The queue between the reader of a source and the scheduler."""

import threading

import pytest

from dvfl_runtime.clips.finder import WHOLE_PICTURE, Track
from dvfl_runtime.clips.ring import FixedRing
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.clips.windows import Window
from dvfl_runtime.streams.window_queue import WindowQueue

RING = FixedRing(ClipSpec(1, (1, 2), crop="letterbox"), [WHOLE_PICTURE])


def window(first, end, dropped=0, track=WHOLE_PICTURE):
    return Window(first / 10, end / 10, (first, end), 0, dropped, RING, (), track)


@pytest.fixture
def queue():
    return WindowQueue(threading.Condition(), capacity=2)


def frames_and_dropped(queue):
    taken = queue.take()
    return taken.frames, taken.dropped


def test_the_end_comes_after_the_windows(queue):
    queue.put([window(0, 10), window(5, 15)])
    error = OSError("unplugged")
    queue.end(error)
    assert len(queue) == 3
    assert [queue.take().frames for _ in range(2)] == [(0, 10), (5, 15)]
    assert not queue.done
    assert queue.take() is None
    assert (queue.done, queue.error, len(queue)) == (True, error, 0)


def test_overlapping_windows_that_are_replaced_lose_no_frame_that_a_newer_one_shows(queue):
    queue.replace([window(0, 10)])
    queue.replace([window(5, 15)])
    queue.replace([window(8, 18)])
    assert frames_and_dropped(queue) == ((8, 18), 8)
    queue.replace([])
    assert len(queue) == 0


def test_frames_are_counted_once_with_those_that_the_source_dropped(queue):
    queue.put([window(0, 10)])
    assert frames_and_dropped(queue) == ((0, 10), 0)
    queue.replace([window(5, 15, dropped=3)])
    queue.replace([window(20, 30, dropped=2), window(25, 35)])
    # 10 to 14 are in no window that was taken; the frames before 10 are
    assert frames_and_dropped(queue) == ((20, 30), 5 + 3 + 2)
    assert frames_and_dropped(queue) == ((25, 35), 0)


@pytest.mark.parametrize("release", ["take", "close"])
def test_a_full_queue_blocks_its_reader_until_there_is_room_or_it_is_closed(queue, release):
    queue.put([window(n, n + 10) for n in range(2)])
    reader = threading.Thread(target=queue.put, args=([window(2, 12)],))
    reader.start()
    reader.join(0.1)
    assert reader.is_alive()
    queue.put([window(3, 13)], wait=False)
    assert len(queue) == 3
    getattr(queue, release)()
    if release == "take":
        queue.take()
    reader.join(5)
    assert not reader.is_alive()


def test_where_an_engine_is_too_slow_all_ids_have_their_turns(queue):
    counts = dict.fromkeys("abcdef", 0)
    for span in range(30):
        queue.replace([window(5 * span, 5 * span + 10, track=Track(n)) for n in "abcdef"])
        for _ in range(span % 6):  # 2.5 on average
            taken = queue.take()
            assert taken.frames[0] == 5 * span
            counts[taken.track.track_id] += 1
    assert sum(counts.values()) == 75
    assert max(counts.values()) - min(counts.values()) <= 1


def test_ids_that_are_gone_do_not_wait_and_need_no_memory(queue):
    for n in range(100):
        queue.replace([window(n, n + 10, track=Track(n)), window(n, n + 10, track=None)])
        queue.take()
    assert len(queue) == 1
    assert len(queue._turns) <= 3
