"""The running stream: batches of clips through one engine, and the results of each source."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import TypeAlias

from dvfl_runtime.clips.spec import ClipOrigin
from dvfl_runtime.results import Event, Prediction, Segment
from dvfl_runtime.streams.events import EventMaker
from dvfl_runtime.streams.scheduler import Empty, Scheduler
from dvfl_runtime.streams.scoring import Scorer
from dvfl_runtime.streams.smoothing import Segmenter, Smoothing
from dvfl_runtime.streams.tracks import TrackSegmenter

# the number of a source with its next prediction or empty span, or with None at its end
SourcePredictions: TypeAlias = Generator[tuple[int, Prediction | Empty | None], None, None]
OnEmpty: TypeAlias = Callable[[str, float, float], object]  # name of a source, start_s, end_s
OnEnd: TypeAlias = Callable[[int], object]  # number of a source


def recognise(scorer: Scorer, scheduler: Scheduler, top_k: int) -> SourcePredictions:
    """Yield the predictions of all sources as they come, and the end of each source.

    The engine runs in the caller's thread, where Ctrl-C interrupts it, while each source is decoded
    and preprocessed in a thread of its own, so that of a live source the newest windows wait.

    Raises:
        DvflError: if the scorer is closed, or was opened by the parent of this process.
        Exception: the error of the only source, if it failed.
        SourceError: if each of several sources failed.
    """
    with closing(scheduler):
        scheduler.start()
        while True:
            scorer.check_open()
            batch = scheduler.take()
            if batch is None:
                break
            rows = iter(scorer.scores(batch.clips) if len(batch.clips) else ())
            done_ns = time.monotonic_ns()
            for number, turn in batch.turns:
                if isinstance(turn, ClipOrigin):
                    yield number, scorer.prediction(next(rows), top_k, turn, done_ns)
                else:
                    yield number, turn
        if scheduler.stopped:
            scorer.check_open()  # it was closed while the scheduler waited


def predictions_of(
    recognised: SourcePredictions, on_empty: OnEmpty | None = None, on_end: OnEnd | None = None
) -> Iterator[Prediction]:
    """Yield the predictions of all sources, and tell of empty spans in between and of ends."""
    with closing(recognised):
        for number, turn in recognised:
            if isinstance(turn, Prediction):
                yield turn
            elif turn is None and on_end is not None:
                on_end(number)
            elif turn is not None and on_empty is not None:
                on_empty(*turn)


def segments_of(
    recognised: SourcePredictions, labels: Sequence[str], smoothing: Smoothing | None
) -> Iterator[Segment]:
    """Yield the segments of all sources; the last ones of a source come when it has ended."""
    segmenters: dict[int, TrackSegmenter] = {}
    with closing(recognised):
        for number, turn in recognised:
            segmenter = segmenters.setdefault(number, _segmenter(labels, smoothing))
            yield from _push(segmenter, turn)


def events_of(
    recognised: SourcePredictions,
    labels: Sequence[str],
    smoothing: Smoothing | None,
    min_duration_s: float,
) -> Iterator[Event]:
    """Yield the events of all sources; what still goes on when a source ends, ends with it."""
    running: dict[int, tuple[TrackSegmenter, EventMaker]] = {}
    seen_s: dict[int, float] = {}
    with closing(recognised):
        for number, turn in recognised:
            new = _segmenter(labels, smoothing), EventMaker(min_duration_s)
            segmenter, maker = running.setdefault(number, new)
            if turn is not None:
                seen_s[number] = turn.end_s
            ended = _push(segmenter, turn)
            yield from maker.make(ended, segmenter.open_segments(), seen_s.get(number, 0.0))


def _segmenter(labels: Sequence[str], smoothing: Smoothing | None) -> TrackSegmenter:
    return TrackSegmenter(lambda: Segmenter(labels, smoothing))


def _push(segmenter: TrackSegmenter, turn: Prediction | Empty | None) -> list[Segment]:
    """Give a segmenter the next prediction, an empty span or the end; return what is final."""
    if isinstance(turn, Prediction):
        return segmenter.push(turn)
    return segmenter.finish() if turn is None else segmenter.reach(turn.start_s)
