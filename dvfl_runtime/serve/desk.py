"""The part of the page that records clips: a button for each action, and what was recorded."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dvfl_runtime.serve.pictures import encode_jpeg
from dvfl_runtime.sources import Image

MAX_CLIPS = 24  # that the page shows, the newest first


class ClipDesk:
    """What the page shows about recording, and what its buttons do; for any thread.

    Args:
        counts: the actions, and how many clips there are of each.
        ask: called with an action when its button is pressed, in the server's thread; it raises a
            DvflError where that cannot be.

    Attributes:
        ask: see above.
        on_change: called after each change.
    """

    def __init__(self, counts: Mapping[str, int], ask: Callable[[str], None]) -> None:
        self.ask = ask
        self.on_change: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._counts = dict(counts)
        self._phase, self._status = "waiting", ""
        self._total = 0
        self._clips: deque[tuple[dict[str, Any], bytes]] = deque(maxlen=MAX_CLIPS)

    def show(self, phase: str, status: str) -> None:
        """Show what happens now.

        Args:
            phase: waiting, counting or recording.
            status: one line for people.
        """
        with self._lock:
            self._phase, self._status = phase, status
        self.on_change()

    def add(self, label: str, summary: str, warnings: Sequence[str], strip: Image) -> None:
        """Show a clip.

        Args:
            label: the action.
            summary: of the clip, in one line.
            warnings: what speaks against it.
            strip: (h, w, 3) RGB, pictures of it side by side.
        """
        jpeg = encode_jpeg(strip)
        with self._lock:
            self._counts[label] += 1
            self._total += 1
            about = {"label": label, "summary": summary, "warnings": list(warnings)}
            self._clips.appendleft(({"number": self._total, **about}, jpeg))
        self.on_change()

    def view(self) -> dict[str, Any]:
        """Return all of it but the pictures, as JSON types."""
        with self._lock:
            return {
                "phase": self._phase,
                "status": self._status,
                "actions": [{"label": name, "clips": n} for name, n in self._counts.items()],
                "clips": [about for about, _ in self._clips],
            }

    def strip(self, number: int | None) -> bytes | None:
        """Return the pictures of a clip as JPEG; `None` if the page no longer shows it."""
        with self._lock:
            return next((jpeg for about, jpeg in self._clips if about["number"] == number), None)
