"""Clips come through processes of the loader as they are, whoever reads and keeps them."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing.context import BaseContext
from pathlib import Path

import numpy as np
import pytest
import torch
import videos
from small_runs import make_videos, small

from dvfl_bench.comparisons.loader_item import memory_growth
from dvfl_models.data import frame_reader, loader
from dvfl_models.data.batches import Batch, batch_of
from dvfl_models.data.decoding import decode
from dvfl_models.data.frame_reader import FrameReader
from dvfl_models.data.loader import default_workers, load_batches, load_test
from dvfl_models.data.opening import open_clips
from dvfl_models.data.shared_store import SharedStore
from dvfl_models.data.training_clips import TrainingClips
from dvfl_models.recipe.recipe import Recipe
from dvfl_runtime.clips.sampling import nearest, window_targets

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12


def with_a_broken_file(folder: Path, **changes: object) -> Recipe:
    index = make_videos(folder / "videos", 6)
    (folder / "videos" / "2.mp4").write_bytes(b"not a video")
    test = [{"kind": "videos", "name": "t", "index": str(index)}]
    return small(index, test=test, **changes)


def assert_equal(one: Batch, other: Batch) -> None:
    assert torch.equal(one.clips, other.clips)
    assert (one.names, one.seeds) == (other.names, other.seeds)
    assert one.classes.tolist() == other.classes.tolist()


def test_clips_do_not_depend_on_who_reads_them(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(loader, "MOST_CLIPS", 2)
    optim = {"steps": 4, "batch_size": 6, "accumulate": 2}
    recipe = with_a_broken_file(tmp_path, optim=optim)
    alone = [batch_of(TrainingClips(recipe), step) for step in range(4)]
    for first, workers in ((0, 0), (1, 2)):
        loaded = list(load_batches(TrainingClips(recipe), first, workers))
        assert len(loaded) == 4 - first
        for one, other in zip(alone[first:], loaded, strict=True):
            assert_equal(one, other)
    assert all(name != str(tmp_path / "videos" / "2.mp4") for b in alone for name in b.names)
    found = {file for batch in loaded for file in batch.corrupt}
    assert found <= {("v", str(tmp_path / "videos" / "2.mp4"))}
    parts = alone[0].parts(2)
    assert torch.equal(torch.cat([part.clips for part in parts]), alone[0].clips)
    assert [seed for part in parts for seed in part.seeds] == alone[0].seeds


@pytest.mark.parametrize("workers", [0, 2])
def test_a_test_set_comes_in_batches(tmp_path: Path, monkeypatch, workers: int) -> None:
    monkeypatch.setattr(loader, "TESTED_CLIPS", 2)
    recipe = with_a_broken_file(tmp_path)
    clips = open_clips(recipe.test[0], recipe)
    batches = list(load_test(clips, [0, 1, 2, 4, 2], workers))
    assert [batch.classes for batch in batches] == [[0, 1], [0], []]
    assert [[path for path, _ in batch.skipped] for batch in batches] == [
        [],
        [str(tmp_path / "videos" / "2.mp4")],
        [str(tmp_path / "videos" / "2.mp4")],
    ]
    assert torch.equal(batches[1].clips[0], torch.from_numpy(clips[4][0]))


def test_cores_are_shared_by_the_processes_of_a_machine(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(9), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert default_workers() == 9
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert default_workers() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert default_workers() == 1


@pytest.fixture(params=["fork", "spawn"])
def context(request: pytest.FixtureRequest) -> Iterator[BaseContext]:
    """Makes processes start in one way or another."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    yield multiprocessing.get_context()
    multiprocessing.set_start_method(before, force=True)


