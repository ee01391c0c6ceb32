"""dvfl-export: checkpoint in, verified artifact out, or one clear error and no file."""

import dataclasses
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from fake_gpu import fake_gpu, needs_fake_gpu
from shared import CLIPS, REFERENCE, needs_shared

from dvfl_export import ExportRequest, VerificationFailed, export
from dvfl_export import export as export_function
from dvfl_export.cli import main, parser
from dvfl_models import VARIANTS, build_model, save_checkpoint
from dvfl_models.data.clips import to_batch
from dvfl_models.network.video_focalnet import VideoFocalNet, init_weights
from dvfl_models.recipe.labels import DATASETS, read_labels
from dvfl_models.rendered.synthetic import render_clip
from dvfl_runtime import ClipSpec, Recognizer
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.engines import installed_engines
from dvfl_runtime.engines.cuda import cuda_problem
from dvfl_runtime.engines.openvino import shared_core
from dvfl_runtime.engines.openvino_nodes import read_onnx
from dvfl_runtime.errors import CheckpointError, ExportError, OutputError

SPEC = ClipSpec(num_frames=4, size=(32, 32), resize=36, window_s=1.0)
LABELS = ["walk", "run", "jump"]
no_gpu = pytest.mark.skipif(cuda_problem() is None, reason="there is a GPU here")


