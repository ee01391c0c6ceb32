"""Rewrites a graph so that OpenVINO computes the same in less time on x86 CPUs.

A mean over frames becomes a pooling, which takes a fifth of the time.

On CPUs with AVX2 and without instructions for dot products of bytes, OpenVINO (2026.4) multiplies
int8 matrices no faster than float32 ones, but its int8 convolutions take half of the time. With
AVX512_VNNI, too, they take less time. So each product with int8 weights becomes a 1x1 convolution,
which computes the bias and the Gelu after it too:

    before  x -> FakeQuantize -> (B, N, I) -> MatMul [W int8] -> Add -> Gelu
    after   x -> FakeQuantize -> (B, I, T, N/T) -> Convolution 1x1 [W int8] -> Add -> Gelu

- The transposes cost nothing, because OpenVINO computes with channels last.
- For onnxruntime's sake alone, older files quantise a tensor for each layer that reads it, and the
  results of convolutions as well. Here a tensor is quantised once, where it is computed and not
  where it has been reshaped, and the results of convolutions are not quantised.
- OpenVINO computes int8 values q as bytes q + 128 with a zero point, and then visits the padding of
  a convolution too. Here they are q + 128 without a zero point, and the amount that the 128 add to
  the result is subtracted from it.
"""

from __future__ import annotations

import platform
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from dvfl_runtime.engines.cpus import convolves_bytes_faster

X86 = ("x86_64", "AMD64")
WRAPPERS = ("Convert", "Reshape")  # around the constants that DequantizeLinear reads
MOVES = ("Reshape", "Transpose")
SHIFT = np.float32(128)
LOWEST, HIGHEST = -128.0, 127.0  # of int8
FRAMES = 2  # the axis, of (B, C, T, H*W)


class _Dequantised(NamedTuple):
    """A float32 tensor computed from int8 values: those of a quantised tensor or of the file."""

    source: Any  # the tensor before it was quantised, or the int8 constant; an output of a node
    scale: NDArray[np.float32]  # the factor that turns int8 into float32
    moves: tuple[Any, ...] = ()  # what has moved it since it was dequantised, the last one first


class _Layer(NamedTuple):
    """int8 weights times tokens (B, N, I), or over the frames of (B, I, T, H*W)."""

    tokens: _Dequantised
    weight: NDArray[np.int8]  # (O, I, taps); of a product with one tap
    scales: NDArray[np.float32]  # (O,), of the weight


def rewrite_for_cpu(model: Any) -> int:
    """Rewrite a model in place for the CPU of this machine; it computes the same up to rounding.

    Args:
        model: an `openvino.Model` read from a file that dvfl-export wrote. Other patterns than
            those of such files stay as they are, but only such files have been tested.

    Returns:
        The number of places that were rewritten.
    """
    if platform.machine() not in X86:
        return 0  # not measured
    count = means_as_pooling(model)
    if convolves_bytes_faster():
        count += as_convolutions(model)
    return count


def means_as_pooling(model: Any) -> int:
    """Replace means over the frames of (B, C, T, H*W); return how many were replaced."""
    from openvino import opset13 as ops

    count = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "ReduceMean" or not node.get_attributes()["keep_dims"]:
            continue
        x, axes = node.input_value(0), _constant(node.input_value(1))
        shape = x.get_partial_shape()
        if axes is None or axes.tolist() != [FRAMES] or len(shape) != 4 or shape[FRAMES].is_dynamic:
            continue
        window = [shape[FRAMES].get_length(), 1]
        pooling = ops.avg_pool(x, [1, 1], [0, 0], [0, 0], window, True)
        node.output(0).replace(pooling.output(0))
        count += 1
    return count


def as_convolutions(model: Any) -> int:
    """Rewrite int8 layers in place; layers of another pattern than above stay as they are.

    Args:
        model: an `openvino.Model` read from a file with QuantizeLinear and DequantizeLinear.

    Returns:
        The number of products and convolutions that were rewritten.
    """
    frames = model.input(0).partial_shape[1].get_length()  # T
    shifted: dict[str, Any] = {}  # see _shifted
    count = 0
    for node in model.get_ordered_ops():
        layer = _layer(node)
        if layer is None:
            continue
        x = _shifted(layer.tokens, shifted)
        if node.get_type_name() == "MatMul":
            _replace_product(node, layer, x, frames)
        else:
            node.output(0).replace(_convolution(x, layer).output(0))
        count += 1
    for node in model.get_ordered_ops() if count else ():
        _float_from_convolution(node)
    return count


