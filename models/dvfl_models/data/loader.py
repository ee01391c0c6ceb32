"""The processes that make batches ahead of the training: how they begin and how they fail."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType

import cv2
import torch
from torch.utils.data import DataLoader, Subset

from dvfl_models.data.batches import Batch, TrainingBatches
from dvfl_runtime.errors import DvflError

PATIENCE_S = 60  # for the current step of the training, after a request to end


def load_batches(batches: TrainingBatches, first: int, workers: int) -> Iterable[Batch]:
    """Return the batches of step `first` and all later ones, made by so many other processes."""
    return DataLoader(
        Subset(batches, range(first, len(batches))),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=_set_up_worker,
    )


def _set_up_worker(_number: int) -> None:
    """Set up a process that makes batches.

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
    """Print no traceback about batches that nobody fetches, because the training has ended."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, err, trace)


@contextmanager
def plain_worker_errors() -> Iterator[None]:
    """Make errors of the processes that make batches one line each, and OpenCV use one thread.

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
        raise DvflError(
            "a process that makes clips was ended from outside, perhaps for lack of memory; give "
            "fewer --workers, or a smaller optim.batch_size in another run"
        ) from err
    finally:
        cv2.setNumThreads(threads)
