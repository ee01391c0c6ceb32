"""Changes in the bytes of an ONNX file for engines that want it in another form.

The quantised activations of an int8 file are uint8, for onnxruntime's sake, and take their type and
zero point from one initializer. The content must have been checked, see `onnx_file`, which names
the wire format and the source of the field numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from dvfl_runtime.artifact.onnx_file import BYTES, GRAPH, LENGTHS, VARINT, read_varint

ZERO_POINT = b"zero_point"  # the name of that initializer
UINT8, INT8 = 2, 3  # of TensorProto.DataType
FUSED = b"dvfl"
FUNCTIONS = 25  # of a model
NODES, INITIALIZERS = 1, 5  # of a graph
DATA_TYPE, TENSOR_NAME, RAW_DATA = 2, 8, 9  # of a tensor
NODE_NAME, OP_TYPE, NODE_DOMAIN = 3, 4, 7  # of a node
FUNCTION_NAME, FUNCTION_NODES = 1, 7  # of a function

Part: TypeAlias = tuple[int, bytes]  # a field's number with its wire type, and its content


def with_signed_bytes(content: bytes) -> bytes:
    """Make the quantised activations int8 with the zero point 0; other files stay as they are."""
    if ZERO_POINT not in content:
        return content

    wanted = {
        _tag(TENSOR_NAME, BYTES): ZERO_POINT,
        _tag(DATA_TYPE, VARINT): _varint(UINT8),
        _tag(RAW_DATA, BYTES): b"\x80",
    }
    replacement = {_tag(DATA_TYPE, VARINT): _varint(INT8), _tag(RAW_DATA, BYTES): b"\0"}

    def signed(tensor: bytes) -> bytes:
        found = dict(_parts(tensor))
        return _joined((found | replacement).items()) if found == wanted else tensor

    return _edited(content, GRAPH, lambda graph: _edited(graph, INITIALIZERS, signed))


def with_own_functions(content: bytes) -> bytes:
    """Give each quantised node of domain `dvfl` a function of its own, whose nodes have names.

    TensorRT's parser takes over the names of the nodes in a function as they are, and refuses a
    second QuantizeLinear of one name (TensorRT for RTX 1.7).
    """
    name_tag, nodes_tag = _tag(FUNCTION_NAME, BYTES), _tag(FUNCTION_NODES, BYTES)
    bodies = {
        dict(_parts(function))[name_tag]: function
        for tag, function in _parts(content)
        if tag == _tag(FUNCTIONS, BYTES)
    }
    if not any(kind.startswith(b"Q") for kind in bodies):
        return content
    own: list[Part] = []

    def renamed(node: bytes) -> bytes:
        found = dict(_parts(node))
        kind = found.get(_tag(OP_TYPE, BYTES), b"")
        is_fused = found.get(_tag(NODE_DOMAIN, BYTES)) == FUSED
        if not is_fused or not kind.startswith(b"Q") or kind not in bodies:
            return node
        name = b"%s_of_node_%d" % (kind, len(own))
        body: list[Part] = []
        for tag, part in _parts(bodies[kind]):
            if tag == nodes_tag:
                body.append((tag, _with(part, NODE_NAME, b"%s_%d" % (name, len(body)))))
            else:
                body.append((tag, name if tag == name_tag else part))
        own.append((_tag(FUNCTIONS, BYTES), _joined(body)))
        return _with(node, OP_TYPE, name)

    edited = _edited(content, GRAPH, lambda graph: _edited(graph, NODES, renamed))
    return edited + _joined(own)


def _edited(message: bytes, number: int, change: Callable[[bytes], bytes]) -> bytes:
    """Return a message with each message in a field changed."""
    wanted = _tag(number, BYTES)
    return _joined((tag, change(part) if tag == wanted else part) for tag, part in _parts(message))


def _with(message: bytes, number: int, content: bytes) -> bytes:
    """Return a message with another content of a field of bytes."""
    wanted = _tag(number, BYTES)
    rest = [(tag, part) for tag, part in _parts(message) if tag != wanted]
    return _joined([*rest, (wanted, content)])


def _parts(message: bytes) -> Iterator[Part]:
    """Yield the fields of a message; the content of one of BYTES without its length."""
    at, end = 0, len(message)
    while at < end:
        tag, at = read_varint(message, at, end)
        if tag & 7 == BYTES:
            length, at = read_varint(message, at, end)
            after = at + length
        elif tag & 7 == VARINT:
            after = read_varint(message, at, end)[1]
        else:
            after = at + LENGTHS[tag & 7]
        yield tag, message[at:after]
        at = after


def _joined(parts: Iterable[Part]) -> bytes:
    """Return the message of these fields."""
    chunks: list[bytes] = []
    for tag, content in parts:
        chunks.append(_varint(tag))
        if tag & 7 == BYTES:
            chunks.append(_varint(len(content)))
        chunks.append(content)
    return b"".join(chunks)


def _tag(number: int, wire: int) -> int:
    return number << 3 | wire


def _varint(value: int) -> bytes:
    """Return a number in as few bytes as it takes, seven bits in each, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
