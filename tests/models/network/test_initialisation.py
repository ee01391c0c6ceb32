"""Networks that start with the weights of another one."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from dvfl_models import VideoFocalNet, VideoFocalNetConfig, build_model
from dvfl_models.network.checkpoint import save_checkpoint
from dvfl_models.network.initialisation import init_from_focalnet, widened
from dvfl_models.recipe.recipe import Recipe, recipe_from
from dvfl_models.training.initial_weights import new_network
from dvfl_runtime import ClipSpec
from dvfl_runtime.errors import CheckpointError, RecipeError

CLIPS = torch.randn(2, 4, 3, 64, 64, generator=torch.Generator().manual_seed(3))
OPTIONS = [
    {},
    {"use_conv_embed": True, "use_layerscale": True, "layerscale_value": 0.5},
    {"tubelet_size": 2, "use_postln": True, "normalize_modulator": True},
    {"use_postln_in_modulation": True, "focal_levels": (3, 1, 2, 2), "depths": (2, 1, 1, 1)},
]


def network(embed_dim: int, options: dict) -> VideoFocalNet:
    """With random values in every tensor, so that none can be forgotten."""
    model = VideoFocalNet(VideoFocalNetConfig(embed_dim=embed_dim, num_classes=5, **options))
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value) * 0.1)
    return model.eval()


@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize("options", OPTIONS)
def test_the_wide_network_computes_what_the_narrow_one_does(options: dict, times: int) -> None:
    torch.manual_seed(0)
    narrow, wide = network(8, options), network(8 * times, options)
    wide.load_state_dict(widened(narrow.state_dict(), wide.state_dict()))
    with torch.no_grad():
        torch.testing.assert_close(wide(CLIPS), narrow(CLIPS), atol=2e-4, rtol=1e-4)


def test_weights_have_the_spread_of_the_new_width() -> None:
    torch.manual_seed(0)
    narrow, wide = build_model("femto", num_classes=5), build_model("nano", num_classes=5)
    key = "layers.2.blocks.0.mlp.fc1.weight"
    grown = widened(narrow.state_dict(), wide.state_dict())[key]
    spread = narrow.state_dict()[key].std() / 3**0.5
    torch.testing.assert_close(grown.std(), spread, rtol=0.02, atol=0)


def test_equal_channels_get_different_gradients() -> None:
    torch.manual_seed(0)
    narrow, wide = network(8, {}), network(24, {})
    wide.load_state_dict(widened(narrow.state_dict(), wide.state_dict()))
    wide(CLIPS).logsumexp(1).sum().backward()
    for layer in (wide.patch_embed.proj, wide.layers[2].blocks[0].modulation.focal_layers[0][0]):
        copies = layer.weight.grad.flatten(1).unflatten(0, (-1, 3))
        apart = (copies[:, 0] - copies[:, 1]).norm() / copies[:, 0].norm()
        assert apart > 0.1


def recipe(**model: object) -> Recipe:
    values = {
        "name": "widen",
        "labels": ["a", "b", "c"],
        "clip": {"num_frames": 4, "size": [32, 32], "window_s": 1.0},
        "train": [{"kind": "synthetic"}],
        "optim": {"steps": 1},
        "model": model,
    }
    return recipe_from(values, "widen")


@pytest.fixture(scope="module")
def femto(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("femto") / "femto.pth"
    about = {"variant": "femto", "labels": list("abc"), "spec": ClipSpec().to_dict()}
    save_checkpoint(path, build_model("femto", num_classes=3), about=about)
    return path


def test_a_recipe_starts_nano_from_femto(femto: Path) -> None:
    model = new_network(recipe(variant="nano", start=str(femto), widen=True))
    twin = new_network(recipe(variant="nano", start=str(femto), widen=True))
    assert model.config == dataclasses.replace(VideoFocalNetConfig(), num_classes=3)
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)  # the seed decides the shares


def test_with_a_new_head(femto: Path) -> None:
    values = recipe(variant="nano", start=str(femto), widen=True, new_head=True)
    model = new_network(values.model_copy(update={"labels": ["a", "b", "c", "d"]}))
    assert model.head.weight.shape == (4, 768)
    assert torch.equal(model.norm.weight, torch.ones(768))


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("pico", "48 channels are not 2, 3 ... times the 32 of the start"),
        ("femto", "32 channels are not 2, 3 ... times the 32 of the start"),
        ("tiny", "does not fit the model: missing: layers.0.blocks.1"),
    ],
)
def test_what_is_not_a_narrower_network_is_refused(femto: Path, variant: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(message)):
        new_network(recipe(variant=variant, start=str(femto), widen=True))


def test_other_classes_without_a_new_head_are_refused(femto: Path) -> None:
    values = recipe(variant="nano", start=str(femto), widen=True)
    with pytest.raises(CheckpointError, match=r"knows 3 classes, the recipe has 2; set .*new_head"):
        new_network(values.model_copy(update={"labels": ["a", "b"]}))


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"missing: patch_embed\.proj\.weight"):
        new_network(recipe(variant="nano", start=str(tmp_path / "x.pth"), widen=True))


def test_widening_needs_a_start() -> None:
    with pytest.raises(RecipeError, match="widen goes with start"):
        recipe(variant="nano", widen=True)


def test_imagenet_initialisation_reports_what_matched() -> None:
    femto = build_model("femto", num_classes=5)
    flat = {k: v + 1 for k, v in femto.state_dict().items() if "temporal" not in k}
    flat["head.weight"] = torch.zeros(1000, femto.head.in_features)
    flat["head.bias"] = torch.zeros(1000)
    model = build_model("femto", num_classes=5)
    report = init_from_focalnet(model, flat)
    assert report["skipped"] == ["head.weight", "head.bias"]
    assert all("temporal" in key or "head" in key for key in report["not_in_file"])
    assert len(report["loaded"]) + 2 == len(flat)
    torch.testing.assert_close(model.norm.weight, flat["norm.weight"])
