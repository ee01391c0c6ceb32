"""An exported file becomes a checkpoint of the same function, or an error."""

import dataclasses
import re
from collections.abc import Callable
from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from videos import pictures, write_video

from dvfl_export.cli import main
from dvfl_export.deploy.form import DeployBlock, deploy_form
from dvfl_export.deploy.unfolding import unfold
from dvfl_export.onnx_model import onnx_from_model
from dvfl_export.precision.compress import compress_weights
from dvfl_models import VARIANTS, VideoFocalNet, read_checkpoint
from dvfl_models.data.clips import to_batch
from dvfl_models.training.cli import main as train
from dvfl_runtime import ClipSpec
from dvfl_runtime.artifact import Artifact
from dvfl_runtime.errors import ExportError

README = Path(__file__).parents[3] / "models" / "README.md"
SPEC = ClipSpec(num_frames=5, size=(32, 48), crop="letterbox", resize=None)
ABOUT = Artifact("mine", "femto", ("a", "b", "c"), SPEC)


FOLDED = ("use_layerscale", "normalize_modulator")


def network(*options: str) -> VideoFocalNet:
    """Return a femto whose norms, biases and scales are far from their initial values."""
    torch.manual_seed(0)
    config = dataclasses.replace(VARIANTS["femto"], num_classes=3, **dict.fromkeys(options, True))  # type: ignore[arg-type]
    model = VideoFocalNet(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.add_(0.3 * torch.randn_like(weight))
            elif "head" not in name:
                torch.nn.init.xavier_uniform_(weight)
    return model


@cache
def graph(*options: str, fused: bool = True) -> bytes:
    form = deploy_form(network(*options), SPEC)
    return onnx_from_model(form, SPEC, fused=fused).SerializeToString()


@pytest.mark.parametrize(
    ("options", "proto"),
    [
        ((), graph),
        (FOLDED, partial(graph, *FOLDED, fused=False)),
    ],
    ids=["plain", "folded options, standard operators"],
)
def test_the_way_back_computes_the_same(
    options: tuple[str, ...], proto: Callable[[], bytes]
) -> None:
    back = unfold(onnx.load_from_string(proto()), ABOUT)
    assert back.config == dataclasses.replace(VARIANTS["femto"], num_classes=3)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3), np.uint8)
    clips = to_batch([pixels, pixels[::-1].copy()], SPEC)
    with torch.inference_mode():
        wanted, found = network(*options)(clips), back(clips)
    assert wanted.std() > 0.01
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_files_in_which_each_stage_adds_its_own_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older versions wrote them."""
    nodes = len(onnx.load_from_string(graph()).graph.node)  # kept, so before it is changed
    monkeypatch.setattr(DeployBlock, "give_bias", lambda block: torch.zeros(block.norm1.bias.shape))
    older = onnx_from_model(deploy_form(network(), SPEC), SPEC)
    assert len(older.graph.node) > nodes
    monkeypatch.undo()
    back, clips = unfold(older, ABOUT), to_batch([np.full((5, 32, 48, 3), 99, np.uint8)], SPEC)
    with torch.inference_mode():
        torch.testing.assert_close(back(clips), network()(clips), atol=1e-4, rtol=1e-4)


def test_compressed_weights_come_back_rounded() -> None:
    proto = onnx.load_from_string(graph())
    assert compress_weights(proto) > 20
    model, back = network(), unfold(proto, ABOUT)
    wanted = model.head.weight * model.norm.weight
    torch.testing.assert_close(back.head.weight, wanted, atol=1e-3, rtol=1e-3)


def without(proto: onnx.ModelProto, name: str) -> None:
    """As of a network with overlapped embeddings: it has no such weight."""
    weights = [weight for weight in proto.graph.initializer if weight.name != name]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(weights)


def scaled(proto: onnx.ModelProto, name: str) -> None:
    """As of a network that normalises after its branches."""
    weight = next(weight for weight in proto.graph.initializer if weight.name == name)
    weight.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(weight), name))


def normalised(proto: onnx.ModelProto, name: str) -> None:
    """As of a network that normalises its modulation."""
    proto.graph.node.add(op_type="LayerNormalization", name=name)


def damaged(proto: onnx.ModelProto, name: str) -> None:
    weight = next(weight for weight in proto.graph.initializer if weight.name == name)
    weight.dims[0] += 1


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"precision": "int8"}, "mine is in int8.*take its fp32 file"),
        ({"variant": "mine"}, "unknown variant 'mine'.*femto, pico, nano"),
        ({"variant": "pico"}, r"not a plain pico \(wrong shape: patch_embed.linear.weight"),
    ],
)
def test_files_that_do_not_fit_their_description_are_refused(
    about: dict[str, str], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        unfold(onnx.load_from_string(graph()), dataclasses.replace(ABOUT, **about))


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        (without, "patch_embed.linear.weight", "missing: patch_embed.linear.weight"),
        (scaled, "layers.0.norm1.weight", "layers.0.norm1 has a scale and a shift"),
        (normalised, "layers.0.modulation.norm", "16 normalisations instead of 15"),
        (damaged, "head.weight", "head.weight: cannot reshape array .*"),
    ],
)
def test_networks_that_cannot_be_told_from_a_file_are_refused(
    change: Callable[[onnx.ModelProto, str], None], name: str, message: str
) -> None:
    proto = onnx.load_from_string(graph())
    change(proto, name)
    with pytest.raises(ExportError, match=rf"not a plain femto \({message}\).*from its checkpoint"):
        unfold(proto, ABOUT)


def test_the_bundled_model_is_a_start_for_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = tmp_path / "start.pth"
    assert main(["bundled", "-o", str(start)]) == 0
    out = capsys.readouterr().out
    assert f"wrote {start}" in out
    assert "femto, 5 classes, 8x64x64" in out
    assert read_checkpoint(start).labels[0] == "idle"
    recipes = re.findall(r"```toml\n(.*?)```", README.read_text(), re.DOTALL)
    (recipe,) = [recipe for recipe in recipes if "start.pth" in recipe]
    for part, label in product(("train", "test"), ("idle", "fall", "sit_down")):
        folder = tmp_path / "videos" / part / label
        folder.mkdir(parents=True)
        write_video(folder / "1.mp4", pictures(20))
    (tmp_path / "mine.toml").write_text(recipe)
    monkeypatch.chdir(tmp_path)
    settings = [word for name in ("steps=2", "batch_size=2") for word in ("--set", f"optim.{name}")]
    assert train(["mine.toml", *settings, "--cpu", "--workers", "0"]) == 0
    found, weights = (read_checkpoint(p).state_dict for p in ("runs/mine/final.pth", start))
    assert found["head.weight"].shape == (3, 256)
    name = "layers.0.blocks.0.mlp.fc1.weight"
    torch.testing.assert_close(found[name], weights[name], atol=1e-3, rtol=0)


def test_bad_input_of_the_way_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.pth"
    for arguments, message in (
        (["absent.onnx"], "cannot read model absent.onnx"),
        (["bundled", "--precision", "int8"], "--precision says nothing of a .pth file; leave it"),
        (["bundled", "--num-frames", "4"], "--num-frames says nothing"),
    ):
        assert main([*arguments, "-o", str(out)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
    assert main(["bundled", "-o", str(tmp_path / "absent" / "x.pth")]) == 2
    assert not list(tmp_path.iterdir())
