"""A linear head on features: ridge regression onto the classes, tested on groups left out.

Features are standardised, and each class weighs the same, whatever the number of its videos, and in
it each video, whatever its length. The strength of the penalty, and whether mirror images are
learnt too, are those with which the groups that are left out come out best. The logits are scaled
so that their softmax is as sure of these as it is right (one temperature; Guo et al. 2017,
arXiv 1706.04599, section 4.2). Everything is in closed form.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.clips.labelled import LabelledVideos
from dvfl_runtime.teach.features import VideoFeatures
from dvfl_runtime.teach.graph import Head

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]

STRENGTHS = 10.0 ** np.arange(-3, 3.5, 0.5)  # a mean eigenvalue of the standardised features is 1
SCALES = 2.0 ** np.arange(-1, 9, 0.25)  # of logits that are about 0 to 1
UNTESTED_SCALE = 6.0  # where nothing can be left out: a usual one
MOST_FOLDS = 20  # more groups than that are left out several at a time
LEAST_DEVIATION = 1e-6  # of a feature; one that is always the same must not become infinite


@dataclass(frozen=True, eq=False)
class Examples:
    """The windows of labelled videos.

    Attributes:
        labels: the names of all classes.
        plain: (windows, C) features.
        mirrored: (windows, C) features of the mirror images.
        video: (windows,) which video each window is of.
        class_of: (videos,) the class of each video.
        group_of: (videos,) the group of each video.
    """

    labels: tuple[str, ...]
    plain: NDArray[np.float32]
    mirrored: NDArray[np.float32]
    video: Numbers
    class_of: Numbers
    group_of: Numbers

    @classmethod
    def of(cls, found: LabelledVideos, features: Sequence[VideoFeatures]) -> Examples:
        """Put together the features of all videos, in their order."""
        groups = sorted({video.group for video in found.videos})
        return cls(
            labels=found.labels,
            plain=np.concatenate([one.plain for one in features]),
            mirrored=np.concatenate([one.mirrored for one in features]),
            video=np.repeat(np.arange(len(features)), [len(one.plain) for one in features]),
            class_of=np.array([found.labels.index(video.label) for video in found.videos]),
            group_of=np.array([groups.index(video.group) for video in found.videos]),
        )

    def only(self, videos: Numbers) -> Examples:
        """Return some of the videos."""
        kept = np.isin(self.video, videos)
        number = np.full(len(self.class_of), -1)
        number[videos] = np.arange(len(videos))
        return replace(
            self,
            plain=self.plain[kept],
            mirrored=self.mirrored[kept],
            video=number[self.video[kept]],
            class_of=self.class_of[videos],
            group_of=self.group_of[videos],
        )

    def weights(self) -> Floats:
        """Return the weight (windows,) of each window; their sum is 1."""
        per_video = 1 / np.bincount(self.video, minlength=len(self.class_of))
        per_class = 1 / np.maximum(np.bincount(self.class_of), 1)
        weights = (per_video * per_class[self.class_of])[self.video]
        return np.asarray(weights / weights.sum(), np.float64)

    def video_means(self, values: Floats) -> Floats:
        """Return the means over the windows of each video: (windows, ...) -> (videos, ...)."""
        counts = np.bincount(self.video, minlength=len(self.class_of))
        sums = np.zeros((len(counts), *values.shape[1:]))
        np.add.at(sums, self.video, values)
        return np.asarray(sums / counts.reshape(-1, *[1] * (values.ndim - 1)), np.float64)


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """What is known of a head from the groups that were left out in turn.

    Attributes:
        strength: of the penalty, the best one.
        mirror: whether mirror images are learnt.
        scale: of the logits.
        loss: mean cross-entropy of the windows left out, in nats; infinite where none are.
        logits: (windows, N) of each window, by a head that has not learnt its group, scaled.
        tested: (videos,) whether a video was tested: another group has its class, too.
        folds: parts that were left out.
    """

    strength: float
    mirror: bool
    scale: float
    loss: float
    logits: Floats
    tested: NDArray[np.bool_]
    folds: int


@dataclass(frozen=True)
class _Form:
    """One way to fit: the penalty's strength, as its number, and whether with mirror images."""

    strength: int
    mirror: bool


def teach_head(examples: Examples) -> tuple[Head, CrossValidation]:
    """Return the head that has learnt all examples, and what is known of it."""
    found = cross_validate(examples)
    (head,) = fit_heads(examples, np.array([found.strength]), mirror=found.mirror)
    return Head(head.weight * np.float32(found.scale), head.bias * np.float32(found.scale)), found