def _shifted(tensor: _Dequantised, known: dict[str, Any]) -> Any:
    """Return a tensor rounded to int8 before it is reshaped, plus SHIFT times its scale.

    `known` holds such tensors by their names and scales. The scales of one tensor in the file
    differ by less than one in a million, see `dvfl_export.precision.quantise`.
    """
    from openvino import opset13 as ops

    source, scale = tensor.source, tensor.scale.reshape(())
    moves = list(tensor.moves)
    while source.get_node().get_type_name() in MOVES:
        moves.append(source.get_node())
        source = source.get_node().input_value(0)
    name = f"{source.get_node().get_friendly_name()} {source.get_index()} {scale:.5g}"
    if name not in known:
        low, levels = -SHIFT * scale, np.float32(255)
        x = ops.fake_quantize(source, low, low + levels * scale, np.float32(0), levels, 256)
        known[name] = ops.multiply(ops.convert(ops.convert(x, "u8"), "f32"), scale)
    x = known[name]
    for move in reversed(moves):
        if move.get_type_name() == "Transpose":
            x = ops.transpose(x, move.input_value(1))
        else:
            x = ops.reshape(x, move.input_value(1), move.get_attributes()["special_zero"])
    return x


def _convolution(x: Any, layer: _Layer) -> Any:
    """Return a node that computes a layer of a shifted (B, I, T, H*W) and removes the shift."""
    from openvino import opset13 as ops

    outer, _, taps = layer.weight.shape
    kernel = ops.convert(ops.constant(layer.weight[..., None]), "f32")
    kernel = ops.multiply(kernel, layer.scales.reshape(outer, 1, 1, 1))
    padding = [taps // 2, 0]
    y = ops.convolution(x, kernel, [1, 1], padding, padding, [1, 1])
    # the amount to subtract: with one tap the same for all frames, else less beside the padding
    ones = np.ones(x.get_output_partial_shape(0)[FRAMES].get_length() if taps > 1 else 1)
    windows = sliding_window_view(np.pad(ones, taps // 2), taps)  # (T, taps), 0 in the padding
    added = layer.weight.sum(1, dtype=np.float64) @ windows.T * layer.scales[:, None]
    added *= SHIFT * layer.tokens.scale.reshape(())
    return ops.subtract(y, added[None, :, :, None].astype(np.float32))


def _replace_product(node: Any, layer: _Layer, x: Any, frames: int) -> None:
    """Put a convolution in the place of a product, of its bias and of its Gelu."""
    from openvino import opset13 as ops

    outer, inner, _ = layer.weight.shape
    number = node.input_value(0).get_partial_shape()[1].get_length()
    rows = frames if number % frames == 0 else 1
    # (B, N, I) -> (B, rows, N/rows, I) -> (B, I, rows, N/rows)
    x = ops.reshape(x, np.array([-1, rows, number // rows, inner]), False)
    y = _convolution(ops.transpose(x, np.array([0, 3, 1, 2])), layer)
    replaced = node.output(0)
    while len(replaced.get_target_inputs()) == 1:
        (reader,) = (port.get_node() for port in replaced.get_target_inputs())
        constants = [_constant(reader.input_value(i)) for i in range(reader.get_input_size())]
        biases = [value for value in constants if value is not None and value.size == outer]
        if reader.get_type_name() == "Gelu":
            y = ops.gelu(y, reader.get_attributes()["approximation_mode"].lower())
        elif reader.get_type_name() == "Add" and biases and biases[0].shape[-1] == outer:
            y = ops.add(y, biases[0].reshape(1, outer, 1, 1))
        else:
            break
        replaced = reader.output(0)
    # (B, O, rows, N/rows) -> (B, rows, N/rows, O) -> (B, N, O)
    y = ops.transpose(y, np.array([0, 2, 3, 1]))
    replaced.replace(ops.reshape(y, np.array([-1, number, outer]), False).output(0))


def _float_from_convolution(node: Any) -> None:
    """Connect the readers of a convolution's result to it directly, without rounding to int8."""
    found = _dequantised(node)
    if found is None:
        return
    maker = found.source.get_node()
    if maker.get_type_name() == "Subtract":  # the shift
        maker = maker.input_value(0).get_node()
    if maker.get_type_name() == "Convolution":
        node.output(0).replace(found.source)


def _layer(node: Any) -> _Layer | None:
    """Return the parts of a node that can be rewritten, None for any other node."""
    take_apart = {"MatMul": _taps_of_product, "Convolution": _taps_over_frames}
    if node.get_type_name() not in take_apart:
        return None
    source, moves = node.input_value(0).get_node(), []
    while source.get_type_name() in MOVES:
        moves.append(source)
        source = source.input_value(0).get_node()
    tokens, weight = _dequantised(source), _dequantised(node.input_value(1).get_node())
    if tokens is None or weight is None or tokens.scale.size != 1:
        return None
    values = _constant(weight.source)
    if values is None:
        return None
    taps, axis = take_apart[node.get_type_name()](node, values)
    scales = [1] * values.ndim  # one for each output, and this is the axis of outputs
    scales[axis] = values.shape[axis]
    if taps is None or list(weight.scale.shape) != scales or _constant(tokens.source) is not None:
        return None
    return _Layer(tokens._replace(moves=tuple(moves)), taps, weight.scale.reshape(-1))


def _taps_of_product(node: Any, values: NDArray[Any]) -> tuple[NDArray[Any] | None, int]:
    """Return the weights (O, I, 1) of tokens (B, N, I) times (I, O), and the axis of O."""
    shape = node.input_value(0).get_partial_shape()
    if any(node.get_attributes().values()) or len(shape) != 3 or values.ndim != 2:
        return None, -1
    taps = np.ascontiguousarray(values.T)[..., None]
    return None if shape[1].is_dynamic else taps, -1


def _taps_over_frames(node: Any, values: NDArray[Any]) -> tuple[NDArray[Any] | None, int]:
    """Return the weights (O, I, k) of a convolution over frames that keeps T, and the axis of O."""
    if values.ndim != 4 or values.shape[2] % 2 == 0 or values.shape[3] != 1:
        return None, 0
    if node.input_value(0).get_partial_shape()[FRAMES].is_dynamic:
        return None, 0
    found = node.get_attributes()
    padding = [list(found["pads_begin"]), list(found["pads_end"])]
    steps = [*found["strides"], *found["dilations"]]
    as_many = padding == [[values.shape[2] // 2, 0]] * 2 and steps == [1] * 4
    return values[..., 0] if as_many and found["auto_pad"] == "explicit" else None, 0


def _dequantised(node: Any) -> _Dequantised | None:
    """Return the parts of (q - 0) * scale, where q is an int8 constant or a quantised tensor."""
    if node.get_type_name() != "Multiply":
        return None
    scale, convert = _constant(node.input_value(1)), node.input_value(0).get_node()
    if convert.get_type_name() == "Subtract":
        zeros, convert = _constant(convert.input_value(1)), convert.input_value(0).get_node()
        if zeros is None or zeros.any():
            return None
    if scale is None or convert.get_type_name() != "Convert":
        return None
    scale, q = scale.astype(np.float32), convert.input_value(0)
    if q.get_element_type().get_type_name() != "i8":
        return None
    if _constant(q) is not None:
        return _Dequantised(q, scale)
    source = _quantised(q.get_node(), scale)
    return None if source is None else _Dequantised(source, scale)


def _quantised(convert: Any, scale: NDArray[np.float32]) -> Any:
    """Return the tensor that was quantised to -128 ... 127 with this scale, None if there is none.

    With other bounds, FakeQuantize would also act as a ReLU or change the scale.
    """
    if convert.get_type_name() != "Convert" or scale.size != 1:
        return None
    quantize = convert.input_value(0).get_node()
    if quantize.get_type_name() != "FakeQuantize" or quantize.get_attributes()["levels"] != 256:
        return None
    bounds = [_constant(quantize.input_value(i)) for i in range(1, 5)]
    ends, factors = (LOWEST, HIGHEST) * 2, (scale.item(),) * 2 + (1.0,) * 2
    for bound, end, factor in zip(bounds, ends, factors, strict=True):
        if bound is None or bound.size != 1 or not np.isclose(bound.item(), end * factor, 1e-5, 0):
            return None
    return quantize.input_value(0)


def _constant(output: Any) -> NDArray[Any] | None:
    """Return the values of a constant, converted and reshaped; None for any other node."""
    node, wrappers = output.get_node(), []
    while node.get_type_name() in WRAPPERS:
        wrappers.append(node)
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant":
        return None
    values: NDArray[Any] = node.data
    for wrapper in reversed(wrappers):
        if wrapper.get_type_name() == "Convert":
            values = values.astype(wrapper.get_output_element_type(0).to_dtype())
        else:
            values = values.reshape(wrapper.get_output_shape(0))
    return values
