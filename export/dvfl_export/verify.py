"""Does the exported file say what PyTorch says, on real clips?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dvfl_models.evaluate import to_batch
from dvfl_models.synthetic import ACTIONS, render_clip
from dvfl_runtime.engines import open_engine
from dvfl_runtime.errors import ExportError, SourceError
from dvfl_runtime.evaluation import Views, sample_video
from dvfl_runtime.preprocess import preprocess_clip
from dvfl_runtime.recognizer import softmax
from dvfl_runtime.sources import open_source
from dvfl_runtime.spec import ClipSpec

Clips = Sequence[NDArray[np.uint8]]
VIDEO_SUFFIXES = {".avi", ".mp4", ".mkv", ".mov", ".webm", ".gif", ".m4v"}
MAX_DIFFERENCE = 1e-3  # of fp32 logits


class VerificationFailed(ExportError):
    """The exported graph does not agree with PyTorch; no file was written."""


@dataclass(frozen=True)
class Agreement:
    """How one engine compares with PyTorch.

    Attributes:
        engine: its name and version.
        clips: how many were compared.
        max_difference: the largest |difference| of logits.
        kl: mean KL(PyTorch || engine) of the scores, nats.
        top1: share of clips with the same winner, 0 to 1.
    """

    engine: str
    clips: int
    max_difference: float
    kl: float
    top1: float

    @property
    def passed(self) -> bool:
        """Whether the fp32 thresholds hold."""
        return self.max_difference <= MAX_DIFFERENCE and self.top1 == 1.0


def rendered_clips(spec: ClipSpec, *, count: int = 10, seed: int = 7) -> list[NDArray[np.uint8]]:
    """Preprocessed synthetic clips (T, H, W, 3), of all actions in turn."""
    height, width = spec.size
    return [
        preprocess_clip(
            render_clip(
                ACTIONS[number % len(ACTIONS)],
                seed=seed + number,
                num_frames=spec.num_frames,
                window_s=spec.window_s,
                size=(height, width),
            ),
            spec,
        )
        for number in range(count)
    ]


def video_clips(paths: Iterable[Path], spec: ClipSpec) -> list[NDArray[np.uint8]]:
    """One preprocessed clip per video, spread over the whole of it.

    Folders stand for the videos in them.

    Raises:
        ExportError: if not one clip can be decoded.
    """
    files = [
        file
        for path in paths
        for file in (sorted(path.iterdir()) if path.is_dir() else [path])
        if not path.is_dir() or file.suffix.lower() in VIDEO_SUFFIXES
    ]
    clips, problems = [], []
    for file in files:
        try:
            clips += sample_video(open_source(file), spec, Views()).clips
        except SourceError as err:
            problems.append(str(err))
    if not clips:
        why = problems[0] if problems else "no video files there"
        raise ExportError(f"no clip to verify with could be decoded: {why}")
    return clips


def compare_with_pytorch(
    file: Path, model: nn.Module, clips: Clips, spec: ClipSpec, *, engine: str = "onnxruntime"
) -> Agreement:
    """Runs PyTorch and an engine on the same clips.

    Args:
        file: the exported model.
        model: the training form, which takes (B, T, 3, H, W) normalised floats.
        clips: preprocessed, each (T, H, W, 3) uint8.
        spec: the model's contract.
        engine: name of a runtime engine.
    """
    opened = open_engine(engine, file, device="cpu")
    differences, divergences, same = [], [], 0
    try:
        with torch.inference_mode():
            for clip in clips:
                wanted = model(to_batch([clip], spec))[0].numpy()
                given = opened.run(clip[None])[0]
                p, q = softmax(wanted).astype(float), softmax(given).astype(float)
                differences.append(float(np.abs(wanted - given).max()))
                divergences.append(float((p * np.log((p + 1e-12) / (q + 1e-12))).sum()))
                same += int(wanted.argmax() == given.argmax())
    finally:
        opened.close()
    return Agreement(
        engine=f"{opened.name} {opened.version}",
        clips=len(clips),
        max_difference=max(differences),
        kl=float(np.mean(divergences)),
        top1=same / len(clips),
    )
