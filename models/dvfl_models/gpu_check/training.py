"""The cost of a training step on a GPU: clips per second and memory, by network and precision.

A part of `make gpu-check`. Each measurement is a row; one that cannot run is a row with its error.
It has run on one NVIDIA H200.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvfl_models.data.batches import batch_of
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
COMPILE_S = 75  # to compile a step and measure it: 60 s on an H200
STEPS = 8
WARM_UP = 3


@dataclass(frozen=True)
class StepSetting:
    """One kind of training step."""

    network: str
    precision: str
    batch: int
    shape: Shape
    form: str = "plain"  # or "checkpointing", "channels_last" or "compiled"


def measure_training(
    device: torch.device, folder: Path, *, tiny: bool, end_s: float = math.inf
) -> Iterator[Row]:
    """Yield the rows of this part until its time is over; the ones that matter most come first.

    Args:
        device: to train on.
        folder: for runs of the trainer.
        tiny: use small networks and clips.
        end_s: value of `time.perf_counter` after which no row is begun.
    """
    for row in _rows(device, folder, tiny=tiny, end_s=end_s):
        yield row
        if time.perf_counter() > end_s:
            reason = "the time is over, later rows are left out; --seconds training=N gives more"
            yield {"row": "training", "reason": reason}
            return


def _rows(device: torch.device, folder: Path, *, tiny: bool, end_s: float) -> Iterator[Row]:
    batches, shape = (TINY_BATCHES, TINY_SHAPE) if tiny else (BATCHES, SHAPE)
    student, teacher = ("femto", "pico") if tiny else ("nano", "base")
    yield from training_rows(device, batches, shape, precisions=("bf16", "fp32"))
    yield from trainer_rows(folder, student, 4 if tiny else 40, tiny=tiny)
    setting = StepSetting(student, "bf16", batches[student][0], shape)
    yield _distillation_row(device, setting, teacher)
    for form in ("checkpointing", "channels_last"):
        yield from training_rows(device, batches, shape, precisions=("bf16",), form=form)
    yield from parity_rows(device, tuple(batches), shape)
    if device.type == "cuda":
        yield _copy_bandwidth()
    yield from training_rows(device, batches, shape, precisions=("tf32",))
    if tiny:
        return
    yield from training_rows(device, SMALL_BATCHES, SMALL_SHAPE)
    if (left_s := end_s - time.perf_counter()) < COMPILE_S:
        reason = f"compiling takes {COMPILE_S} s and {max(0, left_s):.0f} s are left"
        yield {"row": "training step", "form": "compiled", "reason": reason}
        return
    yield from training_rows(device, batches, shape, precisions=("bf16",), form="compiled")


def training_rows(
    device: torch.device,
    batches: dict[str, tuple[int, int]],
    shape: Shape,
    *,
    precisions: tuple[str, ...] = PRECISIONS,
    form: str = "plain",
) -> Iterator[Row]:
    """Measure training steps: forward, cross-entropy, backward, clipping, AdamW.

    Args:
        device: to train on.
        batches: per network two numbers of clips.
        shape: of a clip.
        precisions: of the steps.
        form: of the steps, see `StepSetting`.
    """

    def cross_entropy(model: nn.Module, clips: Tensor, classes: Tensor) -> Tensor:
        return F.cross_entropy(model(clips), classes)

    for network, sizes in batches.items():
        for precision in precisions:
            peaks = []
            for batch in sizes:
                setting = StepSetting(network, precision, batch, shape, form)
                row: Row = {"row": "training step", "network": network, "precision": precision}
                row |= {"form": form, "batch": batch, "clip": list(shape)}
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
        if name == "whole" and trainer.accelerator.device.type == "cuda":
            yield {"row": "trainer", "network": network, "waits_per_step": _waits(trainer)}
    whole, resumed = weights
    gap = float((whole - resumed).abs().max())
    yield {"row": "trainer", "network": network, "resumed_differs_by": float(f"{gap:.3g}")}


def _waits(trainer: Trainer) -> int:
    """Count how often a step of a finished run waits for the GPU; one is meant."""
    batch = batch_of(trainer.clips, 0)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            trainer.learner.train_step(batch, trainer.step)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in seen)


def _measure_steps(device: torch.device, setting: StepSetting, loss: LossOf) -> Row:
    """Measure `STEPS` steps after `WARM_UP`, and the most memory that PyTorch held, 1e9 bytes."""
    torch.manual_seed(0)
    model: Any = build_model(setting.network, num_classes=CLASSES).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device.type == "cuda")
    if setting.form == "checkpointing":
        model.recompute_blocks()
    if setting.form == "channels_last":
        model.to(memory_format=torch.channels_last)
    trained: Any = torch.compile(model) if setting.form == "compiled" else model
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
