"""The model file: an ONNX graph that carries everything needed to use it.

`metadata_props["dvfl"]` holds one JSON object, read here without an engine and without the onnx
package.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from dvfl_runtime.artifact.onnx_file import INPUT, OUTPUT, OnnxFile
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.errors import ArtifactError
from dvfl_runtime.errors.checks import (
    check_choice,
    check_labels,
    check_line,
    check_type,
    check_whole,
    wrong,
)

FORMAT_VERSION = 1
METADATA_KEY = "dvfl"

Shape: TypeAlias = tuple[int | None, ...]
Precision = Literal["fp32", "fp16", "int8"]

MAX_MESSAGE = 300  # characters of an error that quotes a file


@dataclass(frozen=True)
class Artifact:
    """What a model file says about itself.

    Attributes:
        name: of the model, for people.
        variant: of the architecture, such as "nano".
        labels: names of the classes, in the order of the logits.
        spec: how clips are made for it.
        precision: "fp32", "fp16" or "int8".
        source_sha256: of the checkpoint that it was exported from.
        training: data and measured accuracy.
        parity: how far the export is from PyTorch.
        tools: versions of what made it; dvfl-export puts its own there, under "dvfl".
        macs: multiply-accumulates of one clip, as published for the architecture; 0 if unknown.
        format_version: of this description.

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
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        for name in ("name", "variant", "source_sha256"):
            check_line(name, getattr(self, name))
        for name in ("training", "parity", "tools"):
            check_type(name, getattr(self, name), Mapping, "a mapping")
        check_labels(self.labels)
        check_type("spec", self.spec, ClipSpec, "a ClipSpec")
        check_choice("precision", self.precision, get_args(Precision))
        check_whole("macs", self.macs, 0)
        if self.format_version != FORMAT_VERSION:
            raise wrong("format_version", str(FORMAT_VERSION), self.format_version)

    def to_json(self) -> str:
        """Returns the text for `metadata_props["dvfl"]`."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["spec"] = self.spec.to_dict()
        values["labels"] = list(self.labels)
        return json.dumps(values, ensure_ascii=False, sort_keys=True, default=dict)

    def check_graph(self, clip: Shape | None, logits: Shape | None) -> None:
        """Checks that a graph takes the clips and gives the logits that this describes.

        Args:
            clip: (B, T, H, W, 3) as the graph has it, None in it for what it leaves open; None for
                a graph that does not say.
            logits: (B, num_classes), likewise.

        Raises:
            ArtifactError: if it does not.
        """
        if logits is not None and logits[-1:] not in ((), (None,), (len(self.labels),)):
            raise ArtifactError(
                f"it has {len(self.labels)} labels for {logits[-1]} logits; export it again with "
                f"the right --labels"
            )
        wanted = (1, self.spec.num_frames, *self.spec.size, 3)
        if clip is None or len(clip) != len(wanted):
            return  # the engines say what is wrong with it
        if any(n not in (None, w) for n, w in zip(clip[1:], wanted[1:], strict=True)):
            raise ArtifactError(
                f"its graph takes clips of shape {clip} and its ClipSpec makes {wanted}; export it "
                f"again"
            )
        if clip[0] not in (None, 1):
            raise ArtifactError(f"the batch of its graph is fixed to {clip[0]}, not 1")

    @classmethod
    def from_json(cls, text: str | bytes) -> Artifact:
        """Reads what `to_json` wrote. Names that it does not know are left out.

        Raises:
            ArtifactError: if the text is damaged or its format version is newer.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as err:
            raise ArtifactError(
                f"its dvfl metadata is damaged ({_brief(err)}); export it again"
            ) from err
        if not isinstance(values, dict):
            raise ArtifactError("its dvfl metadata is not a JSON object; export it again")
        version = values.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise ArtifactError(
                f"its format version is {_brief(version)} and this dvfl reads up to "
                f"{FORMAT_VERSION}; upgrade dvfl"
            )
        try:
            names = {f.name for f in dataclasses.fields(cls)}
            known = {k: v for k, v in values.items() if k in names}
            check_labels(values["labels"])
            known["labels"] = tuple(values["labels"])
            known["spec"] = ClipSpec.from_dict(values["spec"])
            known["format_version"] = version
            return cls(**known)
        except KeyError as err:
            raise ArtifactError(f"its dvfl metadata lacks {err}; export it again") from err
        except (TypeError, ValueError, AttributeError) as err:
            raise ArtifactError(
                f"its dvfl metadata is wrong: {_brief(err)}; export it again"
            ) from err


def read_artifact(path: str | os.PathLike[str]) -> Artifact:
    """Reads a model file's description.

    Raises:
        ArtifactError: if the file is missing, empty, truncated, not ONNX, without dvfl metadata,
            takes weights from another file, or if its metadata is damaged, of a newer format, or
            does not fit its graph.
    """
    with _naming(path):
        file = OnnxFile(path)
        text = file.metadata(METADATA_KEY)
        if text is None:
            raise ArtifactError(
                "it has no dvfl metadata because it was not exported by dvfl-export; "
                "run: dvfl-export CHECKPOINT -o FILE.onnx"
            )
        artifact = Artifact.from_json(text)
        # before an engine makes room for what the graph says
        artifact.check_graph(file.shape(INPUT, "clip"), file.shape(OUTPUT, "logits"))
        return artifact


def graph_sha256(path: str | os.PathLike[str]) -> str:
    """Returns a digest of everything in a model file that takes part in the computation.

    Labels and reports are left out: what was made from the graph stays good when they change.

    Raises:
        ArtifactError: if the file cannot be read, is truncated or is not ONNX, or takes weights
            from another file.
    """
    with _naming(path):
        return OnnxFile(path).graph_sha256()


def exported_graph(path: str | os.PathLike[str]) -> str:
    """Returns the digest of a file's graph if dvfl-export wrote the file, "" if it did not.

    `Artifact.tools` says so: it names the dvfl that made the file.
    """
    with contextlib.suppress(OSError, ValueError, ArtifactError):
        file = OnnxFile(path)
        text = file.metadata(METADATA_KEY)
        if text is not None and "dvfl" in Artifact.from_json(text).tools:
            return file.graph_sha256()
    return ""


@contextlib.contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Puts the name of the file before what is wrong with it."""
    if not os.fspath(path):
        raise wrong("path", "that of a model file", path)
    try:
        yield
    except (OSError, ValueError) as err:  # a ValueError: the path holds a null character
        reason = getattr(err, "strerror", None) or err
        raise ArtifactError(f"cannot read model {Path(path)}: {reason}; check the path") from err
    except ArtifactError as err:
        raise ArtifactError(f"cannot use model {Path(path)}: {err}") from err.__cause__


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}..."
