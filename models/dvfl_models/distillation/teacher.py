"""The teacher of a distillation: a trained network that is only run."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dvfl_models.distillation.teacher_cache import TeacherCache
from dvfl_models.network.checkpoint import clip_mismatch, model_of, num_classes_of, read_checkpoint
from dvfl_models.network.video_focalnet import Modulators
from dvfl_models.recipe.labels import spec_of
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.errors import CheckpointError

log = logging.getLogger(__name__)


class TeacherOutput(NamedTuple):
    """The outputs of a teacher for a batch.

    Attributes:
        logits: (B, num_classes).
        modulators: of each stage; empty if they were not asked for.
    """

    logits: Tensor
    modulators: list[Modulators]


class Teacher:
    """A trained network, its head included, in eval mode and without gradients.

    Args:
        path: of its checkpoint, ours or an official one.
        labels: the student's classes, which have to be the teacher's.
        spec: the student's clips; their pixels have to be normalised as the teacher's were.
        cache_mb: bound of the file beside the checkpoint that keeps its logits; 0 keeps none.

    Raises:
        CheckpointError: if the file cannot be read or does not fit the labels or the clips.
        OutputError: if the file of its logits cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        labels: Sequence[str],
        spec: ClipSpec,
        cache_mb: float = 0,
    ) -> None:
        checkpoint = read_checkpoint(path, "distill.teacher")
        if checkpoint.labels and tuple(labels) != checkpoint.labels:
            raise CheckpointError(
                f"teacher {path} knows the classes {list(checkpoint.labels)}, the student shall "
                f"learn {list(labels)}; give a teacher of the same classes in the same order"
            )
        if (width := num_classes_of(checkpoint.state_dict)) != len(labels):
            raise CheckpointError(
                f"teacher {path} has {width} classes, the recipe {len(labels)}; a teacher keeps "
                f"its trained head, so give one of the same classes"
            )
        trained = spec_of(checkpoint)
        if (trained.mean, trained.std) != (spec.mean, spec.std):
            raise CheckpointError(f"teacher {path} was trained with another clip.mean or clip.std")
        if doubt := clip_mismatch(f"teacher {path}", checkpoint.spec, spec):
            log.warning("%s", doubt)
        self.model = model_of(checkpoint).requires_grad_(False)
        self.cache: TeacherCache | None = None
        if cache_mb:
            folder = Path(path).parent / "teacher_cache"
            self.cache = TeacherCache(folder, checkpoint.sha256, len(labels), cache_mb)

    @torch.no_grad()
    def teach(self, clips: Tensor, *, modulators: bool) -> TeacherOutput:
        """Compute the outputs for the student's clips, (B, T, 3, H, W) normalised.

        Logits alone come from the cache, if there is one.
        """
        if modulators:
            return TeacherOutput(*self.model(clips, return_modulators=True))
        if self.cache is None:
            return TeacherOutput(self.model(clips), [])
        return TeacherOutput(self.cache.logits(clips, self.model), [])
