"""How a run ends before its last step, when it is asked to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dvfl_runtime.interrupts import Interrupted, Requests, interruptible


class Stopped(Interrupted):
    """A run was asked to end, and is saved.

    Args:
        number: of the signal that asked.
        words: where the run stopped and how to go on; "" where another process says it.
    """

    def __init__(self, number: int, words: str) -> None:
        super().__init__(number)
        self.args = (number, words)  # to be pickled
        self.words = words

    def __str__(self) -> str:
        return self.words


@contextmanager
def stoppable(*, together: bool) -> Iterator[Requests]:
    """Lets Ctrl-C, SIGTERM and SIGHUP end the block, if this is the main thread.

    Args:
        together: several processes have to end at the same step, so that a request is only
            remembered until they have told each other.
    """
    if threading.current_thread() is not threading.main_thread():
        yield Requests()
        return
    with interruptible() as requests:
        if together:
            requests.hold()
        yield requests
