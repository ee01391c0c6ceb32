"""Sources read side by side: a thread for each, bounded queues, and fair turns."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TypeAlias, cast

import numpy as np

from dvfl_runtime.clips.evaluation import frames_of
from dvfl_runtime.clips.preprocess import preprocess_frame
from dvfl_runtime.clips.ring import FrameRing
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.clips.windows import Pad, Window, Windower
from dvfl_runtime.errors import DvflError, SourceError
from dvfl_runtime.errors.addresses import shown
from dvfl_runtime.errors.checks import check_number, check_whole
from dvfl_runtime.sources import Frame, Source, SourceLike, open_source
from dvfl_runtime.sources.live.reconnect import reason_of
from dvfl_runtime.sources.recorded.media import is_media, media_name

logger = logging.getLogger(__name__)

DEFAULT_MAX_BATCH = 8  # for eight sources and more; one window of each for fewer
GRACE_S = 2.0  # at the end: how long a source of the caller's may take for one more frame
QUIET_S = 2.0  # a live source without a frame for so long, and for longer than a window, has paused
JOIN_S = 5.0  # how long a closed source may take to end


@dataclass(frozen=True)
class StreamOptions:
    """How sources are cut into windows, and these into batches; see `Recognizer.stream`.

    Raises:
        ArgumentError: if `fps`, `max_batch` or `max_wait_ms` is out of its range; the others are
            checked where they are used.
    """

    window_s: float | None = None
    hop_s: float | None = None
    pad: Pad | None = None
    fps: float | None = None
    max_batch: int | None = None
    max_wait_ms: float = 10.0

    def __post_init__(self) -> None:
        if self.fps is not None:
            check_number("fps", self.fps, above=0)
        if self.max_batch is not None:
            check_whole("max_batch", self.max_batch)
        check_number("max_wait_ms", self.max_wait_ms, least=0)

    def windower(self, spec: ClipSpec) -> Windower:
        """Returns what cuts one source into windows for a model."""
        ring = FrameRing((*spec.size, 3), lambda image, out: preprocess_frame(image, spec, out=out))
        window_s = spec.window_s if self.window_s is None else self.window_s
        return Windower(ring, spec.num_frames, window_s, self.hop_s, pad=self.pad)


class Feed:
    """One source and the windows of it that wait for their turn.

    A file waits while its queue is full: every frame counts. Of a live source the newest windows
    win: those of the latest frame take the place of older ones, which are counted as lost.

    Attributes:
        number: its place among the sources.
        name: of the source; what is known of it until it is open.
        live: whether it is a live source.
        windower: cuts it into windows.
        error: what ended it, if that was an error.
    """

    def __init__(self, number: int, source: SourceLike, suffix: str, windower: Windower) -> None:
        self.number = number
        self.name = label(source) + suffix
        self.live = False
        self.windower = windower
        self.error: Exception | None = None
        self.source = source
        self.suffix = suffix
        self.opened: Source | None = None
        self.pending: deque[Window] = deque()
        self.ended = False
        self.end_was_given = False
        self._covered = 0  # number of the first frame after the windows given or counted so far
        self._lost = 0
        self._cutting = threading.Lock()  # guards the windower and what follows
        self._heard_s = math.inf  # when the newest frame came, on the machine's clock

    def push(self, frame: Frame) -> list[Window]:
        """Returns the windows that a frame completes."""
        with self._cutting:
            self._heard_s = time.monotonic()
            return self.windower.push(frame)

    def finish(self) -> list[Window]:
        """Returns the windows that the end of the source completes."""
        with self._cutting:
            return self.windower.finish()

    def end_a_pause(self) -> None:
        """Adds the last windows of a live source that has paused.

        Otherwise they would come with its next frame, and a camera that sends only while something
        moves may be silent for hours.
        """
        pause_s = max(QUIET_S, self.windower.window_s)
        if not self.live or self.ended or time.monotonic() - self._heard_s <= pause_s:
            return
        with self._cutting, suppress(DvflError):  # the thread that reads meets the error again
            if time.monotonic() - self._heard_s > pause_s:
                self.pending.extend(self.windower.finish())

    def replace(self, windows: list[Window]) -> None:
        """Puts the newest windows in the place of those that wait."""
        for old in self.pending:
            end = min(old.frames[1], windows[0].frames[0])
            self._lost += old.dropped + max(0, end - max(old.frames[0], self._covered))
            self._covered = max(self._covered, end)
            self.windower.ring.release(old.slots)
        self.pending = deque(windows)

    def pop(self) -> Window:
        """Returns the next window; frames that were lost since the one before count as dropped."""
        window = self.pending.popleft()
        self._covered = max(self._covered, window.frames[1])
        lost, self._lost = self._lost, 0
        return dataclasses.replace(window, dropped=window.dropped + lost) if lost else window


Turn: TypeAlias = tuple[Feed, Window | None]  # None: the feed has ended


class Feeds:
    """Reads sources while the engine works, and hands out their windows in fair turns.

    Args:
        sources: one or more.
        spec: the model's contract.
        options: windows and batches.

    Attributes:
        max_batch: windows in one turn at most.
        stopped: nothing more is read or handed out.

    Raises:
        ArgumentError: if an option is out of its range.
    """

    def __init__(
        self, sources: Sequence[SourceLike], spec: ClipSpec, options: StreamOptions
    ) -> None:
        names = Counter(label(source) for source in sources)
        self._feeds = [
            Feed(
                *(n, source, f" [{n + 1}]" if names[label(source)] > 1 else ""),
                options.windower(spec),
            )
            for n, source in enumerate(sources)
        ]
        self._fps = options.fps
        self.max_batch = options.max_batch or min(DEFAULT_MAX_BATCH, len(sources))
        self._max_wait_s = options.max_wait_ms / 1e3
        self._capacity = max(2, self.max_batch)  # each window ahead holds a hop of frames
        self._next = 0  # whose turn it is
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._pid = os.getpid()
        self.stopped = False

    def __enter__(self) -> Feeds:
        """Starts to read."""
        for feed in self._feeds:
            name = f"dvfl-reader {feed.name}"
            self._threads.append(
                threading.Thread(target=self._read, args=(feed,), name=name, daemon=True)
            )
            self._threads[-1].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends all reading; a source that came open from the caller stays open.

        It is closed too if it keeps its reader waiting for more than `GRACE_S`.
        """
        if os.getpid() != self._pid:  # a forked child has neither the threads nor their locks
            return
        self.stop()
        for feed in self._feeds:
            if feed.opened is not None and feed.opened is not feed.source:
                feed.opened.close()
        give_up_s = time.monotonic() + GRACE_S
        for feed, thread in zip(self._feeds, self._threads, strict=True):
            if thread is threading.current_thread():  # collected as garbage there
                continue
            if feed.opened is feed.source:
                thread.join(max(0.0, give_up_s - time.monotonic()))
                if thread.is_alive() and feed.opened is not None:
                    feed.opened.close()
            thread.join(JOIN_S)
            if thread.is_alive():
                logger.warning("%s does not end; its thread goes on in the background", feed.name)

    def stop(self) -> None:
        """Ends reading and handing out; may be called from any thread."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()

    def take(self) -> list[Turn]:
        """Waits for windows and returns up to `max_batch`, from each source in turn.

        The end of a source is a turn of its own. Nothing is left when the list is empty.

        Raises:
            Exception: what ended the source, or each of the sources.
        """
        with self._changed:
            self._end_pauses()
            while not self._changed.wait_for(self._is_due, QUIET_S / 2):
                self._end_pauses()
            if self.stopped:
                return []
            for feed in self._feeds:
                if feed.ended and not feed.pending and not feed.end_was_given:
                    feed.end_was_given = True
                    return [(feed, None)]
            if all(feed.end_was_given for feed in self._feeds):
                self._raise_if_all_failed()
                return []
            if len(self._feeds) > 1:
                self._changed.wait_for(self._is_full, self._max_wait_s)
            return [] if self.stopped else self._fair()

    def _end_pauses(self) -> None:
        for feed in self._feeds:
            feed.end_a_pause()

    def _is_due(self) -> bool:
        return (
            self.stopped
            or any(feed.pending or feed.ended != feed.end_was_given for feed in self._feeds)
            or all(feed.end_was_given for feed in self._feeds)
        )

    def _is_full(self) -> bool:
        """Says whether waiting would bring nothing: a whole batch, or a window of each source."""
        count = sum(len(feed.pending) for feed in self._feeds)
        return (
            self.stopped
            or count >= self.max_batch
            or all(feed.pending or feed.ended for feed in self._feeds)
        )

    def _fair(self) -> list[Turn]:
        chosen: list[Turn] = []
        while len(chosen) < self.max_batch:
            order = self._feeds[self._next :] + self._feeds[: self._next]
            feed = next((feed for feed in order if feed.pending), None)
            if feed is None:
                break
            chosen.append((feed, feed.pop()))
            self._next = (feed.number + 1) % len(self._feeds)
        self._changed.notify_all()
        return chosen

    def _raise_if_all_failed(self) -> None:
        errors = [feed.error for feed in self._feeds if feed.error is not None]
        if len(errors) < len(self._feeds):
            return
        if len(errors) == 1:
            raise errors[0]
        raise SourceError(
            f"all {len(errors)} sources failed, the first one with: {errors[0]}"
        ) from errors[0]

    def _read(self, feed: Feed) -> None:
        """The thread of one source."""
        error: Exception | None = None
        try:
            self._read_windows(feed)
        except Exception as err:  # raised again where the predictions are asked for
            error = err
        finally:
            with self._changed:
                feed.error, feed.ended = error, True
                self._changed.notify_all()
            if error is not None and len(self._feeds) > 1 and not self.stopped:
                logger.warning(
                    "%s ended with an error, the other sources go on: %s",
                    *(feed.name, reason_of(error)),
                    exc_info=None if isinstance(error, DvflError) else error,
                )

    def _read_windows(self, feed: Feed) -> None:
        try:
            with self._opened(feed) as source, closing(frames_of(source)) as frames:
                if self.stopped:
                    return
                for frame in frames:
                    if self.stopped:
                        return
                    self._put(feed, feed.push(_arrived(frame, source)))
        finally:  # what was read counts, whatever ended it
            self._put(feed, feed.finish(), last=True)

    @contextmanager
    def _opened(self, feed: Feed) -> Iterator[Source]:
        """Yields the opened source; closes it afterwards unless it came open from the caller."""
        opened = open_source(feed.source, fps=self._fps)
        try:
            with self._changed:
                feed.opened, feed.live = opened, opened.live
                feed.name = opened.name + feed.suffix
            yield opened
        finally:
            if opened is not feed.source:
                opened.close()

    def _put(self, feed: Feed, windows: list[Window], *, last: bool = False) -> None:
        """Hands windows on; nothing newer will take the place of the last ones."""
        with self._changed:
            if feed.live and windows and not last:
                feed.replace(windows)
                self._changed.notify_all()
                return
            for window in windows:
                self._changed.wait_for(lambda: self.stopped or len(feed.pending) < self._capacity)
                if self.stopped:
                    return
                feed.pending.append(window)
                self._changed.notify_all()


def each(source: SourceLike | Sequence[SourceLike]) -> Sequence[SourceLike]:
    """Returns the sources of a list or tuple of them, or the only one.

    A list of frames, which are (H, W, 3) arrays or Frames, is a single source.
    """
    if not isinstance(source, (list, tuple)) or not source:
        return [cast(SourceLike, source)]
    if any(isinstance(s, Frame) or (isinstance(s, np.ndarray) and s.ndim != 4) for s in source):
        return [cast(SourceLike, source)]
    return source


def label(source: SourceLike) -> str:
    """Returns what a source is called before it is open."""
    if isinstance(source, Source):
        return source.name
    if isinstance(source, (str, int, os.PathLike)):
        named = os.fsdecode(source) if not isinstance(source, int) else f"camera {source}"
        return shown(named)
    return media_name(source) if is_media(source) else "frames"


def _arrived(frame: Frame, source: Source) -> Frame:
    if source.live and not frame.arrival_ns:  # a source of the caller's that does not tell
        return frame.replace(arrival_ns=time.monotonic_ns())
    return frame