def model() -> VideoFocalNet:
    torch.manual_seed(0)
    net = build_model("femto", num_classes=3)
    init_weights(net, "xavier")
    return net.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a checkpoint of ours, a plain one, and an artifact."""
    folder = tmp_path_factory.mktemp("export")
    about = {"variant": "femto", "labels": LABELS, "spec": SPEC.to_dict(), "training": {"a": 1}}
    save_checkpoint(folder / "ours.pth", model(), about=about)
    torch.save({"model": model().state_dict()}, folder / "official.pth")
    export(ExportRequest(folder / "ours.pth", folder / "model.onnx"))
    return folder


def test_the_artifact_says_what_pytorch_says(folder: Path) -> None:
    clip = render_clip("bend", seed=3, num_frames=4, size=(32, 32)).images
    with torch.inference_mode():
        logits = model()(to_batch([clip], SPEC))[0]
    with Recognizer(folder / "model.onnx") as recognizer:
        assert recognizer.spec == SPEC
        assert recognizer.labels == tuple(LABELS)
        scores = recognizer.predict(np.pad(clip, ((0, 0), (2, 2), (2, 2), (0, 0)))).scores
    np.testing.assert_allclose(scores, torch.softmax(logits, 0).numpy(), atol=1e-4)


def test_the_artifact_describes_itself(folder: Path) -> None:
    proto = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(proto)
    about = json.loads({p.key: p.value for p in proto.metadata_props}["dvfl"])
    assert about["variant"] == "femto"
    assert about["training"] == {"a": 1}
    assert about["parity"]["max_difference"] < 1e-3
    assert about["parity"]["top1"] == 1.0
    assert set(about["parity"]["engines"]) == set(installed_engines())
    assert len(about["source_sha256"]) == 64
    assert set(about["tools"]) >= {"dvfl", "torch", "onnx"}


def test_an_official_checkpoint_needs_labels_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n".join(LABELS))
    request = ExportRequest(
        folder / "official.pth", tmp_path / "x.onnx", labels=str(tmp_path / "names.txt"), spec=SPEC
    )
    assert export(request).artifact.variant == "femto"


@needs_shared
def test_verification_on_real_videos(folder: Path, tmp_path: Path) -> None:
    clips = (CLIPS / "dvfl_golfswing.gif", CLIPS / "mm_ntu.avi")
    exported = export(ExportRequest(folder / "ours.pth", tmp_path / "x.onnx", clips=clips))
    assert exported.verification.clips == 2


def test_a_wrong_graph_is_caught_and_nothing_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.onnx").write_bytes(b"the old one")

    def perturbed(net: VideoFocalNet, spec: ClipSpec) -> torch.nn.Module:
        with torch.no_grad():
            deployed = deploy_form(net, spec)
            deployed.head.bias[0] += 0.01
        return deployed

    module = sys.modules[export_function.__module__]
    deploy_form = module.deploy_form
    monkeypatch.setattr(module, "deploy_form", perturbed)
    with pytest.raises(VerificationFailed, match=r"FAILED"):
        export(ExportRequest(folder / "ours.pth", tmp_path / "x.onnx"))
    assert [p.name for p in tmp_path.iterdir()] == ["x.onnx"]
    assert (tmp_path / "x.onnx").read_bytes() == b"the old one"


def request(folder: Path, tmp_path: Path, **changes: object) -> ExportRequest:
    return dataclasses.replace(
        ExportRequest(folder / "official.pth", tmp_path / "x.onnx", spec=SPEC), **changes
    )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({}, CheckpointError, "holds no class names; give --labels"),
        ({"labels": "ucf101"}, CheckpointError, "101 labels for a checkpoint with 3 classes"),
        ({"labels": "nonsense"}, CheckpointError, "cannot read labels 'nonsense'"),
        ({"variant": "nano"}, CheckpointError, "these weights fit variant 'femto'"),
        ({"variant": "huge"}, CheckpointError, "unknown variant 'huge'"),
        ({"checkpoint": Path("absent.pth")}, CheckpointError, r"no checkpoint at absent\.pth"),
        ({"output": Path("absent/x.onnx")}, OutputError, "existing, writable folder"),
    ],
)
def test_bad_input_leaves_nothing(
    folder: Path, tmp_path: Path, changes: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        export(request(folder, tmp_path, **changes))
    assert list(tmp_path.iterdir()) == []


def test_no_clip_to_verify_with(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "fake.mp4").write_text("not a video")
    with pytest.raises(ExportError, match="no clip to verify with could be decoded"):
        export(ExportRequest(folder / "ours.pth", tmp_path / "x.onnx", clips=(tmp_path,)))


def test_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.onnx"
    report = tmp_path / "report.json"
    command = [str(folder / "ours.pth"), "-o", str(out), "--window-s", "3"]
    assert main([*command, "--report", str(report)]) == 0
    printed = capsys.readouterr()
    rows = [line.split() for line in printed.out.splitlines()]
    for name in installed_engines():
        (row,) = (row for row in rows if row and row[0] == name)
        assert row[-3:] == ["100.0%", "100.0%", "ok"]
        assert re.search(rf"ms per clip .*{name} \d", printed.out)
    assert re.search(r"file +9\.\d MB, opset 20\n", printed.out)
    assert re.search(r"model +femto, 3 classes, 4x32x32\n +precision +fp32\n", printed.out)
    assert re.search(r"MACs +0\.0\d G per clip", printed.out)
    assert printed.err == ""  # no progress in a pipe
    with Recognizer(out) as recognizer:
        assert recognizer.spec == dataclasses.replace(SPEC, window_s=3.0)
        assert recognizer.artifact.parity == json.loads(report.read_text())
    for wrong in (["none.pth", "-o", "x.onnx"], [str(folder / "ours.pth"), "-o", "x.txt"]):
        assert main(wrong) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("dvfl-export: error: ")


@needs_shared
def test_an_official_checkpoint_exports_with_one_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layout of the released nano, read and described; the export itself is of femto's size."""
    layout = json.loads((REFERENCE / "checkpoint_layout.json").read_text())["nano"]
    state = {key: torch.zeros(shape) for key, shape in layout["state_dict"].items()}
    official = {"model": state, "optimizer": {}, "max_accuracy": 80.0, "epoch": 119}
    torch.save(official, tmp_path / "official.pth")
    pipeline = sys.modules[export_function.__module__]

    def stop(net: VideoFocalNet, spec: ClipSpec) -> torch.nn.Module:
        assert net.config == dataclasses.replace(VARIANTS["nano"], num_classes=101)
        assert spec == ClipSpec(num_frames=8, size=(224, 224), resize=256, frame_interval=4)
        raise ExportError("as far as this test goes")

    monkeypatch.setattr(pipeline, "deploy_form", stop)
    command = [str(tmp_path / "official.pth"), "-o", str(tmp_path / "u.onnx"), "--labels", "ucf101"]
    assert main(command) == 2
    assert "as far as this test goes" in capsys.readouterr().err


