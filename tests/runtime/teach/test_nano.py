"""What it takes to teach on the features of a large network, on a device with 4 GB."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from videos import write_video

LEAST_CLIPS, LARGEST_MB, MOST_CPU_S_PER_CLIP = 12, 1500, 8.0

PROGRAM = """
import json, resource, sys, time
from dvfl_runtime.teach.cli import main
status = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([status, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from dvfl_export.deploy.form import deploy_form
    from dvfl_export.onnx_model import onnx_from_model, save_model
    from dvfl_models import build_model
    from dvfl_runtime import Artifact, ClipSpec

    torch.manual_seed(0)
    spec = ClipSpec()
    graph = onnx_from_model(deploy_form(build_model("nano", num_classes=5).eval(), spec), spec)
    path = tmp_path_factory.mktemp("nano") / "nano.onnx"
    about = Artifact(name="nano", variant="nano", labels=tuple("abcde"), spec=spec)
    save_model(graph, about, path)
    return path


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nano_at_224_px_teaches_within_the_memory_of_a_raspberry_pi(nano, tmp_path):
    rng = np.random.default_rng(0)
    for label, level in (("dark", 60), ("light", 200)):
        for person in "abc":
            images = rng.integers(level - 20, level + 20, (50, 240, 320, 3)).astype(np.uint8)
            path = tmp_path / "clips" / label / f"{person}_1.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, list(images))
    words = ["fit", tmp_path / "clips", "-o", tmp_path / "mine.onnx", "--model", nano]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, words), "--engine", "onnxruntime"],
        capture_output=True,
        text=True,
        check=True,
    )
    status, cpu_s, peak_mb = json.loads(done.stdout.splitlines()[-1])
    assert status == 0, done.stderr
    assert "left out in turn: 100.0% of 6 clips" in done.stdout
    assert peak_mb < LARGEST_MB
    assert cpu_s / LEAST_CLIPS < MOST_CPU_S_PER_CLIP
