"""Class names of the published data sets, in the official order of the logits.

The official list of SSv2 cuts off twelve names at a comma, which makes two of them equal; here they
are whole.
"""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path

from dvfl_models.network.checkpoint import Checkpoint, width_of
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.errors import ArgumentError, CheckpointError
from dvfl_runtime.errors.checks import check_labels
from dvfl_runtime.files import read_text

DATASETS = ("ucf50", "ucf101", "hmdb51", "kinetics400", "ssv2")

# How the official validation makes clips: AUG.FRAME_INTERVAL is 4 in the configs of all five data
# sets, of DVFL-Net and of Video-FocalNets. Their test with several views uses 1 instead.
OFFICIAL_SPEC = ClipSpec(num_frames=8, size=(224, 224), resize=256, frame_interval=4)


def read_labels(source: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read labels by the name of a data set, from a JSON list, or from a text file of lines.

    Raises:
        CheckpointError: if there is no such data set or file, or it does not hold distinct names.
    """
    if source in DATASETS:
        file = resources.files("dvfl_models") / "labels" / f"{source}.json"
        return tuple(json.loads(file.read_text(encoding="utf-8")))
    path = Path(source)
    try:
        text = read_text(path)
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        names = json.loads(text) if path.suffix.lower() == ".json" else lines
    except ArgumentError as err:  # another encoding
        raise CheckpointError(f"cannot read labels: {err}") from err
    except (OSError, ValueError) as err:
        raise CheckpointError(
            f"cannot read labels {str(source)!r}; give a .json list, a text file with one name a "
            f"line, or one of: {', '.join(DATASETS)}"
        ) from err
    try:
        check_labels(names)
    except ArgumentError as err:
        raise CheckpointError(f"{path} is no list of labels: {err}") from err
    return tuple(name.strip() for name in names)


def spec_of(checkpoint: Checkpoint) -> ClipSpec:
    """Return the ClipSpec of a checkpoint, or that of the official recipes if it has none."""
    return checkpoint.spec or OFFICIAL_SPEC


def labels_of(checkpoint: Checkpoint, source: str = "") -> tuple[str, ...]:
    """Return the class names of a checkpoint.

    Args:
        checkpoint: with or without names of its own.
        source: the name of a published data set, or a file of names, to use instead.

    Raises:
        CheckpointError: if there are none, or not as many as the head has outputs.
    """
    labels = read_labels(source) if source else checkpoint.labels
    width = width_of(checkpoint)
    if not labels:
        raise CheckpointError(
            f"{checkpoint.path} holds no class names; give --labels with a data set's name or a "
            f"file of {width} names"
        )
    if len(labels) != width:
        raise CheckpointError(
            f"{len(labels)} labels for a checkpoint with {width} classes; give the right --labels"
        )
    return labels
