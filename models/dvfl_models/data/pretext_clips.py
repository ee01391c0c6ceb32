"""Clips of unlabelled videos, whose class is how they are played."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dvfl_models.data.clips import Clip, Sample
from dvfl_models.data.decoding import Times
from dvfl_models.data.video_clips import VideoClips
from dvfl_models.recipe.tables import PretextTable, VideosTable
from dvfl_runtime.clips.sampling import nearest, window_targets
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.errors import RecipeError


class PretextClips:
    """Clips of videos that are played at several speeds or backwards.

    The test set has the middle of each of its videos once per class.

    Attributes:
        videos: all listed files.
        entries: those of training or of the test.

    Raises:
        RecipeError: if the files are not there, or `windows_s` names other classes than `labels`.
    """

    def __init__(self, table: PretextTable, labels: Sequence[str], spec: ClipSpec) -> None:
        listed = {"kind": "videos", "name": table.name, "index": table.index, "rename": {"": "any"}}
        self.videos = VideoClips(VideosTable.model_validate(listed), ["any"], spec)
        self.spec, self.name = spec, table.name
        if wrong := set(labels) ^ table.windows_s.keys():
            raise RecipeError(f"data set {table.name!r}: windows_s and labels differ in {wrong}")
        self.windows_s = [table.windows_s[label] for label in labels]
        tested = self.videos.entries[:: table.every] if table.every > 1 else self.videos.entries
        rest = [entry for entry in self.videos.entries if entry not in tested]
        self.entries = tested if table.test or table.every == 1 else rest

    def sample(self, rng: np.random.Generator) -> Sample:
        """Return a random clip, as ClipSet asks."""
        class_id = int(rng.integers(len(self.windows_s)))
        first = int(rng.integers(len(self.entries)))
        entry, images, times = self.videos.decodable(self.entries, first)
        return Sample(self._play(images, times, class_id, rng.random()), class_id, entry.path)

    def _play(self, images: Clip, times: Times, class_id: int, where: float) -> Clip:
        """Return the clip of a class; `where` is the place of its window, 0 (start) to 1 (end)."""
        window_s = self.windows_s[class_id]
        free_s = max(0.0, float(times[-1]) - abs(window_s))
        targets = window_targets(where * free_s, abs(window_s), self.spec.num_frames)
        picked = images[nearest(times, targets)]
        return picked[::-1] if window_s < 0 else picked

    def __len__(self) -> int:
        return len(self.entries) * len(self.windows_s)

    def __getitem__(self, index: int) -> tuple[Clip, int]:
        number, class_id = divmod(index, len(self.windows_s))
        images, times = self.videos.frames_of(self.entries[number].path)
        return self._play(images, times, class_id, 0.5), class_id
