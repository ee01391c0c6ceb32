"""The memory of a clip in training, for each variant, and the `accumulate` that fits a GPU.

Nothing is computed: the steps run on PyTorch's meta device, where tensors have sizes and no values,
and the sizes of those that are alive are added up. `gpu_check` measures the same on a GPU, and an
H200 differs from this by 1 % at most, a clip of nano or base (models/results/h200/training.json).

python -m dvfl_models.studies.memory --json models/results/memory.json
"""

from __future__ import annotations

import json
import logging
import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dvfl_models.network.config import VARIANTS
from dvfl_models.network.video_focalnet import Block, VideoFocalNet, build_model
from dvfl_models.studies.command import run_study
from dvfl_models.studies.result_files import machine_and_date
from dvfl_runtime.arguments import Parser
from dvfl_runtime.files import check_places, write_json

Row = dict[str, Any]

log = logging.getLogger(__name__)

SHAPE = (8, 3, 224, 224)  # T, C, H, W
BATCHES = (8, 16)  # whose difference is that of eight clips
STATES = 16  # bytes of a weight in float32: itself, its gradient and the two averages of AdamW
GPUS_GB = (8, 16, 24, 48, 80)
USABLE = 0.9  # of a GPU's memory; CUDA itself, its libraries and gaps take the rest
STEP = 64  # clips of a step, for the column of `accumulate`


class LiveBytes(TorchDispatchMode):
    """Adds up the sizes of all tensors made within it that are alive.

    Attributes:
        now: bytes at the moment.
        peak: the most so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        number, size = storage._cdata, storage.nbytes()
        if number in self._alive:
            return
        self._alive.add(number)
        weakref.finalize(storage, self._drop, number, size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _drop(self, number: int, size: int) -> None:
        self._alive.discard(number)
        self.now -= size


class CudaAutocast(TorchFunctionMode):
    """Casts as autocast to bf16 does on CUDA, for the operators of our networks.

    The meta device has no autocast of its own, and that of CPUs leaves LayerNorm in bf16.
    """

    TO_BF16 = frozenset({F.linear, F.conv1d, F.conv2d, F.conv3d})
    TO_FP32 = frozenset({F.layer_norm, F.cross_entropy})

    def __init__(self) -> None:
        super().__init__()
        self._weights: dict[nn.Parameter, Tensor] = {}  # are cast once for a forward pass

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in self.TO_BF16:
            args = tuple(self._lowered(value) for value in args)
        elif func in self.TO_FP32:
            args = tuple(x.float() if _is_floating(x) else x for x in args)
        return func(*args, **(kwargs or {}))

    def _lowered(self, value: Any) -> Any:
        if not _is_floating(value):
            return value
        if not isinstance(value, nn.Parameter):
            return value.bfloat16()
        if value not in self._weights:
            self._weights[value] = value.bfloat16()
        return self._weights[value]


def _is_floating(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def in_bf16(model: VideoFocalNet) -> VideoFocalNet:
    """Change a network so that it runs under `CudaAutocast`, and return it."""
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    for module in (model, *blocks):  # blocks may be computed again, when the pass has ended
        module.forward = _under_autocast(module.forward)
    return model


def _under_autocast(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with CudaAutocast():
            return forward(*args, **kwargs)

    return run


def peak_bytes(model: VideoFocalNet, clips: int, shape: tuple[int, ...] = SHAPE) -> int:
    """Return the most bytes that a forward and a backward pass hold besides the weights.

    Args:
        model: on the meta device, in training mode.
        clips: at a time.
        shape: of a clip, (T, C, H, W).
    """
    for parameter in model.parameters():  # whose gradients are counted by `STATES`
        parameter.grad = torch.zeros_like(parameter)
    live = LiveBytes()
    with live:
        batch = torch.empty(clips, *shape, device="meta")
        classes = torch.empty(clips, dtype=torch.long, device="meta")
        F.cross_entropy(model(batch), classes).backward()
    return live.peak


def measure(variant: str, shape: tuple[int, ...] = SHAPE, num_classes: int = 101) -> list[Row]:
    """Return a row for each precision, with and without checkpointing; sizes in 1e9 bytes."""
    rows = []
    for precision in ("fp32", "bf16"):
        for checkpointing in (False, True):
            with torch.device("meta"):
                model = build_model(variant, num_classes=num_classes).train()
            if checkpointing:
                model.recompute_blocks()
            if precision == "bf16":
                in_bf16(model)
            states = STATES * sum(p.numel() for p in model.parameters())
            few, many = (peak_bytes(model, clips, shape) for clips in BATCHES)
            clip = (many - few) / (BATCHES[1] - BATCHES[0])
            fixed = states + few - BATCHES[0] * clip
            row: Row = {"variant": variant, "precision": precision, "checkpointing": checkpointing}
            row |= {"clip_gb": round(clip / 1e9, 3), "fixed_gb": round(fixed / 1e9, 2)}
            rows.append(row | fitting(clip / 1e9, fixed / 1e9))
    return rows


def fitting(clip_gb: float, fixed_gb: float) -> Row:
    """Return the clips that fit into each GPU at a time, and the `accumulate` of a step of 64.

    The latter is None where no clip fits.
    """
    clips = {gpu: max(0, int((USABLE * gpu - fixed_gb) / clip_gb)) for gpu in GPUS_GB}
    parts = (1, 2, 4, 8, 16, 32, 64)
    accumulate = {
        str(gpu): next((n for n in parts if STEP // n <= most), None) for gpu, most in clips.items()
    }
    return {"clips": {str(gpu): most for gpu, most in clips.items()}, "accumulate": accumulate}


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown: the memory of a clip, and `accumulate` by GPU."""
    gpus = [f"{gpu} GB" for gpu in GPUS_GB]
    lines = [f"| | a clip | fixed | {' | '.join(gpus)} |", "|---" * (3 + len(gpus)) + "|"]
    for row in rows:
        words = [f"`{row['variant']}`, {row['precision']}"]
        words += ["checkpointing"] if row["checkpointing"] else []
        parts = [str(n or "-") for n in row["accumulate"].values()]
        sizes = [f"{row['clip_gb']:.2f} GB", f"{row['fixed_gb']:.1f} GB"]
        lines.append(f"| {' | '.join([', '.join(words), *sizes, *parts])} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = Parser(
        prog="python -m dvfl_models.studies.memory",
        description="Compute the memory of a clip in training.",
    )
    parser.add_argument("variants", nargs="*", choices=[*VARIANTS, []], default=[])
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args(argv)

    def study() -> None:
        check_places([("--json", args.json)])
        rows = [row for variant in args.variants or VARIANTS for row in measure(variant)]
        facts = {"clip": list(SHAPE), "step": STEP, "usable": USABLE}
        write_json(args.json, {**facts, "rows": rows, **machine_and_date()})
        log.info("%s", json.dumps(rows[-1]))
        log.info("the table:\n%s", table(rows))

    return run_study("memory", study)


if __name__ == "__main__":
    sys.exit(main())
