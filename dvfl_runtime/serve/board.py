"""All cards of the page, and the events that browsers are told: predictions and states."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any

from dvfl_runtime.output import SCHEMA, to_json
from dvfl_runtime.palette import Rgb, class_colour
from dvfl_runtime.results import Info, Prediction
from dvfl_runtime.serve.cards import Card
from dvfl_runtime.sources import Source

HISTORY = 240  # predictions per source that a new page begins with: two minutes at two a second
INBOX = 512  # events that wait for one browser; newer ones push out the oldest
PING_S = 15.0  # without an event for so long a comment shows that the connection is alive
RETRY_MS = 1500
LOOK_S = 0.5  # between two looks at the states of the sources


class _Inbox:
    """Events that wait for one browser."""

    def __init__(self) -> None:
        self.events: deque[str] = deque(maxlen=INBOX)
        self.changed = asyncio.Event()

    def put(self, event: str) -> None:
        self.events.append(event)
        self.changed.set()


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
        self._history: deque[tuple[int, str]] = deque()
        self._inboxes: set[_Inbox] = set()
        self._told = ""

    def watch(self, source: Source) -> Source:
        """Adds a card and returns the source to read instead; for the main thread."""
        names = {card.name for card in self.cards}
        place = len(self.cards) + 1
        name = f"{source.name} [{place}]" if source.name in names else source.name
        card = Card(source, name, self._loop)
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

        Args:
            last_id: of the last event that the browser has got, "" for none.
        """
        inbox = _Inbox()
        self._inboxes.add(inbox)
        try:
            yield f"retry: {RETRY_MS}\n\n" + _event(self.snapshot(), "hello")
            run, _, number = last_id.partition("-")
            known = int(number) if run == self._run and number.isdecimal() else 0
            for count, event in tuple(self._history):
                if count > known:
                    yield event
            while not (self.stopped and not inbox.events):
                if not inbox.events and not await _arrives(inbox.changed):
                    yield ": nothing new\n\n"
                inbox.changed.clear()
                while inbox.events:
                    yield inbox.events.popleft()
        finally:
            self._inboxes.discard(inbox)

    def stop(self) -> None:
        """Tells that this is the end, and ends all streams."""
        self._tell_states()
        self.stopped = True
        self._tell(_event({}, "end"))
        for card in self.cards:
            card.release()

    def _add(self, prediction: Prediction) -> None:
        for card in self.cards:
            if card.name == prediction.source:
                card.dropped_frames += prediction.dropped_frames
        self._count += 1
        event = f"id: {self._run}-{self._count}\ndata: {to_json(prediction)}\n\n"
        self._history.append((self._count, event))
        while len(self._history) > HISTORY * len(self.cards):
            self._history.popleft()
        self._tell(event)

    def _tell_states(self) -> None:
        states = _event({"sources": [card.state() for card in self.cards]}, "state")
        if states != self._told:
            self._told = states
            self._tell(states)

    def _tell(self, event: str) -> None:
        for inbox in self._inboxes:
            inbox.put(event)


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
