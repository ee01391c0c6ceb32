"""The bytes of an ONNX file: its metadata, what its graph declares, a digest of all but metadata.

They are read by walking over the protobuf, which needs neither an engine nor the onnx package and
notices a truncated file and weights in another file. Wire format:
https://protobuf.dev/programming-guides/encoding/; field numbers: onnx.proto.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from typing import NamedTuple, TypeAlias

from dvfl_runtime.artifact.description import Shape
from dvfl_runtime.errors import ArtifactError

MAX_METADATA_BYTES = 1 << 20  # of the dvfl entry; one with 1,000 labels has 30 kB
MAX_FIELDS = 250_000  # an int8 file of "base" has 50,000; to walk over so many takes 0.3 s
MAX_OPSET = 1000  # ONNX is at 28; OpenVINO 2026.4 counts down from 2147483647, for minutes

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
LENGTHS = {FIXED64: 8, FIXED32: 4}
# fields of ModelProto; a file that has one of these numbers with another wire type is not ONNX
MODEL_FIELDS = {
    **{1: VARINT, 2: BYTES, 3: BYTES, 4: BYTES, 5: VARINT, 6: BYTES, 7: BYTES},
    **{8: BYTES, 14: BYTES, 20: BYTES, 25: BYTES},
}
IR_VERSION, GRAPH, OPSET_IMPORT, METADATA_PROPS, FUNCTIONS = 1, 7, 8, 14, 25
INPUTS, OUTPUTS = 11, 12  # of a graph
# of tensors that model files take and give; TensorProto.DataType has more
ELEMENT_TYPES = {1: "float32", 2: "uint8", 10: "float16"}
# where tensors can be: message -> field -> the message in it
PARTS = {
    "model": {GRAPH: "graph", 20: "training", FUNCTIONS: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
EXTERNAL_DATA, DATA_LOCATION = 13, 14  # of a tensor

Span: TypeAlias = tuple[int, int]  # where a message begins and ends
Field: TypeAlias = tuple[int, int, int, int]  # number, wire type, where its content begins and ends


class DeclaredTensor(NamedTuple):
    """An input or output as a graph declares it; shape: None where the graph names none."""

    name: str
    element_type: str
    shape: Shape | None


class OnnxFile:
    """The content of an ONNX file.

    Args:
        content: all bytes of the file.

    Raises:
        ArtifactError: if it is truncated or not ONNX, or takes weights from other files.
    """

    def __init__(self, content: bytes) -> None:
        self._data = content
        self._left = MAX_FIELDS
        try:
            self._top = list(self._fields(0, len(self._data)))
            self._check_model()
            self._check_tensors()
        except _Truncated:
            if not self._data.startswith(bytes([IR_VERSION << 3])):  # comes first
                raise ArtifactError("it is not an ONNX file") from None
            raise

    def metadata(self, key: str) -> bytes | None:
        """Return the value of an entry of the model's metadata, the last one with this key.

        Raises:
            ArtifactError: if it is damaged, or larger than MAX_METADATA_BYTES.
        """
        found = None
        for number, _, begin, end in self._top:
            if number != METADATA_PROPS:
                continue
            entry = {n: (b, e) for n, wire, b, e in self._fields(begin, end) if wire == BYTES}
            name, value = (slice(*entry.get(n, (0, 0))) for n in (1, 2))
            if self._data[name] == key.encode():
                found = value
        if found is not None and found.stop - found.start > MAX_METADATA_BYTES:
            raise ArtifactError(
                f"its {key} metadata has {found.stop - found.start} bytes, and "
                f"{MAX_METADATA_BYTES} are the most; export it again"
            )
        return None if found is None else self._data[found]

    def declared(self, side: int) -> list[DeclaredTensor]:
        """Return the INPUTS or OUTPUTS of the graph, without running anything of it."""
        whole = (0, len(self._data))
        return [self._declared_tensor(value) for value in self._messages(whole, GRAPH, side)]

    def operators(self, domain: str) -> frozenset[str]:
        """Return the kinds of nodes of a domain in the graph (NodeProto: op_type 4, domain 7)."""
        nodes = self._messages((0, len(self._data)), GRAPH, 1)
        return frozenset(self._text(node, 4) for node in nodes if self._text(node, 7) == domain)

    def without_functions(self, names: Collection[str]) -> bytes:
        """Return the content without the functions of these names (FunctionProto: name 1)."""
        kept, start = [], 0
        for number, wire, begin, end in self._top:
            is_function = number == FUNCTIONS and wire == BYTES
            if not is_function or self._text((begin, end), 1) not in names:
                kept.append(memoryview(self._data)[start:end])
            start = end
        return b"".join(kept)

    def graph_sha256(self) -> str:
        """Return a digest of all but the metadata."""
        digest = hashlib.sha256()
        content = memoryview(self._data)
        for number, _, begin, end in self._top:
            if number != METADATA_PROPS:
                digest.update(b"%d:%d:" % (number, end - begin))
                digest.update(content[begin:end])
        return digest.hexdigest()

    def _check_model(self) -> None:
        for number, wire, begin, end in self._top:
            if MODEL_FIELDS.get(number, wire) != wire:
                raise ArtifactError("it is not an ONNX file")
            if number == OPSET_IMPORT:
                self._check_opset(begin, end)
        if not {IR_VERSION, GRAPH} <= {number for number, *_ in self._top}:
            raise ArtifactError("it is not an ONNX file, or was truncated")

    def _check_opset(self, begin: int, end: int) -> None:
        """Check an OperatorSetIdProto (domain 1, version 2)."""
        version = self._number((begin, end), 2)
        if version is not None and not 1 <= version <= MAX_OPSET:  # a negative one is above 2**63
            raise ArtifactError("it is damaged: its opset has no real version; copy it again")

    def _check_tensors(self) -> None:
        """Raise ArtifactError if the values of a tensor are in another file.

        No digest would cover that file, and it could be any that this user may read.
        """
        rest = [("model", 0, len(self._data))]
        while rest:
            message, begin, end = rest.pop()
            parts = PARTS.get(message, {})
            for number, wire, at, after in self._fields(begin, end):
                if wire == BYTES and number in parts:
                    rest.append((parts[number], at, after))
                elif message == "tensor" and self._is_outside(number, at, after):
                    raise ArtifactError(
                        "it takes weights from another file; export it again with dvfl-export, "
                        "which writes one file"
                    )

    def _is_outside(self, number: int, begin: int, end: int) -> bool:
        """Return whether a field of a tensor places its values in another file."""
        nonzero = bool(self._data[begin:end].strip(b"\x80\x00"))  # however a zero is encoded
        return number == EXTERNAL_DATA or (number == DATA_LOCATION and nonzero)

    def _declared_tensor(self, value: Span) -> DeclaredTensor:
        """Read a ValueInfoProto: name 1, type 2; in it tensor_type 1: elem_type 1, shape 2.

        Raises:
            ArtifactError: if one of them is there twice: libraries differ in which one counts.
        """
        names, tensor_types, shapes = (
            list(self._messages(value, *fields)) for fields in ((1,), (2, 1), (2, 1, 2))
        )
        if max(map(len, (names, tensor_types, shapes))) > 1:
            raise _Truncated
        name = b"".join(self._data[begin:end] for begin, end in names)
        number = self._number(tensor_types[0], 1) if tensor_types else None
        return DeclaredTensor(
            name.decode(errors="replace"),
            ELEMENT_TYPES.get(number or 0, f"type {number}"),
            # dim 1 of the shape, dim_value 1 of the dim
            tuple(self._number(dim, 1) for dim in self._messages(shapes[0], 1)) if shapes else None,
        )

    def _messages(self, span: Span, number: int, *path: int) -> Iterator[Span]:
        """Yield where the messages in a field are, or those at a path of fields below it."""
        for found, wire, begin, end in self._fields(*span):
            if found == number and wire == BYTES:
                yield from self._messages((begin, end), *path) if path else [(begin, end)]

    def _text(self, span: Span, number: int) -> str:
        """Return the value of a field of text, "" where the message has none."""
        found = [
            (at, end) for n, wire, at, end in self._fields(*span) if (n, wire) == (number, BYTES)
        ]
        return self._data[slice(*found[-1])].decode(errors="replace") if found else ""

    def _number(self, span: Span, number: int) -> int | None:
        """Return the value of a VARINT field, None where the message has none."""
        value = None
        for found, wire, at, end in self._fields(*span):
            if found == number and wire == VARINT:
                value = read_varint(self._data, at, end)[0]  # the last one counts, as in protobuf
        return value

    def _fields(self, at: int, end: int) -> Iterator[Field]:
        """Yield the fields of a message.

        Raises:
            ArtifactError: if the file has more than MAX_FIELDS.
            _Truncated: if a field reaches beyond `end` or is no protobuf field at all.
        """
        data = self._data
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise ArtifactError(f"it has more than {MAX_FIELDS} fields; export it again")
            tag, at = read_varint(data, at, end)
            number, wire = tag >> 3, tag & 7
            if wire == BYTES:
                length, at = read_varint(data, at, end)
                after = at + length
            elif wire == VARINT:
                after = read_varint(data, at, end)[1]
            elif wire in LENGTHS:
                after = at + LENGTHS[wire]
            else:
                raise _Truncated
            if number == 0 or after > end:
                raise _Truncated
            yield number, wire, at, after
            at = after


class _Truncated(ArtifactError):
    """A message ends in the middle of a field."""

    def __init__(self) -> None:
        super().__init__("it is truncated or damaged; copy or export it again")


def read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return a number of variable length and where it ends."""
    if at < end and data[at] < 0x80:
        return data[at], at + 1
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise _Truncated
