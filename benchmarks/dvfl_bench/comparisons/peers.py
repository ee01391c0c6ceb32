"""Our networks beside others that one would pick: time per clip at the same input, in turn.

    pip install transformers fvcore parameterized && pip install --no-deps pytorchvideo
    python -m dvfl_bench.comparisons.peers --json FILE [--frames 8 --size 224]

Weights are random: this is about time. Each network gets one float32 clip, its own layout of it,
and ends in 400 classes. Accuracies are the publishers', on Kinetics-400.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dvfl_bench.comparisons.command import report
from dvfl_bench.comparisons.forms import (
    onnxruntime_run,
    openvino_run,
    ratios,
    statistics,
    time_in_turn,
)
from dvfl_bench.device.machine import describe_machine
from dvfl_export.deploy.form import deploy_form
from dvfl_export.onnx_model import onnx_from_model
from dvfl_models import build_model
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.errors import DvflError

CLASSES = 400
OURS = ("femto", "pico", "nano", "tiny")


@dataclass(frozen=True)
class Peer:
    """A network of somebody else.

    Attributes:
        make: builds it for (frames, size); it takes a float clip in its own layout.
        channels_first: whether that is (B, C, T, H, W) rather than (B, T, C, H, W).
        published: top-1 on Kinetics-400 and at which input, and where that is said.
    """

    make: Callable[[int, int], nn.Module]
    channels_first: bool
    published: str


@contextmanager
def without_torchvision() -> Iterator[None]:
    """Lets pytorchvideo be imported where torchvision is not; only its detection heads need it."""
    names = ("torchvision", "torchvision.ops")
    modules = {name: types.ModuleType(name) for name in names}
    modules["torchvision.ops"].RoIAlign = None  # type: ignore[attr-defined]
    kept = {name: sys.modules[name] for name in names if name in sys.modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(kept)


def x3d(frames: int, size: int) -> nn.Module:
    """X3D-S and X3D-M are the same network at different inputs (arXiv 2004.04730, table 1)."""
    with without_torchvision():
        from pytorchvideo.models.x3d import create_x3d
    net: nn.Module = create_x3d(
        input_clip_length=frames,
        input_crop_size=size,
        model_num_class=CLASSES,
        depth_factor=2.2,
        head_activation=None,
    )
    return net


def slow_r50(frames: int, size: int) -> nn.Module:
    """The slow pathway of SlowFast with ResNet-50 (arXiv 1812.03982)."""
    with without_torchvision():
        from pytorchvideo.models.resnet import create_resnet
    pool = (frames, size // 32, size // 32)
    net: nn.Module = create_resnet(model_num_class=CLASSES, head_pool_kernel_size=pool)
    return net


class Logits(nn.Module):
    """A model of transformers whose output is a record."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, clip: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, num_classes)."""
        logits: Tensor = self.model(clip).logits
        return logits


def videomae_small(frames: int, size: int) -> nn.Module:
    """ViT-S on tubelets of two frames (arXiv 2203.12602)."""
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    config = VideoMAEConfig(
        image_size=size,
        num_frames=frames,
        hidden_size=384,
        num_attention_heads=6,
        intermediate_size=1536,
        num_labels=CLASSES,
    )
    return Logits(VideoMAEForVideoClassification(config))


PEERS = {
    "X3D-S / X3D-M": Peer(
        x3d, True, "73.3 (S, 13x160), 75.9 (M, 16x224); PyTorchVideo model zoo, 10x3 views"
    ),
    "Slow R50": Peer(slow_r50, True, "74.6 (8x224); PyTorchVideo model zoo, 10x3 views"),
    "VideoMAE-S": Peer(
        videomae_small, False, "79.0 (16x224); VideoMAE model zoo, 1600 epochs, 5x3 views"
    ),
}


def macs_of(net: nn.Module, clip: Tensor) -> int:
    """Multiply-accumulates of one clip, counted as for ours, the products of attention among them.

    The counter does not know the fused attention of a CPU, but the products that MATH makes of it.
    """
    plain = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), plain:
        net(clip)
    return int(counter.get_total_flops()) // 2


