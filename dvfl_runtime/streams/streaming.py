"""The running stream: batches of clips through one engine, and the results of each source."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import TypeAlias

from dvfl_runtime.results import Prediction, Segment
from dvfl_runtime.streams.scheduler import Scheduler
from dvfl_runtime.streams.scoring import Scorer
from dvfl_runtime.streams.smoothing import Segmenter, Smoothing

# the number of a source with its next prediction, or with None at its end
SourcePredictions: TypeAlias = Generator[tuple[int, Prediction | None], None, None]


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
            scores = scorer.scores(batch.clips) if batch.origins else ()
            done_ns = time.monotonic_ns()
            for row, origin in zip(scores, batch.origins, strict=True):
                yield origin.number, scorer.prediction(row, top_k, origin, done_ns)
            yield from ((number, None) for number in batch.ended)
        if scheduler.stopped:
            scorer.check_open()  # it was closed while the scheduler waited


def predictions_of(recognised: SourcePredictions) -> Iterator[Prediction]:
    """Yield the predictions of all sources."""
    with closing(recognised):
        yield from (prediction for _, prediction in recognised if prediction is not None)


def segments_of(
    recognised: SourcePredictions, labels: Sequence[str], smoothing: Smoothing | None
) -> Iterator[Segment]:
    """Yield the segments of all sources; the last ones of a source come when it has ended."""
    segmenters: dict[int, Segmenter] = {}
    with closing(recognised):
        for number, prediction in recognised:
            segmenter = segmenters.setdefault(number, Segmenter(labels, smoothing))
            yield from segmenter.finish() if prediction is None else segmenter.push(prediction)
