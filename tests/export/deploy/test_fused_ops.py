"""Nodes of domain dvfl with a body in the file, in every engine equal to standard operators."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from artifacts import artifact, save
from onnx import numpy_helper
from rtx_build import needs_rtx, rtx_build

from dvfl_export.cli import main
from dvfl_export.deploy.form import deploy_form
from dvfl_export.deploy.functions import function_text
from dvfl_export.deploy.graph_fusions import fuse_elementwise
from dvfl_export.onnx_model import onnx_from_model
from dvfl_models import VideoFocalNet, VideoFocalNetConfig, build_model, save_checkpoint
from dvfl_models.network.video_focalnet import init_weights
from dvfl_runtime import ClipSpec, Recognizer
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.engines import installed_engines, open_engine
from dvfl_runtime.engines.openvino import shared_core
from dvfl_runtime.engines.openvino_graph import means_as_pooling
from dvfl_runtime.engines.openvino_nodes import read_onnx
from dvfl_runtime.errors import ExportError

# height, width and frames all differ, so that none can stand in for another
SPEC = ClipSpec(num_frames=4, size=(64, 96), resize=96)
LEVELS, WIDTH, STAGES = 3, 8, 4


def network(**options: object) -> VideoFocalNet:
    torch.manual_seed(0)
    values = {"embed_dim": WIDTH, "depths": (1,) * STAGES, "num_classes": 5, **options}
    model = VideoFocalNet(VideoFocalNetConfig(**values)).eval()  # type: ignore[arg-type]
    init_weights(model, "xavier")
    for value in model.parameters():
        if value.dim() == 1:
            torch.nn.init.uniform_(value, 0.5, 1.5)
    return model


def three_levels() -> VideoFocalNet:
    return network(focal_levels=(LEVELS,) * STAGES, focal_windows=(5, 3, 3, 3))


@pytest.fixture(scope="module")
def fused() -> onnx.ModelProto:
    return onnx_from_model(deploy_form(three_levels(), SPEC), SPEC)


@pytest.fixture(scope="module")
def standard() -> onnx.ModelProto:
    return onnx_from_model(deploy_form(three_levels(), SPEC), SPEC, fused=False)


def logits(model: onnx.ModelProto, clip: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(["logits"], {"clip": clip})[0]


def described(model: onnx.ModelProto, path: Path) -> Path:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return save(copy, path, {"dvfl": artifact(labels=tuple("abcde"), spec=SPEC).to_json()})


def random_clip(batch: int) -> np.ndarray:
    rng = np.random.default_rng(batch)
    return rng.integers(0, 256, (batch, SPEC.num_frames, *SPEC.size, 3), dtype=np.uint8)


def attributes(node: onnx.NodeProto) -> dict:
    return {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}


def dvfl_nodes(model: onnx.ModelProto, op_type: str) -> list[onnx.NodeProto]:
    nodes = [node for node in model.graph.node if node.domain == "dvfl"]
    return [node for node in nodes if node.op_type == op_type]


def test_one_node_of_each_kind_per_block_and_their_functions(fused: onnx.ModelProto) -> None:
    onnx.checker.check_model(fused, full_check=True)
    counts = Counter(node.op_type for node in fused.graph.node if node.domain)
    kinds = ("BiasGelu", "EmbedNorm", "Modulate", "SpatialContext", "TemporalContext")
    # AddNorm: the second norm of each block, and the one after the last block
    others = {"AddNorm": STAGES + 1, "AddPatches": STAGES - 1}
    assert counts == {**dict.fromkeys(kinds, STAGES), **others}
    assert [(f.domain, f.name) for f in fused.functions] == [
        ("dvfl", name) for name in sorted(counts)
    ]
    assert {(o.domain, o.version) for o in fused.opset_import} == {("", 20), ("dvfl", 4)}
    for function in fused.functions:
        assert not any(node.domain for node in function.node)
    outside = Counter(node.op_type for node in fused.graph.node)
    assert not {"Conv", "Gelu", "LayerNormalization"} & set(outside)
    assert outside["Transpose"] == 1  # of the clip
    names = {node.name for node in fused.graph.node}
    assert {"layers.0.modulation.spatial/SpatialContext", "layers.0.mlp.fc1/BiasGelu"} <= names


def test_the_contract_of_the_nodes(fused: onnx.ModelProto) -> None:
    shapes = {w.name: tuple(w.dims) for w in fused.graph.initializer}
    makers = {value: node for node in fused.graph.node for value in node.output}
    spatial, temporal = (dvfl_nodes(fused, f"{k}Context")[1] for k in ("Spatial", "Temporal"))
    dim = 2 * WIDTH
    common = {"frames": 4, "height": 8, "width": 12, "channels": dim, "levels": LEVELS}
    plugin = {"plugin_namespace": b"dvfl", "plugin_version": b"1"}
    assert attributes(spatial) == {
        **common, **plugin, "gate_offset": 0, "kernel_sizes": [3, 5, 7]
    }  # fmt: skip
    assert [shapes[name] for name in spatial.input[2:]] == [(dim, 1, k, k) for k in (3, 5, 7)]
    gates = attributes(temporal)
    sizes = gates.pop("kernel_sizes")
    assert gates == {**common, **plugin, "gate_offset": LEVELS + 1}
    assert [shapes[name] for name in temporal.input[2:]] == [
        (1, dim, 4, 1),
        *((dim, dim, k, 1) for k in sizes),
    ]
    # the products' outputs as they lie: nothing moved between them and the node
    assert spatial.input[1] == temporal.input[1]
    assert makers[spatial.input[0]].op_type == makers[spatial.input[1]].op_type == "Add"
    assert makers[temporal.input[0]].op_type == "EmbedNorm"
    # and the next product reads the node's output
    for node in (spatial, temporal):
        readers = [n.op_type for n in fused.graph.node if node.output[0] in n.input]
        assert readers == ["MatMul"]


def test_what_stands_between_products_is_one_node(fused: onnx.ModelProto) -> None:
    shapes = {w.name: tuple(w.dims) for w in fused.graph.initializer}
    makers = {value: node for node in fused.graph.node for value in node.output}
    dim = 2 * WIDTH
    modulate = dvfl_nodes(fused, "Modulate")[1]
    places = [makers[value].name.rpartition("/")[0] for value in modulate.input[:3]]
    block = "layers.2.modulation"
    assert places == [f"{block}.q", f"{block}.spatial.h", f"{block}.temporal.h"]
    assert [shapes[name] for name in modulate.input[3:]] == [(dim,)] * 3
    assert [n.name for n in fused.graph.node if modulate.output[0] in n.input] == [
        f"{block}.proj/MatMul"
    ]
    norm = dvfl_nodes(fused, "AddNorm")[1]
    assert attributes(norm)["epsilon"] == pytest.approx(1e-5)
    assert makers[norm.input[1]].name == f"{block}.proj/MatMul"
    assert [shapes[name] for name in norm.input[2:]] == [(dim,)] * 3
    # the sum goes on in the residual stream, the normalised tokens into the MLP
    readers = [[n.op_type for n in fused.graph.node if v in n.input] for v in norm.output]
    assert readers == [["AddPatches"], ["MatMul"]]


def test_between_two_stages_stand_two_nodes(fused: onnx.ModelProto) -> None:
    shapes = {w.name: tuple(w.dims) for w in fused.graph.initializer}
    makers = {value: node for node in fused.graph.node for value in node.output}
    plugin = {"plugin_namespace": b"dvfl", "plugin_version": b"3"}
    patches, norm = dvfl_nodes(fused, "AddPatches")[0], dvfl_nodes(fused, "EmbedNorm")[1]
    # 16 x 24 tokens of 4 frames
    sizes = {"rows": 4 * 8, "columns": 12, "stride": 2, "channels": WIDTH}
    assert attributes(patches) == {**sizes, **plugin}
    assert [makers[name].op_type for name in patches.input] == ["AddNorm", "MatMul"]
    product = makers[norm.input[0]]
    assert (product.name, product.input[0]) == ("layers.1.linear/MatMul", patches.output[0])
    assert attributes(norm) == {"epsilon": pytest.approx(1e-5), **plugin}
    assert [shapes[name] for name in norm.input[1:]] == [(2 * WIDTH,)] * 5
    readers = [[n.op_type for n in fused.graph.node if v in n.input] for v in norm.output]
    assert readers == [["AddNorm"], ["MatMul", "MatMul", "MatMul", "TemporalContext"]]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("layers.0.modulation.q/Add", "Modulate"),
        ("layers.0.modulation.proj/Add", "AddNorm"),
        ("patch_embed.linear/Add", "EmbedNorm"),
        ("layers.1/Transpose", "AddPatches"),
    ],
)
def test_a_value_that_two_nodes_read_is_left_alone(
    standard: onnx.ModelProto, name: str, kind: str
) -> None:
    """A near miss: what stands inside of a node is an output of the graph, too."""
    model, missed = onnx.ModelProto(), onnx.ModelProto()
    for copy in (model, missed):
        copy.CopyFrom(standard)
    value = next(n for n in missed.graph.node if n.name == name).output[0]
    missed.graph.output.append(onnx.ValueInfoProto(name=value))
    counts = []
    for graph in (model.graph, missed.graph):
        fuse_elementwise(graph)
        counts.append(Counter(node.op_type for node in graph.node if node.domain))
    assert counts[0] - counts[1] == {kind: 1}


def test_bias_gelu_stands_between_the_products_of_the_mlp(fused: onnx.ModelProto) -> None:
    shapes = {w.name: tuple(w.dims) for w in fused.graph.initializer}
    makers = {node.output[0]: node for node in fused.graph.node}
    node = dvfl_nodes(fused, "BiasGelu")[1]
    assert attributes(node) == {"plugin_namespace": b"dvfl", "plugin_version": b"2"}
    product, bias = node.input
    assert (makers[product].name, makers[product].op_type) == ("layers.2.mlp.fc1/MatMul", "MatMul")
    assert shapes[bias] == (4 * 2 * WIDTH,)
    assert [n.op_type for n in fused.graph.node if node.output[0] in n.input] == ["MatMul"]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("rewritten", [False, True])
def test_openvino_reads_the_nodes_as_the_operators_that_they_are(
    fused: onnx.ModelProto, standard: onnx.ModelProto, tmp_path: Path, batch: int, rewritten: bool
) -> None:
    openvino = pytest.importorskip("openvino")
    clip, found, counts = random_clip(batch), [], []
    for name, model in (("fused", fused), ("standard", standard)):
        file = ModelFile(described(model, tmp_path / f"{name}.onnx"))
        graph = read_onnx(str(file.path), file.fused_operators)
        if rewritten:
            counts.append(means_as_pooling(graph))
        compiled = shared_core(openvino).compile_model(
            graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
        found.append(compiled({"clip": clip})["logits"])
    assert counts == [STAGES, STAGES] * rewritten
    np.testing.assert_allclose(*found, rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 3])
def test_onnxruntime_expands_the_functions(
    fused: onnx.ModelProto, standard: onnx.ModelProto, batch: int
) -> None:
    clip = random_clip(batch)
    wanted = logits(standard, clip)
    assert np.ptp(wanted) > 0.1
    np.testing.assert_allclose(logits(fused, clip), wanted, rtol=0, atol=1e-5)


def test_onnxruntime_optimises_both_forms_to_the_same_graph(
    fused: onnx.ModelProto, standard: onnx.ModelProto, tmp_path: Path
) -> None:
    counts = []
    for model in (fused, standard):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.log_severity_level = 3  # it warns that the file is for this machine
        onnxruntime.InferenceSession(model.SerializeToString(), options)
        nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
        counts.append(Counter(node.op_type for node in nodes))
    assert counts[0] == counts[1]


@needs_rtx
def test_tensorrt_reads_the_functions(fused: onnx.ModelProto, tmp_path: Path) -> None:
    assert rtx_build(described(fused, tmp_path / "fused.onnx"), "--parse") == {"plan_bytes": 0}
    copy = onnx.ModelProto()
    copy.CopyFrom(fused)
    del copy.functions[:]
    error = rtx_build(described(copy, tmp_path / "bodiless.onnx"), "--parse")["error"]
    assert "(EmbedNorm)" in error


def test_parity_bites(fused: onnx.ModelProto, standard: onnx.ModelProto) -> None:
    """Every attribute that the body reads and every kind of input matters."""
    clip = random_clip(1)
    wanted = logits(standard, clip)
    swapped = onnx.ModelProto()
    swapped.CopyFrom(fused)
    node = dvfl_nodes(swapped, "TemporalContext")[0]
    next(entry for entry in node.attribute if entry.name == "gate_offset").i = 0
    assert abs(logits(swapped, clip) - wanted).max() > 1e-4
    for place in (2, 3, 4, 5):  # the bias of the frames, then the kernel of each level
        changed = onnx.ModelProto()
        changed.CopyFrom(fused)
        name = dvfl_nodes(changed, "TemporalContext")[0].input[place]
        weight = next(w for w in changed.graph.initializer if w.name == name)
        flipped = np.ascontiguousarray(np.flip(numpy_helper.to_array(weight), 2))
        weight.CopyFrom(numpy_helper.from_array(flipped, name))
        assert abs(logits(changed, clip) - wanted).max() > 1e-4, name


def test_standard_holds_no_dvfl_domain(standard: onnx.ModelProto) -> None:
    assert not any(node.domain for node in standard.graph.node)
    assert [entry.domain for entry in standard.opset_import] == [""]
    assert not standard.functions


@pytest.mark.parametrize("levels", [1, 2, 4])
@pytest.mark.parametrize("name", ["SpatialContext", "TemporalContext"])
def test_bodies_for_other_numbers_of_levels(name: str, levels: int) -> None:
    function = onnx.parser.parse_function(function_text(name, levels))
    onnx.checker.check_function(function, onnx_context())
    assert [n.op_type for n in function.node].count("Conv") == levels
    assert function.input[-1] == f"kernel_{levels}"


def onnx_context() -> onnx.checker.C.CheckerContext:
    context = onnx.checker.C.CheckerContext()
    context.ir_version, context.opset_imports = 10, {"": 20, "dvfl": 1}
    return context


def test_stages_of_different_levels(tmp_path: Path) -> None:
    model = network(focal_levels=(2, 3, 2, 1))
    fused = onnx_from_model(deploy_form(model, SPEC), SPEC)
    onnx.checker.check_model(fused, full_check=True)
    kinds = [node.op_type for node in fused.graph.node if node.op_type.startswith("Spatial")]
    assert kinds == ["SpatialContext2", "SpatialContext3", "SpatialContext2", "SpatialContext1"]
    standard = onnx_from_model(deploy_form(model, SPEC), SPEC, fused=False)
    clip = random_clip(1)
    wanted = logits(standard, clip)
    np.testing.assert_allclose(logits(fused, clip), wanted, rtol=0, atol=1e-5)
    for engine in installed_engines("cpu"):
        opened = open_engine(engine, ModelFile(described(fused, tmp_path / "m.onnx")))
        np.testing.assert_allclose(opened.run(clip), wanted, rtol=0, atol=1e-5)
        opened.close()


def test_patches_of_odd_sizes_stay_standard_operators() -> None:
    spec = ClipSpec(num_frames=4, size=(44, 71), resize=71)
    fused, standard = (
        onnx_from_model(deploy_form(network(), spec), spec, fused=fused) for fused in (True, False)
    )
    # 11 x 17, 5 x 8 and 2 x 4 tokens
    (patches,) = dvfl_nodes(fused, "AddPatches")
    assert (attributes(patches)["rows"], attributes(patches)["columns"]) == (4, 2)
    clip = np.random.default_rng(0).integers(0, 256, (2, 4, 44, 71, 3), dtype=np.uint8)
    wanted = logits(standard, clip)
    assert np.ptp(wanted) > 0.1
    np.testing.assert_allclose(logits(fused, clip), wanted, rtol=0, atol=1e-5)


def test_an_older_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.onnx, "ops")
    with pytest.raises(ExportError, match=r"install torch>=2.8"):
        onnx_from_model(deploy_form(network(), SPEC), SPEC)


def test_the_command_writes_a_verified_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = ClipSpec(num_frames=4, size=(32, 32), resize=36, window_s=1.0)
    about = {"variant": "femto", "labels": ["walk", "run", "jump"], "spec": spec.to_dict()}
    model = build_model("femto", num_classes=3)
    save_checkpoint(tmp_path / "ours.pth", model.eval(), about=about)
    output = tmp_path / "fused.onnx"
    assert main([str(tmp_path / "ours.pth"), "-o", str(output)]) == 0
    assert dvfl_nodes(onnx.load(output), "SpatialContext")
    for engine in installed_engines("cpu"):
        with Recognizer(output, engine=engine) as recognizer:
            recognizer.predict(np.zeros((4, 40, 40, 3), np.uint8))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([str(tmp_path / "ours.pth"), "-o", str(output), "--ops", "standard"])
    message = "argument --ops: it was removed: every file has the fused operators and runs in every"
    assert message in capsys.readouterr().err
