"""The robustness sheet: what corruptions do to a video, and what the command writes."""

import json
from pathlib import Path

import numpy as np
import pytest
import videos

from dvfl_export.eval_cli import main
from dvfl_export.robustness import __main__ as folds
from dvfl_export.robustness import sheet
from dvfl_export.robustness.corruptions import CORRUPTIONS, CorruptedSource, Corruption
from dvfl_models import build_model
from dvfl_models.network.checkpoint import save_checkpoint
from dvfl_runtime import ClipSpec
from dvfl_runtime.recognizer import BUNDLED_MODEL
from dvfl_runtime.sources import open_source

PICTURES = list(videos.pictures(10))


def seen(corruption: Corruption) -> list[np.ndarray]:
    source = CorruptedSource(open_source(PICTURES, fps=20), corruption, seed=1)
    return [frame.image for frame in source.frames()]


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda corruption: corruption.name)
def test_a_corrupted_video_is_the_same_each_time(corruption: Corruption) -> None:
    images = seen(corruption)
    assert all(np.array_equal(a, b) for a, b in zip(images, seen(corruption), strict=True))
    assert all(image.dtype == np.uint8 and image.shape == PICTURES[0].shape for image in images)
    if corruption.kind == "frame rate":
        assert len(images) == {"8 fps": 4, "4 fps": 2}[corruption.strength]
    else:
        assert len(images) == len(PICTURES)
        assert not np.array_equal(images[0], PICTURES[0])


def test_noise_is_as_strong_as_its_name_says() -> None:
    grey = [np.full((64, 64, 3), 128, np.uint8)] * 2
    by_name = {corruption.name: corruption for corruption in CORRUPTIONS}
    source = CorruptedSource(open_source(grey, fps=20), by_name["noise 15"], seed=0)
    first, second = (frame.image.astype(float) for frame in source.frames())
    assert first.std() == pytest.approx(15, rel=0.05)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05


def index_of(folder: Path, label: str) -> Path:
    videos.write_video(folder / "a.mp4", PICTURES)
    (folder / "index.csv").write_text(f"file,label,person\na.mp4,{label},0\n")
    return folder / "index.csv"


def test_the_command_writes_rows_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index, out, picture = index_of(tmp_path, "idle"), tmp_path / "r.json", tmp_path / "s.png"
    files = ["--corruptions", str(picture), "--json", str(out)]
    assert main([str(BUNDLED_MODEL), str(index), *files]) == 0
    report = json.loads(out.read_text())["tests"]["index"]
    rows = {row["corruption"]: row for row in report["corruptions"]}
    assert list(rows) == ["as they are", *(corruption.name for corruption in CORRUPTIONS)]
    assert rows["as they are"]["top1"] == report["top1"]["value"]
    assert all(row["clips"] == 1 for row in rows.values())
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert "noise 15" in capsys.readouterr().out


def test_folds_are_counted_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "CORRUPTIONS", CORRUPTIONS[:1])
    index = index_of(tmp_path, "a")
    clip = {"num_frames": 2, "size": [32, 32], "crop": "letterbox"}
    table = {"kind": "videos", "name": "mine", "index": str(index), "only": {"person": ["0"]}}
    recipe = {
        "name": "r",
        "labels": ["a", "b"],
        "model": {"variant": "femto"},
        "clip": clip,
        "train": [{"kind": "videos", "name": "mine", "index": str(index)}],
        "test": [table],
        "optim": {"steps": 1},
    }
    for fold in ("seed0_person0", "seed0_person1"):
        (tmp_path / "runs" / fold).mkdir(parents=True)
        (tmp_path / "runs" / fold / "recipe.json").write_text(json.dumps(recipe))
        spec = ClipSpec(num_frames=2, size=(32, 32), resize=None, crop="letterbox")
        about = {"variant": "femto", "labels": ["a", "b"], "spec": spec.to_dict(), "training": {}}
        network = build_model("femto", num_classes=2)
        save_checkpoint(tmp_path / "runs" / fold / "final.pth", network, about=about)
    out = tmp_path / "sheet.json"
    assert folds.main([str(tmp_path / "runs"), "--json", str(out)]) == 0
    assert {row["clips"] for row in json.loads(out.read_text())["rows"]} == {2}
    assert folds.main([str(tmp_path / "nothing")]) == 2


def test_rendered_test_sets_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["actions5", "--corruptions", str(tmp_path / "s.png")]
    few = ["--set", "test.0.clips=1", "--set", "test.1.clips=1"]
    assert main([str(BUNDLED_MODEL), *arguments, *few]) == 2
    assert "--corruptions is for videos" in capsys.readouterr().err