def test_processes_share_what_is_kept(context: BaseContext) -> None:
    store = SharedStore(["a", "b", "c", "d"], np.uint8, max_bytes=40)
    assert store.get("a") is None
    store.put("a", np.full((3, 2, 2), 1))
    later = [
        context.Process(target=store.put, args=x)
        for x in zip("ab", np.full((2, 3, 2, 2), 2), strict=True)
    ]
    for child in later:
        child.start()
    for child in later:
        child.join()
        assert child.exitcode == 0
    store.put("c", np.full((3, 2, 2), 3))
    store.put("d", np.full((3, 2, 2), 4))  # there is no room for it
    kept = {key: stored.read(1, 2) for key in "abcd" if (stored := store.get(key)) is not None}
    assert {key: np.unique(array).tolist() for key, array in kept.items()} == {
        "a": [1],
        "b": [2],
        "c": [3],
    }
    assert all(array.shape == (2, 2, 2) for array in kept.values())
    assert (len(store), store.size) == (3, 36)


def test_a_full_disk_ends_the_keeping(monkeypatch, caplog) -> None:
    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    store = SharedStore(["a", "b"], np.uint8, 1000)
    monkeypatch.setattr(os, "pwrite", fail)
    store.put("a", np.ones(3))
    store.put("b", np.ones(3))
    assert len(store) == 0
    assert [record.message for record in caplog.records] == [
        "decoded videos are not kept any more: [Errno 28] No space left on device"
    ]


@pytest.mark.parametrize("size", [32, 120], ids=["kept", "mapped"])
def test_frames_of_training_are_the_nearest_ones_of_all(tmp_path: Path, size: int) -> None:
    index = make_videos(tmp_path / "videos", 2)
    clip = {"num_frames": 5, "size": [size, size]}
    listed = {"kind": "videos", "name": "v", "index": str(index), "window_s": [0.1, 0.3]}
    recipe = small(index, clip=clip, train=[listed])
    clips = TrainingClips(recipe).videos[0]
    for seed in range(6):  # each of the two videos is read several times
        sample = clips.sample(np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        rng.integers(2), rng.integers(1)  # the class, the video
        images, times = decode(sample.name, recipe.spec)
        length_s = times[-1] * len(times) / (len(times) - 1)
        window_s = min(rng.uniform(0.1, 0.3), length_s)
        targets = window_targets(rng.uniform(0, length_s - window_s), window_s, 5)
        picks = nearest(times, targets + rng.uniform(-0.25, 0.25, 5) * window_s / 5)
        np.testing.assert_array_equal(sample.clip, images[picks])
    assert len(clips.reader.maps) == 2
    assert len(clips.reader.frames) == (2 if size == 32 else 0)


def test_small_videos_are_kept_up_to_a_bound(tmp_path: Path, monkeypatch) -> None:
    index = make_videos(tmp_path / "videos", 2)
    paths = [str(index.parent / f"{k}.mp4") for k in range(2)]
    room = 8 * 3 * 112**2 + 1  # for the eight frames of one of them, as large as they may be
    reader = FrameReader(paths, room)
    opened = []
    opening = frame_reader.open_source
    monkeypatch.setattr(frame_reader, "open_source", lambda x: (opened.append(x), opening(x))[1])
    last = decode(paths[0], 32)[0][[7, 2]]
    for _ in range(3):
        np.testing.assert_array_equal(
            reader.read(paths[0], 32, lambda _: np.array([7, 2]), keep=True), last
        )
        reader.read(paths[1], 112, lambda _: np.array([1]), keep=True)
    assert opened == paths
    assert len(reader.frames) == 1
    assert len(reader.maps) == 2


@pytest.mark.slow
def test_a_clip_of_a_long_video_takes_little_memory(tmp_path: Path) -> None:
    images = [*videos.pictures(50, 240, 320)] * 60  # two minutes
    videos.write_video(tmp_path / "long.mp4", images, codec="mpeg4")
    (tmp_path / "index.csv").write_text("file,label\nlong.mp4,a\nlong.mp4,b\n")
    logging.disable()
    for size in (64, 224):
        clips = TrainingClips(small(tmp_path / "index.csv", clip={"size": [size, size]}))
        growth_mb = memory_growth()
        clips[0], clips[1]
        assert (growth_mb() or 0) < 150
