"""How a run ends before its last step, after Ctrl-C or a request to terminate."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dvfl_runtime.interrupts import Interrupted, Requests, interruptible


class Stopped(Interrupted):
    """A run was asked to end, or its time was up, and it has been saved.

    Args:
        number: of the signal that asked; 0 when the time was up.
        words: where the run stopped and how to go on; "" in all processes but the first.
    """

    def __init__(self, number: int, words: str) -> None:
        super().__init__(number)
        self.args = (number, words)  # to be pickled
        self.words = words

    def __str__(self) -> str:
        return self.words


@contextmanager
def stoppable(*, together: bool) -> Iterator[Requests]:
    """Let Ctrl-C, SIGTERM and SIGHUP end the block, if this is the main thread.

    Args:
        together: whether several processes have to end at the same step; a request is then only
            remembered, until all of them know of it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield Requests()
        return
    with interruptible() as requests:
        if together:
            requests.hold()
        yield requests
