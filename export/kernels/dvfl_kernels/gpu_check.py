"""Measure the CUDA kernels against PyTorch: a part of `make gpu-check`, 90 s on a GPU.

It builds the kernels with nvcc, and needs PyTorch but no engine. Rows, the most important first:
- parity: the largest difference from PyTorch in float64 on the same (rounded) inputs.
- copy bandwidth: of this GPU, bytes read plus bytes written.
- time: of each node, beside PyTorch eager, both in CUDA graphs and taken in turn, and the time that
  the fewest bytes of the node take at that bandwidth; those of one clip may stay in L2, those of
  eight do not. float32 products without TF32.
- compiled time: the same beside torch.compile, as long as time is left.
Without a GPU the kernels run on the CPU, on small sizes, and their times mean nothing. Not yet run
on a GPU.

python -m dvfl_kernels.gpu_check --json kernels.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dvfl_kernels.cuda_library import (
    NAMES,
    CannotBuild,
    CudaLibrary,
    Sizes,
    build_emulated,
    build_for_gpu,
)

Row = dict[str, Any]
Tensors = dict[str, Tensor]
Call = Callable[[], Any]

# the stages of nano on 8 x 224 x 224; tensors of eight clips do not stay in the L2 of a GPU
STAGES, STAGES_OF_EIGHT = (
    [Sizes(batch, 8, 56 >> n, 56 >> n, 96 << n, (3, 5)) for n in range(4)] for batch in (1, 8)
)
ODD = [
    Sizes(2, 3, 1, 1, 7, (3,)),
    Sizes(1, 9, 3, 4, 40, (3, 5)),
    Sizes(1, 2, 30, 33, 12, (3, 5)),
    Sizes(1, 17, 2, 9, 24, (3, 5, 7, 9, 11)),
]
TINY = [Sizes(1, 8, 7, 5, 24, (3, 5))]
# of the largest value of a node's output
TOLERANCE = {torch.float32: 1e-5, torch.float16: 3e-3}
ROUNDS = 15
COMPILE_S = 15.0  # to compile and measure one node


def inputs_of(name: str, sizes: Sizes, dtype: torch.dtype, device: str) -> Tensors:
    """Return random inputs of a node, of a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for key, shape in sizes.shapes(name).items():
        value = torch.randn(shape, generator=generator)
        if key.startswith("kernel"):
            value /= value[0].numel() ** 0.5
        found[key] = value.to(device, dtype)
    return found


