"""The description that a model file carries: one JSON object in its `metadata_props["dvfl"]`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from dvfl_runtime.artifact.calibration import ConfidenceCalibration
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.errors import ArtifactError
from dvfl_runtime.errors.checks import (
    check_choice,
    check_labels,
    check_line,
    check_type,
    check_whole,
)

FORMAT_VERSION = 2  # the newest; a file has the lowest one that can say what it is
METADATA_KEY = "dvfl"

Shape: TypeAlias = tuple[int | None, ...]
Precision = Literal["fp32", "fp16", "int8"]

MAX_MESSAGE = 300  # characters of an error that quotes a file


@dataclass(frozen=True)
class Artifact:
    """The description that a model file carries.

    Attributes:
        name: of the model, for people.
        variant: of the architecture, such as "nano".
        labels: names of the classes, in the order of the logits.
        spec: how clips are made for it.
        precision: "fp32", "fp16" or "int8".
        source_sha256: of the checkpoint that it was exported from.
        training: data and measured accuracy.
        parity: how far the export is from PyTorch.
        tools: versions of the tools that made it; that of dvfl-export is under "dvfl".
        macs: multiply-accumulates of one clip, as published for the architecture; 0 if unknown.
        confidence_calibration: what makes scores of its logits; `None` for a plain softmax.
        features: name of the tensor (B, C) in float32 that the head reads; "" if unknown.

    Raises:
        ArgumentError: if a value is out of its range.
    """

    name: str
    variant: str
    labels: tuple[str, ...]
    spec: ClipSpec
    precision: Precision = "fp32"
    source_sha256: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    tools: Mapping[str, Any] = field(default_factory=dict)
    macs: int = 0
    confidence_calibration: ConfidenceCalibration | None = None
    features: str = ""

    def __post_init__(self) -> None:
        for name in ("name", "variant", "source_sha256", "features"):
            check_line(name, getattr(self, name))
        for name in ("training", "parity", "tools"):
            check_type(name, getattr(self, name), Mapping, "a mapping")
        check_labels(self.labels)
        check_type("spec", self.spec, ClipSpec, "a ClipSpec")
        check_choice("precision", self.precision, get_args(Precision))
        check_whole("macs", self.macs, 0)
        if self.confidence_calibration is not None:
            kind, wanted = ConfidenceCalibration, "a ConfidenceCalibration"
            check_type("confidence_calibration", self.confidence_calibration, kind, wanted)

    @property
    def format_version(self) -> int:
        """Version of the description: 2 where clips have a focus, which version 1 does not know."""
        return 1 if self.spec.focus == "frame" else 2

    def to_json(self) -> str:
        """Return the text for `metadata_props["dvfl"]`."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["spec"] = self.spec.to_dict()
        values["labels"] = list(self.labels)
        values["format_version"] = self.format_version
        if self.confidence_calibration is None:  # as in the files of older versions
            del values["confidence_calibration"]
        else:
            values["confidence_calibration"] = self.confidence_calibration.to_dict()
        return json.dumps(values, ensure_ascii=False, sort_keys=True, default=dict)

    def check_graph(self, clip_shape: Shape, num_classes: int | None) -> None:
        """Raise ArtifactError unless a graph takes the clips and gives the logits described here.

        Args:
            clip_shape: (B, T, H, W, 3) of the graph's input, None for a dimension that is open.
            num_classes: width of the graph's logits, None if it is open.
        """
        if num_classes not in (None, len(self.labels)):
            raise ArtifactError(
                f"it has {len(self.labels)} labels for {num_classes} logits; export it again with "
                f"the right --labels"
            )
        wanted = (1, self.spec.num_frames, *self.spec.size, 3)
        if len(clip_shape) != len(wanted):
            return  # of an engine of the user's own, which need not know
        if any(n not in (None, w) for n, w in zip(clip_shape[1:], wanted[1:], strict=True)):
            raise ArtifactError(
                f"its graph takes clips of shape {clip_shape} and its ClipSpec makes {wanted}; "
                f"export it again"
            )
        if clip_shape[0] not in (None, 1):
            raise ArtifactError(f"the batch of its graph is fixed to {clip_shape[0]}, not 1")

    @classmethod
    def from_json(cls, text: str | bytes) -> Artifact:
        """Read the text that `to_json` wrote; unknown names in it are ignored.

        Raises:
            ArtifactError: if the text is damaged or its format version is newer.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as err:
            raise ArtifactError(
                f"its dvfl metadata is damaged ({brief(err)}); export it again"
            ) from err
        if not isinstance(values, dict):
            raise ArtifactError("its dvfl metadata is not a JSON object; export it again")
        version = values.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise ArtifactError(
                f"its format version is {brief(version)} and this dvfl reads up to "
                f"{FORMAT_VERSION}; upgrade dvfl"
            )
        try:
            names = {f.name for f in dataclasses.fields(cls)}
            known = {k: v for k, v in values.items() if k in names}
            check_labels(values["labels"])
            known["labels"] = tuple(values["labels"])
            known["spec"] = ClipSpec.from_dict(values["spec"])
            if (calibration := values.get("confidence_calibration")) is not None:
                known["confidence_calibration"] = ConfidenceCalibration.from_dict(calibration)
            check_whole("format_version", values["format_version"], 1)
            return cls(**known)
        except KeyError as err:
            raise ArtifactError(f"its dvfl metadata lacks {err}; export it again") from err
        except (TypeError, ValueError, AttributeError) as err:
            raise ArtifactError(
                f"its dvfl metadata is wrong: {brief(err)}; export it again"
            ) from err


def brief(value: object) -> str:
    """Return a value from a file as a part of an error message, cut if it is long."""
    text = str(value)
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}..."
