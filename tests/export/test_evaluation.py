"""dvfl-eval: a checkpoint and its exported file on the same videos; intervals; wrong input."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import videos
from bf16 import needs_bf16

from dvfl_export import ExportRequest
from dvfl_export.eval_cli import main
from dvfl_export.evaluation import open_candidate
from dvfl_export.pipeline import describe
from dvfl_models import build_model, read_checkpoint
from dvfl_models.network.checkpoint import model_of, save_checkpoint
from dvfl_models.recipe.labels import read_labels
from dvfl_runtime import ClipSpec, Recognizer
from dvfl_runtime.clips.accuracy import wilson
from dvfl_runtime.recognizer import BUNDLED_MODEL


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    rows = ["file,label"]
    with Recognizer() as recognizer:
        for k in range(6):
            path = folder / f"{k}.mp4"
            frames = [np.roll(image, 9 * k, axis=1) for image in videos.pictures(12 + k)]
            videos.write_video(path, frames)
            right = recognizer.classify(path).label
            other = next(label for label in recognizer.labels if label != right)
            rows.append(f"{k}.mp4,{right if k % 3 else other}")  # two of six are called wrong
    (folder / "index.csv").write_text("\n".join(rows) + "\n")
    return folder / "index.csv"


def test_an_exported_file_is_counted_as_the_runtime_says(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, picture = tmp_path / "r.json", tmp_path / "c.png"
    arguments = [str(BUNDLED_MODEL), str(index), "--json", str(out), "--confusion", str(picture)]
    assert main(arguments) == 0
    report = json.loads(out.read_text())["tests"]["index"]
    assert report["clips"] == 6
    assert report["top1"]["value"] == pytest.approx(4 / 6, abs=1e-4)
    assert report["top1"]["ci95"] == [round(x, 4) for x in wilson(4, 6)]
    assert np.sum(report["confusion_counts"]) == 6
    assert picture.read_bytes()[:4] == b"\x89PNG"
    shown = capsys.readouterr().out
    assert "index: 6 clips" in shown
    assert "66.7%  (30.0% to 90.3%)" in shown


def test_a_folder_is_read_by_its_index_or_by_its_class_folders(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(BUNDLED_MODEL), str(index.parent)]) == 0
    assert f"{index.parent.name}: 6 clips" in capsys.readouterr().out
    for number, label in enumerate(("idle", "bend", "bend")):
        (tmp_path / "mine" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(index.parent / f"{number}.mp4", tmp_path / "mine" / label)
    assert main([str(BUNDLED_MODEL), str(tmp_path / "mine")]) == 0
    assert "mine: 3 clips" in capsys.readouterr().out


@needs_bf16
def test_an_exported_file_in_bf16(index: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    assert main([str(BUNDLED_MODEL), str(index), "--precision", "bf16", "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    assert (report["engine"], report["precision"]) == ("openvino", "bf16")
    assert report["tests"]["index"]["clips"] == 6


def test_without_a_reader_the_results_are_still_written(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main([str(BUNDLED_MODEL), str(index), "--json", str(tmp_path / "r.json")]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["tests"]["index"]["clips"] == 6


def test_a_checkpoint_with_views_and_top5(index: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    labels = ["idle", "wave_one_hand", "wave_two_hands", "jumping_jack", "bend", "x", "y"]
    spec = ClipSpec(num_frames=2, size=(32, 32), resize=36)
    about = {"variant": "femto", "labels": labels, "spec": spec.to_dict()}
    checkpoint = tmp_path / "x.pth"
    save_checkpoint(checkpoint, build_model("femto", num_classes=7), about=about)
    reports = []
    for views in ("1", "4x3"):
        out = tmp_path / f"{views}.json"
        assert main([str(checkpoint), str(index), "--views", views, "--json", str(out)]) == 0
        reports.append(json.loads(out.read_text()))
    assert [report["views"] for report in reports] == ["1", "4x3"]
    for report in reports:
        assert report["engine"] == "torch"
        top1, top5 = (report["tests"]["index"][name]["value"] for name in ("top1", "top5"))
        assert 0 <= top1 <= top5 <= 1


def test_an_official_checkpoint_and_its_file_see_the_same_frames(tmp_path: Path) -> None:
    path, labels = tmp_path / "official.pth", tmp_path / "labels.txt"
    torch.save({"model": build_model("femto", num_classes=3).state_dict()}, path)
    labels.write_text("a\nb\nc\n")
    request = ExportRequest(path, tmp_path / "x.onnx", labels=str(labels))
    checkpoint = read_checkpoint(path)
    exported = describe(request, checkpoint, model_of(checkpoint))
    with open_candidate(path, str(labels)) as candidate:
        assert candidate.spec == exported.spec
        assert candidate.spec.frame_interval == 4
        assert candidate.labels == exported.labels == ("a", "b", "c")


def test_the_test_sets_of_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--set", "test.0.clips=2", "--set", "test.1.clips=1", "--set", "test.2.kind=order",
                "--set", "test.2={kind='synthetic', name='few', clips=1}"]  # fmt: skip
    assert main([str(BUNDLED_MODEL), "actions5", *settings]) == 0
    shown = capsys.readouterr().out
    assert [line for line in shown.splitlines() if line.endswith("clips") and ": " in line] == [
        "synthetic: 10 clips", "synthetic_clean: 5 clips", "few: 5 clips"
    ]  # fmt: skip


def test_wrong_input_is_one_line(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(build_model("femto", num_classes=5).state_dict(), tmp_path / "plain.pth")
    for arguments, message in (
        ([str(BUNDLED_MODEL), "absent.csv"], "cannot read absent.csv"),
        ([str(BUNDLED_MODEL), str(index), "--views", "4x2"], "views must be"),
        ([str(BUNDLED_MODEL), str(index), "--format", "zip"], "--format: "),
        ([str(BUNDLED_MODEL), "order"], "recipe order has the classes"),
        ([str(tmp_path / "plain.pth"), str(index)], "give --labels"),
        ([str(tmp_path / "absent.onnx"), str(index)], "absent.onnx"),
        (
            [str(tmp_path / "plain.pth"), str(index), "--precision", "bf16"],
            "--precision bf16 is for a .onnx file",
        ),
        (
            [str(tmp_path / "plain.pth"), str(index), "--engine", "openvino"],
            "--engine openvino is for a .onnx file",
        ),
        (
            [str(tmp_path / "plain.pth"), str(index), "--device", "cpu"],
            "--device cpu is for a .onnx file",
        ),
        (
            [str(BUNDLED_MODEL), str(index), "--engine", "openvino", "--device", "cuda"],
            "pass --device cpu or --device gpu",
        ),
        (
            [str(BUNDLED_MODEL), str(index), "--precision", "bf16", "--engine", "onnxruntime"],
            "pass --engine openvino, or --precision file",
        ),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("dvfl-eval: error: ")
        assert message in error
        assert error.count("\n") == 1


def test_intervals() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(5, 10) == pytest.approx(
        (0.2366, 0.7634), abs=1e-4
    )  # Wilson 1927, as in textbooks
    assert wilson(10, 10)[1] == 1.0
    assert wilson(0, 10)[0] == 0.0
    assert len(set(read_labels("ssv2"))) == 174
