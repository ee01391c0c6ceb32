"""The processes that read clips ahead of the training: what they do, begin with and fail by."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from dvfl_models.data.batches import Batch, collate, joined
from dvfl_models.data.clips import FixedClips
from dvfl_models.data.training_clips import TrainingClips
from dvfl_models.data.video_clips import VideoClips
from dvfl_runtime.clips.spec import Clip
from dvfl_runtime.errors import DvflError, SourceError

CPU = torch.device("cpu")
T = TypeVar("T")
ENDED = (
    "a process that makes clips was ended from outside, perhaps for lack of memory; give fewer "
    "--workers, or a smaller optim.batch_size in another run"
)
PATIENCE_S = 60  # for the current step of the training, after a request to end
MOST_CLIPS = 8  # of training that a process hands over at a time: 10 MB at 8 x 224 x 224
TESTED_CLIPS = 32  # the same of a test, and the clips that a network tests at a time


# where torchrun and MPI state how many processes they have started on this machine
LOCAL_SIZES = ("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")


def default_workers() -> int:
    """Return the cores that this process may use, divided among the run's processes here."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, cores // max(int(os.environ.get(name) or 1) for name in LOCAL_SIZES))


class TestBatch(NamedTuple):
    """Some clips of a test set.

    Attributes:
        clips: (B, T, H, W, 3) uint8; B may be 0.
        classes: of the clips.
        skipped: path and problem of each file that cannot be decoded.
    """

    clips: Tensor
    classes: list[int]
    skipped: list[tuple[str, str]]


class _TestItem(NamedTuple):
    clip: Clip | None
    class_id: int
    path: str = ""
    problem: str = ""


class _TestClips(Dataset[_TestItem]):
    """The clips of a test set, or why one cannot be read."""

    def __init__(self, clips: FixedClips, indices: Sequence[int]) -> None:
        self.clips, self.indices = clips, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> _TestItem:
        number, clips = self.indices[index], self.clips
        try:
            return _TestItem(*clips[number])
        except SourceError as err:
            path = clips.entries[number].path if isinstance(clips, VideoClips) else ""
            return _TestItem(None, -1, path, str(err))


def load_batches(
    clips: TrainingClips, first: int, workers: int, device: torch.device = CPU
) -> Iterator[Batch]:
    """Yield the batches of step `first` and all later ones, read by so many other processes.

    The clips of a step are read by all of them. They are moved to the device as they come, from
    pinned memory if it is a GPU, so that nobody waits for the copy.
    """
    share = clips.share
    size = max(n for n in range(1, min(share, MOST_CLIPS) + 1) if share % n == 0)
    loader = DataLoader(
        Subset(clips, range(first * share, len(clips))),
        batch_size=size,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=_set_up_worker,
    )
    parts: list[Batch] = []
    for part in _read(loader):
        parts.append(part._replace(clips=part.clips.to(device, non_blocking=True)))
        if len(parts) * size == share:
            yield joined(parts)
            parts = []


def load_test(clips: FixedClips, indices: Sequence[int], workers: int) -> Iterator[TestBatch]:
    """Yield the clips of a test set that have these indices, read by so many other processes."""
    loader = DataLoader(
        _TestClips(clips, indices),
        batch_size=TESTED_CLIPS,
        collate_fn=_collate_test,
        num_workers=min(workers, -(-len(indices) // TESTED_CLIPS)),
        worker_init_fn=_set_up_worker,
    )
    yield from _read(loader)


def _read(loader: DataLoader[T]) -> Iterator[Any]:
    """Start a loader's processes, and notice the death of one when its clips are waited for.

    torch's handler of SIGCHLD would raise at once, wherever this process happens to be: in code
    that cleans up after another error, too, and in callbacks whose errors Python ignores.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return iter(loader)
    handler = signal.getsignal(signal.SIGCHLD) or signal.SIG_DFL
    batches = iter(loader)
    signal.signal(signal.SIGCHLD, handler)
    return batches


def _collate_test(items: Sequence[_TestItem]) -> TestBatch:
    images = [item.clip for item in items if item.clip is not None]
    return TestBatch(
        torch.from_numpy(np.stack(images)) if images else torch.empty(0),
        [item.class_id for item in items if item.clip is not None],
        [(item.path, item.problem) for item in items if item.clip is None],
    )


def _set_up_worker(_number: int) -> None:
    """Set up a process that reads clips.

    It uses one thread: the others belong to the training. A terminal or a service manager sends a
    request to end to all processes, but the training answers it, after the step in hand.
    """
    torch.set_num_threads(1)
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(PATIENCE_S) and None)
    sys.excepthook = _hide_broken_pipes


def _hide_broken_pipes(
    kind: type[BaseException], err: BaseException, trace: TracebackType | None
) -> None:
    """Print no traceback about clips that nobody fetches, because the training has ended."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, err, trace)


@contextmanager
def plain_worker_errors() -> Iterator[None]:
    """Make errors of the processes that read clips one line each, and OpenCV use one thread.

    In a forked process OpenCV cannot be told to use one thread: `setNumThreads` waits there for
    threads that only the first process has.

    Raises:
        DvflError: the error of such a process without its traceback, or that it was killed.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    except DvflError as err:
        if "DataLoader worker process" not in str(err):
            raise
        mark = f"\n{type(err).__module__}.{type(err).__qualname__}: "  # at the end of the traceback
        raise type(err)(str(err).strip().rpartition(mark)[2]) from err
    except RuntimeError as err:
        if "DataLoader worker" not in str(err):
            raise
        raise DvflError(ENDED) from err
    except (ConnectionError, EOFError) as err:  # a clip was on its way from it
        raise DvflError(ENDED) from err
    finally:
        cv2.setNumThreads(threads)
