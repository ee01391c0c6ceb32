"""Checkpoints: official, plain, our own, foreign and broken."""

import dataclasses
import pickle
from pathlib import Path

import pytest
import torch

from dvfl_models import VARIANTS, VideoFocalNet, build_model, load_checkpoint, read_checkpoint
from dvfl_models.checkpoint import init_from_focalnet, matching_variant, save_checkpoint
from dvfl_runtime import ClipSpec
from dvfl_runtime.errors import CheckpointError, OutputError


@pytest.fixture(scope="module")
def femto() -> VideoFocalNet:
    return build_model("femto", num_classes=5)


def about() -> dict:
    return {"variant": "femto", "labels": list("abcde"), "spec": ClipSpec().to_dict()}


@pytest.mark.parametrize("official", [True, False])
def test_official_and_plain_files_load(
    femto: VideoFocalNet, tmp_path: Path, official: bool
) -> None:
    state = femto.state_dict()
    torch.save({"model": state, "epoch": 119} if official else state, tmp_path / "x.pth")
    twin = build_model("femto", num_classes=5)
    load_checkpoint(twin, tmp_path / "x.pth")
    assert all(torch.equal(value, state[key]) for key, value in twin.state_dict().items())


def test_our_own_file_knows_its_network(femto: VideoFocalNet, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.pth", femto, about=about())
    checkpoint = read_checkpoint(tmp_path / "x.pth")
    assert checkpoint.config == femto.config
    assert checkpoint.variant == "femto"
    assert checkpoint.labels == tuple("abcde")
    assert checkpoint.spec == ClipSpec()
    assert len(checkpoint.sha256) == 64


def test_wrong_variant_is_named_with_the_right_one(femto: VideoFocalNet, tmp_path: Path) -> None:
    torch.save(femto.state_dict(), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"wrong shape: .*these weights fit variant 'femto'"):
        load_checkpoint(build_model("pico", num_classes=5), tmp_path / "x.pth")


def test_missing_and_unexpected_keys_are_listed(femto: VideoFocalNet, tmp_path: Path) -> None:
    state = dict(femto.state_dict())
    state["surplus.weight"] = state.pop("norm.bias")
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"missing: norm\.bias; unexpected: surplus\.weight"):
        load_checkpoint(build_model("femto", num_classes=5), tmp_path / "x.pth")


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_variant_is_recognised_by_shapes(variant: str) -> None:
    with torch.device("meta"):
        state = VideoFocalNet(dataclasses.replace(VARIANTS[variant], num_classes=7)).state_dict()
    assert matching_variant(state) == variant


class Evil:
    def __reduce__(self) -> tuple:
        return print, ("this must never run",)


def test_pickled_objects_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pth", "raw.pth"):
        with pytest.raises(CheckpointError, match="could run code"):
            read_checkpoint(tmp_path / name)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not a readable|damaged"), (b"hello", "damaged"), (b"PK\x03\x04garbage", "readable")],
)
def test_damaged_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "x.pth")


def test_truncated_file(femto: VideoFocalNet, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save(femto.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="not a readable PyTorch checkpoint"):
        read_checkpoint(path)


def test_missing_file_and_no_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        read_checkpoint(tmp_path / "none.pth")
    torch.save({"epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="holds no state_dict"):
        read_checkpoint(tmp_path / "x.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        read_checkpoint(tmp_path / "list.pth")


def test_nothing_is_left_where_nothing_can_be_written(femto: VideoFocalNet, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="existing, writable folder"):
        save_checkpoint(tmp_path / "absent" / "x.pth", femto, about=about())
    assert list(tmp_path.iterdir()) == []


def test_imagenet_initialisation_reports_what_matched(femto: VideoFocalNet) -> None:
    flat = {k: v + 1 for k, v in femto.state_dict().items() if "temporal" not in k}
    flat["head.weight"] = torch.zeros(1000, femto.head.in_features)
    flat["head.bias"] = torch.zeros(1000)
    model = build_model("femto", num_classes=5)
    report = init_from_focalnet(model, flat)
    assert report["skipped"] == ["head.weight", "head.bias"]
    assert all("temporal" in key or "head" in key for key in report["not_in_file"])
    assert len(report["loaded"]) + 2 == len(flat)
    torch.testing.assert_close(model.norm.weight, flat["norm.weight"])
