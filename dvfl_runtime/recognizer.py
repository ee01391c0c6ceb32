"""Recognizer: a model file in, recognised actions out."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.artifact import Artifact, read_artifact
from dvfl_runtime.engines import Engine, open_engine
from dvfl_runtime.errors import ArtifactError, DvflError
from dvfl_runtime.evaluation import Views, frames_of, sample_video
from dvfl_runtime.preprocess import preprocess_clip, preprocess_frame
from dvfl_runtime.results import Info, Prediction, Segment
from dvfl_runtime.smoothing import Smoothing, segments
from dvfl_runtime.sources import Source, SourceLike, open_source
from dvfl_runtime.spec import ClipSpec
from dvfl_runtime.version import __version__
from dvfl_runtime.windows import Window, Windower

BUNDLED_MODEL = Path(__file__).parent / "data" / "bundled.onnx"


class Recognizer:
    """Runs one model on clips, videos and streams.

        with Recognizer("model.onnx") as recognizer:
            for prediction in recognizer.stream("video.mp4"):
                print(prediction.start_s, prediction.label, prediction.confidence)

    `predict` may be called from several threads at once.

    Args:
        model: an artifact written by dvfl-export; the bundled model if left out. With an engine
            of one's own it may be an `Artifact`.
        engine: name of an engine, "auto" for the fastest one installed, or an `Engine`, which is
            closed with the recognizer.
        device: "cpu", "cuda" or "auto".
        num_threads: for CPU work; by default as many as this process may use.

    Raises:
        ArtifactError: if the model file is missing, damaged, foreign or too new, or does not do
            what it says about itself.
        EngineUnavailable: if the engine or the device is unknown or not usable here.
        ValueError: if `num_threads` < 1.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Artifact | None = None,
        *,
        engine: str | Engine = "auto",
        device: str = "auto",
        num_threads: int | None = None,
    ) -> None:
        if isinstance(model, Artifact):
            artifact, name = model, model.name
            if isinstance(engine, str):
                raise ArtifactError(
                    "an Artifact has no graph to run; pass the path of the model file, "
                    "or an engine of your own"
                )
        else:
            path = _model_path(model)
            artifact, name = read_artifact(path), str(path)
        if isinstance(engine, str):
            engine = open_engine(engine, name, device=device, num_threads=num_threads)
        try:
            _check_agreement(artifact, engine, name)
        except ArtifactError:
            engine.close()
            raise
        self._artifact = artifact
        self._model = name
        self._engine: Engine | None = engine
        self.info = _info(artifact, engine, name)

    @property
    def spec(self) -> ClipSpec:
        """How clips are made for this model."""
        return self._artifact.spec

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in the order of `Prediction.scores`."""
        return self._artifact.labels

    @property
    def artifact(self) -> Artifact:
        """What the model file says about itself: training data, accuracy, parity, tools."""
        return self._artifact

    def __enter__(self) -> Recognizer:
        self._open_engine()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Releases the model; further calls do nothing."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def predict(self, clip: NDArray[np.uint8], *, top_k: int = 5) -> Prediction:
        """Recognises the action in one clip.

        Args:
            clip: (T, H, W, 3) RGB uint8 with the model's T and any H and W.
            top_k: how many labels `Prediction.top` lists.

        Raises:
            ClipError: if the clip has another type, rank, length or number of channels.
            DvflError: after `close`.
            ValueError: if `top_k` < 1.
        """
        _check_top_k(top_k)
        self._open_engine()
        begin_ns = time.perf_counter_ns()
        scores = self._scores(preprocess_clip(clip, self.spec))
        return self._prediction(scores, top_k, begin_ns=begin_ns)

    def classify(self, source: SourceLike, *, views: int | str = 1, top_k: int = 5) -> Prediction:
        """Recognises the one action of a whole trimmed video, by the published protocol.

        The frames are picked uniformly over all that can be decoded; the scores of several views
        are averaged.

        Args:
            source: a file, a folder of images, an array or an iterable of frames; not a live one.
            views: 1, or "4x3" for 4 temporal times 3 spatial views.
            top_k: how many labels `Prediction.top` lists.

        Raises:
            SourceError: if the source cannot be opened, is live, or has no frame.
            ClipError: if a frame is not (H, W, 3) uint8.
            DvflError: after `close`.
            ValueError: if `views` or `top_k` is wrong.
        """
        _check_top_k(top_k)
        parsed = Views.parse(views)
        self._open_engine()
        with _opened(source, 25.0) as opened:
            video = sample_video(opened, self.spec, parsed)
        begin_ns = time.perf_counter_ns()
        every = np.stack([self._scores(clip) for clip in video.clips])  # (views, num_classes)
        span_s = video.start_s, video.end_s
        return self._prediction(
            every.mean(axis=0), top_k, begin_ns=begin_ns, span_s=span_s, source=video.source
        )

    def stream(
        self,
        source: SourceLike,
        *,
        window_s: float | None = None,
        hop_s: float | None = None,
        top_k: int = 5,
        fps: float = 25.0,
    ) -> Iterator[Prediction]:
        """Recognises window after window; lazy: the source is opened when the first is asked for.

        Every frame of a file counts. A stream shorter than a window gives one prediction.

        Args:
            source: one file, folder of images, array or iterable of frames, or a `Source`, which
                stays open. Several at once are not supported yet.
            window_s: length of a window, seconds; the model's own by default.
            hop_s: distance of two windows, seconds; a quarter of the window by default.
            top_k: how many labels `Prediction.top` lists.
            fps: the clock of what has no timestamps: folders, arrays, iterables of arrays.

        Raises:
            SourceError: (on iteration) if the source cannot be opened or has no frame.
            ClipError: (on iteration) if a frame is not (H, W, 3) uint8.
            DvflError: after `close`.
            ValueError: if a number is out of its range.
        """
        _check_top_k(top_k)
        self._open_engine()
        windower = self._windower(window_s, hop_s)
        return self._stream(source, windower, top_k, fps)

    def segments(
        self,
        source: SourceLike,
        *,
        window_s: float | None = None,
        hop_s: float | None = None,
        smoothing: Smoothing | None = None,
        fps: float = 25.0,
    ) -> Iterator[Segment]:
        """Recognises actions with start and end; lazy, and each is final when it is given.

        Args:
            source: as in `stream`.
            window_s: as in `stream`.
            hop_s: as in `stream`.
            smoothing: how strongly predictions are smoothed.
            fps: as in `stream`.

        Raises:
            SourceError: (on iteration) if the source cannot be opened or has no frame.
            ClipError: (on iteration) if a frame is not (H, W, 3) uint8.
            DvflError: after `close`.
            ValueError: if a number is out of its range.
        """
        self._open_engine()
        windower = self._windower(window_s, hop_s)
        return self._segments(self._stream(source, windower, 1, fps), smoothing)

    def _stream(
        self, source: SourceLike, windower: Windower, top_k: int, fps: float
    ) -> Generator[Prediction, None, None]:
        with _opened(source, fps) as opened, closing(frames_of(opened)) as frames:
            for frame in frames:
                image = preprocess_frame(frame.image, self.spec)
                for window in windower.push(image, frame.time_s):
                    yield self._window_prediction(window, top_k, opened.name)
            for window in windower.finish():
                yield self._window_prediction(window, top_k, opened.name)

    def _segments(
        self, predictions: Generator[Prediction, None, None], smoothing: Smoothing | None
    ) -> Iterator[Segment]:
        with closing(predictions):
            yield from segments(predictions, self.labels, smoothing)

    def _windower(self, window_s: float | None, hop_s: float | None) -> Windower:
        window_s = self.spec.window_s if window_s is None else window_s
        return Windower(self.spec.num_frames, window_s, hop_s)

    def _window_prediction(self, window: Window, top_k: int, source: str) -> Prediction:
        begin_ns = time.perf_counter_ns()
        scores = self._scores(window.clip)
        span_s = window.start_s, window.end_s
        return self._prediction(scores, top_k, begin_ns=begin_ns, span_s=span_s, source=source)

    def _open_engine(self) -> Engine:
        """Returns the engine, and raises if it is closed."""
        engine = self._engine
        if engine is None:
            raise DvflError("this Recognizer is closed; open another one")
        return engine

    def _scores(self, clip: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Runs one preprocessed clip: (T, H, W, 3) -> (num_classes,) softmax scores."""
        logits = self._open_engine().run(clip[None])
        if logits.shape != (1, len(self.labels)):
            raise ArtifactError(
                f"model {self._model} gives logits of shape {logits.shape} for one clip and has "
                f"{len(self.labels)} labels; export it again"
            )
        if not np.isfinite(logits).all():
            raise ArtifactError(
                f"model {self._model} gives logits that are not finite; export it again in fp32"
            )
        return softmax(logits[0])

    def _prediction(
        self,
        scores: NDArray[np.float32],
        top_k: int,
        *,
        begin_ns: int,
        span_s: tuple[float, float] = (0.0, 0.0),
        source: str = "",
    ) -> Prediction:
        latency_ms = (time.perf_counter_ns() - begin_ns) / 1e6
        order = np.argsort(-scores, kind="stable")[:top_k]
        best = int(order[0])
        return Prediction(
            label=self.labels[best],
            class_id=best,
            confidence=float(scores[best]),
            scores=scores,
            top=tuple((self.labels[i], float(scores[i])) for i in order),
            start_s=span_s[0],
            end_s=span_s[1],
            latency_ms=latency_ms,
            source=source,
        )


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the scores of (num_classes,) logits, computed in float64."""
    exact = np.exp(logits.astype(np.float64) - float(logits.max()))
    scores: NDArray[np.float32] = (exact / exact.sum()).astype(np.float32)
    return scores


@contextmanager
def _opened(source: SourceLike, fps: float) -> Iterator[Source]:
    """Yields the opened source; closes it afterwards unless it came open from the caller."""
    opened = open_source(source, fps=fps)
    try:
        yield opened
    finally:
        if opened is not source:
            opened.close()


def _model_path(model: str | os.PathLike[str] | None) -> Path:
    if model is not None:
        return Path(model)
    if not BUNDLED_MODEL.is_file():
        raise ArtifactError(
            f"the bundled model is not part of this installation ({BUNDLED_MODEL} is missing); "
            f"install dvfl again, or pass the path of a model file"
        )
    return BUNDLED_MODEL


def _check_agreement(artifact: Artifact, engine: Engine, name: str) -> None:
    """Raises ArtifactError unless the graph does what the file says about itself."""
    if engine.num_classes not in (None, len(artifact.labels)):
        raise ArtifactError(
            f"model {name} has {len(artifact.labels)} labels for {engine.num_classes} logits; "
            f"export it again with the right --labels"
        )
    wanted = (1, artifact.spec.num_frames, *artifact.spec.size, 3)
    if any(n not in (None, w) for n, w in zip(engine.clip_shape[1:], wanted[1:], strict=True)):
        raise ArtifactError(
            f"the graph of model {name} takes clips of shape {engine.clip_shape} and its ClipSpec "
            f"makes {wanted}; export it again"
        )
    if engine.clip_shape[0] not in (None, 1):
        raise ArtifactError(f"the batch of model {name} is fixed to {engine.clip_shape[0]}, not 1")


def _info(artifact: Artifact, engine: Engine, name: str) -> Info:
    versions = {
        **{tool: str(version) for tool, version in artifact.tools.items()},
        **{"dvfl": __version__, "python": platform.python_version(), "numpy": np.__version__},
        engine.name: engine.version,
    }
    return Info(
        model=name,
        name=artifact.name,
        engine=engine.name,
        provider=engine.provider,
        device=engine.device,
        precision=artifact.precision,
        fused_ops=engine.fused_ops,
        versions=versions,
    )


def _check_top_k(top_k: int) -> None:
    if top_k < 1:
        raise ValueError(f"top_k must be >= 1, got {top_k}")
