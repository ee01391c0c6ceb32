"""Picked frames are those that reading every frame gives, of whole, odd and damaged files."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from videos import SHARED_CLIPS, damage_packets, pictures, shared_clip, write_video

from dvfl_bench.comparisons.loader_item import memory_growth
from dvfl_runtime.clips.picking import PickedFrames, pick_frames, pick_mapped_frames
from dvfl_runtime.clips.sampling import nearest, uniform_indices
from dvfl_runtime.errors import SourceError
from dvfl_runtime.sources import Frame, open_source
from dvfl_runtime.sources.recorded.file import FileSource

COUNT = 45
H264 = {"preset": "ultrafast", "sc_threshold": "0"}
CODECS = {
    "B-frames": ("libx264", {**H264, "bf": "3"}),
    "open groups": ("libx264", {**H264, "bf": "3", "x264-params": "open-gop=1"}),
    "refresh": ("libx264", {**H264, "x264-params": "intra-refresh=1:keyint=20:bframes=0"}),
    "mpeg2": ("mpeg2video", {"bf": "2", "qmax": "4"}),
    "mpeg4": ("mpeg4", {"bf": "2", "qmax": "4"}),
    "hevc": ("libx265", {"x265-params": "log-level=none:keyint=15", "preset": "ultrafast"}),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
}
SUFFIXES = {"mpeg2": ".ts", "mpeg4": ".avi", "vp9": ".mkv"}


def spread(times: np.ndarray) -> np.ndarray:
    return uniform_indices(len(times), 8)


def late(times: np.ndarray) -> np.ndarray:
    """Three frames near the end, by time, one of them twice and backwards."""
    end_s = times[-1]
    return nearest(times, [0.9 * end_s, 0.8 * end_s, 0.8 * end_s, 0.97 * end_s])[None]


def read(path: Path, pick: Callable, known: PickedFrames | None = None) -> PickedFrames:
    if known is not None and known.file_map is not None:
        picked = pick_mapped_frames(path, pick, np.copy, known.file_map)
        assert picked is not None
        return picked
    return pick_frames(open_source(path), pick, np.copy)


def assert_as_a_whole_reading(path: Path) -> PickedFrames:
    """Compares two readings, the second with what the first one has learnt."""
    frames = [*open_source(path).frames()]
    times = np.asarray([frame.time_s for frame in frames])
    first = read(path, spread)
    for pick in (spread, late):
        for picked in (read(path, pick), read(path, pick, first)):
            np.testing.assert_array_equal(picked.times_s, times)
            np.testing.assert_array_equal(picked.numbers, pick(times))
            for n in picked.numbers.flat:
                np.testing.assert_array_equal(picked.kept[n], frames[n].image)
    return first


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("videos")

    def make(name: str) -> Path:
        path = folder / f"{name}{SUFFIXES.get(name, '.mp4')}"
        if not path.exists():
            codec, options = CODECS[name]
            write_video(path, pictures(COUNT), codec=codec, options=options)
        return path

    return make


@pytest.mark.parametrize("name", CODECS)
def test_whole_cut_and_damaged_files(video, tmp_path, name):
    path = video(name)
    assert assert_as_a_whole_reading(path).file_map is not None
    with av.open(str(path)) as container:
        keyframes = [p.is_keyframe for p in container.demux(video=0) if p.size]
    damaged = tmp_path / f"damaged{path.suffix}"
    damaged.write_bytes(path.read_bytes())
    if name != "vp9":  # its decoder refuses what is left
        damage_packets(damaged, [keyframes.index(True, 1) + 2 if sum(keyframes) > 1 else 20])
        assert_as_a_whole_reading(damaged)
    if path.suffix != ".mp4":  # which keeps its index at the end, or at the beginning
        cut = tmp_path / f"cut{path.suffix}"
        cut.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        assert_as_a_whole_reading(cut)


def test_a_file_that_begins_between_keyframes(video, tmp_path):
    cut = tmp_path / "cut.ts"
    with av.open(str(video("mpeg2"))) as source, av.open(str(cut), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if number > 4 and packet.size:
                packet.stream = stream
                target.mux(packet)
    assert_as_a_whole_reading(cut)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_rate(tmp_path, suffix):
    ticks = np.cumsum(np.random.default_rng(0).integers(5, 400, COUNT)).tolist()
    path = tmp_path / f"vfr{suffix}"
    write_video(path, pictures(COUNT), ticks=ticks, time_base=Fraction(1, 1000))
    assert_as_a_whole_reading(path)


def test_an_edit_list(tmp_path):
    """Frames before the time 0 are decoded and not shown."""
    path = write_video(tmp_path / "a.mp4", pictures(COUNT), ticks=range(-7, COUNT - 7))
    first = assert_as_a_whole_reading(path)
    assert len(first.times_s) < COUNT


CLIPS = (
    *("dec_unordered.mov", "dec_video_90.mov", "dvfl_skiing.gif"),
    *("tc_h265_video.mp4", "ucf_ApplyEyeMakeup.avi", "ucf_BaseballPitch.avi"),
)


@pytest.mark.parametrize("name", CLIPS)
def test_real_clips(name):
    assert_as_a_whole_reading(shared_clip(name))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_all_real_files():
    files = [*SHARED_CLIPS.iterdir(), *(SHARED_CLIPS.parent / "data").rglob("*.*")]
    read_files = 0
    for path in sorted(files):
        if path.suffix in (".mp4", ".avi", ".mkv", ".mov", ".gif"):
            source = open_source(path)
            if path.stat().st_size < 4e6 and isinstance(source, FileSource):
                assert_as_a_whole_reading(path)
                read_files += 1
    assert not files or read_files > 100


def test_only_picked_pictures_are_converted(video, monkeypatch):
    converted = []
    image = Frame.image.fget
    monkeypatch.setattr(Frame, "image", property(lambda f: (converted.append(f), image(f))[1]))
    first = read(video("B-frames"), spread)
    assert len(converted) == 8
    read(video("B-frames"), late, first)
    assert len(converted) == 8 + 3


def test_a_file_that_is_closed_while_it_is_read_gives_no_shorter_answer(video):
    for when in (0, 1):
        source = open_source(video("mpeg4"))
        picks = []

        def pick(times, source=source, picks=picks, when=when):
            picks.append(len(times))
            if when == 0:
                source.close()
            return spread(times)

        with pytest.raises(SourceError, match="closed"):
            pick_frames(source, pick, lambda image, source=source: source.close())
        assert len(picks) == 1


def test_a_map_of_more_frames_than_a_file_has_is_refused(video):
    other = read(video("mpeg4"), spread)
    assert other.file_map is not None
    rows = np.concatenate([other.file_map.rows, other.file_map.rows])
    rows["packet"] = np.arange(len(rows))
    longer = type(other.file_map)(rows)
    assert pick_mapped_frames(video("B-frames"), late, np.copy, longer) is None


def test_sources_that_are_no_files():
    images = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    for source in (images, iter(images)):
        picked = pick_frames(open_source(source), spread, lambda image: int(image[0, 0, 0]))
        assert [picked.kept[n] for n in picked.numbers] == spread(np.zeros(20)).tolist()
        assert picked.file_map is None
    with pytest.raises(SourceError, match="no frames"):
        pick_frames(open_source([]), spread, np.copy)


@pytest.mark.slow
def test_a_long_file_takes_little_memory(tmp_path):
    images = [*pictures(50, 240, 320)] * 60  # two minutes
    path = write_video(tmp_path / "long.mp4", images, codec="mpeg4", options={"g": "12"})
    growth_mb = memory_growth()
    first = read(path, spread)
    read(path, late, first)
    assert len(first.times_s) == 3000
    assert (growth_mb() or 0) < 150
