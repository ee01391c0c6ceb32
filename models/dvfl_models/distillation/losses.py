"""Losses that compare a student with its teacher: pure functions of their outputs.

loss = alpha * kd_loss + (1 - alpha) * task_loss + beta * modulation_loss

`distill.loss` of a recipe picks the first term, by its name in `LOSSES`. With "kl" it is that of
DVFL-Net (arXiv 2507.12426: forward KL from the teacher's to the student's scores), with temperature
as in arXiv 1503.02531, section 2. The official release puts softmax where log_softmax belongs,
which is no KL divergence, and gives its teacher a new, random head; this module and `teacher` do
neither. The third term makes a loss of the abstract's "local and global spatio-temporal context":
it compares where the modulators of Video-FocalNet (arXiv 2307.06947, eq. 9) have their energy, as
attention transfer (arXiv 1612.03928) does.

Logits are (B, num_classes) and the teacher's have no gradient. All losses are computed in float32:
autocast lowers the precision of matrix products and convolutions alone, and there are none here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dvfl_models.network.video_focalnet import Modulators
from dvfl_runtime.errors import ArgumentError


def kd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 * KL(softmax(teacher / T) || softmax(student / T)), nats, mean over the batch.

    T^2 keeps the size of the gradient independent of T (arXiv 1503.02531, section 2).
    """
    found, wanted = _log_scores(student, teacher, temperature)
    return temperature**2 * F.kl_div(found, wanted, reduction="batchmean", log_target=True)


def standardised_kd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the `kd_loss` of logits that are scaled to mean 0 and deviation 1 in each clip.

    The student learns the order and the distances of the teacher's classes, not the size of its
    logits (logit standardisation, arXiv 2403.01427, eq. 7 and algorithm 1).
    """
    return kd_loss(_standardised(student), _standardised(teacher), temperature)


def dist_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 * (1 - correlation between classes + 1 - correlation within classes).

    Pearson's correlation of the scores of student and teacher, over the classes of each clip and
    over the clips of each class: the student learns the teacher's relations, not its values (DIST,
    arXiv 2205.10536, eq. 7-10). The loss is between 0 and 4 T^2.
    """
    found, wanted = (scores.exp() for scores in _log_scores(student, teacher, temperature))
    # rows are clips, (B, num_classes), then classes, (num_classes, B)
    return temperature**2 * (2 - _correlation(found, wanted) - _correlation(found.T, wanted.T))


def cross_entropy_in_sets(
    logits: Tensor, targets: Tensor, sizes: Sequence[int], smoothing: float = 0.0
) -> Tensor:
    """Return the cross-entropy of clips whose labels come from several sets, mean over the batch.

    The softmax of a clip is taken over the classes of its own set alone.

    Args:
        logits: (B, classes), one set after the other.
        targets: (B,) classes; negative without a label, whose loss is 0.
        sizes: number of classes of each set.
        smoothing: share of the target that is spread evenly over the clip's set.
    """
    which = torch.repeat_interleave(
        torch.arange(len(sizes), device=logits.device),
        torch.tensor(sizes, device=logits.device),
    )
    known, classes = targets >= 0, targets.clamp(min=0)
    own = which[classes][:, None] == which  # (B, classes)
    found = F.log_softmax(logits.float().masked_fill(~own, -torch.inf), dim=1)
    wanted = smoothing * own / own.sum(1, keepdim=True)
    wanted = wanted + (1 - smoothing) * F.one_hot(classes, len(which))
    # 0 times minus infinity is no number
    losses = -(wanted * found.masked_fill(~own, 0)).sum(1)
    return (losses * known).mean()


# by the name that `distill.loss` has in a recipe
LOSSES: Mapping[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "kl": kd_loss,
    "kl_z": standardised_kd_loss,
    "dist": dist_loss,
}


def _log_scores(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    found, wanted = (F.log_softmax(x.float() / temperature, dim=1) for x in (student, teacher))
    return found, wanted


def _standardised(logits: Tensor) -> Tensor:
    logits = logits.float()
    deviation = logits.std(1, correction=0, keepdim=True)
    return (logits - logits.mean(1, keepdim=True)) / (deviation + 1e-7)


def _correlation(one: Tensor, other: Tensor) -> Tensor:
    """Return Pearson's correlation of each pair of rows, mean over the rows."""
    one, other = (x - x.mean(1, keepdim=True) for x in (one, other))
    return F.cosine_similarity(one, other, dim=1, eps=1e-8).mean()


def modulation_loss(student: Sequence[Modulators], teacher: Sequence[Modulators]) -> Tensor:
    """Return how far apart two networks modulate, mean over stages and batch.

    It is 0 where they modulate in the same places, and at most 4. Per stage it is the squared
    distance of the L2-normalised energy maps, of the spatial modulators plus of the temporal ones.
    Each stage gives the modulators of its last block, on which the next stage depends, so the
    networks may differ in depth. The number of channels does not matter. Where the maps differ in
    size (another tubelet or embedding), the teacher's is averaged to the size of the student's.

    Args:
        student: per stage, each (B, T, H, W, C).
        teacher: per stage, each (B, T', H', W', C'), without gradient.

    Raises:
        ArgumentError: if the numbers of stages differ.
    """
    if len(student) != len(teacher):
        raise ArgumentError(f"{len(student)} stages of the student, {len(teacher)} of the teacher")
    stages = [
        _map_distance(mine.spatial, its.spatial) + _map_distance(mine.temporal, its.temporal)
        for mine, its in zip(student, teacher, strict=True)
    ]
    return torch.stack(stages).mean()


def energy_map(modulator: Tensor, size: tuple[int, int, int] | None = None) -> Tensor:
    """Return the mean squares over channels, scaled to norm 1: (B, T, H, W, C) -> (B, N).

    With `size`, (T', H', W'), the map is averaged to that size first.
    """
    energy = modulator.float().square().mean(-1)  # (B, T, H, W, C) -> (B, T, H, W)
    if size is not None and tuple(energy.shape[1:]) != size:
        energy = F.adaptive_avg_pool3d(energy.unsqueeze(1), size).squeeze(1)
    return F.normalize(energy.flatten(1), dim=1)


def _map_distance(student: Tensor, teacher: Tensor) -> Tensor:
    _, frames, height, width, _ = student.shape
    wanted = energy_map(teacher, (frames, height, width))
    return (energy_map(student) - wanted).square().sum(1).mean()
