"""Compares the logits of an exported file with those of PyTorch, in every engine.

Two ways lead from the same videos to the logits: the checkpoint's network on clips cut by the spec
that was asked for, and the file on clips cut by the spec that the file itself carries.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dvfl_models.data.clips import to_batch
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.clips.spec import Clip, ClipSpec
from dvfl_runtime.engines import Engine, open_engine
from dvfl_runtime.errors import ArgumentError, ArtifactError, EngineUnavailable, ExportError
from dvfl_runtime.errors.packages import pip_install
from dvfl_runtime.streams.scoring import softmax

Logits = NDArray[np.float32]
WARM_UP, RUNS = 2, 5  # of a measurement of time


class VerificationFailed(ExportError):
    """The exported graph does not agree with PyTorch; no model file was written.

    Attributes:
        verification: the findings for each engine.
    """

    def __init__(self, verification: Verification) -> None:
        failed = [row.engine for row in verification.engines if not row.passed]
        super().__init__(
            f"{', '.join(failed)}: not what PyTorch says on {verification.clips} clips; "
            f"nothing was written\n{verification.table()}"
        )
        self.verification = verification


@dataclass(frozen=True)
class Threshold:
    """The agreement that an engine must reach.

    Attributes:
        max_difference: largest |difference| of logits allowed; None for any.
        top1: share of clips with the same winner, 0 to 1.
    """

    max_difference: float | None
    top1: float

    def holds(self, max_difference: float, top1: float) -> bool:
        """Return whether it is reached; logits that are not finite never reach it."""
        limit = math.inf if self.max_difference is None else self.max_difference
        return math.isfinite(max_difference) and max_difference <= limit and top1 >= self.top1


THRESHOLDS = {
    "fp32": Threshold(1e-3, 1.0),
    "fp16": Threshold(2e-2, 0.99),
    "bf16": Threshold(2e-2, 0.99),
    "int8": Threshold(None, 0.98),
}


@dataclass(frozen=True)
class Agreement:
    """How well one engine agrees with PyTorch.

    Attributes:
        engine: its name.
        version: its version.
        provider: the part of the engine that executed the graph.
        max_difference: the largest |difference| of logits.
        kl: mean KL(PyTorch || engine) of the scores, nats.
        top1: share of clips with the same winner, 0 to 1.
        top5: mean share of PyTorch's five best classes that are among the engine's, 0 to 1.
        passed: whether the threshold is reached.
    """

    engine: str
    version: str
    provider: str
    max_difference: float
    kl: float
    top1: float
    top5: float
    passed: bool


@dataclass(frozen=True)
class Verification:
    """How well all installed engines agree with PyTorch on the same clips.

    Attributes:
        precision: of the file, or "bf16" of a file in fp32 that was computed in it.
        clips: how many were compared.
        threshold: that each engine must reach.
        engines: one row for each engine.
        skipped: engine -> why it was left out.
    """

    precision: str
    clips: int
    threshold: Threshold
    engines: tuple[Agreement, ...]
    skipped: dict[str, str]

    @property
    def passed(self) -> bool:
        """Whether every engine reaches the threshold."""
        return all(row.passed for row in self.engines)

    def report(self) -> dict[str, Any]:
        """Return the findings, ready for JSON: see export/README.md. Infinity and NaN are None."""
        rows = {row.engine: dataclasses.asdict(row) for row in self.engines}
        for row in rows.values():
            del row["engine"]
            row.update({k: None for k in ("max_difference", "kl") if not math.isfinite(row[k])})
        worst = max((row["max_difference"] for row in rows.values()), key=_none_is_worst)
        return {
            "precision": self.precision,
            "clips": self.clips,
            "thresholds": dataclasses.asdict(self.threshold),
            "passed": self.passed,
            "max_difference": worst,
            "top1": min(row["top1"] for row in rows.values()),
            "engines": rows,
            "skipped": self.skipped,
        }

    def table(self) -> str:
        """Return the findings for people, one line for each engine below a line of names."""
        form = "{:24} {:>13} {:>9} {:>7} {:>7}  {}"
        lines = [form.format("engine", "|difference|", "KL", "top-1", "top-5", "").rstrip()]
        for row in self.engines:
            lines.append(
                form.format(
                    f"{row.engine} {row.version}",
                    f"{row.max_difference:.1e}",
                    f"{row.kl:.1e}",
                    f"{row.top1:.1%}",
                    f"{row.top5:.1%}",
                    "ok" if row.passed else "FAILED",
                )
            )
        limit = self.threshold.max_difference
        lines.append(
            form.format(
                f"wanted for {self.precision}",
                "any" if limit is None else f"<= {limit:.0e}",
                "",
                f">= {self.threshold.top1:.0%}",
                "",
                "",
            ).rstrip()
        )
        return "\n".join(lines)


def verify(
    model: ModelFile,
    pytorch: Logits,
    clips: Sequence[Clip],
    engines: Sequence[str],
    *,
    threshold: Threshold | None = None,
) -> Verification:
    """Run a model file in engines and compare the logits with those of PyTorch.

    Args:
        model: the exported file.
        pytorch: (N, num_classes), see `pytorch_logits`.
        clips: the N clips for the engines, cut by the spec in the file, each (T, H, W, 3) uint8.
        engines: names of the engines to compare.
        threshold: that each engine must reach; by default that of the file's precision.

    Raises:
        ExportError: if there is no engine to compare.
        EngineUnavailable: if none can be used.
        ArtifactError: if an engine cannot load or run the file.
        ArgumentError: if there are more or fewer clips than rows of logits.
    """
    if len(clips) != len(pytorch):
        raise ArgumentError(f"{len(clips)} clips for {len(pytorch)} rows of logits")
    if not engines:
        raise ExportError(
            f"no engine is installed to verify with; run: {pip_install('onnxruntime')}"
        )
    rows = []
    left_out: dict[str, str] = {}
    failed: EngineUnavailable | None = None
    precision = model.artifact.precision
    wanted = threshold or THRESHOLDS[precision]
    for name in engines:
        try:
            engine = open_engine(name, model, device=_device(name))
        except EngineUnavailable as err:  # for example, its package cannot be imported
            left_out[name], failed = str(err), err
            continue
        with closing(engine):
            logits = engine_logits(engine, clips)
        if logits.shape != pytorch.shape:
            raise ArtifactError(
                f"model {model.path} gives logits of shape {logits.shape} in {name} for "
                f"{len(clips)} clips, wanted {pytorch.shape}; export it again"
            )
        rows.append(_agreement(engine, pytorch, logits, wanted))
    if failed is not None and not rows:
        raise failed
    return Verification(precision, len(clips), wanted, tuple(rows), left_out)


def verify_bf16(
    model: ModelFile, pytorch: Logits, clips: Sequence[Clip], engines: Sequence[str]
) -> Verification | None:
    """Compare a model file, computed in bf16, with PyTorch; None where that cannot be done.

    Only files in fp32 are computed in bf16, and only on some CPUs.

    Args:
        model: the exported file, which has passed `verify`.
        pytorch: (N, num_classes), see `pytorch_logits`.
        clips: the N clips for the engines, each (T, H, W, 3) uint8.
        engines: names of those that run the file.
    """
    wanted, rows = THRESHOLDS["bf16"], []
    for name in engines:
        try:
            engine = open_engine(name, model, device="cpu", precision="bf16")
        except ArgumentError:  # this file, engine or CPU
            continue
        with closing(engine):
            rows.append(_agreement(engine, pytorch, engine_logits(engine, clips), wanted))
    return Verification("bf16", len(clips), wanted, tuple(rows), {}) if rows else None


def pytorch_logits(model: nn.Module, clips: Sequence[Clip], spec: ClipSpec) -> Logits:
    """Run the training form: N clips (T, H, W, 3) uint8 -> (N, num_classes) logits."""
    with torch.inference_mode():
        return np.concatenate([model(to_batch([clip], spec)).numpy() for clip in clips])


def engine_logits(engine: Engine, clips: Sequence[Clip]) -> Logits:
    """Run an engine: N clips (T, H, W, 3) uint8 -> (N, num_classes) logits."""
    return np.concatenate([engine.run(clip[None]) for clip in clips])


def median_ms(
    model: ModelFile, engines: Sequence[str], clip: Clip, *, precision: str = "file"
) -> dict[str, float]:
    """Return the median time of each engine for one clip on this machine, ms."""
    medians = {}
    for name in engines:
        engine = open_engine(name, model, device=_device(name), precision=precision)
        times_ns = []
        for _ in range(WARM_UP + RUNS):
            begin_ns = time.perf_counter_ns()
            engine.run(clip[None])
            times_ns.append(time.perf_counter_ns() - begin_ns)
        engine.close()
        medians[name] = statistics.median(times_ns[WARM_UP:]) / 1e6
    return medians


def compare_logits(wanted: Logits, given: Logits) -> dict[str, float]:
    """Compare (N, num_classes) logits; a logit that is not finite makes the differences so."""
    p, q = (softmax(logits).astype(np.float64) for logits in (wanted, given))
    best = min(5, wanted.shape[1])
    top_p, top_q = (np.argsort(-x, axis=1, kind="stable")[:, :best] for x in (wanted, given))
    shared = [len(set(a) & set(b)) / best for a, b in zip(top_p, top_q, strict=True)]
    return {
        "max_difference": float(np.abs(wanted - given).max()),
        "kl": float((p * np.log((p + 1e-12) / (q + 1e-12))).sum(axis=1).mean()),
        "top1": float((wanted.argmax(axis=1) == given.argmax(axis=1)).mean()),
        "top5": float(np.mean(shared)),
    }


def _agreement(engine: Engine, pytorch: Logits, logits: Logits, wanted: Threshold) -> Agreement:
    found = compare_logits(pytorch, logits)
    passed = wanted.holds(found["max_difference"], found["top1"])
    return Agreement(engine.name, engine.version, engine.provider, **found, passed=passed)


def _device(engine: str) -> str:
    return "cuda" if engine == "tensorrt" else "cpu"


def _none_is_worst(difference: float | None) -> float:
    return math.inf if difference is None else difference
