"""Distillation: what the student is asked to have in common with its teacher.

loss = alpha * kd_loss + (1 - alpha) * task_loss + beta * modulation_loss

The first two terms are those of DVFL-Net (arXiv 2507.12426: forward KL from the teacher's to the
student's scores), with temperature as in arXiv 1503.02531, section 2. The official release puts
softmax where log_softmax belongs, which is no KL divergence, and draws a new random head for its
teacher: neither is done here. The third makes the abstract's "local and global
spatio-temporal context" a loss of its own: it compares the modulators of Video-FocalNet
(arXiv 2307.06947, eq. 9), by where they have energy, as attention transfer (arXiv 1612.03928) does.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dvfl_models.network.checkpoint import model_of, num_classes_of, other_clips, read_checkpoint
from dvfl_models.network.video_focalnet import Modulators
from dvfl_models.recipe.labels import spec_of
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.errors import ArgumentError, CheckpointError

log = logging.getLogger(__name__)


def kd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), mean over the batch, nats.

    T^2 keeps the size of the gradient independent of T (arXiv 1503.02531, section 2). Computed in
    float32 whatever the logits are, so that autocast does not overflow.

    Args:
        student: (B, num_classes) logits.
        teacher: (B, num_classes) logits, without gradient.
        temperature: T > 0.
    """
    with torch.autocast(student.device.type, enabled=False):
        found = F.log_softmax(student.float() / temperature, dim=1)
        wanted = F.log_softmax(teacher.float() / temperature, dim=1)
        divergence = F.kl_div(found, wanted, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


def standardised_kd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """`kd_loss` of logits whose mean is 0 and whose deviation is 1 in each clip.

    The student learns the order and the distances of the teacher's classes, not how large its
    logits are (logit standardisation, arXiv 2403.01427, eq. 7 and algorithm 1).

    Args:
        student: (B, num_classes) logits.
        teacher: (B, num_classes) logits, without gradient.
        temperature: T > 0, of the standardised logits.
    """
    with torch.autocast(student.device.type, enabled=False):
        return kd_loss(_standardised(student), _standardised(teacher), temperature)


def _standardised(logits: Tensor) -> Tensor:
    logits = logits.float()
    deviation = logits.std(1, correction=0, keepdim=True)
    return (logits - logits.mean(1, keepdim=True)) / (deviation + 1e-7)


def dist_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * (1 - correlation between classes + 1 - correlation within classes), 0 to 4 T^2.

    Pearson's correlation of the scores of student and teacher, over the classes of each clip and
    over the clips of each class: the student keeps the teacher's relations, not its values (DIST,
    arXiv 2205.10536, eq. 7-10).

    Args:
        student: (B, num_classes) logits.
        teacher: (B, num_classes) logits, without gradient.
        temperature: T > 0.
    """
    with torch.autocast(student.device.type, enabled=False):
        found = F.softmax(student.float() / temperature, dim=1)
        wanted = F.softmax(teacher.float() / temperature, dim=1)
        between = 1 - _correlation(found, wanted)
        within = 1 - _correlation(found.T, wanted.T)
    return temperature**2 * (between + within)


def _correlation(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's correlation of each pair of rows, mean over the rows."""
    one, other = (x - x.mean(1, keepdim=True) for x in (one, other))
    return F.cosine_similarity(one, other, dim=1, eps=1e-8).mean()


def modulation_loss(student: Sequence[Modulators], teacher: Sequence[Modulators]) -> Tensor:
    """How far apart two networks modulate, 0 (in the same places) to 4, mean over stages and batch.

    Stage k of the one is compared with stage k of the other by the last block of each, whatever
    their depths: it is the one that the next stage sees. Per stage it is the squared distance of
    the L2-normalised energy maps, of the spatial modulators plus of the temporal ones; the number
    of channels does not matter. Where the maps differ in size (another tubelet or embedding), the
    teacher's is averaged to the student's.

    Args:
        student: per stage, each (B, T, H, W, C).
        teacher: per stage, each (B, T', H', W', C'), without gradient.

    Raises:
        ArgumentError: if the numbers of stages differ.
    """
    if len(student) != len(teacher):
        raise ArgumentError(f"{len(student)} stages of the student, {len(teacher)} of the teacher")
    with torch.autocast(student[0].spatial.device.type, enabled=False):
        stages = [
            _map_distance(mine.spatial, its.spatial) + _map_distance(mine.temporal, its.temporal)
            for mine, its in zip(student, teacher, strict=True)
        ]
        return torch.stack(stages).mean()


def energy_map(modulator: Tensor, size: tuple[int, int, int] | None = None) -> Tensor:
    """Mean square over channels, averaged to `size`, of L2 norm 1: (B, T, H, W, C) -> (B, N)."""
    energy = modulator.float().square().mean(-1)  # (B, T, H, W)
    if size is not None and tuple(energy.shape[1:]) != size:
        energy = F.adaptive_avg_pool3d(energy.unsqueeze(1), size).squeeze(1)
    return F.normalize(energy.flatten(1), dim=1)


def _map_distance(student: Tensor, teacher: Tensor) -> Tensor:
    _, frames, height, width, _ = student.shape
    wanted = energy_map(teacher, (frames, height, width))
    return (energy_map(student) - wanted).square().sum(1).mean()


class Lesson(NamedTuple):
    """What a teacher says about a batch.

    Attributes:
        logits: (B, num_classes).
        modulators: of each stage; empty if they were not asked for.
    """

    logits: Tensor
    modulators: list[Modulators]


class Teacher:
    """A trained network, its head included, in eval mode and without gradients.

    Args:
        path: its checkpoint, ours or an official one.
        labels: the classes of the student, which must be its own.
        spec: the clips of the student; the pixels must be normalised as the teacher's were.

    Raises:
        CheckpointError: if the file cannot be read or does not fit the labels or the clips.
    """

    def __init__(self, path: str | os.PathLike[str], labels: Sequence[str], spec: ClipSpec) -> None:
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
        if (spec_of(checkpoint).mean, spec_of(checkpoint).std) != (spec.mean, spec.std):
            raise CheckpointError(f"teacher {path} was trained with another clip.mean or clip.std")
        if doubt := other_clips(f"teacher {path}", checkpoint.spec, spec):
            log.warning("%s", doubt)
        self.model = model_of(checkpoint).requires_grad_(False)
        self.sha256 = checkpoint.sha256

    @torch.no_grad()
    def teach(self, clips: Tensor, *, modulators: bool) -> Lesson:
        """Runs the clips that the student gets: (B, T, 3, H, W) normalised."""
        if modulators:
            return Lesson(*self.model(clips, return_modulators=True))
        return Lesson(self.model(clips), [])