def test_compressed_weights_take_half_the_bytes(folder: Path, tmp_path: Path) -> None:
    exported = export(ExportRequest(folder / "ours.pth", tmp_path / "x.onnx", compress=True))
    assert exported.size_bytes < 0.56 * (folder / "model.onnx").stat().st_size
    assert exported.artifact.precision == "fp32"  # of the arithmetic
    report = exported.artifact.parity
    assert report["thresholds"]["max_difference"] == 2e-2
    assert 0 < report["max_difference"] < 2e-2
    # the engines cast once, at load: none of the casts is left in the graph that runs
    session_options = onnxruntime.SessionOptions()
    session_options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    session_options.log_severity_level = 3
    onnxruntime.InferenceSession(tmp_path / "x.onnx", session_options)
    optimized = onnx.load(tmp_path / "optimized.onnx").graph
    assert [node.input[0] for node in optimized.node if node.op_type == "Cast"] == ["clip"]
    openvino = pytest.importorskip("openvino")
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    graph = read_onnx(str(tmp_path / "x.onnx"), ModelFile(tmp_path / "x.onnx").fused_operators)
    compiled = shared_core(openvino).compile_model(graph, "CPU", hints)
    kinds = [op.get_rt_info()["layerType"].value for op in compiled.get_runtime_model().get_ops()]
    assert kinds.count("Convert") <= 1


def test_opset_and_ir_are_those_of_the_oldest_engines(folder: Path) -> None:
    """onnxruntime 1.21, the oldest supported, reads opset 22 and IR 10 at most; JetPack 6 has 1.23.

    TensorRT's parser supports opset 20 from 10.3 on.
    """
    proto = onnx.load(folder / "model.onnx")
    assert {entry.domain: entry.version for entry in proto.opset_import} == {"": 20, "dvfl": 4}
    assert proto.ir_version == 10


def test_help_and_steps_say_what_there_is(folder: Path) -> None:
    text = parser().format_help()
    for name in DATASETS:
        assert name in text
    seen: list[str] = []
    wrong = ExportRequest(folder / "official.pth", folder / "y.onnx")
    with pytest.raises(CheckpointError):
        export(wrong, seen.append)
    assert seen == ["load"]
    assert list(wrong.steps()) == ["load", "fuse", "export", "verify", "time", "write"]


def test_the_bar_is_on_a_terminal_only(folder: Path) -> None:
    main_end, other_end = pty.openpty()
    fcntl.ioctl(other_end, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 80, 0, 0))
    command = [sys.executable, "-m", "dvfl_export.cli", str(folder / "official.pth")]
    command += ["-o", str(folder / "z.onnx")]
    with os.fdopen(main_end, "rb", buffering=0) as terminal:
        found = subprocess.run(command, stderr=other_end, stdout=other_end, check=False)
        os.close(other_end)
        shown = terminal.read(4096).decode()
    assert found.returncode == 2
    assert "load: step 0.0 of 6 |" in shown
    assert "dvfl-export: error: " in shown.splitlines()[-1]


@no_gpu
def test_tensorrt_without_a_gpu_is_one_line_before_anything_is_loaded(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from dvfl_export.cli import main\n"
        "code = main(['absent.pth', '-o', 'x.onnx', '--target', 'tensorrt'])\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'tensorrt', 'cv2', 'av'} & set(sys.modules)\n"
        "sys.exit(100 if heavy else code)\n"
    )
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    (line,) = found.stderr.splitlines()
    assert "needs its NVIDIA GPU: no NVIDIA driver" in line


