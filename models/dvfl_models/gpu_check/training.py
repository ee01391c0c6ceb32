"""The cost of a training step on a GPU: clips per second and memory, by network and precision.

A part of `make gpu-check`. Each measurement is a row; one that cannot run is a row with its error.
It has run on one NVIDIA H200.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvfl_models.distillation.losses import kd_loss
from dvfl_models.network.video_focalnet import build_model
from dvfl_models.recipe.recipe import recipe_from
from dvfl_models.training.launch import TrainOptions
from dvfl_models.training.trainer import Trainer

Shape = tuple[int, int, int, int]  # of a clip, (T, C, H, W)
Row = dict[str, Any]
LossOf = Callable[[nn.Module, Tensor, Tensor], Tensor]  # of a network, clips and classes

# Two numbers of clips for each network: their difference tells the memory of one clip.
BATCHES, SHAPE = {"nano": (32, 64), "base": (8, 16)}, (8, 3, 224, 224)
SMALL_BATCHES, SMALL_SHAPE = {"nano": (64, 128), "base": (64, 128)}, (8, 3, 64, 64)
TINY_BATCHES, TINY_SHAPE = {"femto": (1, 2)}, (4, 3, 32, 32)
CLASSES = 101
PRECISIONS = ("fp32", "tf32", "bf16")
STEPS = 8
WARM_UP = 3


@dataclass(frozen=True)
class StepSetting:
    """One kind of training step."""

    network: str
    precision: str
    batch: int
    shape: Shape
    compiled: bool = False


def measure_training(device: torch.device, folder: Path, *, tiny: bool) -> Iterator[Row]:
    """Yield all rows of this part.

    Args:
        device: to train on.
        folder: for runs of the trainer.
        tiny: use small networks and clips.
    """
    batches, shape = (TINY_BATCHES, TINY_SHAPE) if tiny else (BATCHES, SHAPE)
    student, teacher = ("femto", "pico") if tiny else ("nano", "base")
    yield from parity_rows(device, tuple(batches), shape)
    if device.type == "cuda":
        yield _copy_bandwidth()
    yield from training_rows(device, batches, shape)
    setting = StepSetting(student, "bf16", batches[student][0], shape)
    yield _distillation_row(device, setting, teacher)
    yield from trainer_rows(folder, student, 4 if tiny else 40, tiny=tiny)
    if not tiny:
        yield from training_rows(device, SMALL_BATCHES, SMALL_SHAPE)
        yield from training_rows(device, batches, shape, compiled=True)


def training_rows(
    device: torch.device,
    batches: dict[str, tuple[int, int]],
    shape: Shape,
    *,
    compiled: bool = False,
) -> Iterator[Row]:
    """Measure training steps: forward, cross-entropy, backward, clipping, AdamW.

    Args:
        device: to train on.
        batches: per network two numbers of clips.
        shape: of a clip.
        compiled: measure bf16 alone, under `torch.compile`.
    """

    def cross_entropy(model: nn.Module, clips: Tensor, classes: Tensor) -> Tensor:
        return F.cross_entropy(model(clips), classes)

    for network, sizes in batches.items():
        for precision in ("bf16",) if compiled else PRECISIONS:
            peaks = []
            for batch in sizes:
                setting = StepSetting(network, precision, batch, shape, compiled)
                row: Row = {"row": "training step", "network": network, "precision": precision}
                row |= {"compiled": compiled, "batch": batch, "clip": list(shape)}
                row |= _measure_steps(device, setting, cross_entropy)
                peaks += [row["peak_memory_gb"]] if "peak_memory_gb" in row else []
                if len(peaks) == 2:
                    per_clip = (peaks[1] - peaks[0]) / (sizes[1] - sizes[0])
                    row["memory_per_clip_gb"] = round(per_clip, 3)
                yield row


def _distillation_row(device: torch.device, setting: StepSetting, teacher: str) -> Row:
    """Measure steps of a student beside its teacher."""
    torch.manual_seed(0)
    frozen = build_model(teacher, num_classes=CLASSES).to(device).eval().requires_grad_(False)

    def loss(model: nn.Module, clips: Tensor, classes: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = frozen(clips)
        logits = model(clips)
        return kd_loss(logits, wanted, 10.0) + F.cross_entropy(logits, classes)

    return {
        "row": "distillation step",
        "teacher": teacher,
        "student": setting.network,
        "precision": setting.precision,
        "batch": setting.batch,
        "clip": list(setting.shape),
        **_measure_steps(device, setting, loss),
    }


def parity_rows(
    device: torch.device, networks: tuple[str, ...], shape: Shape = SHAPE
) -> Iterator[Row]:
    """Measure the largest difference of logits from those of the CPU in float32, by precision."""
    for network in networks:
        torch.manual_seed(0)
        model = build_model(network, num_classes=CLASSES).eval()
        clips = torch.randn(4, *shape)
        with torch.inference_mode():
            wanted = model(clips)
            model.to(device)
            for precision in (*PRECISIONS, "fp16"):
                with _precision(device, precision):
                    found = model(clips.to(device)).float().cpu()
                yield {
                    "row": "parity",
                    "network": network,
                    "precision": precision,
                    "largest_logit": round(float(wanted.abs().max()), 4),
                    "largest_difference": float(f"{(found - wanted).abs().max():.3g}"),
                }


def _copy_bandwidth() -> Row:
    """Measure a copy within the GPU's memory, in bytes read plus bytes written."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times_ms = []
    for _ in range(20):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        target.copy_(source)
        ended.record()
        torch.cuda.synchronize()
        times_ms.append(began.elapsed_time(ended))
    median_s = sorted(times_ms)[len(times_ms) // 2] / 1e3
    return {"row": "copy bandwidth", "gb_per_s": round(2 * 2**30 / median_s / 1e9)}


class _Stopped(Exception):
    pass


def trainer_rows(folder: Path, network: str, steps: int, *, tiny: bool) -> Iterator[Row]:
    """Train on rendered clips in bf16, once without a break, once stopped at half and resumed."""
    values: Row = {
        "name": "gpu_check",
        "labels": ["idle", "wave_one_hand", "wave_two_hands", "jumping_jack", "bend"],
        "model": {"variant": network, "init": "xavier"},
        "clip": {"num_frames": 4 if tiny else 8, "size": [64, 64], "crop": "letterbox"},
        "train": [{"kind": "synthetic"}],
        "optim": {"steps": steps, "batch_size": 4 if tiny else 32, "lr": 5e-4, "precision": "bf16"},
        "checkpoint_every": steps // 2,
        "test_every": 10**6,
    }
    recipe = recipe_from(values, "gpu_check")
    workers = 1 if tiny else os.cpu_count() or 1

    class Half(Trainer):
        def _after_step(self, row: dict[str, Any]) -> None:
            super()._after_step(row)
            if self.step == steps // 2:
                raise _Stopped

    weights = []
    for name, kind, resume in (("whole", Trainer, False), ("half", Half, False),
                               ("half", Trainer, True)):  # fmt: skip
        row: Row = {"row": "trainer", "network": network, "run": "resumed" if resume else name}
        began_s = time.perf_counter()
        try:
            trainer = kind(recipe, folder / name, TrainOptions(resume=resume))
            trainer.run(workers=workers, progress=False)
            parameters = trainer.learner.network.parameters()
            weights.append(torch.cat([p.detach().flatten().cpu() for p in parameters]))
        except _Stopped:
            pass
        except Exception as err:
            yield row | {"error": f"{type(err).__name__}: {' '.join(str(err).split())}"}
            return
        speeds = sorted(float(line["clips_per_s"]) for line in trainer.metrics.rows())
        row |= {"device": str(trainer.accelerator.device), "workers": workers}
        row |= {"steps": trainer.step, "seconds": round(time.perf_counter() - began_s, 1)}
        yield row | {"median_clips_per_s": speeds[len(speeds) // 2]}
    whole, resumed = weights
    gap = float((whole - resumed).abs().max())
    yield {"row": "trainer", "network": network, "resumed_differs_by": float(f"{gap:.3g}")}


def _measure_steps(device: torch.device, setting: StepSetting, loss: LossOf) -> Row:
    """Measure `STEPS` steps after `WARM_UP`, and the most memory that PyTorch held, 1e9 bytes."""
    torch.manual_seed(0)
    model: Any = build_model(setting.network, num_classes=CLASSES).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device.type == "cuda")
    trained: Any = torch.compile(model) if setting.compiled else model
    began_s = time.perf_counter()
    try:
        clips = torch.randn(setting.batch, *setting.shape, device=device)
        classes = torch.randint(CLASSES, (setting.batch,), device=device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for step in range(WARM_UP + STEPS):
            if step == WARM_UP:
                _wait(device)
                warmed_s = time.perf_counter()
            with _precision(device, setting.precision):
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
        "clips_per_s": round(setting.batch * STEPS / seconds, 1),
        "step_ms": round(1e3 * seconds / STEPS, 2),
        "warm_up_s": round(warmed_s - began_s, 1),
        "loss": round(float(total.detach()), 3),
    }
    if device.type == "cuda":
        found["peak_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return found


@contextmanager
def _precision(device: torch.device, precision: str) -> Iterator[None]:
    """Compute in a precision: fp32 and tf32 differ in the products, bf16 and fp16 by autocast."""
    torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    kind = torch.float16 if precision == "fp16" else torch.bfloat16
    with torch.autocast(device.type, dtype=kind, enabled=precision in ("bf16", "fp16")):
        yield


def _wait(device: torch.device) -> None:
    """Wait for the GPU, which works on after Python has gone on."""
    if device.type == "cuda":
        torch.cuda.synchronize()
