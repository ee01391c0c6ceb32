"""The ring of packets: what stays, what goes, and where a recording can begin."""

import pytest

from dvfl_runtime.record.ring import PacketRing, StoredPacket

ONE, OTHER = object(), object()  # how two connections are coded


def packet(time_s, *, key=False, size=10, template=ONE):
    return StoredPacket(bytes(size), time_s, time_s, key, template)


def filled(count, *, group=10, keep_s=1.0, max_bytes=10**6, needed=None):
    """A ring after so many packets, 25 a second, with a key picture every `group`."""
    ring = PacketRing(keep_s, max_bytes)
    for n in range(count):
        ring.add(packet(n / 25, key=n % group == 0), needed)
    return ring


@pytest.mark.parametrize(("count", "begin"), [(5, 0), (30, 0), (37, 10), (99, 70), (101, 70)])
def test_whole_groups_stay_as_long_as_one_of_their_pictures_is_recent(count, begin):
    ring = filled(count)
    assert (ring.begin, ring.end) == (begin, count)
    assert [number for number, _ in ring.from_number(0)] == list(range(begin, count))


def test_nothing_is_kept_but_the_group_in_progress_without_a_pre_roll():
    assert filled(99, keep_s=0.0).begin == 90


def test_what_is_still_to_be_written_stays_unless_memory_ends():
    assert filled(99, needed=25).begin == 20
    assert filled(99, needed=25, max_bytes=300).begin == 70  # 29 packets


def test_a_group_that_is_larger_than_the_memory_goes_whole():
    ring = filled(60, group=50, max_bytes=300)
    assert ring.begin == 50
    assert filled(45, group=50, max_bytes=300).from_number(0) == []


@pytest.mark.parametrize(
    ("time_s", "number"), [(99.0, 90), (3.0, 70), (2.79, 60), (2.4, 60), (0.0, 60)]
)
def test_a_recording_begins_with_the_key_picture_before(time_s, number):
    assert filled(99, keep_s=1.2).key_before(time_s) == number


def test_without_packets_it_begins_with_the_next_one():
    assert filled(0).key_before(1.0) == 0


def test_what_comes_before_the_first_key_picture_of_a_connection_is_left_out():
    ring = filled(15, keep_s=9.0)
    for n in range(3):
        ring.add(packet(5 + n / 25, template=OTHER))
    ring.add(packet(6.0, key=True, template=OTHER))
    assert [number for number, _ in ring.from_number(0)] == [*range(15), 18]
    fresh = PacketRing(1.0, 100)
    fresh.add(packet(0.0))
    assert (fresh.begin, fresh.end, fresh.from_number(0)) == (1, 1, [])
