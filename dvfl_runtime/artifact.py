"""The model file: an ONNX graph that carries everything needed to use it.

`metadata_props["dvfl"]` holds one JSON object, read here by walking over the top level of the
protobuf, which needs neither an engine nor the onnx package and notices a truncated file.
Wire format: https://protobuf.dev/programming-guides/encoding/; field numbers: onnx.proto.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

from dvfl_runtime.checks import check_choice, check_whole, wrong
from dvfl_runtime.errors import ArgumentError, ArtifactError
from dvfl_runtime.spec import ClipSpec

FORMAT_VERSION = 1
METADATA_KEY = "dvfl"

Precision = Literal["fp32", "fp16", "int8"]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
# fields of ModelProto; what has one of these numbers with another wire type is not ONNX
MODEL_FIELDS = {
    **{1: VARINT, 2: BYTES, 3: BYTES, 4: BYTES, 5: VARINT, 6: BYTES, 7: BYTES},
    **{8: BYTES, 14: BYTES, 20: BYTES, 25: BYTES},
}
IR_VERSION, GRAPH, OPSET_IMPORT, METADATA_PROPS = 1, 7, 8, 14
MAX_OPSET = (
    1000  # ONNX is at 28; OpenVINO 2026.4 counts down from 2147483647 one by one, for minutes
)
MAX_METADATA_BYTES = 16 * 1024 * 1024


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
        tools: versions of what made it.
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
            if not isinstance(getattr(self, name), str):
                raise wrong(name, "a string", getattr(self, name))
        for name in ("training", "parity", "tools"):
            if not isinstance(getattr(self, name), Mapping):
                raise wrong(name, "a mapping", getattr(self, name))
        if not self.labels or not all(isinstance(s, str) and s for s in self.labels):
            raise ArgumentError(f"labels must be one or more names, got {self.labels!r}")
        if len(set(self.labels)) < len(self.labels):
            raise ArgumentError("labels must be distinct")
        if not isinstance(self.spec, ClipSpec):
            raise wrong("spec", "a ClipSpec", self.spec)
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

    @classmethod
    def from_json(cls, text: str | bytes) -> Artifact:
        """Reads what `to_json` wrote. Names that it does not know are left out.

        Raises:
            ArtifactError: if the text is damaged or its format version is newer.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as err:
            raise ArtifactError(f"its dvfl metadata is damaged ({err}); export it again") from err
        if not isinstance(values, dict):
            raise ArtifactError("its dvfl metadata is not a JSON object; export it again")
        version = values.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise ArtifactError(
                f"its format version is {version} and this dvfl reads up to {FORMAT_VERSION}; "
                f"upgrade: pip install -U dvfl"
            )
        try:
            names = {f.name for f in dataclasses.fields(cls)}
            known = {k: v for k, v in values.items() if k in names}
            known["labels"] = tuple(values["labels"])
            known["spec"] = ClipSpec.from_dict(values["spec"])
            known["format_version"] = version
            return cls(**known)
        except KeyError as err:
            raise ArtifactError(f"its dvfl metadata lacks {err}; export it again") from err
        except (TypeError, ValueError, AttributeError) as err:
            raise ArtifactError(f"its dvfl metadata is wrong: {err}; export it again") from err


def read_artifact(path: str | os.PathLike[str]) -> Artifact:
    """Reads a model file's description.

    Raises:
        ArtifactError: if the file is missing, empty, truncated, not ONNX, without dvfl metadata,
            or if its metadata is damaged or of a newer format.
    """
    file = Path(path)
    try:
        with file.open("rb") as stream:
            text = _metadata(stream, os.fstat(stream.fileno()).st_size)
        return Artifact.from_json(text)
    except (OSError, ValueError) as err:  # a ValueError: the path holds a null character
        reason = getattr(err, "strerror", None) or err
        raise ArtifactError(f"cannot read model {file}: {reason}; check the path") from err
    except ArtifactError as err:
        raise ArtifactError(f"cannot use model {file}: {err}") from err.__cause__