def export_peer(name: str, frames: int, size: int, path: Path) -> dict[str, Any]:
    """Writes a peer as ONNX with the fixed input "clip"; returns its parameters and GMACs.

    Raises:
        DvflError: if its package is not installed.
    """
    peer = PEERS[name]
    try:
        net = peer.make(frames, size).eval()
    except ImportError as err:
        raise DvflError(f"{err.name} is not installed; {__doc__.splitlines()[2].strip()}") from err
    shape = (1, 3, frames, size, size) if peer.channels_first else (1, frames, 3, size, size)
    clip = torch.rand(shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about other people's code
        torch.onnx.export(
            net,
            (clip,),
            path,
            dynamo=True,
            input_names=["clip"],
            external_data=False,
            verbose=False,
        )
    return {
        "parameters_m": round(sum(p.numel() for p in net.parameters()) / 1e6, 2),
        "gmacs": round(macs_of(net, clip) / 1e9, 2),
        "published_top1": peer.published,
        "input": list(shape),
    }


def export_ours(variant: str, frames: int, size: int, path: Path) -> dict[str, Any]:
    """Writes a variant of ours in its deploy form; returns its parameters and GMACs."""
    spec = ClipSpec(num_frames=frames, size=(size, size), resize=size)
    net = build_model(variant, num_classes=CLASSES).eval()
    path.write_bytes(onnx_from_model(deploy_form(net, spec), spec).SerializeToString())
    return {
        "parameters_m": round(sum(p.numel() for p in net.parameters()) / 1e6, 2),
        "gmacs": round(macs_of(net, torch.rand(1, frames, 3, size, size)) / 1e9, 2),
        "input": [1, frames, size, size, 3],
    }


def measure(frames: int, size: int, threads: int, rounds: int) -> dict[str, Any]:
    """Times all networks in both engines in turn; returns the JSON-ready result.

    Raises:
        DvflError: if a package of the peers is not installed.
    """
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    machine = describe_machine(threads)
    rng = np.random.default_rng(0)
    rows: dict[str, dict[str, Any]] = {}
    runs: dict[tuple[str, str], Callable[[], Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        makers = {name: partial(export_ours, name) for name in OURS}
        makers |= {name: partial(export_peer, name) for name in PEERS}
        for index, (name, make) in enumerate(makers.items()):
            path = Path(folder) / f"{index}.onnx"
            rows[name] = make(frames, size, path)
            shape = rows[name]["input"]
            clip = rng.integers(0, 256, shape, dtype=np.uint8)
            given: Any = clip if name in OURS else (clip / 255).astype(np.float32)
            runs["onnxruntime", name] = onnxruntime_run(path, given, threads)
            runs["openvino", name] = openvino_run(path, given, threads, fixed_batch=True)
        times = time_in_turn(runs, rounds)
    for engine, name in runs:
        rows[name][engine] = {
            **statistics(times[engine, name]),
            "over_nano": ratios(times[engine, name], times[engine, "nano"]),
        }
    return {
        "what": "ms per clip of networks at the same input, fp32, batch 1, random weights, in turn",
        "clip": [frames, size, size],
        "machine": machine,
        "not_had": {
            "MoViNet": "no package on PyPI brings it for PyTorch",
            "TSM, UniFormer": "no package on PyPI",
            "torchvision's R(2+1)D, MViT, Swin3D": "torchvision does not import beside torch's CPU "
            "build from this index",
        },
        "networks": rows,
    }


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `python -m dvfl_bench.comparisons.peers`."""
    parser = argparse.ArgumentParser(
        prog="dvfl_bench.comparisons.peers", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="px, both sides")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args(arguments)
    shape = (args.frames, args.size, args.threads, args.rounds)
    return 2 if report(lambda: measure(*shape), args.json) is None else 0


if __name__ == "__main__":
    raise SystemExit(main())
