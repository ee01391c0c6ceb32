"""What a run on a user's clips starts from: a network, and the head that its features teach.

The head is the one of `dvfl-teach fit`. A random one would first change features that are good
(Kumar et al. 2022, arXiv 2202.10054: linear probing, then fine-tuning).
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections import Counter
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from dvfl_export.own_actions.gathering import TRAIN, Clips
from dvfl_models.data.clips import to_batch
from dvfl_models.network.checkpoint import Checkpoint, model_of, save_checkpoint, variant_of
from dvfl_models.network.video_focalnet import VideoFocalNet
from dvfl_runtime.clips.labelled import LabelledVideo
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.errors import DvflError, SourceError
from dvfl_runtime.teach.features import VideoFeatures, cut_windows
from dvfl_runtime.teach.graph import Head
from dvfl_runtime.teach.head import Examples, teach_head

log = logging.getLogger(__name__)

MOST_OF_A_CLASS = 12  # clips; with more of them the training itself teaches the head


def write_start(
    given: Checkpoint, clips: Clips, spec: ClipSpec, device: torch.device, path: Path
) -> None:
    """Write the checkpoint to start from; the clips held back teach it nothing.

    Args:
        given: the network.
        clips: the user's.
        spec: how they are made for the run.
        device: which computes.
        path: of the checkpoint.

    Raises:
        DvflError: if no clip of a class can be read, or the features are not finite.
        OutputError: if the checkpoint cannot be written.
    """
    network, labels = model_of(given), clips.videos.labels
    config = dataclasses.replace(network.config, num_classes=len(labels))
    head = _head(network, _few_of_each(clips), spec, device)
    start = VideoFocalNet(config)
    body = {k: v for k, v in given.state_dict.items() if not k.startswith("head.")}
    weights = {"head.weight": torch.tensor(head.weight.T), "head.bias": torch.tensor(head.bias)}
    start.load_state_dict({**body, **weights})
    about = {"variant": variant_of(given), "labels": list(labels), "spec": spec.to_dict()}
    save_checkpoint(path, start, about={**about, "training": given.training})


def _few_of_each(clips: Clips) -> Clips:
    """Return the clips to train on, at most a few of each class, from its groups in turn."""
    seen: Counter[tuple[str, str]] = Counter()
    turns: dict[str, list[tuple[int, LabelledVideo]]] = {label: [] for label in clips.videos.labels}
    for video in clips.part(TRAIN):
        turns[video.label].append((seen[video.label, video.group], video))
        seen[video.label, video.group] += 1
    few = [sorted(some, key=itemgetter(0))[:MOST_OF_A_CLASS] for some in turns.values()]
    videos = tuple(video for some in few for _, video in some)
    return dataclasses.replace(clips, videos=dataclasses.replace(clips.videos, videos=videos))


def _head(network: VideoFocalNet, clips: Clips, spec: ClipSpec, device: torch.device) -> Head:
    """Return the head that the features of a network teach; the network loses its own."""
    network.head = nn.Identity()  # type: ignore[assignment]
    network.to(device).eval()
    features: dict[Path, VideoFeatures] = {}
    with tqdm(
        clips.videos.videos, "what the network sees", disable=not sys.stderr.isatty(), leave=False
    ) as videos:
        for video in videos:
            try:
                features[video.path] = _features(network, video.path, spec, device)
            except SourceError as err:
                log.warning("the head does not learn a clip: %s", err)
    read = clips.videos.without({video.path for video in clips.videos.videos} - features.keys())
    return teach_head(Examples.of(read, [features[video.path] for video in read.videos]))[0]


@torch.inference_mode()
def _features(
    network: nn.Module, path: Path, spec: ClipSpec, device: torch.device
) -> VideoFeatures:
    clips, length_s = cut_windows(path, spec)
    both = [network(to_batch([c, c[:, :, ::-1]], spec).to(device)).float().cpu() for c in clips]
    plain, mirrored = torch.stack(both, dim=1).numpy()
    if not np.isfinite([plain, mirrored]).all():
        raise DvflError("the start gives features that are not finite; pass another --model")
    return VideoFeatures(plain, mirrored, length_s)
