"""Small runs of training for tests: their recipes, videos and commands."""

from pathlib import Path

import numpy as np
import torch
import videos

from dvfl_models import read_checkpoint
from dvfl_models.recipe.recipe import Recipe, recipe_from
from dvfl_models.training.launch import TrainOptions

RESUME = TrainOptions(resume=True)
ON_CPU = TrainOptions(cpu=True)
TOML = """
name = "small"
labels = ["a", "b"]
test_every = 8
checkpoint_every = 8
model = {{variant = "femto", init = "xavier", drop_path = {drop_path}}}
clip = {{num_frames = 2, size = [32, 32], resize = 36}}
augment = {{mixup = 0.8, cutmix = 1.0, crop = [0.4, 1.0]}}
optim = {{epochs = {epochs}, batch_size = 4, accumulate = {accumulate}, ema = 0.5}}
train = [{{kind = "videos", name = "v", index = "{index}"}}]
test = [{{kind = "videos", name = "v_test", index = "{index}"}}]
"""


def make_videos(folder: Path, count: int = 12) -> Path:
    folder.mkdir(exist_ok=True)
    rows = ["file,label,person"]
    for k in range(count):
        images = videos.pictures(8, 40, 48)
        frames = [np.clip(image.astype(int) + 100 * (k % 2), 0, 255) for image in images]
        videos.write_video(folder / f"{k}.mp4", [frame.astype(np.uint8) for frame in frames])
        rows.append(f"{k}.mp4,{'ab'[k % 2]},{k // 2}")
    (folder / "index.csv").write_text("\n".join(rows) + "\n")
    return folder / "index.csv"


def toml(folder: Path, index: Path, **values: object) -> Path:
    path = folder / "small.toml"
    wanted = {"epochs": 12, "accumulate": 1, "drop_path": 0.2, **values}
    path.write_text(TOML.format(index=index, **wanted))
    return path


def small(index: Path, **changes: object) -> Recipe:
    values = {
        "name": "small",
        "labels": ["a", "b"],
        "model": {"variant": "femto", "init": "xavier"},
        "clip": {"num_frames": 2, "size": [32, 32], "resize": 36},
        "train": [{"kind": "videos", "name": "v", "index": str(index)}],
        "optim": {"steps": 3, "batch_size": 2},
        "test_every": 100,
        "checkpoint_every": 100,
        **changes,
    }
    return recipe_from(values, "small")


def command(recipe: Path, out: Path, *more: str) -> list[str]:
    options = [str(recipe), "--out", str(out), "--cpu", "--workers", "0", "--threads", "1"]
    return ["-m", "dvfl_models.training.cli", *options, *more]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(read_checkpoint(path).state_dict)


def rows_of(run: Path) -> int:
    path = run / "metrics.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


def tiny(**changes: object) -> Recipe:
    synthetic = {"kind": "synthetic", "clips": 2, "first_seed": 10**9}
    return recipe_from(
        {
            "name": "tiny",
            "labels": ["idle", "bend"],
            "model": {"variant": "femto", "init": "xavier", "drop_path": 0.2},
            "clip": {"num_frames": 2, "size": [32, 32], "crop": "letterbox"},
            "train": [{"kind": "synthetic"}],
            "test": [synthetic],
            "optim": {"steps": 4, "batch_size": 2, "ema": 0.5},
            "checkpoint_every": 2,
            "test_every": 2,
            **changes,
        },
        "tiny",
    )


def videos_table(index: Path, **more: object) -> dict:
    return {"kind": "videos", "name": "small", "index": str(index), **more}
