"""The command dvfl-train."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from dvfl_models.training.cli import main


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(
        'name = "tiny"\nlabels = ["idle", "bend"]\nmodel = {variant = "femto"}\n'
        'clip = {num_frames = 2, size = [32, 32], crop = "letterbox"}\n'
        'train = [{kind = "synthetic"}]\noptim = {steps = 9, batch_size = 2}\n'
    )
    out = str(tmp_path / "run")
    assert main([str(path), "--set", "optim.steps=1", "--out", out, "--workers", "0"]) == 0
    assert "final.pth" in capsys.readouterr().out
    for arguments in ([str(path), "--out", out], [str(path), "--out", f"{out}2", "--resume"]):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("dvfl-train: error: ")
        assert error.count("\n") == 1
    assert not (tmp_path / "run2").exists()


def test_pytorch_is_loaded_when_openmp_has_been_told_how_to_wait() -> None:
    """OpenMP reads OMP_WAIT_POLICY when PyTorch is loaded, so the command must not load it before.

    tests/test_commands.py tests that the commands set it.
    """
    code = (
        "import sys, dvfl_models.training.cli, dvfl_export.cli, dvfl_export.eval_cli; "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_packages_that_are_missing_are_named_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    missing = ("torch", "cv2")
    monkeypatch.setattr("importlib.util.find_spec", lambda n: None if n in missing else find(n))
    assert main(["order"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "dvfl-train: error: dvfl-train needs packages that are not installed; "
        "run: pip install torch opencv-python-headless"
    )
    assert "without an NVIDIA GPU" in line