def by_pytorch(name: str, sizes: Sizes, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the modulator (B, N, C) of a context node, by the formula of its contract."""
    temporal = name == "TemporalContext"
    plane = (sizes.frames, sizes.height * sizes.width)
    if not temporal:
        plane = (sizes.height, sizes.width)

    def as_planes(x: Tensor) -> Tensor:
        # (B, N, C) -> (B', C, *plane)
        return x.reshape(-1, *plane, x.shape[-1]).permute(0, 3, 1, 2)

    x, gates = as_planes(tensors["context"]), as_planes(tensors["gates"])
    first = sizes.gate_offset(name)
    total: Tensor | float = 0.0
    for level, size in enumerate(sizes.kernel_sizes):
        kernel, pad = tensors[f"kernel_{level + 1}"], size // 2
        if temporal:
            x = F.conv2d(x, kernel, padding=(pad, 0))
            x = x + tensors["frame_bias"] if level == 0 else x
        else:
            x = F.conv2d(x, kernel, padding=pad, groups=sizes.channels)
        x = F.gelu(x)
        total = total + x * gates[:, first + level : first + level + 1]
    everywhere = F.gelu(x.mean((2,) if temporal else (2, 3), keepdim=True))
    total = total + everywhere * gates[:, first + sizes.levels : first + sizes.levels + 1]
    return total.permute(0, 2, 3, 1).reshape(sizes.batch, sizes.tokens, sizes.channels)


class Node:
    """A context node with its tensors on a device, ready to run.

    Args:
        library: the kernels.
        name: of the node.
        sizes: of the node.
        dtype: of its tensors.
        device: "cuda", or "cpu" for the emulation.
    """

    def __init__(
        self, library: CudaLibrary, name: str, sizes: Sizes, dtype: torch.dtype, device: str
    ) -> None:
        self.name, self.sizes, self.dtype, self.device = name, sizes, dtype, device
        self.library, self.half = library, dtype == torch.float16
        self.inputs = inputs_of(name, sizes, dtype, device)
        self.modulator = torch.full_like(self.inputs["context"], float("nan"))
        size = library.workspace(name, sizes, half=self.half)
        self.workspace = torch.empty(size, dtype=torch.uint8, device=device)

    def run(self) -> Tensor:
        """Start the kernels on the stream of PyTorch, and return the modulator."""
        on_gpu = self.device == "cuda"
        stream = torch.cuda.current_stream().cuda_stream if on_gpu else 0
        bias = self.inputs.get("frame_bias")
        pointers = [self.inputs[key].data_ptr() for key in ("context", "gates")]
        pointers += [0 if bias is None else bias.data_ptr()]
        pointers += [self.modulator.data_ptr(), self.workspace.data_ptr()]
        pointers += [v.data_ptr() for key, v in self.inputs.items() if key.startswith("kernel")]
        self.library.context(self.name, self.sizes, pointers, half=self.half, stream=stream)
        return self.modulator

    def eager(self) -> Tensor:
        """Return the modulator by PyTorch."""
        return by_pytorch(self.name, self.sizes, self.inputs)

    def row(self, kind: str) -> Row:
        """Return the beginning of a row about this node."""
        s = self.sizes
        grid = [s.batch, s.frames, s.height, s.width, s.channels]
        precision = "fp16" if self.half else "fp32"
        return {"row": kind, "node": self.name, "precision": precision, "grid": grid,
                "kernel_sizes": list(s.kernel_sizes)}  # fmt: skip


def parity_row(node: Node) -> Row:
    """Compare a node with PyTorch in float64."""
    found = node.run().double()
    exact = {key: value.double() for key, value in node.inputs.items()}
    wanted = by_pytorch(node.name, node.sizes, exact)
    gap, largest = float((found - wanted).abs().max()), float(wanted.abs().max())
    return node.row("parity") | {
        "largest_difference": float(f"{gap:.3g}"),
        "largest_value": round(largest, 3),
        "passed": gap <= TOLERANCE[node.dtype] * largest,
    }


def bias_gelu_row(library: CudaLibrary, dtype: torch.dtype, device: str) -> Row:
    """Compare BiasGelu with PyTorch in float64."""
    generator = torch.Generator().manual_seed(0)
    values, bias = (torch.randn(n, 99, generator=generator).to(device, dtype) for n in (67, 1))
    out = torch.full_like(values, float("nan"))
    stream = torch.cuda.current_stream().cuda_stream if device == "cuda" else 0
    pointers = [x.data_ptr() for x in (values, bias, out)]
    library.bias_gelu(pointers, 67, 99, half=dtype == torch.float16, stream=stream)
    gap = float((out.double() - F.gelu(values.double() + bias.double())).abs().max())
    return {
        "row": "parity",
        "node": "BiasGelu",
        "precision": "fp16" if dtype == torch.float16 else "fp32",
        "largest_difference": float(f"{gap:.3g}"),
        "passed": gap <= 3 * TOLERANCE[dtype],
    }


def times_in_turn(calls: Mapping[str, Call], device: str) -> dict[str, float]:
    """Return the median time of each call in microseconds, taken in turn.

    On a GPU each is a CUDA graph of ten calls, so that nothing waits for Python.
    """
    repeats, runs = 1, dict(calls)
    if device == "cuda":
        repeats = 10
        runs = {name: _graph(call, repeats) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS if device == "cuda" else 1):
        for name, run in runs.items():
            times[name].append(_microseconds(run, device) / repeats)
    return {name: round(median(found), 2) for name, found in times.items()}


def _graph(call: Call, repeats: int) -> Call:
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            call()
    graph.replay()
    return graph.replay


def _microseconds(run: Call, device: str) -> float:
    if device != "cuda":
        began_s = time.perf_counter()
        run()
        return 1e6 * (time.perf_counter() - began_s)
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    run()
    ended.record()
    torch.cuda.synchronize()
    return float(1e3 * began.elapsed_time(ended))


def time_row(node: Node, bandwidth: float | None) -> Row:
    """Measure a node beside PyTorch eager; bandwidth is of a copy, bytes per second."""
    return node.row("time") | _times(node, bandwidth, "eager", node.eager)


def compiled_time_row(node: Node, bandwidth: float | None) -> Row:
    """Measure a node beside torch.compile."""
    torch.compiler.reset()  # it gives up on a function that it has compiled for eight shapes
    compiled = torch.compile(node.eager, dynamic=False)
    return node.row("compiled time") | _times(node, bandwidth, "compiled", compiled)


def _times(node: Node, bandwidth: float | None, other: str, call: Call) -> Row:
    times = times_in_turn({"kernel": node.run, other: call}, node.device)
    row: Row = {"kernel_us": times["kernel"], f"{other}_us": times[other]}
    row[f"over_{other}"] = round(times["kernel"] / times[other], 3)
    if bandwidth:
        moved = node.sizes.bytes_moved(node.name, 2 if node.half else 4)
        row["floor_us"] = round(1e6 * moved / bandwidth, 2)
        row["over_floor"] = round(times["kernel"] / row["floor_us"], 2)
    return row


def copy_bandwidth() -> float:
    """Return the bytes per second that a copy within the GPU's memory reads and writes."""
    source = torch.empty(2**29, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = [_microseconds(lambda: target.copy_(source), "cuda") for _ in range(20)]
    return 2 * 2**29 / median(times) * 1e6


def measured_rows(device: str, *, tiny: bool, end_s: float) -> Iterator[Row]:
    """Yield the rows of the check.

    Args:
        device: "cuda", or "cpu" for the emulation.
        tiny: whether sizes are small.
        end_s: value of `time.perf_counter` by which torch.compile must have ended.
    """
    began_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            library = _built(Path(folder) / "kernels.so", device)
        except CannotBuild as err:
            yield {"row": "build", "reason": str(err)}
            return
    yield {"row": "build", "seconds": round(time.perf_counter() - began_s, 1)}
    stages = TINY if tiny else STAGES
    kinds = [(name, dtype) for dtype in TOLERANCE for name in NAMES]
    for (name, dtype), size in product(kinds, [*stages, *ODD]):
        yield _tried(parity_row, Node(library, name, size, dtype, device))
    for dtype in TOLERANCE:
        yield _tried(bias_gelu_row, library, dtype, device)
    bandwidth = None
    if device == "cuda":
        bandwidth = copy_bandwidth()
        yield {"row": "copy bandwidth", "gb_per_s": round(bandwidth / 1e9)}
    nodes = [Node(library, name, size, dtype, device) for name, dtype in kinds for size in stages]
    for node in nodes:
        yield _tried(time_row, node, bandwidth)
    for (name, dtype), size in product(kinds, () if tiny else STAGES_OF_EIGHT):
        yield _tried(time_row, Node(library, name, size, dtype, device), bandwidth)
    for node in nodes if device == "cuda" else ():
        if (left_s := end_s - time.perf_counter()) < COMPILE_S:
            reason = f"compiling takes {COMPILE_S:.0f} s and {max(0, left_s):.0f} s are left"
            yield {"row": "compiled time", "reason": reason}
            return
        yield _tried(compiled_time_row, node, bandwidth)


def _built(path: Path, device: str) -> CudaLibrary:
    if device == "cuda":
        build_for_gpu(path, "sm_{}{}".format(*torch.cuda.get_device_capability()))
    else:
        build_emulated(path)
    return CudaLibrary(path)


def _tried(measure: Callable[..., Row], *arguments: Any) -> Row:
    """Return a measurement, or why there is none."""
    try:
        return measure(*arguments)
    except Exception as err:
        return {
            "row": "error",
            "error": f"{type(err).__name__}: {' '.join(str(err).split())[:500]}",
        }


def main() -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dvfl_kernels.gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, required=True, help="file of the results")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--seconds", type=float, default=85.0, help="when to end")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    found: Row = {"part": "kernels", "python": platform.python_version()}
    found |= {"torch": torch.__version__, "device": device, "rows": []}
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    tiny = args.tiny or device == "cpu"
    end_s = time.perf_counter() + args.seconds
    with torch.inference_mode():
        for row in measured_rows(device, tiny=tiny, end_s=end_s):
            found["rows"].append(row)
            written = args.json.with_name(args.json.name + ".part")
            written.write_text(json.dumps(found, indent=1), encoding="utf-8")
            os.replace(written, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
