"""The running stream: windows of all sources through one engine, and what comes of them."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import TypeAlias

import numpy as np

from dvfl_runtime.results import Prediction, Segment
from dvfl_runtime.streams.feeds import Feed, Feeds
from dvfl_runtime.streams.scoring import Scorer
from dvfl_runtime.streams.smoothing import Segmenter, Smoothing

Turns: TypeAlias = Generator[tuple[Feed, Prediction | None], None, None]


def run(scorer: Scorer, feeds: Feeds, top_k: int) -> Turns:
    """Yields the predictions of each source, and None for a source at its end.

    The engine runs in the caller's thread, while the sources are decoded and preprocessed in
    theirs: what waits is always the newest of a live source, and an interrupt finds its way.

    Raises:
        DvflError: if the scorer is closed, or was opened by the parent of this process.
        Exception: what ended the source, or each of the sources.
    """
    spec = scorer.artifact.spec
    batch = np.empty((feeds.max_batch, spec.num_frames, *spec.size, 3), np.uint8)
    with feeds:
        while scorer.engine() and (turns := feeds.take()):
            begin_ns = time.monotonic_ns()
            due = [(feed, window) for feed, window in turns if window is not None]
            for clip, (feed, window) in zip(batch, due, strict=False):
                ring = feed.windower.ring
                ring.gather(window.slots, clip)
                ring.release(window.slots)
            every = scorer.scores(batch[: len(due)]) if due else ()
            done_ns = time.monotonic_ns()
            for scores, (feed, window) in zip(every, due, strict=True):
                yield (
                    feed,
                    scorer.prediction(
                        scores,
                        top_k,
                        latency_ms=(done_ns - (window.arrival_ns or begin_ns)) / 1e6,
                        span_s=(window.start_s, window.end_s),
                        source=feed.name,
                        dropped_frames=window.dropped,
                    ),
                )
            yield from ((feed, None) for feed, window in turns if window is None)
        if feeds.stopped:
            scorer.engine()  # which raises: it is closed


def predictions_of(turns: Turns) -> Iterator[Prediction]:
    """Yields the predictions of all sources."""
    with closing(turns):
        yield from (prediction for _, prediction in turns if prediction is not None)


def segments_of(
    turns: Turns, labels: Sequence[str], smoothing: Smoothing | None
) -> Iterator[Segment]:
    """Yields the segments of each source; they are complete when their source is at its end."""
    segmenters: dict[int, Segmenter] = {}
    with closing(turns):
        for feed, prediction in turns:
            segmenter = segmenters.setdefault(feed.number, Segmenter(labels, smoothing))
            yield from segmenter.finish() if prediction is None else segmenter.push(prediction)