def cross_validate(examples: Examples) -> CrossValidation:
    """Choose how to fit by the groups that are left out in turn."""
    folds = list(folds_of(examples))
    tested = np.zeros(len(examples.class_of), bool)
    windows, classes = len(examples.video), len(examples.labels)
    forms = [_Form(k, mirror) for mirror in (True, False) for k in range(len(STRENGTHS))]
    logits = {form: np.zeros((windows, classes)) for form in forms}
    for held in folds:
        rest = examples.only(np.flatnonzero(~held))
        here = held[examples.video]
        tested |= held & np.isin(examples.class_of, rest.class_of)
        for mirror in (True, False):
            for k, head in enumerate(fit_heads(rest, STRENGTHS, mirror=mirror)):
                logits[_Form(k, mirror)][here] = head.logits(examples.plain[here])
    if not tested.any():
        strength = float(STRENGTHS[len(STRENGTHS) // 2])
        none = np.zeros((windows, classes))
        return CrossValidation(strength, True, UNTESTED_SCALE, np.inf, none, tested, 0)
    weights = np.where(tested[examples.video], examples.weights(), 0.0)
    truth = examples.class_of[examples.video]
    losses = {form: _losses(logits[form], truth, weights, tested.sum()) for form in forms}
    best = min(forms, key=lambda form: losses[form].min())
    scale = float(SCALES[losses[best].argmin()])
    return CrossValidation(
        strength=float(STRENGTHS[best.strength]),
        mirror=best.mirror,
        scale=scale,
        loss=float(losses[best].min()),
        logits=scale * logits[best],
        tested=tested,
        folds=len(folds),
    )


def fit_heads(examples: Examples, strengths: Floats, *, mirror: bool) -> list[Head]:
    """Fit a head for each strength of the penalty.

    Args:
        examples: to learn.
        strengths: of the penalty on the weights of standardised features.
        mirror: whether mirror images are learnt, too.
    """
    x = examples.plain.astype(np.float64)
    y = np.eye(len(examples.labels))[examples.class_of[examples.video]]
    w = examples.weights()
    if mirror:
        x = np.concatenate([x, examples.mirrored.astype(np.float64)])
        y, w = np.concatenate([y, y]), np.concatenate([w, w]) / 2
    mean, mean_y = w @ x, w @ y
    deviation = np.sqrt(w @ np.square(x - mean)) + LEAST_DEVIATION
    root = np.sqrt(w)[:, None]
    a, target = root * (x - mean) / deviation, root * (y - mean_y)
    # (A' A + s I)^-1 A' = A' (A A' + s I)^-1: one decomposition of the smaller, for all strengths s
    few = len(a) < a.shape[1]
    values, vectors = np.linalg.eigh(a @ a.T if few else a.T @ a)
    wanted = vectors.T @ (target if few else a.T @ target)
    heads = []
    for strength in strengths:
        b = vectors @ (wanted / (np.maximum(values, 0) + strength)[:, None])
        weight = (a.T @ b if few else b) / deviation[:, None]
        heads.append(Head(weight.astype(np.float32), (mean_y - mean @ weight).astype(np.float32)))
    return heads


def folds_of(examples: Examples) -> Iterator[NDArray[np.bool_]]:
    """Yield, for each part that is left out, which videos it has: (videos,)."""
    groups = np.unique(examples.group_of)
    parts = min(len(groups), MOST_FOLDS)
    if parts < 2:
        return
    for k in range(parts):
        yield np.isin(examples.group_of, groups[k::parts])


def _losses(logits: Floats, truth: Numbers, weights: Floats, videos: int) -> Floats:
    """Return the mean cross-entropy of windows for each of the SCALES, in nats.

    Where all answers are right, the best scale would be infinite. So the truth counts as one answer
    less than certain, by the rule of succession: (n + 1) / (n + 2) after n videos (Platt 1999,
    "Probabilistic outputs for support vector machines", section 2.2).
    """
    doubt = 1 / (videos + 2)
    right, mean = logits[np.arange(len(truth)), truth], logits.mean(1)
    losses = []
    for scale in SCALES:
        scaled = scale * logits
        top = scaled.max(1)
        log_sum = top + np.log(np.exp(scaled - top[:, None]).sum(1))
        losses.append(weights @ (log_sum - scale * ((1 - doubt) * right + doubt * mean)))
    return np.asarray(np.array(losses) / weights.sum(), np.float64)
