"""The baseline is the official network: the same parity cases, the same graph idioms."""

import json
import platform
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from shared import REFERENCE, needs_shared

from dvfl_bench.comparisons.forms import (
    FORMS,
    build_runs,
    summarize,
    table,
)
from dvfl_bench.comparisons.official import official_form
from dvfl_bench.device.machine import describe_machine
from dvfl_bench.device.timing import paired_times
from dvfl_models import VideoFocalNet, VideoFocalNetConfig
from dvfl_runtime.clips.spec import ClipSpec

CASES = ["conv_embed", "default", "frames16_levels3", "layerscale_postln",
         "postln_in_modulation", "tubelet2"]  # fmt: skip


@needs_shared
@pytest.mark.parametrize("name", CASES)
def test_parity_with_the_official_modules(name: str) -> None:
    data = np.load(REFERENCE / f"parity_{name}.npz")
    config = json.loads(str(data["config"]))
    config = {k: v for k, v in config.items() if k not in ("img_size", "num_frames")}
    state = {k[2:]: torch.from_numpy(data[k]) for k in data if k.startswith("w/")}
    frames, size = data["clip"].shape[1], data["clip"].shape[-1]
    spec = ClipSpec(num_frames=frames, size=(size, size), resize=size)
    form = official_form(VideoFocalNetConfig(**config), state, spec)
    with torch.no_grad():
        logits = form.network(torch.from_numpy(data["clip"])).numpy()
    np.testing.assert_allclose(logits, data["logits"], rtol=0, atol=1e-5)


def test_same_input_as_the_deploy_form() -> None:
    torch.manual_seed(0)
    config = VideoFocalNetConfig(embed_dim=8, depths=(1, 1, 1, 1), num_classes=5)
    model = VideoFocalNet(config).eval()
    spec = ClipSpec(num_frames=4, size=(32, 32), resize=32)
    form = official_form(config, model.state_dict(), spec)
    clip = torch.randint(0, 256, (2, 4, 32, 32, 3), dtype=torch.uint8)
    normal = (clip.float() - torch.tensor(spec.mean)) / torch.tensor(spec.std)
    with torch.no_grad():
        torch.testing.assert_close(form(clip), model(normal.permute(0, 1, 4, 2, 3)))


def test_comparison_of_both_forms(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    spec = ClipSpec(num_frames=2, size=(32, 32), resize=32)
    runs, gmacs, failed = build_runs("femto", spec, 1, tmp_path)
    nodes = {form: onnx.load(tmp_path / f"{form}.onnx").graph.node for form in FORMS}
    counts = {form: Counter(node.op_type for node in nodes[form]) for form in FORMS}
    assert counts["official"]["Erf"] == counts["deploy"]["Gelu"] == 35
    assert counts["official"]["Gelu"] == counts["deploy"]["Erf"] == 0
    result = {**summarize(paired_times(runs, 2), gmacs), "failed": failed}
    engines = {"onnxruntime", "openvino", "openvino, batch fixed", "pytorch eager"}
    assert set(result["engines"]) == engines
    row = result["engines"]["onnxruntime"]
    assert row["official"]["n"] == 2
    assert row["official"]["p10_ms"] <= row["official"]["median_ms"] <= row["official"]["p90_ms"]
    assert row["int8_over_fp32"]["min"] == pytest.approx(
        row["deploy int8"]["min_ms"] / row["deploy"]["min_ms"], rel=0.02
    )
    assert "int8_over_fp32" not in result["engines"]["pytorch eager"]
    assert "sgemm floor" in table(json.loads(json.dumps(result)))


def test_the_machine_is_described_without_its_name() -> None:
    machine = describe_machine(2)
    assert machine["threads"] == 2
    assert set(machine["versions"]) >= {"torch", "onnx", "onnxruntime", "numpy"}
    assert platform.node() not in json.dumps(machine)
