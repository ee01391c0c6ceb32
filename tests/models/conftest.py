"""What trainings within one process of tests need."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import videos
from accelerate.state import AcceleratorState


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """Its precision is a state of the process; a user's process trains one recipe."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    rows = ["file,label,person"]
    for person in "ab":
        for label, level in (("idle", 60), ("bend", 200)):
            frames = [np.full((48, 64, 3), level + k, np.uint8) for k in range(12)]
            videos.write_video(tmp_path / f"{label}_{person}.mp4", frames)
            rows.append(f"{label}_{person}.mp4,{label},{person}")
    rows.append("missing.mp4,other,a")
    index = tmp_path / "index.csv"
    index.write_text("\n".join(rows) + "\n")
    return index
