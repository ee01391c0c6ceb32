"""The state of the page: what runs, its sources, and the events that browsers are sent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from dvfl_runtime.draw.palette import Rgb, class_colour
from dvfl_runtime.results import SCHEMA, Event, Info, Prediction, to_json_row
from dvfl_runtime.serve.desk import ClipDesk
from dvfl_runtime.serve.pictures import NewestPicture
from dvfl_runtime.sources import Frame
from dvfl_runtime.sources.observed import ObservedSource

HISTORY = 240  # predictions per source that a new browser gets: two minutes at two a second
LAST_EVENTS = 20  # starts and ends of actions that a new browser gets
PING_S = 15.0  # without an event for so long, a comment shows that the connection is alive
RETRY_MS = 1500  # after which a browser that lost the connection tries again
MAX_DIGITS = 16  # of a number in a request
STATE_CHECK_S = 0.5  # between two checks of the states of the sources


class SourceOnPage(NamedTuple):
    """A source and its newest picture."""

    source: ObservedSource
    picture: NewestPicture

    async def next_picture(self, patience_s: float) -> bytes | None:
        """Return the next picture as JPEG, or the last one; see `NewestPicture.next`."""
        if self.source.state == "ended":
            return self.picture.jpeg
        return await self.picture.next(patience_s)


class PageState:
    """All that the page shows; lives in the server's loop.

    Args:
        info: what runs; `None` if nothing is recognised.
        labels: names of the classes.
        loop: of the server; methods are called in it unless they name another thread.
        desk: where clips are recorded; `None` if they are not.

    Attributes:
        desk: see above.
        sources: in the order in which they were added.
        stopped: whether the last events have been sent.
    """

    def __init__(
        self,
        info: Info | None,
        labels: Sequence[str],
        loop: asyncio.AbstractEventLoop,
        desk: ClipDesk | None = None,
    ) -> None:
        self.desk = desk
        if desk is not None:
            desk.on_change = self._desk_changed
        self.sources: list[SourceOnPage] = []
        self.stopped = False
        self._loop = loop
        self._run_id = secrets.token_hex(4)  # numbers of events are valid for one run only
        self._model = {
            "schema": SCHEMA,
            "run": self._run_id,
            **_about(info),
            "colours": {name: _hex(class_colour(n)) for n, name in enumerate(labels)},
        }
        self._count = 0
        # per source, because a fast one must not push out the predictions of a slow one
        self._history: dict[str, deque[tuple[int, str]]] = {}
        self._actions: deque[tuple[int, str]] = deque(maxlen=LAST_EVENTS)
        self._dropped_frames: Counter[str] = Counter()
        self._states = ""  # the last event about the states of the sources
        self._changed = asyncio.Event()  # set, and replaced, when there is something new

    def watch(self, source: ObservedSource) -> None:
        """Add a source, whose name no other one has; for the main thread."""
        picture = NewestPicture(self._loop)
        if not source.live:
            source.observers.append(_Playback(source).wait)
        source.observers.append(picture.offer)
        self.sources.append(SourceOnPage(source, picture))

    def write(self, prediction: Prediction) -> None:
        """Add a prediction; for the main thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._add, prediction)

    def write_event(self, event: Event) -> None:
        """Add the start or the end of an action; for the main thread."""
        if event.kind != "update":
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._add_event, event)

    def snapshot(self) -> dict[str, Any]:
        """Return what runs, and the state of each source."""
        view = {"desk": self.desk.view()} if self.desk is not None else {}
        return {**self._model, "sources": self._source_states(), **view}

    async def report_states(self) -> None:
        """Send the states of the sources whenever they change; run until cancelled."""
        while True:
            self._send_states()
            await asyncio.sleep(STATE_CHECK_S)

    async def events(self, last_id: str) -> AsyncIterator[str]:
        """Yield server-sent events: what runs, the last predictions, and all further ones.

        Nothing is queued for a browser: a slow one misses the oldest predictions of each source.

        Args:
            last_id: of the last event that the browser has received, "" for none.
        """
        run_id, _, number = last_id.partition("-")
        known = (whole_number(number) or 0) if run_id == self._run_id else 0
        states, desk = self._states, self._desk_event()
        yield f"retry: {RETRY_MS}\n\n" + _event("hello", self.snapshot())
        while True:
            changed, stopped = self._changed, self.stopped
            for count, event in self._events_after(known):
                yield event
                known = count
            if states != self._states:
                states = self._states
                yield states
            if desk != (now := self._desk_event()):
                desk = now
                yield desk
            if stopped:
                yield _event("end", {})
                return
            try:
                await asyncio.wait_for(changed.wait(), PING_S)
            except asyncio.TimeoutError:
                yield ": nothing new\n\n"

    def stop(self) -> None:
        """Send the last states and end all streams of events and pictures."""
        self._send_states()
        self.stopped = True
        self._notify()
        for _, picture in self.sources:
            picture.release()

    def _add(self, prediction: Prediction) -> None:
        self._dropped_frames[prediction.source] += prediction.dropped_frames
        self._count += 1
        event = f"id: {self._run_id}-{self._count}\ndata: {to_json_row(prediction)}\n\n"
        history = self._history.setdefault(prediction.source, deque(maxlen=HISTORY))
        history.append((self._count, event))
        self._notify()

    def _add_event(self, event: Event) -> None:
        self._count += 1
        head = f"id: {self._run_id}-{self._count}\nevent: action\n"
        self._actions.append((self._count, f"{head}data: {to_json_row(event)}\n\n"))
        self._notify()

    def _events_after(self, known: int) -> list[tuple[int, str]]:
        """Return the numbered events after number `known`, in order."""
        new: list[tuple[int, str]] = []
        for history in (*self._history.values(), self._actions):
            new += takewhile(lambda event: event[0] > known, reversed(history))
        return sorted(new)

    def _source_states(self) -> list[dict[str, Any]]:
        return [
            {
                "source": source.name,
                "live": source.live,
                "state": source.state,
                "error": source.problem,
                "reconnects": source.reconnects,
                "dropped_frames": self._dropped_frames[source.name],
            }
            for source, _ in self.sources
        ]

    def _send_states(self) -> None:
        states = _event("state", {"sources": self._source_states()})
        if states != self._states:
            self._states = states
            self._notify()

    def _desk_event(self) -> str:
        return _event("desk", self.desk.view()) if self.desk is not None else ""

    def _desk_changed(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._notify)

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class _Playback:
    """Plays a recorded source at the pace of its timestamps, so that people can follow it."""

    def __init__(self, source: ObservedSource) -> None:
        self._closed = source.closed
        self._begin_s: float | None = None

    def wait(self, frame: Frame) -> None:
        """Block until it is time for the frame, or the source is closed."""
        if self._begin_s is None:
            self._begin_s = time.monotonic() - frame.time_s
        self._closed.wait(max(0.0, self._begin_s + frame.time_s - time.monotonic()))


def whole_number(text: str) -> int | None:
    """Return the number in a request, `None` for other text and for too many digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < MAX_DIGITS else None


def _event(name: str, values: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(values, ensure_ascii=False)}\n\n"


def _about(info: Info | None) -> dict[str, str]:
    names = {"model": "name", "engine": "engine", "device": "device", "precision": "precision"}
    return {key: getattr(info, name, "") for key, name in names.items()}


def _hex(colour: Rgb) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