def graph_sha256(path: str | os.PathLike[str]) -> str:
    """Returns a digest of all in a model file that computes.

    Labels and reports are left out: what was made from the graph stays good when they change.

    Raises:
        ArtifactError: if the file cannot be read, is truncated or is not ONNX.
    """
    digest = hashlib.sha256()
    file = Path(path)
    try:
        with file.open("rb") as stream:
            for number, _wire, length in _fields(stream, os.fstat(stream.fileno()).st_size):
                if number != METADATA_PROPS:
                    digest.update(b"%d:%d:" % (number, length))
                    digest.update(stream.read(length))
    except OSError as err:
        reason = err.strerror or str(err)
        raise ArtifactError(f"cannot read model {file}: {reason}; check the path") from err
    except _Truncated:
        raise ArtifactError(
            f"cannot use model {file}: it is not an ONNX file, or was truncated; copy it again"
        ) from None
    return digest.hexdigest()


class _Truncated(Exception):
    """The file ends in the middle of a field."""


def _metadata(stream: BinaryIO, size: int) -> bytes:
    """Returns the value of the dvfl entry of ModelProto.metadata_props."""
    if size == 0:
        raise ArtifactError("it is empty; copy it again")
    seen: set[int] = set()
    found: bytes | None = None
    try:
        for number, wire, length in _fields(stream, size):
            if MODEL_FIELDS.get(number, wire) != wire:
                raise ArtifactError("it is not an ONNX file")
            seen.add(number)
            if number == OPSET_IMPORT:
                _check_opset(stream, length)
            if number == METADATA_PROPS and 0 < length <= MAX_METADATA_BYTES:
                found = _entry(stream, length) or found
    except _Truncated:
        if IR_VERSION not in seen:
            raise ArtifactError("it is not an ONNX file") from None
        raise ArtifactError("it is truncated or damaged; copy or export it again") from None
    if IR_VERSION not in seen or GRAPH not in seen:
        raise ArtifactError("it is not an ONNX file, or was truncated")
    if found is None:
        raise ArtifactError(
            "it has no dvfl metadata because it was not exported by dvfl-export; "
            "run: dvfl-export CHECKPOINT -o FILE.onnx"
        )
    return found


def _check_opset(stream: BinaryIO, length: int) -> None:
    """Raises ArtifactError if an OperatorSetIdProto (domain 1, version 2) has no real version."""
    for number, wire, _ in _fields(stream, stream.tell() + length):
        if number == 2 and wire == VARINT:
            at = stream.tell()
            version = _varint(stream)
            stream.seek(at)
            if not 1 <= version <= MAX_OPSET:  # a negative one is above 2**63
                raise ArtifactError("it is damaged: its opset has no real version; copy it again")


def _entry(stream: BinaryIO, length: int) -> bytes | None:
    """Reads one StringStringEntryProto (key 1, value 2); returns the value if the key is ours."""
    key, value = b"", b""
    end = stream.tell() + length
    for number, wire, size in _fields(stream, end):
        if wire == BYTES and number == 1:
            key = stream.read(size)
        elif wire == BYTES and number == 2:
            value = stream.read(size)
    return value if key == METADATA_KEY.encode() else None


def _fields(stream: BinaryIO, end: int) -> Iterator[tuple[int, int, int]]:
    """Yields (field number, wire type, payload bytes) with the stream at the payload.

    The caller may read from the payload; the walk goes on behind it either way.

    Raises:
        _Truncated: if a field reaches beyond `end` or is no protobuf field at all.
    """
    while (at := stream.tell()) < end:
        tag = _varint(stream)
        number, wire = tag >> 3, tag & 7
        if number == 0 or wire not in (VARINT, FIXED64, BYTES, FIXED32):
            raise _Truncated
        if wire == BYTES:
            length = _varint(stream)
        elif wire == VARINT:
            at = stream.tell()
            _varint(stream)
            length = stream.tell() - at
            stream.seek(at)
        else:
            length = 8 if wire == FIXED64 else 4
        after = stream.tell() + length
        if after > end:
            raise _Truncated
        yield number, wire, length
        stream.seek(after)


def _varint(stream: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = stream.read(1)
        if not byte:
            raise _Truncated
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise _Truncated
