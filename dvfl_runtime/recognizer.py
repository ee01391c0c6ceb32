"""Recognizer: a model file in, recognised actions out."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn, get_args, overload

from dvfl_runtime.artifact import Artifact, ModelFile
from dvfl_runtime.clips.evaluation import Views, sample_regions, sample_video
from dvfl_runtime.clips.regions import MAX_REGIONS, Regions, region_finder
from dvfl_runtime.clips.ring import region_clips
from dvfl_runtime.clips.spec import Clip, ClipOrigin, ClipSpec, Focus
from dvfl_runtime.clips.windows import Pad
from dvfl_runtime.engines import Engine, open_engine
from dvfl_runtime.errors import ArgumentError, ArtifactError, DvflError
from dvfl_runtime.errors.checks import check_choice, check_number, check_type, check_whole, wrong
from dvfl_runtime.results import Event, Info, Prediction, Segment
from dvfl_runtime.sources import SourceLike, open_source
from dvfl_runtime.streams.options import StreamOptions, as_sources
from dvfl_runtime.streams.scheduler import Scheduler
from dvfl_runtime.streams.scoring import Scorer
from dvfl_runtime.streams.smoothing import Smoothing
from dvfl_runtime.streams.streaming import (
    OnEmpty,
    OnEnd,
    SourcePredictions,
    events_of,
    predictions_of,
    recognise,
    segments_of,
)

BUNDLED_MODEL = Path(__file__).parent / "data" / "bundled.onnx"
DEMO_CLIP = BUNDLED_MODEL.with_name("demo.mp4")


class Recognizer:
    """Runs one model on clips, videos and streams.

        with Recognizer("model.onnx") as recognizer:
            for prediction in recognizer.stream("video.mp4"):
                print(prediction.start_s, prediction.label, prediction.confidence)

    `predict` may be called from several threads at once, and `close` while they run. A forked or
    spawned process needs a Recognizer of its own.

    Args:
        model: a file written by dvfl-export; by default the bundled model. With an engine of your
            own it may be an `Artifact`.
        engine: name of an engine, "auto" for the fastest one installed, or an `Engine`, which is
            closed with the recognizer.
        device: "cpu", "cuda" or "auto".
        num_threads: threads for CPU work; by default as many as this process may use.
        precision: "file" for that of the model file. "bf16" runs a file in fp32 in as little as
            half of the time on a CPU with AVX512_BF16 or AMX, by OpenVINO; scores move a little.
        focus: "motion" shows the model the part of the picture in which something moves, "frame"
            the whole picture; by default what the model was trained with.

    Raises:
        ArtifactError: if the model file is missing, damaged, foreign or too new, or does not do
            what its metadata says.
        EngineUnavailable: if the engine or the device is unknown or not usable here, or does not
            compute in `precision`.
        ArgumentError: if `num_threads` is not from 1 to 1024, or `precision` or `focus` is unknown,
            or `precision` not for this file or for an engine of your own.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Artifact | None = None,
        *,
        engine: str | Engine = "auto",
        device: str = "auto",
        num_threads: int | None = None,
        precision: str = "file",
        focus: Focus | None = None,
    ) -> None:
        check_choice("focus", focus, (None, *get_args(Focus)))
        if precision != "file" and not isinstance(engine, str):
            raise ArgumentError(
                "an engine of your own has its own precision; leave out precision=, or pass the "
                "name of an engine"
            )
        if isinstance(model, Artifact):
            artifact, name = model, model.name
            if isinstance(engine, str):
                raise ArtifactError(
                    "an Artifact has no graph to run; pass the path of the model file, "
                    "or an engine of your own"
                )
        else:
            file = ModelFile(_model_path(model))
            artifact, name = file.artifact, str(file.path)
            if isinstance(engine, str):
                engine = open_engine(
                    engine, file, device=device, num_threads=num_threads, precision=precision
                )
        check_type("engine", engine, Engine, "the name of an engine or an Engine")
        self._scorer = Scorer(artifact, engine, name)
        self._spec = dataclasses.replace(artifact.spec, focus=focus or artifact.spec.focus)
        self._lock = threading.Lock()
        self._running: weakref.WeakSet[Scheduler] = weakref.WeakSet()

    @property
    def info(self) -> Info:
        """The engine, provider, device, precision and versions that really run."""
        return self._scorer.info

    @property
    def spec(self) -> ClipSpec:
        """How clips are made for this model, with the focus that was asked for."""
        return self._spec

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in the order of `Prediction.scores`."""
        return self._scorer.artifact.labels

    @property
    def artifact(self) -> Artifact:
        """The metadata of the model file: training data, accuracy, parity, tools."""
        return self._scorer.artifact

    def __enter__(self) -> Recognizer:
        self._scorer.check_open()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise DvflError(
            "a Recognizer cannot be copied or sent to another process; open one there, "
            "with the path of the model file"
        )

    def close(self) -> None:
        """Release the model and end the streams that run on it; further calls do nothing."""
        self._scorer.close()
        with self._lock:
            running = list(self._running)
        for scheduler in running:
            scheduler.stop()

    @overload
    def predict(self, clip: Clip, *, top_k: int = ...) -> Prediction: ...
    @overload
    def predict(self, clip: Clip, *, top_k: int = ..., regions: Regions) -> list[Prediction]: ...
    def predict(
        self, clip: Clip, *, top_k: int = 5, regions: Regions | None = None
    ) -> Prediction | list[Prediction]:
        """Recognise the action in one clip, or the actions in several regions of it.

        Args:
            clip: (T, H, W, 3) RGB uint8 with the model's T and any H and W.
            top_k: how many labels `Prediction.top` lists.
            regions: as for `stream`; by default the model's focus. A function gets T frames, whose
                times are those of a window that begins at 0.

        Returns:
            The prediction; with `regions` a list with one for each region, which may be empty.

        Raises:
            ClipError: if the clip has another type, rank, length or number of channels.
            DvflError: after `close`.
            ArgumentError: if `top_k` < 1, or `regions` is wrong or its function fails.
        """
        check_whole("top_k", top_k)
        self._scorer.check_open()
        since_ns = time.monotonic_ns()
        found: list[Prediction] = []
        for one, track in region_clips(clip, self.spec, region_finder(regions, self.spec)):
            origin = ClipOrigin(since_ns=since_ns, region=track.region, track_id=track.track_id)
            found.append(self._scorer.answer([one], origin, top_k))
        return found[0] if regions is None else found

    @overload
    def classify(
        self, source: SourceLike, *, views: int | str = ..., top_k: int = ...
    ) -> Prediction: ...
    @overload
    def classify(
        self, source: SourceLike, *, views: int | str = ..., top_k: int = ..., regions: Regions
    ) -> list[Prediction]: ...
    def classify(
        self,
        source: SourceLike,
        *,
        views: int | str = 1,
        top_k: int = 5,
        regions: Regions | None = None,
    ) -> Prediction | list[Prediction]:
        """Recognise the one action of a whole trimmed video, by the published protocol.

        Frames are picked uniformly over all that can be decoded; the scores of several views are
        averaged. So a clip of a long video spans more time than a window of a stream. Models of
        your own actions have learnt windows: ask them with `views="windows"`, which averages up to
        16 windows all over the video, each as long as those of a stream.

        Args:
            source: a file or its address, bytes, a binary file object, a folder of images, an array
                or an iterable of frames; not a live source.
            views: 1, "4x3" for 4 temporal times 3 spatial views, or "windows".
            top_k: how many labels `Prediction.top` lists.
            regions: as for `stream`, in one spatial view; by default the model's focus.

        Returns:
            The prediction; with `regions` a list with one for each region, which may be empty.

        Raises:
            SourceError: if the source cannot be opened, is live, or has no frame.
            ClipError: if a frame is not (H, W, 3) uint8.
            DvflError: after `close`.
            ArgumentError: if `views` or `top_k` is wrong, or `regions` or its function.
        """
        check_whole("top_k", top_k)
        parsed = Views.parse(views)
        self._scorer.check_open()
        finder = None if regions is None else region_finder(regions, self.spec)
        opened = open_source(source)
        try:
            if finder is None:
                return self._scorer.answer(*sample_video(opened, self.spec, parsed), top_k)
            found = sample_regions(opened, self.spec, parsed, finder)
        finally:
            if opened is not source:
                opened.close()
        return [self._scorer.answer(clips, origin, top_k) for clips, origin in found]

    def stream(  # noqa: PLR0913 - public, and all but the first are keywords with defaults
        self,
        source: SourceLike | Sequence[SourceLike],
        *,
        window_s: float | None = None,
        hop_s: float | None = None,
        pad: Pad | None = None,
        top_k: int = 5,
        fps: float | None = None,
        max_batch: int | None = None,
        max_wait_ms: float = 10.0,
        regions: Regions | Sequence[Regions | None] | None = None,
        max_regions: int = MAX_REGIONS,
        on_empty: OnEmpty | None = None,
        on_end: OnEnd | None = None,
    ) -> Iterator[Prediction]:
        """Yield a prediction for each window; nothing is opened before the first is asked for.

        Every frame of a file is in a window, unless `hop_s` is longer than a window; of a live
        source the newest window wins. No window spans a gap: the stretch between two gaps has
        windows of its own, the last of which ends with its last frame, and a stretch shorter than
        a window has one over its whole length. A thread per source reads ahead while the engine
        works. If one of several sources fails, that is logged as a warning and the others go on.

        Args:
            source: a file, bytes, binary file object, folder of images, camera, address, array or
                iterable of frames, or a `Source`, which stays open; or a list of these.
            window_s: length of a window, seconds; the model's own by default.
            hop_s: time between the starts of two windows, seconds; by default a quarter of one.
            pad: "repeat" adds windows that end from the first hop on, at the beginning and after
                each gap, and repeats the first frame in them; by default the first window is full.
            top_k: how many labels `Prediction.top` lists.
            fps: frames per second of what has no timestamps: folders, arrays, iterables of arrays
                (25 by default), and bare video, such as .h264 (by default that of its headers).
            max_batch: the most windows of one inference; by default 4 of a source, and 8 in all.
            max_wait_ms: how long an inference waits for windows of the other sources.
            regions: what is recognised in each window: "motion", each body that moves apart from
                others, by numbers that stay; "frame", the whole picture; by default the model's
                focus. Or parts of the picture by their names: left, top, width and height in its
                widths and heights, like `{"door": (0.1, 0.2, 0.3, 0.5)}`. Or a function from a
                `Frame` to such boxes by their ids: it is called for the frames that windows pick, T
                in a window, in order, where the source is read, and each id has windows that follow
                its box. A list has one for each source, as a tracker needs, or `None`.
            max_regions: of a window of one source; where a function gives more, they take turns.
            on_empty: called with source, start_s and end_s of a window without any region.
            on_end: called with the number of a source, from 0, when all of it is recognised.

        Raises:
            SourceError: (on iteration) if the source, or each of several, cannot be opened, fails
                or has no frame.
            ClipError: (on iteration) if a frame is not (H, W, 3) uint8.
            DvflError: after `close`.
            ArgumentError: if a number is out of its range or a box not in the picture; (on
                iteration) if the function of `regions` fails.
        """
        check_whole("top_k", top_k)
        options = StreamOptions(
            *(window_s, hop_s, pad, fps, max_batch, max_wait_ms, regions, max_regions)
        )
        return predictions_of(self._recognise(source, options, top_k), on_empty, on_end)

    def segments(  # noqa: D417, PLR0913 - what is as for `stream` is said there
        self,
        source: SourceLike | Sequence[SourceLike],
        *,
        window_s: float | None = None,
        hop_s: float | None = None,
        pad: Pad | None = None,
        smoothing: Smoothing | None = None,
        fps: float | None = None,
        max_batch: int | None = None,
        max_wait_ms: float = 10.0,
        regions: Regions | Sequence[Regions | None] | None = None,
        max_regions: int = MAX_REGIONS,
    ) -> Iterator[Segment]:
        """Yield actions with their start and end, each as soon as it is final.

        They follow from the predictions of `stream`, where the other arguments are explained.
        Nothing is opened before the first segment is asked for. The segments of one source, or of
        each of its ids, are in order of time; those of several come as they become final.

        Args:
            source: one source or a list of sources, of any kind that `stream` takes.
            smoothing: how strongly predictions are smoothed.
            regions: what is recognised in each window; each id has segments of its own.

        Raises:
            DvflError: as `stream` does.
        """
        if smoothing is not None:
            check_type("smoothing", smoothing, Smoothing, "a Smoothing")
        options = StreamOptions(
            *(window_s, hop_s, pad, fps, max_batch, max_wait_ms, regions, max_regions)
        )
        return segments_of(self._recognise(source, options, 1), self.labels, smoothing)

    def events(  # noqa: D417, PLR0913 - what is as for `segments` is said there
        self,
        source: SourceLike | Sequence[SourceLike],
        *,
        window_s: float | None = None,
        hop_s: float | None = None,
        pad: Pad | None = None,
        smoothing: Smoothing | None = None,
        min_duration_s: float = 0.0,
        regions: Regions | Sequence[Regions | None] | None = None,
        max_regions: int = MAX_REGIONS,
        fps: float | None = None,
        max_batch: int | None = None,
        max_wait_ms: float = 10.0,
    ) -> Iterator[Event]:
        """Yield the start, updates and end of each action while it happens.

            for event in recognizer.events("rtsp://camera/live"):
                if event.kind == "start":
                    print(event.label, "since", event.start_s, "s, known at", event.now_s)

        They are the actions of `segments` with the same arguments, in which all is said of them: an
        "end" has the start, end, label and confidence of the segment. "idle" and "unknown" have no
        events. An action that goes on when its source ends, ends with it.

        Args:
            source: one source or a list of sources, of any kind that `stream` takes.
            smoothing: how certain an action has to be, among others.
            min_duration_s: shorter actions have no events; a longer one starts when it has lasted
                so long.

        Raises:
            DvflError: as `segments` does; an ArgumentError also if `min_duration_s` is negative.
        """
        if smoothing is not None:
            check_type("smoothing", smoothing, Smoothing, "a Smoothing")
        check_number("min_duration_s", min_duration_s, least=0)
        options = StreamOptions(
            *(window_s, hop_s, pad, fps, max_batch, max_wait_ms, regions, max_regions)
        )
        recognised = self._recognise(source, options, 1)
        return events_of(recognised, self.labels, smoothing, min_duration_s)

    def _recognise(
        self, source: SourceLike | Sequence[SourceLike], options: StreamOptions, top_k: int
    ) -> SourcePredictions:
        """Return the lazy predictions of the sources; options and state are checked at once."""
        self._scorer.check_open()
        if self._scorer.fixed_batch is not None:
            options = dataclasses.replace(options, max_batch=self._scorer.fixed_batch)
        scheduler = Scheduler(as_sources(source), self.spec, options)
        with self._lock:
            self._running.add(scheduler)
        return recognise(self._scorer, scheduler, top_k)


def _model_path(model: str | os.PathLike[str] | None) -> Path:
    if model is not None:
        if not isinstance(model, (str, os.PathLike)) or not os.fspath(model):
            raise wrong("model", "the path of a model file", model)
        return Path(model)
    if not BUNDLED_MODEL.is_file():
        raise ArtifactError(
            f"the bundled model is not part of this installation ({BUNDLED_MODEL} is missing); "
            f"install dvfl again, or pass the path of a model file"
        )
    return BUNDLED_MODEL
