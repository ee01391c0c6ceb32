"""The architecture: parity with the official modules, options, tracing."""

import copy
import json

import numpy as np
import pytest
import torch
from shared import REFERENCE, needs_shared

from dvfl_models import VARIANTS, VideoFocalNet, VideoFocalNetConfig, build_model, count_macs
from dvfl_models.network.video_focalnet import init_weights

SMALL = VideoFocalNetConfig(embed_dim=8, depths=(1, 1, 1, 1), num_classes=5)
PARITY = ["conv_embed", "default", "frames16_levels3", "layerscale_postln",
          "postln_in_modulation", "tubelet2"]  # fmt: skip


def official(name: str) -> tuple[VideoFocalNet, "np.lib.npyio.NpzFile"]:
    case = np.load(REFERENCE / f"parity_{name}.npz")
    config = json.loads(str(case["config"]))
    config = {k: v for k, v in config.items() if k not in ("img_size", "num_frames")}
    model = VideoFocalNet(VideoFocalNetConfig(**config)).eval()
    weights = {k[2:]: torch.from_numpy(case[k]) for k in case if k.startswith("w/")}
    model.load_state_dict(weights, strict=True)
    return model, case


@needs_shared
@pytest.mark.parametrize("name", PARITY)
def test_parity_with_the_official_modules(name: str) -> None:
    model, case = official(name)
    clip = torch.from_numpy(case["clip"])
    with torch.no_grad():
        stages, logits = model.forward_stages(clip), model(clip)
    np.testing.assert_allclose(logits.numpy(), case["logits"], rtol=0, atol=1e-5)
    for index in (0, 3):
        tokens = stages[index].flatten(2, 3).flatten(0, 1).numpy()  # (B*T, H*W, C)
        wanted = case[f"feat/stage{index}"]
        # stage 3 reaches several hundred, where one float32 rounding is itself above 1e-5
        np.testing.assert_allclose(tokens, wanted, rtol=0, atol=1e-5 * max(1, abs(wanted).max()))


@needs_shared
def test_parity_bites() -> None:
    model, case = official("default")
    with torch.no_grad():
        model.layers[2].blocks[0].modulation.f.bias[3] += 1e-2
        logits = model(torch.from_numpy(case["clip"]))
    assert abs(logits.numpy() - case["logits"]).max() > 1e-5


@needs_shared
@pytest.mark.parametrize("variant", ["nano", "tiny", "small", "base"])
def test_official_layouts_load_strictly(variant: str) -> None:
    layout = json.loads((REFERENCE / "checkpoint_layout.json").read_text())[variant]
    with torch.device("meta"):
        model = build_model(variant)
        state = {k: torch.empty(shape) for k, shape in layout["state_dict"].items()}
    model.load_state_dict(state, strict=True, assign=True)
    assert sum(p.numel() for p in model.parameters()) == layout["parameters"]


@pytest.mark.parametrize(
    ("variant", "gmacs"), [("nano", 27.14), ("tiny", 63.00), ("small", 124.33), ("base", 220.65)]
)
def test_macs_of_the_published_variants(variant: str, gmacs: float) -> None:
    with torch.device("meta"):
        model = build_model(variant)
    assert count_macs(model, (8, 3, 224, 224)) / 1e9 == pytest.approx(gmacs, rel=0.01)


def test_any_length_and_size_through_one_module() -> None:
    model = VideoFocalNet(SMALL).eval()
    for frames, height, width in ((1, 32, 32), (5, 40, 64), (16, 64, 48)):
        assert model(torch.rand(2, frames, 3, height, width)).shape == (2, 5)


def test_nothing_is_stored_in_forward() -> None:
    model = VideoFocalNet(SMALL)
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    logits = model(torch.rand(1, 4, 3, 32, 32))
    assert before == {name: set(vars(module)) for name, module in model.named_modules()}
    logits.sum().backward()
    twin = copy.deepcopy(model).eval()
    clip = torch.rand(1, 4, 3, 32, 32)
    torch.testing.assert_close(twin(clip), model.eval()(clip))


def test_torch_export_with_a_dynamic_batch() -> None:
    model = VideoFocalNet(SMALL).eval()
    clip = torch.rand(2, 4, 3, 32, 32)
    batch = torch.export.Dim("batch", min=1, max=16)
    program = torch.export.export(model, (clip,), dynamic_shapes=({0: batch},))
    more = torch.rand(3, 4, 3, 32, 32)
    torch.testing.assert_close(program.module()(more), model(more), rtol=0, atol=1e-5)


def test_drop_path_works_in_training_only() -> None:
    model = build_model("femto", num_classes=3, drop_path_rate=0.9)
    clip = torch.rand(4, 2, 3, 32, 32)
    torch.manual_seed(0)
    first, second = model(clip), model(clip)
    assert not torch.allclose(first, second)
    model.eval()
    torch.testing.assert_close(model(clip), model(clip))


def test_xavier_initialisation_is_wider_than_the_official_one() -> None:
    model = build_model("femto", num_classes=3)
    official_std = model.layers[0].blocks[0].modulation.f.weight.std()
    init_weights(model, "xavier")
    assert model.layers[0].blocks[0].modulation.f.weight.std() > 3 * official_std
    with pytest.raises(ValueError, match="'official' or 'xavier'"):
        init_weights(model, "kaiming")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"depths": (1, 1, 1)}, "depths must be 4 numbers"),
        ({"embed_dim": 0}, "embed_dim must be >= 1, got 0"),
        ({"focal_windows": (2, 3, 3, 3)}, "focal_windows must be odd"),
        ({"tubelet_size": 2, "use_conv_embed": True}, "set tubelet_size=1"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
    ],
)
def test_config_is_validated(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoFocalNetConfig(**wrong)


def test_unknown_variant_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'huge'.*femto.*base"):
        build_model("huge")
    assert list(VARIANTS) == ["femto", "pico", "nano", "tiny", "small", "base"]
