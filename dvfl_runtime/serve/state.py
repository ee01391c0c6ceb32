"""All cards of the page, and the events that browsers are told: predictions and states."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections import deque
from collections.abc import AsyncIterator, Sequence
from itertools import takewhile
from typing import Any

from dvfl_runtime.console.output import SCHEMA, to_json
from dvfl_runtime.draw.palette import Rgb, class_colour
from dvfl_runtime.results import Info, Prediction
from dvfl_runtime.serve.pictures import Card
from dvfl_runtime.sources import Source

HISTORY = 240  # predictions per source that a new page begins with: two minutes at two a second
PING_S = 15.0  # without an event for so long a comment shows that the connection is alive
RETRY_MS = 1500
MAX_DIGITS = 16  # of a number that is read from a request
LOOK_S = 0.5  # between two looks at the states of the sources


class Board:
    """What is known of all sources; lives in the server's loop.

    Args:
        info: what runs.
        labels: names of the classes.
        loop: whatever is not said to be for another thread is called in it.

    Attributes:
        cards: one per source.
        stopped: nothing more is told.
    """

    def __init__(self, info: Info, labels: Sequence[str], loop: asyncio.AbstractEventLoop) -> None:
        self.cards: list[Card] = []
        self.stopped = False
        self._loop = loop
        self._run = secrets.token_hex(4)  # numbers of events mean nothing to another run
        self._model = {
            "schema": SCHEMA,
            "run": self._run,
            "model": info.name,
            "engine": info.engine,
            "device": info.device,
            "precision": info.precision,
            "colours": {name: _hex(class_colour(n)) for n, name in enumerate(labels)},
        }
        self._count = 0
        self._history: dict[str, deque[tuple[int, str]]] = {}  # of each source, numbered over all
        self._states = ""  # the last event about them
        self._changed = asyncio.Event()  # something is new; then another one takes its place

    def watch(self, source: Source) -> Source:
        """Adds a card and returns the source to read instead; for the main thread.

        Args:
            source: with a name that no other one has.
        """
        card = Card(source, self._loop)
        self.cards.append(card)
        return card.source

    def write(self, prediction: Prediction) -> None:
        """Takes a prediction; for the main thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._add, prediction)

    def snapshot(self) -> dict[str, Any]:
        """Returns what runs and what the sources do."""
        return {**self._model, "sources": [card.state() for card in self.cards]}

    async def look_around(self) -> None:
        """Tells the states of the sources whenever they change; runs until it is cancelled."""
        while True:
            self._tell_states()
            await asyncio.sleep(LOOK_S)

    async def events(self, last_id: str) -> AsyncIterator[str]:
        """Yields server-sent events: what runs, the last predictions, and all that follow.

        Nothing is queued for a browser: one that is slow misses the oldest of each source.

        Args:
            last_id: of the last event that the browser has got, "" for none.
        """
        run, _, number = last_id.partition("-")
        known = (whole_number(number) or 0) if run == self._run else 0
        states = self._states
        yield f"retry: {RETRY_MS}\n\n" + _event(self.snapshot(), "hello")
        while True:
            changed, stopped = self._changed, self.stopped
            for count, event in self._since(known):
                yield event
                known = count
            if states != self._states:
                states = self._states
                yield states
            if stopped:
                yield _event({}, "end")
                return
            if not await _arrives(changed):
                yield ": nothing new\n\n"

    def stop(self) -> None:
        """Tells that this is the end, and ends all streams."""
        self._tell_states()
        self.stopped = True
        self._wake()
        for card in self.cards:
            card.release()

    def _add(self, prediction: Prediction) -> None:
        for card in self.cards:
            if card.name == prediction.source:
                card.dropped_frames += prediction.dropped_frames
        self._count += 1
        event = f"id: {self._run}-{self._count}\ndata: {to_json(prediction)}\n\n"
        history = self._history.setdefault(prediction.source, deque(maxlen=HISTORY))
        history.append((self._count, event))
        self._wake()

    def _since(self, known: int) -> list[tuple[int, str]]:
        """Returns the numbered events after number `known`, in order."""
        new: list[tuple[int, str]] = []
        for history in self._history.values():
            new += takewhile(lambda event: event[0] > known, reversed(history))
        return sorted(new)

    def _tell_states(self) -> None:
        states = _event({"sources": [card.state() for card in self.cards]}, "state")
        if states != self._states:
            self._states = states
            self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def whole_number(text: str) -> int | None:
    """Returns the number in a request, `None` if it is no number or has too many digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < MAX_DIGITS else None


async def _arrives(changed: asyncio.Event) -> bool:
    """Waits for a change, and returns whether there was one before it was time for a ping."""
    try:
        await asyncio.wait_for(changed.wait(), PING_S)
    except asyncio.TimeoutError:
        return False
    return True


def _event(values: dict[str, Any], name: str) -> str:
    return f"event: {name}\ndata: {json.dumps(values, ensure_ascii=False)}\n\n"


def _hex(colour: Rgb) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
