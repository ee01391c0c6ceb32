"""Which layers lose most in int8, measured one at a time, and which of them stay in float32."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime

from dvfl_export.precision.quantise import layers_of, quantise
from dvfl_export.precision.ranges import Ranges
from dvfl_export.verify import Logits, compare_logits
from dvfl_runtime.clips.spec import Clip

MOST_CLIPS = 16  # to measure each layer with
BATCH = 8
WANTED_TOP1 = 0.99  # more than the verification asks for
# nats; needed as well, because the clips are few and the ranges were calibrated on them
WANTED_KL = 3e-4


@dataclass(frozen=True)
class LayerLoss:
    """What changes when one layer alone is in int8 and all others are in float32.

    Attributes:
        layer: the node's name.
        kl: mean KL(float32 || int8) of the scores, nats.
        max_difference: the largest |difference| of logits.
        precision: "fp32" if it stays in float32, else "int8".
    """

    layer: str
    kl: float
    max_difference: float
    precision: str = "int8"


@dataclass(frozen=True)
class Sensitivity:
    """How much each layer loses, and how well the chosen mixture agrees with float32.

    Attributes:
        layers: worst first.
        clips: how many the mixture was judged on.
        kl: of the chosen mixture, nats.
        top1: share of clips with the winner of float32.
    """

    layers: tuple[LayerLoss, ...]
    clips: int
    kl: float
    top1: float

    @property
    def floats(self) -> tuple[str, ...]:
        """The layers that stay in float32."""
        return tuple(row.layer for row in self.layers if row.precision == "fp32")

    def report(self) -> dict[str, Any]:
        """Return the losses, ready for JSON; infinity and NaN are None."""
        rows = {row.layer: dataclasses.asdict(row) for row in self.layers}
        for row in rows.values():
            del row["layer"]
            row.update({k: None for k in ("kl", "max_difference") if not math.isfinite(row[k])})
        return {"sensitivity": {"clips": self.clips, "layers": rows}}

    def summary(self) -> str:
        """Return in one line which layers stay in float32."""
        if not self.floats:
            return f"all {len(self.layers)} layers"
        kept = ", ".join(self.floats)
        return f"all but {len(self.floats)} of {len(self.layers)} layers: {kept}"


def measure_sensitivity(
    model: onnx.ModelProto,
    ranges: Ranges,
    clips: Sequence[Clip],
    share: Callable[[float], None] = lambda _done: None,
) -> Sensitivity:
    """Decide which layers stay in float32, by clips that the file is not verified with.

    Every layer is quantised alone. Then the worst 0, 1, 2, 4 ... layers stay in float32, until the
    mixture keeps 99 % of the winners and its scores stay close.

    Args:
        model: a deploy form of standard operators in float32.
        ranges: of its activations.
        clips: to judge by; each layer alone is measured with 16 of them at most.
        share: called with the share that is done, 0 to 1.
    """
    layers = layers_of(model)
    wanted = logits_of(model, clips)
    some = np.unique(np.linspace(0, len(clips) - 1, min(MOST_CLIPS, len(clips))).astype(int))
    few = [clips[i] for i in some]
    rows = []
    for index, layer in enumerate(layers):
        alone = quantise(model, ranges, [name for name in layers if name != layer])
        found = compare_logits(wanted[some], logits_of(alone, few))
        rows.append(LayerLoss(layer, found["kl"], found["max_difference"]))
        share((index + 1) / (len(layers) + 1))
    rows.sort(key=lambda row: row.kl if math.isfinite(row.kl) else math.inf, reverse=True)
    kept = 0
    while True:
        floats = [row.layer for row in rows[:kept]]
        found = compare_logits(wanted, logits_of(quantise(model, ranges, floats), clips))
        if (found["top1"] >= WANTED_TOP1 and found["kl"] <= WANTED_KL) or 2 * kept > len(rows):
            break
        kept = max(1, 2 * kept)
    rows[:kept] = [dataclasses.replace(row, precision="fp32") for row in rows[:kept]]
    return Sensitivity(tuple(rows), len(clips), found["kl"], found["top1"])


def logits_of(model: onnx.ModelProto, clips: Sequence[Clip]) -> Logits:
    """Run a graph in onnxruntime: N clips (T, H, W, 3) uint8 -> (N, num_classes)."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    batches = [np.stack(clips[i : i + BATCH]) for i in range(0, len(clips), BATCH)]
    return np.concatenate([session.run(None, {"clip": batch})[0] for batch in batches])
