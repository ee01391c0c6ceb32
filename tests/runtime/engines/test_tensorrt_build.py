"""What of TensorRT needs no GPU: reading models, building plans, and the names that are called."""

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from artifacts import write_colour_model
from onnx import helper
from packages import RUNTIME
from rtx_build import needs_rtx, rtx_build
from shared import ROOT

from dvfl_export.precision.compress import compress_weights
from dvfl_export.precision.half import to_float16
from dvfl_export.precision.quantise import quantise
from dvfl_export.precision.ranges import activation_ranges
from dvfl_runtime.recognizer import BUNDLED_MODEL

API = json.loads((ROOT / "tests" / "tensorrt_api.json").read_text())
# how plans.py and tensorrt.py name TensorRT's objects -> their class
OBJECTS = {
    "_builder": "Builder",
    "_network": "INetworkDefinition",
    "_parser": "OnnxParser",
    "parser_error": "ParserError",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "timing_cache": "ITimingCache",
    "_runtime": "Runtime",
    "plugin_registry": "IPluginRegistry",
    "_engine": "ICudaEngine",
    "_context": "IExecutionContext",
    "context": "IExecutionContext",
}


def fixed_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    return model


@needs_rtx
@pytest.mark.parametrize("capability", ["SM86", "SM89"])
@pytest.mark.parametrize("batch", ["dynamic", "fixed"])
def test_the_bundled_model_builds(tmp_path: Path, batch: str, capability: str) -> None:
    model = onnx.load(BUNDLED_MODEL)
    onnx.save(model if batch == "dynamic" else fixed_batch(model, 1), tmp_path / "m.onnx")
    built = rtx_build(tmp_path / "m.onnx", capability)
    weights = sum(len(w.raw_data) for w in model.graph.initializer)
    assert built["plan_bytes"] > weights
    shares = built["shares"]
    assert shares == sorted(shares)
    assert len(set(shares)) > 10
    assert shares[-1] == 1.0


def in_float16(path: Path) -> onnx.ModelProto:
    return to_float16(onnx.load(path))


def in_int8(path: Path) -> onnx.ModelProto:
    """All layers: more than --precision int8 leaves when some lose too much."""
    model = onnx.load(path)
    clips = np.random.default_rng(0).integers(0, 256, (2, 8, 64, 64, 3), np.uint8)
    return quantise(model, activation_ranges(model, list(clips)))


def with_half_weights(path: Path) -> onnx.ModelProto:
    model = onnx.load(path)
    assert compress_weights(model) > 40
    return model


@needs_rtx
@pytest.mark.parametrize("batch", ["dynamic", "fixed"])
@pytest.mark.parametrize("convert", [in_float16, in_int8, with_half_weights])
def test_lower_precisions_build(tmp_path: Path, convert: Callable, batch: str) -> None:
    """As --precision fp16, --precision int8 and --compress write them; both GPUs in one plan."""
    (tmp_path / "m.onnx").write_bytes(BUNDLED_MODEL.read_bytes())
    model = convert(tmp_path / "m.onnx")
    onnx.save(model if batch == "dynamic" else fixed_batch(model, 1), tmp_path / "x.onnx")
    assert rtx_build(tmp_path / "x.onnx", "SM86", "SM89")["plan_bytes"] > 2_000_000


@needs_rtx
def test_an_operator_that_tensorrt_lacks_is_named(tmp_path: Path) -> None:
    model = onnx.load(BUNDLED_MODEL)
    last = next(node for node in model.graph.node if "logits" in node.output)
    last.output[0] = "before"
    node = helper.make_node("Shuffle", ["before"], ["logits"], "planted", domain="com.example")
    model.graph.node.append(node)
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    onnx.save(model, tmp_path / "m.onnx")
    error = rtx_build(tmp_path / "m.onnx", "--parse")["error"]
    assert f"cannot read model {tmp_path / 'm.onnx'}: node 'planted' (Shuffle): " in error
    assert "\n" not in error


