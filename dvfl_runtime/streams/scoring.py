"""A model in an engine: preprocessed clips in, checked scores and predictions out."""

from __future__ import annotations

import ctypes
import os
import platform
import time
import weakref
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.artifact import Artifact, ConfidenceCalibration
from dvfl_runtime.clips.spec import Clip, ClipOrigin
from dvfl_runtime.engines import Engine
from dvfl_runtime.errors import ArtifactError, DvflError
from dvfl_runtime.results import RESTING, UNKNOWN, Info, Prediction
from dvfl_runtime.version import __version__


class Scorer:
    """Runs clips through an engine, checks the logits, and makes predictions of them.

    Args:
        artifact: the metadata of the model file.
        engine: executes the model; closed with the scorer, and if the graph does not fit.
        model: path of the file, or the artifact's name.

    Raises:
        ArtifactError: if the graph does not fit the metadata.
    """

    def __init__(self, artifact: Artifact, engine: Engine, model: str) -> None:
        try:
            artifact.check_graph(engine.clip_shape, engine.num_classes)
        except ArtifactError as err:
            engine.close()
            raise ArtifactError(f"cannot use model {model}: {err}") from None
        self.artifact = artifact
        self.model = model
        self._calibration = artifact.confidence_calibration or ConfidenceCalibration()
        self.info = _info(artifact, engine, model)
        self.fixed_batch = engine.clip_shape[0]
        self._engine: Engine | None = engine
        self._pid = os.getpid()
        _open.add(self)

    def check_open(self) -> None:
        """Raise DvflError if the scorer is closed, or was opened by the parent of this process."""
        self._usable_engine()

    def close(self) -> None:
        """Release the model once running calls are done; further calls do nothing."""
        engine, self._engine = self._engine, None
        if engine is not None and os.getpid() == self._pid:
            engine.close()

    def scores(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run preprocessed clips: (B, T, H, W, 3) -> (B, num_classes) calibrated softmax scores.

        Raises:
            ArtifactError: if the logits are not finite, or not as many as there are labels.
            DvflError: if the scorer is closed, or was opened by the parent of this process.
        """
        logits = self._usable_engine().run(clips)
        labels = len(self.artifact.labels)
        if logits.shape != (len(clips), labels):
            raise ArtifactError(
                f"model {self.model} gives logits of shape {logits.shape} for {len(clips)} "
                f"clip(s) and has {labels} labels; export it again"
            )
        if not np.isfinite(logits).all():
            raise ArtifactError(
                f"model {self.model} gives logits that are not finite; export it again in fp32"
            )
        return softmax(logits, self._calibration.temperature)

    def prediction(
        self, scores: NDArray[np.float32], top_k: int, origin: ClipOrigin, done_ns: int
    ) -> Prediction:
        """Return the (num_classes,) scores of a clip as a prediction.

        Args:
            scores: of all classes.
            top_k: how many of the best labels the prediction lists.
            origin: where the clip comes from.
            done_ns: when its scores were known, `time.monotonic_ns`.
        """
        labels = self.artifact.labels
        # stable: of equal scores the class that the file lists first wins
        order = np.argsort(-scores, kind="stable")[:top_k]
        best = int(order[0])
        unknown = labels[best] not in RESTING and self._calibration.is_unknown(scores)
        return Prediction(
            label=UNKNOWN if unknown else labels[best],
            class_id=-1 if unknown else best,
            confidence=1 - float(scores[best]) if unknown else float(scores[best]),
            scores=scores,
            top=tuple((labels[i], float(scores[i])) for i in order),
            start_s=origin.start_s,
            end_s=origin.end_s,
            latency_ms=(done_ns - origin.since_ns) / 1e6,
            source=origin.source,
            dropped_frames=origin.dropped_frames,
            region=origin.region,
            track_id=origin.track_id,
        )

    def answer(self, clips: Sequence[Clip], origin: ClipOrigin, top_k: int) -> Prediction:
        """Return the prediction of (T, H, W, 3) clips of one thing, whose scores are averaged."""
        every = np.concatenate([self.scores(clip[None]) for clip in clips])
        mean = every.mean(axis=0)  # (clips, num_classes) -> (num_classes,)
        return self.prediction(mean, top_k, origin, time.monotonic_ns())

    def _usable_engine(self) -> Engine:
        if os.getpid() != self._pid:
            raise DvflError(
                "this Recognizer was opened by the parent of this process, and its engine's "
                "threads did not survive the fork; open a Recognizer in each process"
            )
        engine = self._engine
        if engine is None:
            raise DvflError("this Recognizer is closed; open another one")
        return engine


def softmax(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float32]:
    """Return the scores of (..., num_classes) logits, computed in float64."""
    # the largest logit is subtracted so that exp() cannot overflow
    exact = np.exp((logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)) / temperature)
    scores: NDArray[np.float32] = (exact / exact.sum(axis=-1, keepdims=True)).astype(np.float32)
    return scores


_open: weakref.WeakSet[Scorer] = weakref.WeakSet()


def _keep_engines_after_fork() -> None:
    """Keep a forked child from destroying its engines.

    Their destructors wait for threads that the child does not have, so the child would hang when it
    exits (seen with OpenVINO 2026.4).
    """
    for scorer in _open:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(scorer._engine))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_engines_after_fork)


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
        precision=artifact.precision if engine.precision == "file" else engine.precision,
        fused_ops=engine.fused_ops,
        versions=versions,
    )
