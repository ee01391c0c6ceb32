"""One run of dvfl-recognize: sources in, everything that is written about them out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

from dvfl_runtime.interrupts import uninterrupted
from dvfl_runtime.output import PredictionWriter, SegmentWriter
from dvfl_runtime.recognizer import Recognizer
from dvfl_runtime.results import Prediction, Segment
from dvfl_runtime.smoothing import Segmenter
from dvfl_runtime.sources import Source, open_source
from dvfl_runtime.terminal import Progress, StandardOutput


class Viewer(Protocol):
    """Sees the frames on their way to the model, and then what the model says about them."""

    def watch(self, source: Source) -> Source:
        """Returns the source to read instead, which shows each frame to this viewer."""

    def write(self, prediction: Prediction) -> None:
        """Takes one prediction; those of one source come in the order of time."""

    def finish(self) -> None:
        """Completes what has been made of the frames so far."""


@dataclass
class Outputs:
    """Everything that is written.

    Attributes:
        rows: take each prediction.
        timelines: take each segment.
        viewers: take each frame and each prediction.
        terminal: standard output, where rows go there.
        kept: whether something is written that does not go to standard output.
    """

    rows: list[PredictionWriter] = field(default_factory=list)
    timelines: list[SegmentWriter] = field(default_factory=list)
    viewers: list[Viewer] = field(default_factory=list)
    terminal: StandardOutput | None = None
    kept: bool = False

    def is_unheard(self) -> bool:
        """Says whether nobody is left to read what would be written."""
        return self.terminal is not None and self.terminal.gone and not self.kept


@dataclass(frozen=True)
class Reading:
    """How sources are read.

    Attributes:
        whole: one answer per video instead of one per window.
        window_s: length of a window, seconds; `None` for the model's.
        hop_s: from window to window, seconds; `None` for a quarter of it.
        top_k: how many labels a prediction lists.
        fps: frames per second of what has no timestamps; `None` for what it tells, or 25.
    """

    whole: bool = False
    window_s: float | None = None
    hop_s: float | None = None
    top_k: int = 3
    fps: float | None = None


class Job:
    """Recognises sources and writes what comes of it.

    Args:
        recognizer: the model.
        reading: how the sources are read.
        outputs: what is written.
    """

    def __init__(self, recognizer: Recognizer, reading: Reading, outputs: Outputs) -> None:
        self._recognizer = recognizer
        self._reading = reading
        self._outputs = outputs
        self._segmenters: dict[str, Segmenter] = {}

    def run(self, names: Sequence[str]) -> None:
        """Recognises one source, or several together, until they end.

        Raises:
            DvflError: if a source cannot be opened or read, or an output cannot be written.
        """
        if self._outputs.is_unheard():
            return
        with ExitStack() as stack:
            sources = [self._open(name, stack) for name in names]
            alone = sources[0] if len(sources) == 1 else None
            progress = stack.enter_context(Progress(alone, shown=self._outputs.terminal is None))
            for prediction in self._predictions(sources):
                progress.show(prediction.source, prediction.end_s)
                with uninterrupted():
                    self._write(prediction)
                if self._outputs.is_unheard():
                    break
        self._end_sources()

    def finish(self) -> None:
        """Completes the outputs, also in the middle of a source."""
        self._end_sources()
        for writer in self._outputs.timelines:
            writer.finish()
        for viewer in self._outputs.viewers:
            viewer.finish()

    def _open(self, name: str, stack: ExitStack) -> Source:
        source = open_source(name, fps=self._reading.fps)
        stack.callback(source.close)
        for viewer in self._outputs.viewers:
            source = viewer.watch(source)
        return source

    def _predictions(self, sources: Sequence[Source]) -> Iterator[Prediction]:
        how = self._reading
        if how.whole:
            return (self._recognizer.classify(source, top_k=how.top_k) for source in sources)
        return self._recognizer.stream(
            sources,
            window_s=how.window_s,
            hop_s=how.hop_s,
            top_k=how.top_k,
        )

    def _write(self, prediction: Prediction) -> None:
        for writer in (*self._outputs.rows, *self._outputs.viewers):
            writer.write(prediction)
        if self._outputs.timelines:
            segmenter = self._segmenters.get(prediction.source)
            if segmenter is None:
                segmenter = self._segmenters[prediction.source] = Segmenter(self._recognizer.labels)
            self._mark(segmenter.push(prediction))

    def _end_sources(self) -> None:
        segmenters, self._segmenters = self._segmenters, {}
        for segmenter in segmenters.values():
            self._mark(segmenter.finish())

    def _mark(self, segments: list[Segment]) -> None:
        for segment in segments:
            for writer in self._outputs.timelines:
                writer.write(segment)
