"""Recognises the sources of a command and writes everything about them, whichever of them fail."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TypeAlias

from dvfl_runtime.app.outputs import Outputs
from dvfl_runtime.app.plan import Task
from dvfl_runtime.clips.regions import Regions
from dvfl_runtime.console.output import SegmentDocument, SrtSegments
from dvfl_runtime.console.terminal import Progress
from dvfl_runtime.draw.overlay import OverlayVideo
from dvfl_runtime.errors import ArtifactError, DvflError, EngineUnavailable, OutputError
from dvfl_runtime.interrupts import uninterrupted
from dvfl_runtime.results import Prediction, Segment
from dvfl_runtime.sources import Frame, Source, display_name, open_source
from dvfl_runtime.sources.observed import ObservedSource
from dvfl_runtime.streams.events import EventMaker
from dvfl_runtime.streams.smoothing import Segmenter
from dvfl_runtime.streams.streaming import OnEmpty, OnEnd
from dvfl_runtime.streams.tracks import TrackSegmenter

logger = logging.getLogger(__name__)

Predict: TypeAlias = Callable[
    [Sequence[Source], Sequence[Regions | None], OnEmpty, OnEnd], Iterator[Prediction]
]

FATAL = (OutputError, ArtifactError, EngineUnavailable)  # the next source would fail as well


@dataclass(frozen=True)
class FailedSource:
    """A source that could not be opened: it fails when it is read, and is reported like others.

    Attributes:
        name: how predictions would call it.
        error: why it could not be opened.
    """

    name: str
    error: DvflError
    live: bool = False
    duration_s: float | None = None
    rewindable: bool = False

    def frames(self) -> Iterator[Frame]:
        """Raise `error`.

        Raises:
            DvflError: always.
        """
        raise self.error

    def close(self) -> None:
        """Do nothing."""


class OpenedTask:
    """A source that is being read, and the files about it alone.

    Args:
        source: the opened source; it shows its frames to the overlay.
        segmenter: makes segments of the predictions, those of each region on their own.
        regions: what is recognised in the source.

    Attributes:
        recognised: whether there was a prediction.
        overlay: the video with the predictions drawn on it.
        subtitles: the segments as subtitles.
        files: closes both.
        segmenter: makes segments of the predictions, those of each region on their own.
        events: makes events of the segments.
    """

    def __init__(
        self, source: ObservedSource, segmenter: TrackSegmenter, regions: Regions | None
    ) -> None:
        self.source = source
        self.regions = regions
        self.recognised = False
        self.overlay: OverlayVideo | None = None
        self.subtitles: SegmentDocument | None = None
        self.files = ExitStack()
        self.segmenter = segmenter
        self.events = EventMaker()
        self.seen_s = 0.0  # until when it has been recognised

    def open_files(self, task: Task, labels: Sequence[str]) -> None:
        """Open the files of the task.

        Raises:
            OutputError: if one of them cannot be written.
        """
        if task.overlay is not None:
            overlay = OverlayVideo(task.overlay, labels, duration_s=self.source.duration_s)
            self.overlay = self.files.enter_context(closing(overlay))
            self.source.observers.append(overlay.add)
        if task.subtitles is not None:
            subtitles = SegmentDocument(task.subtitles, SrtSegments)
            self.subtitles = self.files.enter_context(closing(subtitles))

    @property
    def failed(self) -> bool:
        """Whether the source ended with an error."""
        return self.source.error is not None

    def finish(self) -> None:
        """Complete the files, except those with nothing to show.

        Raises:
            OutputError: if one of them cannot be completed.
        """
        if self.overlay is not None and (self.recognised or not self.failed):
            self.overlay.finish()
        if self.subtitles is not None and self.recognised:
            self.subtitles.finish()


class Recognition:
    """Recognises sources and writes the results.

    Args:
        predict: yields the predictions of sources that are read together, from the regions of each,
            and tells of spans without any and of the ends of sources.
        segmenter: makes the segmenter of a source, or of each of its regions.
        outputs: what is written about all sources.
        report: called with one line about each source that failed while others go on.
        fps: frames per second of sources without timestamps; `None` for what they tell, or 25.

    Attributes:
        failed: how many sources could not be read to their end.
        recognised: whether there was any prediction.
    """

    def __init__(
        self,
        predict: Predict,
        segmenter: Callable[[], Segmenter],
        outputs: Outputs,
        report: Callable[[str], None],
        *,
        fps: float | None = None,
    ) -> None:
        self._predict = predict
        self._segmenter = segmenter
        self._outputs = outputs
        self._report = report
        self._fps = fps
        self._opened: dict[str, OpenedTask] = {}  # by the name of the source
        self._single = False
        self.failed = 0
        self.recognised = False

    def recognise(self, groups: Sequence[Sequence[Task]]) -> None:
        """Recognise one group of sources after the other; those of a group are read together.

        A source that fails does not end the others.

        Raises:
            DvflError: if the only source fails, or an output cannot be written.
        """
        self._single = sum(map(len, groups)) == 1
        for tasks in groups:
            with ExitStack() as stack:
                for task in tasks:
                    self._open(task, stack)
                self._recognise_opened()
            with uninterrupted():
                self._finish_opened()
            if self._outputs.all_readers_gone:
                return

    def finish(self) -> None:
        """Complete all outputs, also in the middle of a source, whichever of them fail.

        Raises:
            OutputError: if one of them cannot be completed.
        """
        with ExitStack() as stack:  # calls all, also after an error
            if self.recognised:  # otherwise the files of an earlier run stay
                for segments in self._outputs.segments:
                    stack.callback(segments.finish)
            self._finish_opened()

    def _open(self, task: Task, stack: ExitStack) -> None:
        """Open a source and the files about it."""
        source: Source
        try:
            source = open_source(task.source, fps=self._fps)
        except DvflError as err:
            source = FailedSource(display_name(task.source), err)
        stack.callback(source.close)
        name = source.name
        if name in self._opened:
            name = f"{name} [{len(self._opened) + 1}]"
        observed = ObservedSource(source, name=name)
        segmenter = TrackSegmenter(self._segmenter)
        opened = self._opened[name] = OpenedTask(observed, segmenter, task.regions)
        with uninterrupted():  # otherwise a temporary file could be left behind
            opened.open_files(task, self._segmenter().labels[:-1])
        if self._outputs.recordings is not None:
            recorder = self._outputs.recordings.watch(name, source)
            observed.observers.append(recorder.observe)
            opened.files.enter_context(closing(recorder))
        for watcher in (self._outputs.page, self._outputs.watchdog):
            if watcher is not None:
                watcher.watch(observed)

    def _recognise_opened(self) -> None:
        opened = list(self._opened.values())
        sources = [task.source for task in opened]

        def end(number: int) -> None:
            self._end(opened[number])

        try:
            shown = not self._outputs.rows_on_terminal
            with Progress(sources[0] if len(sources) == 1 else None, shown=shown) as progress:
                regions = [task.regions for task in opened]
                for prediction in self._predict(sources, regions, self._pass_empty, end):
                    progress.hide()
                    with uninterrupted():
                        self._write(prediction)
                    progress.show(prediction.source, prediction.end_s)
                    if self._outputs.all_readers_gone:
                        return
        except Exception as err:
            self._count_failed(sources, err)
        else:  # of several that are read together, the stream has reported which failed
            self.failed += sum(task.failed or not task.recognised for task in opened)

    def _count_failed(self, sources: Sequence[Source], err: Exception) -> None:
        """Count and report sources that failed, unless the error ends everything.

        Raises:
            Exception: `err`, if it is not about a source, or there is no other source.
        """
        if self._single or isinstance(err, FATAL):
            raise err
        self.failed += len(sources)
        if not isinstance(err, DvflError):
            logger.error("%s ended with an error", sources[0].name, exc_info=err)
        elif len(sources) == 1:
            self._report(str(err))

    def _write(self, prediction: Prediction) -> None:
        task = self._opened[prediction.source]
        self.recognised = task.recognised = True
        shared = self._outputs
        for writer in (*shared.predictions, task.overlay, shared.page, shared.watchdog):
            if writer is not None:
                writer.write(prediction)
        task.seen_s = prediction.end_s
        self._write_segments(task, task.segmenter.push(prediction))

    def _pass_empty(self, source: str, start_s: float, end_s: float) -> None:
        """End what cannot go on after a span without any prediction."""
        task = self._opened[source]
        task.seen_s = end_s
        with uninterrupted():
            self._write_segments(task, task.segmenter.reach(start_s))

    def _end(self, task: OpenedTask) -> None:
        """End what goes on in a source that has ended, though others may go on."""
        with uninterrupted():
            self._write_segments(task, task.segmenter.finish())

    def _write_segments(self, task: OpenedTask, segments: list[Segment]) -> None:
        for segment in segments:
            for writer in (task.subtitles, *self._outputs.segments):
                if writer is not None:
                    writer.write(segment)
        going_on = task.segmenter.open_segments()
        for event in task.events.make(segments, going_on, task.seen_s):
            for listener in self._outputs.events:
                listener.write(event)
            if self._outputs.page is not None:
                self._outputs.page.write_event(event)

    def _finish_opened(self) -> None:
        """Complete the files about the sources that are at their end."""
        opened, self._opened = list(self._opened.values()), {}
        with ExitStack() as stack:  # calls all, also after an error
            for task in reversed(opened):
                stack.callback(self._finish_task, task)

    def _finish_task(self, task: OpenedTask) -> None:
        with task.files:
            self._write_segments(task, task.segmenter.finish())
            task.finish()
