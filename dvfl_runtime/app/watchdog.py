"""Tells systemd that recognition goes on, so that a command that hangs is started again.

Where a unit has `WatchdogSec=`, systemd waits for datagrams on the socket that NOTIFY_SOCKET names:
https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Mapping

from dvfl_runtime.results import Prediction
from dvfl_runtime.sources.observed import ObservedSource

ALIVE = b"WATCHDOG=1"
FLOWING = ("live", "playing")  # states of a source from which predictions have to come

_logger = logging.getLogger(__name__)


class Watchdog:
    """Says that all is well, from a thread of its own, until the pipeline hangs.

    It hangs where frames come and no prediction does. A camera that is away, a model that is being
    loaded and an output that is being completed are no reason to start again.

    Args:
        address: of the socket, as NOTIFY_SOCKET has it: a path, or @ and an abstract name.
        patience_s: after which without a word the command is started again.
    """

    def __init__(self, address: str, patience_s: float) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._patience_s = patience_s
        self._sources: list[ObservedSource] = []
        self._well_s = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def watch(self, source: ObservedSource) -> None:
        """Expect predictions of a source while it gives frames."""
        if not source.live:  # its frames are waited for, so that each one is progress
            source.observers.append(self.progress)
        self._sources.append(source)

    def write(self, prediction: Prediction) -> None:
        """Take a prediction for a sign of life."""
        self.progress(prediction)

    def progress(self, _: object) -> None:
        """Note that something has been done."""
        self._well_s = time.monotonic()

    def close(self) -> None:
        """Say nothing any more."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            while not self._closed.wait(self._patience_s / 4):
                if not any(source.state in FLOWING for source in list(self._sources)):
                    self.progress(None)
                if time.monotonic() - self._well_s < self._patience_s / 2:
                    with contextlib.suppress(OSError):  # nobody listens, or not now
                        told.sendto(ALIVE, self._address)


def wanted_watchdog(environment: Mapping[str, str] = os.environ) -> Watchdog | None:
    """Return the watchdog that the environment of this process asks for; `None` for none."""
    address, text = (environment.get(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC"))
    if (
        not address
        or not text
        or environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid())
    ):
        return None
    if not text.isdecimal() or int(text) == 0:
        _logger.warning("WATCHDOG_USEC is %r, no number of microseconds; no watchdog", text)
        return None
    return Watchdog(address, int(text) / 1e6)
