"""What int8 gained over float32: the size of the file, and its time in each engine here."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import onnx

from dvfl_export.onnx_model import save_model
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.clips.spec import Clip
from dvfl_runtime.engines import Engine, open_engine

RUNS, WARM_UP = 9, 2


@dataclass(frozen=True)
class Gain:
    """int8 against the same network in float32.

    Attributes:
        float_bytes: size of the file in float32.
        size_bytes: in int8.
        times: engine -> time of a clip in int8 over that in float32, on this machine.
    """

    float_bytes: int
    size_bytes: int
    times: dict[str, float]

    def summary(self) -> str:
        """Return size and times for people, in one line."""
        ratio = self.size_bytes / self.float_bytes
        times = ", ".join(f"{name} {share:.2f}" for name, share in self.times.items())
        return f"{ratio:.2f} of the size of fp32; of its time on this machine: {times}"

    def warning(self) -> str:
        """Return which engines are no faster in int8 on this machine; "" if all are."""
        slow = [f"{name} ({share:.2f})" for name, share in self.times.items() if share >= 1]
        if not slow:
            return ""
        return (
            f"int8 is no faster than fp32 on this machine in {', '.join(slow)}; "
            "there the fp32 file keeps more of the accuracy at no cost but its size"
        )


def measure_gain(
    model: onnx.ModelProto, file: ModelFile, engines: Sequence[str], clip: Clip
) -> Gain:
    """Compare an int8 file with its float32 graph.

    Args:
        model: the graph in float32.
        file: in int8.
        engines: to time both in, on the CPU.
        clip: to run, (T, H, W, 3) uint8.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fp32.onnx"
        save_model(model, dataclasses.replace(file.artifact, precision="fp32"), path)
        plain = ModelFile(path)
        times = {name: _ratio(name, plain, file, clip) for name in engines}
    return Gain(len(plain.content), len(file.content), times)


def _ratio(name: str, plain: ModelFile, file: ModelFile, clip: Clip) -> float:
    """Return the median of the ratios of runs that are taken in turn, `file` over `plain`."""
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(closing(open_engine(name, model, device="cpu")))
            for model in (plain, file)
        )
        pairs = [(_time_ns(first, clip), _time_ns(second, clip)) for _ in range(WARM_UP + RUNS)]
    return statistics.median(int8 / fp32 for fp32, int8 in pairs[WARM_UP:])


def _time_ns(engine: Engine, clip: Clip) -> int:
    begin_ns = time.perf_counter_ns()
    engine.run(clip[None])
    return time.perf_counter_ns() - begin_ns
