"""Our networks beside others that one would pick: time per clip at the same input, in turn.

    pip install transformers fvcore parameterized && pip install --no-deps pytorchvideo
    python -m dvfl_bench.comparisons.peers --json FILE [--frames 8 --size 224]

Weights are random: this is about time. Each network gets one float32 clip, its own layout of it,
and ends in 400 classes. Accuracies are the publishers', on Kinetics-400.
"""

from __future__ import annotations

import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
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

from dvfl_bench.comparisons.bare_engines import onnxruntime_run, openvino_run
from dvfl_bench.comparisons.command import (
    Result,
    add_network_options,
    comparison_parser,
    run_comparison,
)
from dvfl_bench.comparisons.networks import FRAMES, deploy_graph, square_spec
from dvfl_bench.device.timing import Work, paired_times, ratios, summary
from dvfl_models import build_model
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
    """Let pytorchvideo be imported where torchvision is not installed.

    Only the detection heads of pytorchvideo need it.
    """
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
    """Build X3D; S and M are the same network at different inputs (arXiv 2004.04730, table 1)."""
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
    """Build the slow pathway of SlowFast with ResNet-50 (arXiv 1812.03982)."""
    with without_torchvision():
        from pytorchvideo.models.resnet import create_resnet
    pool = (frames, size // 32, size // 32)
    net: nn.Module = create_resnet(model_num_class=CLASSES, head_pool_kernel_size=pool)
    return net


class Logits(nn.Module):
    """A model of transformers, whose output is a record, as one that returns its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, clip: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, num_classes)."""
        logits: Tensor = self.model(clip).logits
        return logits


def videomae_small(frames: int, size: int) -> nn.Module:
    """Build ViT-S on tubelets of two frames (arXiv 2203.12602)."""
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
    """Return the multiply-accumulates of one clip, those of attention included.

    They are counted in the same way for our networks.
    """
    # the counter does not know the fused attention of CPUs, but the two products of MATH
    plain = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), plain:
        net(clip)
    return int(counter.get_total_flops()) // 2


def export_peer(name: str, frames: int, size: int, path: Path) -> dict[str, Any]:
    """Write a peer as ONNX with the fixed input "clip"; return its parameters and GMACs.

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
        warnings.simplefilter("ignore")  # the exporter's, about other people's code
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
    """Write a variant of ours in its deploy form; return its parameters and GMACs."""
    net = build_model(variant, num_classes=CLASSES).eval()
    path.write_bytes(deploy_graph(net, square_spec(frames, size)).SerializeToString())
    return {
        "parameters_m": round(sum(p.numel() for p in net.parameters()) / 1e6, 2),
        "gmacs": round(macs_of(net, torch.rand(1, frames, 3, size, size)) / 1e9, 2),
        "input": [1, frames, size, size, 3],
    }


def measure(frames: int, size: int, threads: int, rounds: int) -> Result:
    """Time all networks in both engines in turn; return the result.

    Raises:
        DvflError: if a package of the peers is not installed.
    """
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    rows: dict[str, dict[str, Any]] = {}
    runs: dict[tuple[str, str], Work] = {}
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
        times = paired_times(runs, rounds)
    for engine, name in runs:
        rows[name][engine] = {
            **summary(times[engine, name]),
            "over_nano": ratios(times[engine, name], times[engine, "nano"]),
        }
    return {
        "what": "ms per clip of networks at the same input, fp32, batch 1, random weights, in turn",
        "clip": [frames, size, size],
        "not_had": {
            "MoViNet": "no package on PyPI brings it for PyTorch",
            "TSM, UniFormer": "no package on PyPI",
            "torchvision's R(2+1)D, MViT, Swin3D": "torchvision does not import beside torch's CPU "
            "build from this index",
        },
        "networks": rows,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = comparison_parser("peers", __doc__)
    parser.add_argument("--frames", type=int, default=FRAMES)
    add_network_options(parser)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args(argv)
    shape = (args.frames, args.size, args.threads, args.rounds)
    return run_comparison(args, lambda: measure(*shape), threads=args.threads)


if __name__ == "__main__":
    sys.exit(main())
