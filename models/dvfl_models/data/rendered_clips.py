"""Clips that are drawn: people and their actions, and blocks whose order in time is the class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dvfl_models.data.clips import Sample
from dvfl_models.recipe.tables import OrderTable, SyntheticTable
from dvfl_models.rendered.synthetic import ACTIONS, render_clip, render_video
from dvfl_models.rendered.temporal_order import ORDER_CLASSES, render_order
from dvfl_runtime.clips.preprocess import focused_clip, preprocess_clip
from dvfl_runtime.clips.spec import Clip, ClipSpec
from dvfl_runtime.errors import RecipeError

Drawn: TypeAlias = "tuple[Clip, NDArray[np.float64] | None]"  # a clip and its joints


class RenderedClips:
    """Clips that follow from (class, seed); the test set has `table.clips` of each class.

    Raises:
        RecipeError: if one of the labels cannot be drawn.
    """

    drawable: Sequence[str]
    table: OrderTable | SyntheticTable

    def __init__(
        self, table: OrderTable | SyntheticTable, labels: Sequence[str], spec: ClipSpec
    ) -> None:
        self.table, self.labels, self.spec, self.name = table, labels, spec, table.name
        if others := sorted(set(labels) - set(self.drawable)):
            raise RecipeError(
                f"data set {self.name!r}: {others} cannot be drawn, only "
                f"{', '.join(self.drawable)}; leave the data set out, or take them out of labels"
            )

    def sample(self, rng: np.random.Generator) -> Sample:
        """Return a random clip, as ClipSet asks."""
        class_id = int(rng.integers(len(self.labels)))
        seed = self.table.first_seed + int(rng.integers(10**9))
        clip, joints = self.draw(class_id, seed, rng)
        return Sample(clip, class_id, f"{self.name} seed {seed}", joints)

    def draw(self, class_id: int, seed: int, rng: np.random.Generator) -> Drawn:
        """Return the clip (T, H, W, 3) and, where they are known, the joints (T, 13, 2)."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.table.clips * len(self.labels)


class SyntheticClips(RenderedClips):
    """Rendered people; the test set has the seeds from `table.first_seed` on, for each class."""

    drawable = ACTIONS
    table: SyntheticTable

    def draw(self, class_id: int, seed: int, rng: np.random.Generator) -> Drawn:
        """Return a clip in a random aspect ratio over a random span of time, and its joints."""
        height, width = self.spec.size
        if rng.random() < 0.4:  # other aspect ratios, with the bars that letterboxing gives them
            if rng.random() < 0.5:
                height = int(height * rng.uniform(0.6, 1))
            else:
                width = int(width * rng.uniform(0.6, 1))
        room = 1.0
        if self.table.room != (1, 1):
            room = float(rng.uniform(*self.table.room))
            height, width = round(height * room), round(width * room)
        window_s = float(rng.uniform(*self.table.window_s))
        if self.table.change:
            clip = self._draw_change(class_id, seed, rng, window_s, ((height, width), room))
            return preprocess_clip(clip, self.spec), None
        rendered = render_clip(
            self.labels[class_id],
            seed=seed,
            num_frames=self.spec.num_frames,
            window_s=window_s,
            size=(height, width),
            clean=self.table.clean,
            room=room,
        )
        clip, (left, top, w, h) = focused_clip(rendered.images, self.spec)
        shown = np.array([w * width, h * height])
        scale = min(self.spec.size[::-1] / shown)
        bars = (np.array(self.spec.size[::-1]) - scale * shown) // 2
        joints = (rendered.joints + 0.5 - (left * width, top * height)) * scale - 0.5 + bars
        return clip, joints

    def _draw_change(
        self,
        class_id: int,
        seed: int,
        rng: np.random.Generator,
        window_s: float,
        picture: tuple[tuple[int, int], float],
    ) -> Clip:
        """Return a clip that begins or ends with another action, mostly idle.

        The class fills 58 to 85 % of the window. Without such clips a network names an action as
        soon as a corner of it is in the window, and segments come out half a second too long at
        either end.
        """
        others = [name for name in self.labels if name != self.labels[class_id]]
        idle = "idle" in others and rng.random() < 0.7
        other = "idle" if idle else str(rng.choice(others))
        share = float(rng.uniform(0.58, 0.85))
        actions = [(self.labels[class_id], share * window_s), (other, (1 - share) * window_s)]
        timeline = actions if rng.random() < 0.5 else actions[::-1]
        fps = self.spec.num_frames / window_s
        size, room = picture
        return np.stack(list(render_video(timeline, seed=seed, fps=fps, size=size, room=room)))

    def __getitem__(self, index: int) -> tuple[Clip, int]:
        number, class_id = divmod(index, len(self.labels))
        seed = self.table.first_seed + number
        return self.draw(class_id, seed, np.random.default_rng([seed, class_id]))[0], class_id


class OrderClips(RenderedClips):
    """Rendered blocks, whose classes differ in the order of their frames alone."""

    drawable = ORDER_CLASSES

    def draw(self, class_id: int, seed: int, rng: np.random.Generator) -> Drawn:
        """Return a clip; nothing of it is random but its seed."""
        clip = render_order(self.labels[class_id], seed, self.spec.num_frames, self.spec.size)
        return clip if self.spec.focus == "frame" else preprocess_clip(clip, self.spec), None

    def __getitem__(self, index: int) -> tuple[Clip, int]:
        class_id = index % len(self.labels)
        # another seed for each clip, so that the set never has both a clip and its reverse
        seed = self.table.first_seed + index
        return self.draw(class_id, seed, np.random.default_rng(seed))[0], class_id
