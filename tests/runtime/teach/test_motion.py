"""Features of how things move: their values, in every engine, and what is taught on them."""

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from shared import DATA, needs_shared
from videos import write_video

from dvfl_export.cli import main as export_main
from dvfl_runtime import Recognizer
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.engines import open_engine
from dvfl_runtime.teach import cli
from dvfl_runtime.teach.graph import without_head
from dvfl_runtime.teach.motion import CELLS, FEATURES, LUMA, SIZES, averages, motion_model

SPEC = ClipSpec(num_frames=4, size=(48, 80), resize=None, crop="letterbox", window_s=1.0)
PAIRS = SPEC.num_frames - 1
CELL_COUNT = CELLS**2 * PAIRS


def bare(path: Path, spec: ClipSpec) -> ModelFile:
    """Write the file whose logits are the features."""
    content = motion_model(spec)
    assert content is not None
    path.write_bytes(content)
    path.write_bytes(without_head(ModelFile(path)))
    return ModelFile(path)


def features_of(path: Path, clips: np.ndarray, engine: str = "onnxruntime") -> np.ndarray:
    opened = open_engine(engine, bare(path, SPEC), device="cpu", num_threads=1)
    try:
        return opened.run(clips)
    finally:
        opened.close()


def moving(dx: float, dy: float) -> np.ndarray:
    """Return a clip (T, H, W, 3) whose texture moves by so many px of the smallest size."""
    rng = np.random.default_rng(3)
    texture = cv2.GaussianBlur(rng.uniform(0, 255, (240, 400)).astype(np.float32), (0, 0), 14)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    frames = []
    for t in range(SPEC.num_frames):
        by = np.float32([[1, 0, dx * t * 10], [0, 1, dy * t * 6]])
        frames.append(cv2.warpAffine(texture, by, (400, 240))[80:128, 140:220])
    return np.stack(frames).astype(np.uint8)[..., None].repeat(3, -1)


def flow_by_hand(clip: np.ndarray, px: int) -> tuple[np.ndarray, np.ndarray]:
    """Return u and v (T - 1, cells, cells), cell for cell, by the solution of two equations."""
    grey = clip.astype(np.float64) @ np.array(LUMA) / 255
    height, width = (averages(length, px).astype(np.float64) for length in grey.shape[1:])
    small = height @ grey @ width.T
    u, v = np.zeros((2, len(small) - 1, CELLS, CELLS))
    step = px // CELLS
    for t, (before, after) in enumerate(pairwise(small)):
        middle, change = (before + after) / 2, after - before
        slope_x, slope_y = np.zeros((2, px, px))
        slope_x[:, 1:-1] = (middle[:, 2:] - middle[:, :-2]) / 2
        slope_y[1:-1] = (middle[2:] - middle[:-2]) / 2
        for row in range(CELLS):
            for column in range(CELLS):
                part = np.s_[row * step : (row + 1) * step, column * step : (column + 1) * step]
                a = np.stack([slope_x[part].ravel(), slope_y[part].ravel()], 1)
                left = a.T @ a / len(a) + 1e-4 * np.eye(2)
                moved = np.linalg.solve(left, -a.T @ change[part].ravel() / len(a))
                u[t, row, column], v[t, row, column] = np.clip(moved, -3, 3)
    return u, v


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_flow_is_that_of_least_squares_in_every_engine(tmp_path: Path, engine: str) -> None:
    clips = np.stack([moving(0.4, 0), moving(-0.2, 0.3)])
    found = np.concatenate([features_of(tmp_path / "m.onnx", c[None], engine) for c in clips])
    assert found.shape == (2, 2 * len(SIZES) * CELL_COUNT + 3 * PAIRS)
    for clip, features in zip(clips, found, strict=True):
        for number, px in enumerate(SIZES):
            begin = 2 * number * CELL_COUNT
            for one in flow_by_hand(clip, px):
                here = features[begin : begin + CELL_COUNT]
                np.testing.assert_allclose(here, one.ravel(), atol=2e-3)
                begin += CELL_COUNT


