"""The results of recognition: predictions, segments and events, and the engine that made them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Region: TypeAlias = tuple[float, float, float, float]  # left, top, width, height in a picture's
TrackId: TypeAlias = int | str  # of one thing in a source, or the name of a box

EventKind: TypeAlias = Literal["start", "update", "end"]

UNKNOWN = "unknown"  # the label of what the model does not know
RESTING = ("idle", UNKNOWN)  # labels that are no action
WHOLE: Region = (0.0, 0.0, 1.0, 1.0)  # the picture
SCHEMA = 1  # of results as JSON; goes up when a name changes its meaning


@dataclass(frozen=True, eq=False)
class Prediction:
    """The model's answer for one clip.

    Attributes:
        label: name of the winning class, or "unknown" where a calibrated model knows none of what
            it sees.
        class_id: its index in `Recognizer.labels`, -1 for what is unknown.
        confidence: its score, 0 to 1; of what is unknown 1 minus the best score.
        scores: (num_classes,) float32 softmax scores, calibrated where the model file says how.
        top: the `top_k` best (label, score) pairs, best first.
        start_s: where the clip's window starts on the source's clock, seconds.
        end_s: where it ends, seconds.
        latency_ms: time until the scores are known, milliseconds. For a live source it counts from
            the arrival of the newest picture in the clip, so it includes waiting; otherwise from
            the moment at which the engine takes the clip (for `predict` it includes resizing).
        source: name of the source, "" for `predict`; where several would share a name, each is
            followed by its place in the list, like "frames [2]".
        dropped_frames: frames of a live source since its last prediction that no prediction shows:
            dropped by the source, or in windows that were replaced by newer ones.
        region: the part of the picture that the model has seen: left, top, width and height in
            widths and heights of the picture; of several views, the part that holds them all. Where
            it follows a box, it is that in the middle of the window.
        track_id: the id of the box, or its name, where `regions` of `Recognizer.stream` gives ids;
            `None` otherwise.
    """

    label: str
    class_id: int
    confidence: float
    scores: NDArray[np.float32] = field(repr=False)
    top: tuple[tuple[str, float], ...] = field(repr=False)
    start_s: float = 0.0
    end_s: float = 0.0
    latency_ms: float = 0.0
    source: str = ""
    dropped_frames: int = 0
    region: Region = WHOLE
    track_id: TrackId | None = None

    @property
    def unknown(self) -> bool:
        """Whether the model knows nothing of what it sees, which only a calibrated one says."""
        return self.class_id < 0

    def to_dict(self) -> dict[str, Any]:
        """Return a row of `--format jsonl` in JSON's types, without `scores`."""
        return {
            "source": self.source,
            "start_s": round(float(self.start_s), 6),
            "end_s": round(float(self.end_s), 6),
            "label": self.label,
            "class_id": int(self.class_id),
            "unknown": self.unknown,
            "confidence": round(float(self.confidence), 6),
            "top": [[label, round(float(score), 6)] for label, score in self.top],
            "latency_ms": round(float(self.latency_ms), 3),
            "dropped_frames": int(self.dropped_frames),
            "region": [round(float(value), 4) for value in self.region],
            "track_id": self.track_id,
        }


@dataclass(frozen=True)
class Segment:
    """One action in [start_s, end_s), from smoothed and merged predictions.

    Attributes:
        start_s: first moment of the action on the source's clock, seconds.
        end_s: the moment at which it is over, seconds.
        label: name of the class.
        confidence: mean smoothed score of the class over the segment, 0 to 1; of "idle" and
            "unknown", 1 minus that of the best action.
        source: name of the source.
        track_id: the id or the name of the box that it was seen in; `None` where there is none.
    """

    start_s: float
    end_s: float
    label: str
    confidence: float
    source: str = ""
    track_id: TrackId | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the segment in JSON's types, as `--segments FILE.json` lists it."""
        return {
            "start_s": round(float(self.start_s), 6),
            "end_s": round(float(self.end_s), 6),
            "label": self.label,
            "confidence": round(float(self.confidence), 6),
            "source": self.source,
            "track_id": self.track_id,
        }


@dataclass(frozen=True)
class Event:
    """What is new about an action while it happens: one start, updates, and one end.

    Attributes:
        kind: "start", "update" or "end".
        label: name of the class.
        start_s: first moment of the action on the source's clock, seconds; the same in all of its
            events.
        end_s: until when it is known to last; of an "end" the moment at which it is over.
        now_s: until when the source had been seen when this was known, seconds.
        confidence: mean smoothed score of the class so far, 0 to 1.
        source: name of the source.
        track_id: the id or the name of the box that it was seen in; `None` where there is none.
    """

    kind: EventKind
    label: str
    start_s: float
    end_s: float
    now_s: float
    confidence: float
    source: str = ""
    track_id: TrackId | None = None

    @property
    def segment(self) -> Segment:
        """The action as a segment; that of an "end" is the one that `segments` gives."""
        span = self.start_s, self.end_s
        return Segment(*span, self.label, self.confidence, self.source, self.track_id)

    def to_dict(self) -> dict[str, Any]:
        """Return a row of `--events FILE.jsonl` in JSON's types."""
        return {
            "event": self.kind,
            "source": self.source,
            "label": self.label,
            "start_s": round(float(self.start_s), 6),
            "end_s": round(float(self.end_s), 6),
            "now_s": round(float(self.now_s), 6),
            "confidence": round(float(self.confidence), 6),
            "track_id": self.track_id,
        }


def to_json_row(result: Prediction | Event) -> str:
    """Return a result as a JSON object on one line: a row of `--format jsonl` or `--events`."""
    return json.dumps({"schema": SCHEMA, **result.to_dict()}, ensure_ascii=False)


@dataclass(frozen=True)
class Info:
    """The engine and device that really run, as opposed to those asked for.

    Attributes:
        model: path of the model file, or the artifact's name where there is no file.
        name: the artifact's own name.
        engine: such as "onnxruntime".
        provider: the part of the engine that executes, such as "CPUExecutionProvider".
        device: "cpu" or "cuda".
        precision: "fp32", "fp16" or "int8" as the model file, or "bf16" where it was asked for.
        fused_ops: custom operators that a native kernel executes.
        versions: of dvfl, of the engine and of the tools that made the model file.
    """

    model: str
    name: str
    engine: str
    provider: str
    device: str
    precision: str
    fused_ops: tuple[str, ...]
    versions: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return all fields in JSON's types."""
        return {**vars(self), "fused_ops": list(self.fused_ops), "versions": dict(self.versions)}
