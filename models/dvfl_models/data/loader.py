"""The processes that make clips for the training: how they begin, and what is told of their end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import cv2
import torch

from dvfl_runtime.errors import DvflError

PATIENCE_S = 60  # for the current step of the training, after a request to end


def begin_worker(_number: int) -> None:
    """Sets up such a process.

    It uses one thread: the others belong to the training. A request to end, which a terminal or a
    service manager sends to all processes, is the training's to answer, after the step in hand.
    """
    torch.set_num_threads(1)
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(PATIENCE_S) and None)
    sys.excepthook = _hook


def _hook(kind: type[BaseException], err: BaseException, trace: TracebackType | None) -> None:
    """Leaves out tracebacks about clips that nobody fetches, because the training has ended."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, err, trace)


@contextmanager
def safe_workers() -> Iterator[None]:
    """Makes OpenCV use one thread, and errors of the processes that make clips one line each.

    In a forked process OpenCV cannot be told to use one thread: `setNumThreads` waits there for
    threads that only the first process has.

    Raises:
        DvflError: what such a process has raised, without its traceback, or that it was killed.
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
