"""What a network starts from: ImageNet weights and checkpoints of other classes."""

import logging
from pathlib import Path

import pytest
import torch

from dvfl_models import build_model
from dvfl_models.distillation.teacher import Teacher
from dvfl_models.network.checkpoint import save_checkpoint
from dvfl_models.network.video_focalnet import VideoFocalNet
from dvfl_models.recipe.recipe import read_recipe, recipe_from
from dvfl_models.training.initial_weights import new_network
from dvfl_runtime import ClipSpec
from dvfl_runtime.errors import CheckpointError, RecipeError


def start(
    labels: list[str] | None = None, clip: dict | None = None, **model: object
) -> VideoFocalNet:
    values = {
        "clip": clip or {},
        "name": "start",
        "labels": labels or ["a", "b"],
        "model": {"variant": "femto", **model},
        "train": [{"kind": "synthetic"}],
        "optim": {"steps": 1},
    }
    return new_network(recipe_from(values, "start"))


@pytest.fixture(scope="module")
def femto(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("femto") / "femto.pth"
    about = {"variant": "femto", "labels": ["a", "b"], "spec": ClipSpec().to_dict()}
    save_checkpoint(path, build_model("femto", num_classes=2), about=about)
    return path


def flat(variant: str) -> dict[str, torch.Tensor]:
    """Of an ImageNet network, by its keys: no temporal part, another head."""
    state = build_model(variant, num_classes=1000).state_dict()
    return {key: value + 1 for key, value in state.items() if "temporal" not in key}


def test_imagenet_weights_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    torch.save({"model": flat("femto")}, tmp_path / "whole.pth")
    model = start(imagenet=str(tmp_path / "whole.pth"))
    torch.testing.assert_close(model.norm.weight, flat("femto")["norm.weight"])
    assert "spatial weights (100 %)" in caplog.text
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    part = {key: value for key, value in flat("femto").items() if "layers.3" not in key}
    torch.save({"model": part}, tmp_path / "part.pth")
    start(imagenet=str(tmp_path / "part.pth"))
    (warning,) = (record for record in caplog.records if record.levelname == "WARNING")
    assert "the first is layers.3" in warning.getMessage()


def test_a_start_that_is_asked_for_is_named(tmp_path: Path) -> None:
    for variant, file in (("base", "focalnet_base_srf.pth"), ("nano", "focalnet_tiny_srf.pth")):
        with pytest.raises(RecipeError, match=f"model.imagenet=path/to/{file}; or set .*scratch=t"):
            start(variant=variant, scratch=False)
    with pytest.raises(RecipeError, match=r"no ImageNet weights for femto; .* model\.start="):
        start(scratch=False)
    torch.save({"model": flat("femto")}, tmp_path / "imagenet.pth")
    start(scratch=False, imagenet=str(tmp_path / "imagenet.pth"))
    assert read_recipe("ucf101_student", ["model.scratch=true"]).model.scratch


def test_imagenet_weights_of_another_network_are_an_error(tmp_path: Path) -> None:
    torch.save({"model": flat("pico")}, tmp_path / "wide.pth")
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "resnet.pth")
    for name, found in (("wide.pth", r"patch_embed"), ("resnet.pth", r"conv1\.weight")):
        with pytest.raises(CheckpointError, match=rf"not one of the \d+ spatial.*{found}"):
            start(imagenet=str(tmp_path / name))


def test_other_labels_with_the_old_head_are_told(
    femto: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start(start=str(femto))
    start(["c", "d"], start=str(femto), new_head=True)
    assert not caplog.messages
    for labels in (["a", "c"], ["b", "a"]):
        caplog.clear()
        start(labels, start=str(femto))
        assert "labels differ from its own: what was" in caplog.text
    with pytest.raises(CheckpointError, match=r"knows 2 classes, the recipe has 3; set .*new_head"):
        start(["a", "b", "c"], start=str(femto))
    with pytest.raises(CheckpointError, match=r"wrong shape: .*these weights fit variant 'femto'"):
        start(variant="pico", start=str(femto))


def test_weights_of_other_clips_are_told(femto: Path, caplog: pytest.LogCaptureFixture) -> None:
    start(start=str(femto), clip={"size": [64, 64], "crop": "letterbox"})
    assert "clip.size (224, 224) and (64, 64), clip.resize 256 and None, clip.crop" in caplog.text
    caplog.clear()
    Teacher(femto, ["a", "b"], ClipSpec(window_s=8.0))
    assert "clips than the recipe's: clip.window_s 2.0 and 8.0; set what" in caplog.text
