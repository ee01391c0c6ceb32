"""What a training step costs on a GPU: clips per second and memory, by network and precision.

A part of `make gpu-check`. Each measurement is a row; what cannot run is a row that says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvfl_models.distillation.losses import kd_loss
from dvfl_models.network.video_focalnet import build_model

SHAPE = (8, 3, 224, 224)  # T, C, H, W
CLASSES = 101
PRECISIONS = ("fp32", "tf32", "bf16")
STEPS = 8
WARM_UP = 3

Row = dict[str, Any]


def training_rows(
    device: torch.device,
    batches: dict[str, tuple[int, int]],
    shape: tuple[int, ...] = SHAPE,
    *,
    compiled: bool = False,
) -> Iterator[Row]:
    """Measures training steps: forward, cross-entropy, backward, clipping, AdamW.

    Args:
        device: where to train.
        batches: per network two numbers of clips; the memory of a clip is from their difference.
        shape: of a clip, (T, 3, H, W).
        compiled: measure bf16 alone, under `torch.compile`.
    """
    for variant, sizes in batches.items():
        for precision in ("bf16",) if compiled else PRECISIONS:
            yield from _steps(device, variant, precision, sizes, shape, compiled=compiled)


def distillation_rows(
    device: torch.device,
    teacher: str,
    student: str,
    batch: int,
    shape: tuple[int, ...] = SHAPE,
) -> Iterator[Row]:
    """Measures steps of a student beside its teacher in bf16."""
    about: Row = {"row": "distillation step", "teacher": teacher, "student": student}
    about |= {"precision": "bf16", "batch": batch, "clip": list(shape)}
    torch.manual_seed(0)
    big = build_model(teacher, num_classes=CLASSES).to(device).eval().requires_grad_(False)

    def loss(model: nn.Module, clips: Tensor, classes: Tensor) -> Tensor:
        with torch.no_grad():
            taught = big(clips)
        logits = model(clips)
        return kd_loss(logits, taught, 10.0) + F.cross_entropy(logits, classes)

    yield about | _measured(device, student, "bf16", batch, shape, loss)


def parity_rows(
    device: torch.device, variants: tuple[str, ...], shape: tuple[int, ...] = SHAPE
) -> Iterator[Row]:
    """The largest difference of logits from those of the CPU in float32, by precision."""
    for variant in variants:
        torch.manual_seed(0)
        model = build_model(variant, num_classes=CLASSES).eval()
        clips = torch.randn(4, *shape)
        with torch.inference_mode():
            wanted = model(clips)
            model.to(device)
            for precision in (*PRECISIONS, "fp16"):
                with _precision(device, precision):
                    found = model(clips.to(device)).float().cpu()
                yield {
                    "row": "parity",
                    "network": variant,
                    "precision": precision,
                    "largest_logit": round(float(wanted.abs().max()), 4),
                    "largest_difference": float(f"{(found - wanted).abs().max():.3g}"),
                }


def _steps(
    device: torch.device,
    variant: str,
    precision: str,
    sizes: tuple[int, int],
    shape: tuple[int, ...],
    *,
    compiled: bool = False,
) -> Iterator[Row]:
    peaks: dict[int, float] = {}
    for batch in sizes:
        row: Row = {"row": "training step", "network": variant, "precision": precision}
        row |= {"compiled": compiled, "batch": batch, "clip": list(shape)}
        row |= _measured(device, variant, precision, batch, shape, _task, compiled=compiled)
        if "peak_memory_gb" in row:
            peaks[batch] = row["peak_memory_gb"]
        if len(peaks) == 2 and batch == sizes[1]:
            per_clip = (peaks[sizes[1]] - peaks[sizes[0]]) / (sizes[1] - sizes[0])
            row["memory_per_clip_gb"] = round(per_clip, 3)
        yield row


def _task(model: nn.Module, clips: Tensor, classes: Tensor) -> Tensor:
    return F.cross_entropy(model(clips), classes)


def _measured(
    device: torch.device,
    variant: str,
    precision: str,
    batch: int,
    shape: tuple[int, ...],
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor],
    *,
    compiled: bool = False,
) -> Row:
    """Clips per second over `STEPS` steps, and the most memory that PyTorch held, 1e9 bytes."""
    torch.manual_seed(0)
    model: Any = build_model(variant, num_classes=CLASSES).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device.type == "cuda")
    trained: Any = torch.compile(model) if compiled else model
    began_s = time.perf_counter()
    try:
        clips = torch.randn(batch, *shape, device=device)
        classes = torch.randint(CLASSES, (batch,), device=device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for step in range(WARM_UP + STEPS):
            if step == WARM_UP:
                _wait(device)
                warmed_s = time.perf_counter()
            with _precision(device, precision):
                total = loss(trained, clips, classes)
            optimizer.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
        _wait(device)
        seconds = time.perf_counter() - warmed_s
    except torch.OutOfMemoryError as err:
        return {"error": f"out of memory: {str(err).splitlines()[0]}"}
    except Exception as err:
        return {"error": f"{type(err).__name__}: {str(err).splitlines()[0] if str(err) else ''}"}
    finally:
        del model, optimizer, trained
        if device.type == "cuda":
            torch.cuda.empty_cache()
    found: Row = {
        "clips_per_s": round(batch * STEPS / seconds, 1),
        "step_ms": round(1e3 * seconds / STEPS, 2),
        "warm_up_s": round(warmed_s - began_s, 1),
        "loss": round(float(total.detach()), 3),
    }
    if device.type == "cuda":
        found["peak_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return found


@contextmanager
def _precision(device: torch.device, precision: str) -> Iterator[None]:
    """Computes in a precision: fp32 and tf32 differ in the products, bf16 and fp16 by autocast."""
    torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    kind = torch.float16 if precision == "fp16" else torch.bfloat16
    with torch.autocast(device.type, dtype=kind, enabled=precision in ("bf16", "fp16")):
        yield


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
