"""One run of dvfl-recognize: sources in, everything that is written about them out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

from dvfl_runtime.app.outputs import Outputs, OverlayFile, SegmentDocument, Task, Viewer
from dvfl_runtime.console.output import SegmentWriter, SrtSegments
from dvfl_runtime.console.terminal import Progress
from dvfl_runtime.errors import ArtifactError, DvflError, EngineUnavailable, OutputError
from dvfl_runtime.interrupts import uninterrupted
from dvfl_runtime.recognizer import Recognizer
from dvfl_runtime.results import Prediction, Segment
from dvfl_runtime.sources import Frame, Source, display_name, open_source
from dvfl_runtime.sources.observed import Tap
from dvfl_runtime.streams.smoothing import Segmenter

logger = logging.getLogger(__name__)

FATAL = (OutputError, ArtifactError, EngineUnavailable)  # the next source would fail as well


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


@dataclass(frozen=True)
class Unopened:
    """A source that could not be opened: it fails when it is read, and is reported like others.

    Attributes:
        name: how it is called.
        error: why.
    """

    name: str
    error: DvflError
    live: bool = False
    duration_s: float | None = None
    rewindable: bool = False

    def frames(self) -> Iterator[Frame]:
        """Fails.

        Raises:
            DvflError: `error`.
        """
        raise self.error

    def close(self) -> None:
        """Does nothing."""


class Reader(Tap):
    """One of the sources of a job, and the files about it alone.

    Args:
        source: what is read; closed with this.
        name: of it, which no other source of its group has.

    Attributes:
        recognised: whether there was a prediction.
        failed: whether it ended with an error.
        viewers: of this source.
        timelines: of this source.
        files: closes them.
    """

    def __init__(self, source: Source, name: str) -> None:
        super().__init__(source, lambda _: None)
        self._name = name
        self.recognised = self.failed = False
        self.segmenter: Segmenter | None = None
        self.viewers: list[Viewer] = []
        self.timelines: list[SegmentWriter] = []
        self.files = ExitStack()

    @property
    def name(self) -> str:
        """How predictions call the source."""
        return self._name

    def frames(self) -> Iterator[Frame]:
        """Yields the frames of the source."""
        try:
            yield from super().frames()
        except Exception:
            self.failed = True
            raise

    def finish(self) -> None:
        """Completes the files about this source, if there is something to say in them.

        Raises:
            OutputError: if one of them cannot be completed.
        """
        for viewer in self.viewers:
            if self.recognised or not self.failed:
                viewer.finish()
        for timeline in self.timelines:
            if self.recognised:
                timeline.finish()


class Job:
    """Recognises sources and writes what comes of it.

    Args:
        recognizer: the model.
        reading: how the sources are read.
        outputs: what is written about all of them.
        tell: called with one line about each source that failed while others go on.

    Attributes:
        failed: how many sources could not be read to their end.
        recognised: whether there was any prediction.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        reading: Reading,
        outputs: Outputs,
        tell: Callable[[str], None],
    ) -> None:
        self._recognizer = recognizer
        self._reading = reading
        self._outputs = outputs
        self._tell = tell
        self._readers: dict[str, Reader] = {}
        self._alone = False
        self.failed = 0
        self.recognised = False

    def run(self, groups: Sequence[Sequence[Task]]) -> None:
        """Recognises one group of sources after the other; those of a group run together.

        A source that fails does not end the others.

        Raises:
            DvflError: if the only source fails, or an output cannot be written.
        """
        self._alone = sum(map(len, groups)) == 1
        for tasks in groups:
            with ExitStack() as stack:
                for task in tasks:
                    self._open(task, stack)
                self._read(list(self._readers.values()))
            with uninterrupted():
                self._end_readers()
            if self._outputs.is_unheard():
                return

    def finish(self) -> None:
        """Completes the outputs, also in the middle of a source; all of them, whatever fails.

        Raises:
            OutputError: if one of them cannot be completed.
        """
        errors: list[OutputError] = []
        with _collecting(errors):
            self._end_readers()
        parts: list[SegmentWriter | Viewer] = [*self._outputs.timelines, *self._outputs.viewers]
        for part in parts if self.recognised else ():  # else what an older run has left stays
            with _collecting(errors):
                part.finish()
        if errors:
            raise errors[0]

    def _open(self, task: Task, stack: ExitStack) -> None:
        """Opens a source and the files about it."""
        try:
            source = open_source(task.source, fps=self._reading.fps)
        except DvflError as err:
            source = Unopened(display_name(task.source), err)
        stack.callback(source.close)
        name = source.name
        if name in self._readers:
            name = f"{name} [{len(self._readers) + 1}]"
        reader = self._readers[name] = Reader(source, name)
        with uninterrupted():  # no temporary file is forgotten
            if task.overlay is not None:
                overlay = OverlayFile(task.overlay, self._recognizer.labels)
                reader.viewers.append(reader.files.enter_context(closing(overlay)))
            if task.subtitles is not None:
                subtitles = SegmentDocument(task.subtitles, SrtSegments)
                reader.timelines.append(reader.files.enter_context(closing(subtitles)))

    def _read(self, readers: Sequence[Reader]) -> None:
        sources = [self._watched(reader) for reader in readers]
        alone = sources[0] if len(sources) == 1 else None
        try:
            with Progress(alone, shown=not self._outputs.terminal) as progress:
                for prediction in self._predictions(sources):
                    progress.hide()
                    with uninterrupted():
                        self._write(prediction)
                    progress.show(prediction.source, prediction.end_s)
                    if self._outputs.is_unheard():
                        return
        except Exception as err:
            self._count(err, *(reader.name for reader in readers))
        else:  # of several that run together, the stream has reported which failed
            self.failed += sum(r.failed or not r.recognised for r in readers)

    def _count(self, err: Exception, *names: str) -> None:
        """Counts sources that failed, unless the error ends everything.

        Raises:
            Exception: `err`, if it is about no source, or there is no other one.
        """
        if self._alone or isinstance(err, FATAL):
            raise err
        self.failed += len(names)
        if not isinstance(err, DvflError):
            logger.error("%s ended with an error", names[0], exc_info=err)
        elif len(names) == 1:
            self._tell(str(err))

    def _watched(self, reader: Reader) -> Source:
        source: Source = reader
        for viewer in (*reader.viewers, *self._outputs.viewers):
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
        reader = self._readers[prediction.source]
        self.recognised = reader.recognised = True
        for writer in (*self._outputs.rows, *reader.viewers, *self._outputs.viewers):
            writer.write(prediction)
        if reader.timelines or self._outputs.timelines:
            reader.segmenter = reader.segmenter or Segmenter(self._recognizer.labels)
            self._mark(reader, reader.segmenter.push(prediction))

    def _end_readers(self) -> None:
        """Completes what is about the sources that are at their end."""
        readers, self._readers = list(self._readers.values()), {}
        errors: list[OutputError] = []
        for reader in readers:
            with reader.files, _collecting(errors):
                if reader.segmenter is not None:
                    self._mark(reader, reader.segmenter.finish())
                reader.finish()
        if errors:
            raise errors[0]

    def _mark(self, reader: Reader, segments: list[Segment]) -> None:
        for segment in segments:
            for writer in (*reader.timelines, *self._outputs.timelines):
                writer.write(segment)


@contextmanager
def _collecting(errors: list[OutputError]) -> Iterator[None]:
    """Adds an OutputError of the block to a list, so that the other outputs are completed."""
    try:
        yield
    except OutputError as err:
        errors.append(err)
