"""The deploy form and its ONNX graph: parity, refusals, node counts, dynamic batch, engines."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from kernels_library import LIBRARY, Unavailable, build
from shared import REFERENCE, needs_shared
from torch import Tensor, nn

from dvfl_export.deploy.form import check_config, deploy_form
from dvfl_export.onnx_model import IR_VERSION, onnx_from_model
from dvfl_models import VideoFocalNet, VideoFocalNetConfig
from dvfl_models.network.video_focalnet import init_weights
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.engines.openvino import shared_core
from dvfl_runtime.engines.openvino_nodes import read_onnx
from dvfl_runtime.errors import ExportError

CASES = ["conv_embed", "default", "frames16_levels3", "layerscale_postln",
         "postln_in_modulation", "tubelet2"]  # fmt: skip
SPEC = ClipSpec(num_frames=4, size=(32, 32), resize=32)


def case(name: str) -> tuple[VideoFocalNet, ClipSpec, "np.lib.npyio.NpzFile"]:
    data = np.load(REFERENCE / f"parity_{name}.npz")
    config = json.loads(str(data["config"]))
    config = {k: v for k, v in config.items() if k not in ("img_size", "num_frames")}
    model = VideoFocalNet(VideoFocalNetConfig(**config)).eval()
    model.load_state_dict({k[2:]: torch.from_numpy(data[k]) for k in data if k.startswith("w/")})
    size = data["clip"].shape[-1]
    return model, ClipSpec(num_frames=data["clip"].shape[1], size=(size, size), resize=size), data


def lively(**options: object) -> VideoFocalNet:
    """Random weights in which every folded vector matters: no ones, no zeros."""
    torch.manual_seed(0)
    values = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_classes": 5, **options}
    model = VideoFocalNet(VideoFocalNetConfig(**values)).eval()  # type: ignore[arg-type]
    init_weights(model, "xavier")
    for name, value in model.named_parameters():
        if value.dim() == 1:
            centre = 1.0 if "gamma" in name or ("norm" in name and "weight" in name) else 0.0
            nn.init.uniform_(value, centre - 0.5, centre + 0.5)
    return model


def uint8_clip(spec: ClipSpec, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (batch, spec.num_frames, *spec.size, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def training_logits(model: VideoFocalNet, spec: ClipSpec, clip: Tensor) -> np.ndarray:
    normal = (clip.float() - torch.tensor(spec.mean)) / torch.tensor(spec.std)
    with torch.no_grad():
        return model(normal.permute(0, 1, 4, 2, 3)).numpy()


def assert_close(got: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * max(1, abs(wanted).max()))


def onnxruntime_logits(model: onnx.ModelProto, clip: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(["logits"], {"clip": clip.numpy()})[0]


@needs_shared
@pytest.mark.parametrize("name", CASES)
def test_parity_with_the_official_modules(name: str) -> None:
    model, spec, data = case(name)
    # the clips of the cases are normalised floats; the form reads pixels, which need not be whole
    pixels = np.moveaxis(data["clip"], 2, -1) * np.float32(spec.std) + np.float32(spec.mean)
    with torch.no_grad():
        logits = deploy_form(model, spec)(torch.from_numpy(pixels)).numpy()
    assert_close(logits, data["logits"])
    clip = uint8_clip(spec)
    with torch.no_grad():
        assert_close(deploy_form(model, spec)(clip).numpy(), training_logits(model, spec, clip))


@needs_shared
@pytest.mark.parametrize("name", ["conv_embed", "layerscale_postln"])
def test_parity_through_onnxruntime(name: str) -> None:
    model, spec, _ = case(name)
    clip = uint8_clip(spec)
    exported = onnx_from_model(deploy_form(model, spec), spec)
    assert_close(onnxruntime_logits(exported, clip), training_logits(model, spec, clip))


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_fused_nodes_equal_standard_operators(
    name: str, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """In onnxruntime by their functions and by kernels, in OpenVINO by the conversion."""
    model, spec, _ = case(name)
    clip, form = uint8_clip(spec), deploy_form(model, spec)
    wanted = onnxruntime_logits(onnx_from_model(form, spec, fused=False), clip)
    fused = onnx_from_model(form, spec)
    assert_close(onnxruntime_logits(fused, clip), wanted)

    onnx.save(fused, tmp_path / "fused.onnx")
    operators = {node.op_type for node in fused.graph.node if node.domain}
    graph = read_onnx(str(tmp_path / "fused.onnx"), operators)
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = shared_core(pytest.importorskip("openvino")).compile_model(graph, "CPU", hints)
    assert_close(compiled({"clip": clip.numpy()})[0], wanted, 1e-4)

    try:
        library = build(pytestconfig.cache.mkdir("kernels")) / LIBRARY
    except Unavailable as err:
        pytest.skip(str(err))
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(library))
    del fused.functions[:]
    session = onnxruntime.InferenceSession(fused.SerializeToString(), options)
    assert_close(session.run(None, {"clip": clip.numpy()})[0], wanted, 1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_layerscale": True},
        {"use_layerscale": True, "use_postln": True},
        {"use_postln_in_modulation": True, "normalize_modulator": True},
        {"use_conv_embed": True},
        {"tubelet_size": 2},
    ],
)
@pytest.mark.parametrize("size", [(32, 32), (44, 71)])
def test_every_option_with_lively_weights(options: dict[str, object], size: tuple) -> None:
    model = lively(**options)
    spec = dataclasses.replace(SPEC, size=size, resize=max(size))
    clip = uint8_clip(spec)
    with torch.no_grad():
        logits = deploy_form(model, spec)(clip).numpy()
    assert_close(logits, training_logits(model, spec, clip))


def test_edge_bias_matters() -> None:
    """Parity bites: the frames at the edge have a bias of their own."""
    model = lively()
    form, clip = deploy_form(model, SPEC), uint8_clip(SPEC)
    bias = form.layers[0].modulation.temporal.bias
    assert bias.shape == (1, 8, 4, 1)
    with torch.no_grad():
        bias[:] = bias[:, :, 1:2].clone()
        difference = abs(form(clip).numpy() - training_logits(model, SPEC, clip)).max()
    assert difference > 1e-4


def test_the_model_is_left_unchanged() -> None:
    model = lively(use_layerscale=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    deploy_form(model, SPEC)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.fixture(scope="module")
def exported() -> onnx.ModelProto:
    """In standard operators alone; test_fused_ops.py has those of domain dvfl."""
    return onnx_from_model(deploy_form(lively(), SPEC), SPEC, fused=False)


def test_nodes_of_the_graph(exported: onnx.ModelProto) -> None:
    counts = Counter(node.op_type for node in exported.graph.node)
    blocks, embeddings = 4, 4
    wanted = {
        "Gelu": 7 * blocks,  # 2 levels + mean, in space and in time; the MLP
        "LayerNormalization": 2 * blocks + embeddings + 1,
        "Transpose": 6 * blocks + embeddings,  # context, gates, and back: spatial and temporal
        "MatMul": 8 * blocks + embeddings + 1,
        "Conv": 4 * blocks,
        "ReduceMean": 2 * blocks + 1,
        "Cast": 1,
    }
    assert {name: counts[name] for name in wanted} == wanted
    assert set(counts) - set(wanted) == {"Add", "Mul", "Reshape", "Slice"}
    assert not any(node.domain for node in exported.graph.node)
    # the last linear of a stage leaves its bias to the next embedding
    biased = [
        f"layers.{n}" for n in (0, 2, 4, 6) if f"layers.{n}.mlp.fc2/Add" in node_names(exported)
    ]
    assert biased == ["layers.6"]


def node_names(model: onnx.ModelProto) -> set[str]:
    return {node.name for node in model.graph.node}


def test_the_graph_is_clean(exported: onnx.ModelProto) -> None:
    onnx.checker.check_model(exported, full_check=True)
    assert exported.ir_version == IR_VERSION
    assert [(o.domain, o.version) for o in exported.opset_import] == [("", 20)]
    names = [node.name for node in exported.graph.node]
    assert len(set(names)) == len(names)
    assert "layers.0.modulation.temporal/Conv" in names
    assert not any(node.doc_string or node.metadata_props for node in exported.graph.node)
    weights = {value.name for value in exported.graph.initializer}
    assert "layers.0.modulation.q.weight" in weights


@pytest.mark.slow
def test_the_same_model_gives_the_same_bytes(exported: onnx.ModelProto) -> None:
    again = onnx_from_model(deploy_form(lively(), SPEC), SPEC, fused=False)
    assert again.SerializeToString() == exported.SerializeToString()


def test_dynamic_batch_and_engines_agree(exported: onnx.ModelProto) -> None:
    openvino = pytest.importorskip("openvino")
    core = shared_core(openvino)
    model = core.read_model(exported.SerializeToString())
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(model, "CPU", hints)
    for batch in (1, 3):
        clip = uint8_clip(SPEC, batch)
        wanted = training_logits(lively(), SPEC, clip)
        assert_close(onnxruntime_logits(exported, clip), wanted)
        assert_close(compiled({"clip": clip.numpy()})[0], wanted, 1e-4)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (
            {"num_frames": 5},
            {"tubelet_size": 2},
            "num_frames=5 is not a multiple of tubelet_size=2",
        ),
        ({"size": (28, 32)}, {}, r"size=\(28, 32\) leaves nothing"),
    ],
)
def test_specs_that_cannot_be_exact_are_refused(
    spec: dict, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        deploy_form(lively(**options), dataclasses.replace(SPEC, **spec))


def test_unknown_options_are_refused_by_name() -> None:
    @dataclasses.dataclass(frozen=True)
    class NewerConfig(VideoFocalNetConfig):
        use_rotary: bool = False

    check_config(NewerConfig(), SPEC)
    with pytest.raises(ExportError, match="does not know the option use_rotary=True"):
        check_config(NewerConfig(use_rotary=True), SPEC)


def test_foreign_layers_and_damaged_weights_are_refused_by_name() -> None:
    model = lively()
    model.layers[1].blocks[0].modulation.focal_layers[0][1] = nn.ReLU()
    with pytest.raises(ExportError, match=r"layers.1.blocks.0.modulation.focal_layers.0 .* ReLU"):
        deploy_form(model, SPEC)
    model = lively()
    model.layers[2].blocks[0].modulation.focal_layers_temporal[1][1] = nn.GELU("tanh")
    with pytest.raises(ExportError, match=r"focal_layers_temporal.1 ends in GELU"):
        deploy_form(model, SPEC)
    model = lively()
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    with pytest.raises(ExportError, match=r"weight head.weight holds NaN"):
        deploy_form(model, SPEC)