@needs_fake_gpu
def test_the_target_tensorrt_builds_keeps_and_verifies(folder: Path, tmp_path: Path) -> None:
    """On a pretended GPU; what the report says of it is found by the runtime afterwards."""
    out = tmp_path / "x.onnx"
    command = [sys.executable, "-m", "dvfl_export.cli", str(folder / "ours.pth"), "-o", str(out)]
    environment = fake_gpu(tmp_path)
    found = subprocess.run(
        [*command, "--target", "tensorrt"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert re.search(r"^tensorrt 10\.3\.0 .* ok$", found.stdout, re.MULTILINE)
    plans = sorted(path.suffix for path in (tmp_path / "cache" / "tensorrt").iterdir())
    assert plans == [".json", ".plan", ".timing"]
    program = (
        "import logging, sys\n"
        "logging.basicConfig(level=logging.INFO, stream=sys.stdout)\n"
        "from dvfl_runtime.artifact import ModelFile\n"
        "from dvfl_runtime.engines import open_engine\n"
        "open_engine('tensorrt', ModelFile(sys.argv[1])).close()\n"
    )
    again = subprocess.run(
        [sys.executable, "-c", program, out],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "using the TensorRT plan" in again.stdout


@needs_fake_gpu
@pytest.mark.parametrize(("fault", "kept"), [("0", True), ("0.002", False)])
def test_a_plan_that_computes_something_else_is_deleted(
    folder: Path, tmp_path: Path, fault: str, kept: bool
) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from dvfl_export.sample_clips import cut_clips, rendered_videos\n"
        "from dvfl_export.plan import build_and_verify\n"
        "from dvfl_export.verify import THRESHOLDS\n"
        "from dvfl_runtime.artifact import ModelFile\n"
        "file = ModelFile(Path(sys.argv[1]))\n"
        "spec = file.artifact.spec\n"
        "clips = cut_clips(rendered_videos(spec, count=3), spec)\n"
        "shares = []\n"
        "found = build_and_verify(file, clips, THRESHOLDS['fp32'], shares.append)\n"
        "assert shares[-1] == 1.0 and [row.engine for row in found.engines] == ['tensorrt']\n"
        "print(found.passed)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, folder / "model.onnx"],
        env=fake_gpu(tmp_path, FAKE_FAULT=fault),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout) == (0, f"{kept}\n"), found.stderr
    assert bool(list((tmp_path / "cache" / "tensorrt").glob("*.plan"))) == kept


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE there")
def test_a_full_disk_leaves_the_old_artifact(folder: Path, tmp_path: Path) -> None:
    """No file may grow beyond 1 MB: what a write then meets is what it meets on a full disk."""
    (tmp_path / "x.onnx").write_bytes(b"the old one")
    program = (
        "import resource, signal, sys\n"
        "from dvfl_export.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", program, str(folder / "ours.pth"), "-o", "x.onnx"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 2, found.stderr
    (line,) = found.stderr.splitlines()
    assert line.startswith("dvfl-export: error: cannot write x.onnx: ")
    assert (tmp_path / "x.onnx").read_bytes() == b"the old one"
    assert os.listdir(tmp_path) == ["x.onnx"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a zip", b"\x80\x02 no pickle", None])
def test_damaged_and_foreign_checkpoints_are_one_line(
    folder: Path, tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (folder / "ours.pth").read_bytes()
    (tmp_path / "bad.pth").write_bytes(whole[: len(whole) // 2] if content is None else content)
    (tmp_path / "x.onnx").write_bytes(b"the old one")
    assert main([str(tmp_path / "bad.pth"), "-o", str(tmp_path / "x.onnx")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dvfl-export: error: ")
    assert "bad.pth" in line
    assert (tmp_path / "x.onnx").read_bytes() == b"the old one"


def test_a_checkpoint_of_objects_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": Path}, tmp_path / "evil.pth")
    assert main([str(tmp_path / "evil.pth"), "-o", str(tmp_path / "x.onnx")]) == 2
    assert "could run code" in capsys.readouterr().err
    assert not (tmp_path / "x.onnx").exists()


@needs_shared
@pytest.mark.parametrize("name", DATASETS)
def test_labels_of_the_published_data_sets(name: str) -> None:
    official = json.loads((REFERENCE / "labels" / f"{name}.json").read_text())
    # the official list of SSv2 is cut off at the first comma, which makes two names of it the same
    assert [label.partition(",")[0] for label in read_labels(name)] == official