@needs_rtx
def test_a_damaged_timing_cache_does_not_stop_a_build(tmp_path: Path) -> None:
    """And the build stops when the caller's progress raises, with what it raised."""
    program = (
        "import sys, tensorrt_rtx as trt\n"
        "from dvfl_runtime.artifact import ModelFile\n"
        "from dvfl_runtime.engines.plans import PlanBuilder\n"
        "def new():\n"
        "    builder = PlanBuilder(trt, ModelFile(sys.argv[1]))\n"
        "    builder.config.num_compute_capabilities = 1\n"
        "    builder.config.set_compute_capability(trt.ComputeCapability.SM86, 0)\n"
        "    return builder\n"
        "plan, timings = new().build(timings=b'damaged')\n"
        "assert plan and timings\n"
        "assert new().build(timings=timings)[0]\n"
        "def stop(share):\n"
        "    raise KeyboardInterrupt\n"
        "try:\n"
        "    new().build(progress=stop)\n"
        "except KeyboardInterrupt:\n"
        "    print('stopped')\n"
    )
    model = write_colour_model(tmp_path / "m.onnx")
    command = [sys.executable, "-c", program, str(model)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (found.returncode, found.stdout.strip()) == (0, "stopped"), found.stderr


def calls_to_tensorrt(source: str) -> set[tuple[str, str, int, tuple[str, ...]]]:
    """(class, member, number of arguments, their keywords) of all that a module asks TensorRT for.

    `trt.X` counts as ("", "X"), `trt.X.Y` as ("X", "Y").
    """
    tree = ast.parse(source)
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        holder = node.value.attr if isinstance(node.value, ast.Attribute) else ""
        holder = node.value.id if isinstance(node.value, ast.Name) else holder
        in_trt = isinstance(node.value, ast.Attribute) and is_trt(node.value.value)
        if holder == "__version__":
            continue
        if is_trt(node.value):
            owner = ""
        elif in_trt:
            owner = holder
        elif holder in OBJECTS:
            owner = OBJECTS[holder]
        else:
            continue
        call = calls.get(id(node))
        keywords = tuple(k.arg or "" for k in call.keywords) if call else ()
        found.add((owner, node.attr, len(call.args) if call else 0, keywords))
    return found


def is_trt(node: ast.expr) -> bool:
    return ast.unparse(node) in ("trt", "self._trt")


def missing(api: dict, owner: str, member: str, arguments: int, keywords: tuple) -> str:
    """Says what this TensorRT lacks, "" if nothing."""
    if not owner:
        return "" if member in api or member == "__version__" else f"trt.{member}"
    if owner not in api or (member not in api[owner] and member != "__init__"):
        return f"{owner}.{member}"
    known = api[owner].get(member) or ()
    unknown = [name for name in keywords if name not in known]
    too_many = known and arguments + len(keywords) > len(known)
    return f"{owner}.{member}({', '.join(unknown) or arguments})" if unknown or too_many else ""


MODULES = [RUNTIME / "engines" / name for name in ("plans.py", "plugins.py", "tensorrt.py")]


@pytest.mark.parametrize("version", ["10.3.0", "10.16.1.11", "11.4.0.106"])
def test_every_name_that_is_called_exists(version: str) -> None:
    used = set().union(*(calls_to_tensorrt(module.read_text()) for module in MODULES))
    owners = {owner for owner, *_ in used}
    assert owners >= {*OBJECTS.values(), "ILogger", "IProgressMonitor", "BuilderFlag"}
    assert len(used) > 40
    assert [lack for call in used if (lack := missing(API[version], *call))] == []


@pytest.mark.parametrize(
    ("code", "lack"),
    [
        ("config.set_flag(trt.BuilderFlag.FP16)", "BuilderFlag.FP16"),
        ("self._builder.platform_has_fast_fp16", "Builder.platform_has_fast_fp16"),
        ("self.config.max_workspace_size = 1", "IBuilderConfig.max_workspace_size"),
        ("profile.set_shape('clip', least=1)", "IOptimizationProfile.set_shape(least)"),
        ("profile.set_shape(1, 2, 3, 4, 5)", "IOptimizationProfile.set_shape(5)"),
        ("self._trt.Bilder", "trt.Bilder"),
    ],
)
def test_the_check_of_names_bites(code: str, lack: str) -> None:
    found = [missing(API["11.4.0.106"], *call) for call in calls_to_tensorrt(code)]
    assert [each for each in found if each] == [lack]
