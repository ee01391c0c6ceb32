"""Clips that are drawn: people and their actions, and blocks whose order in time is the class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dvfl_models.data.clips import Clip, Sample
from dvfl_models.recipe.parts import OrderPart, SyntheticPart
from dvfl_models.rendered.synthetic import ACTIONS, render_clip, render_video
from dvfl_models.rendered.temporal_order import ORDER_CLASSES, render_order
from dvfl_runtime.clips.preprocess import preprocess_clip
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.errors import RecipeError

Size = tuple[int, int]
Joints = NDArray[np.float64]


def _check_drawn(name: str, labels: Sequence[str], known: Sequence[str]) -> None:
    if others := sorted(set(labels) - set(known)):
        raise RecipeError(
            f"data set {name!r}: {others} cannot be drawn, only {', '.join(known)}; leave the data "
            f"set out, or take them out of labels"
        )


class SyntheticClips:
    """Rendered clips; the test set has `part.clips` per class from `part.first_seed` on."""

    def __init__(self, part: SyntheticPart, labels: Sequence[str], spec: ClipSpec) -> None:
        _check_drawn(part.name, labels, ACTIONS)
        self.part, self.labels, self.spec, self.name = part, labels, spec, part.name

    def _clip(
        self, class_id: int, seed: int, rng: np.random.Generator
    ) -> tuple[Clip, Joints | None]:
        height, width = self.spec.size
        if rng.random() < 0.4:  # other aspect ratios, with the bars that letterboxing gives them
            if rng.random() < 0.5:
                height = int(height * rng.uniform(0.6, 1))
            else:
                width = int(width * rng.uniform(0.6, 1))
        window_s = float(rng.uniform(*self.part.window_s))
        if self.part.change:
            clip = self._changing_clip(class_id, seed, rng, window_s, (height, width))
            return preprocess_clip(clip, self.spec), None
        rendered = render_clip(
            self.labels[class_id],
            seed=seed,
            num_frames=self.spec.num_frames,
            window_s=window_s,
            size=(height, width),
            clean=self.part.clean,
        )
        # one side is as long as the clip's, so letterboxing adds bars and scales nothing
        bars = ((self.spec.size[1] - width) // 2, (self.spec.size[0] - height) // 2)
        return preprocess_clip(rendered.images, self.spec), rendered.joints + bars

    def _changing_clip(
        self, class_id: int, seed: int, rng: np.random.Generator, window_s: float, size: Size
    ) -> Clip:
        """Another action, mostly idle, before or after; the class fills 58 to 85 % of the window.

        Without such clips a network names an action as soon as a corner of it is in the window, and
        segments come out half a second too long at either end.
        """
        others = [name for name in self.labels if name != self.labels[class_id]]
        idle = "idle" in others and rng.random() < 0.7
        other = "idle" if idle else str(rng.choice(others))
        share = float(rng.uniform(0.58, 0.85))
        parts = [(self.labels[class_id], share * window_s), (other, (1 - share) * window_s)]
        timeline = parts if rng.random() < 0.5 else parts[::-1]
        fps = self.spec.num_frames / window_s
        return np.stack(list(render_video(timeline, seed=seed, fps=fps, size=size)))

    def sample(self, rng: np.random.Generator) -> Sample:
        """See ClipSet."""
        class_id = int(rng.integers(len(self.labels)))
        seed = self.part.first_seed + int(rng.integers(10**9))
        clip, joints = self._clip(class_id, seed, rng)
        return Sample(clip, class_id, f"{self.name} seed {seed}", joints)

    def __len__(self) -> int:
        return self.part.clips * len(self.labels)

    def __getitem__(self, index: int) -> tuple[Clip, int]:
        class_id, number = index % len(self.labels), index // len(self.labels)
        seed = self.part.first_seed + number
        return self._clip(class_id, seed, np.random.default_rng([seed, class_id]))[0], class_id


class OrderClips:
    """Rendered clips whose classes differ in the order of frames; the test set is as above."""

    def __init__(self, part: OrderPart, labels: Sequence[str], spec: ClipSpec) -> None:
        _check_drawn(part.name, labels, ORDER_CLASSES)
        self.part, self.labels, self.spec, self.name = part, labels, spec, part.name

    def sample(self, rng: np.random.Generator) -> Sample:
        """See ClipSet."""
        class_id = int(rng.integers(len(self.labels)))
        seed = self.part.first_seed + int(rng.integers(10**9))
        return Sample(self._clip(class_id, seed), class_id, f"{self.name} seed {seed}")

    def _clip(self, class_id: int, seed: int) -> Clip:
        return render_order(self.labels[class_id], seed, self.spec.num_frames, self.spec.size)

    def __len__(self) -> int:
        return self.part.clips * len(self.labels)

    def __getitem__(self, index: int) -> tuple[Clip, int]:
        class_id = index % len(self.labels)
        # another seed for each clip: a clip and its reverse are not both in the set
        return self._clip(class_id, self.part.first_seed + index), class_id