def test_what_moves_to_the_right_and_down_has_a_flow_to_the_right_and_down(tmp_path: Path) -> None:
    def mean_flow(dx: float, dy: float) -> np.ndarray:
        found = features_of(tmp_path / "m.onnx", moving(dx, dy)[None])[0]
        return found[: 2 * CELL_COUNT].reshape(2, -1).mean(1)

    (right_x, right_y), (down_x, down_y) = mean_flow(0.4, 0), mean_flow(0, 0.4)
    assert right_x > max(0.2, 1.5 * abs(right_y))
    assert down_y > max(0.2, 1.5 * abs(down_x))
    np.testing.assert_allclose(mean_flow(0, 0), 0, atol=1e-6)


def test_the_middle_of_what_changes_is_found_and_noise_is_no_change(tmp_path: Path) -> None:
    clip = np.full((4, *SPEC.size, 3), 100, np.uint8)
    clip[1::2, 36:46, 60:78] = 250  # below, to the right
    found = features_of(tmp_path / "m.onnx", clip[None])[0][-3 * PAIRS :].reshape(3, PAIRS)
    x, y, much = found
    assert (x > 0.6).all()
    assert (y > 0.6).all()
    noise = np.random.default_rng(0).integers(97, 103, clip.shape).astype(np.uint8)
    quiet = features_of(tmp_path / "n.onnx", noise[None])[0][-PAIRS:]
    assert (quiet < 0.1).all()
    assert (much > 1).all()


def test_clips_of_one_picture_have_no_such_features() -> None:
    assert motion_model(ClipSpec(num_frames=1, size=(32, 32), resize=32)) is None


def swipe(path: Path, sign: int, person: int) -> None:
    """Write a hand that crosses the picture, on a wall of the person's own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(person)
    wall = cv2.GaussianBlur(rng.uniform(60, 120, (96, 96, 3)).astype(np.float32), (0, 0), 4)
    images = []
    for t in range(50):
        image = wall.copy()
        x = 48 + sign * (t - 25) * 1.6 + rng.uniform(-1, 1)
        cv2.circle(image, (round(x), 44 + 2 * person), 14, (250, 230, 220), -1)
        images.append(cv2.GaussianBlur(image, (0, 0), 3).astype(np.uint8))
    write_video(path, images)


def test_swipes_that_differ_in_direction_alone_are_taught_from_how_things_move(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for person in range(5):
        swipe(tmp_path / "clips" / "left" / f"p{person}_1.mp4", -1, person)
        swipe(tmp_path / "clips" / "right" / f"p{person}_1.mp4", 1, person)
    mine = tmp_path / "mine.onnx"
    words = ["fit", tmp_path / "clips", "-o", mine, "--engine", "onnxruntime", "--threads", 1]
    assert cli.main([*map(str, words)]) == 0
    out = capsys.readouterr().out
    assert "100.0% of 10 clips" in out
    assert "learnt from how things move; from what the network sees: " in out
    file = ModelFile(mine)
    assert file.artifact.features == FEATURES
    assert file.artifact.training["parent"]["name"] == "motion"
    assert not file.fused_operators  # the network is not in it
    assert mine.stat().st_size < 500_000
    with Recognizer(mine, engine="onnxruntime") as own:
        for path in (tmp_path / "clips").rglob("*.mp4"):
            assert {found.label for found in own.stream(path)} == {path.parent.name}
    again = ["fit", tmp_path / "clips", "-o", tmp_path / "again.onnx", "--model", mine]
    assert cli.main([*map(str, again)]) == 0  # a file without a network can be taught again
    assert "learnt from how things move\n" in capsys.readouterr().out
    assert export_main([str(mine), "-o", str(tmp_path / "x.pth")]) == 2
    assert "was taught from how things move and holds no network" in capsys.readouterr().err


@pytest.mark.slow
@needs_shared
def test_gestures_of_a_hand_are_taught_from_how_things_move(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", str(DATA / "egogestar/index.csv"), "-o", str(tmp_path / "m.onnx")]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "learnt from how things move; from what the network sees: " in out
    found = ModelFile(tmp_path / "m.onnx").artifact.training["accuracy"]["cross_validated"]
    assert found["top1"] > 0.7
