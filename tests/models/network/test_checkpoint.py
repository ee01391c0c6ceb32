"""Checkpoints: official, plain, our own, foreign and broken."""

import argparse
import dataclasses
import pickle
import resource
import sys
import types
from pathlib import Path

import pytest
import torch

from dvfl_models import VARIANTS, VideoFocalNet, build_model, load_checkpoint, read_checkpoint
from dvfl_models.network.checkpoint import (
    config_of,
    matching_variant,
    model_of,
    save_checkpoint,
    variant_of,
)
from dvfl_models.recipe.labels import labels_of, spec_of
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


class CfgNode(dict):
    """As yacs has it: a dictionary with attributes of its own."""


def test_settings_beside_the_weights_are_read_without_their_packages(
    femto: VideoFocalNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yacs = types.ModuleType("yacs.config")
    yacs.CfgNode = CfgNode
    config = CfgNode(AUG=CfgNode(FRAME_INTERVAL=4), NAME="base")
    config.__dict__["__immutable__"] = True
    for settings in (config, argparse.Namespace(lr=0.1)):
        with monkeypatch.context() as patch:
            patch.setattr(CfgNode, "__module__", "yacs.config")
            patch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
            patch.setitem(sys.modules, "yacs.config", yacs)
            content = {"model": femto.state_dict(), "epoch": 119, "config": settings}
            torch.save(content, tmp_path / "x.pth")
        checkpoint = read_checkpoint(tmp_path / "x.pth")
        assert checkpoint.state_dict.keys() == femto.state_dict().keys()
    assert "yacs" not in sys.modules


def test_what_a_file_does_not_say_is_that_of_the_official_recipes(
    femto: VideoFocalNet, tmp_path: Path
) -> None:
    torch.save({"model": femto.state_dict()}, tmp_path / "x.pth")
    official = read_checkpoint(tmp_path / "x.pth")
    assert spec_of(official) == ClipSpec(size=(224, 224), resize=256, frame_interval=4)
    assert (variant_of(official), config_of(official)) == ("femto", femto.config)
    (tmp_path / "names.txt").write_text("\n".join("abcde"))
    assert labels_of(official, str(tmp_path / "names.txt")) == tuple("abcde")
    with pytest.raises(CheckpointError, match=r"no class names; give --labels .* of 5 names"):
        labels_of(official)
    spec = ClipSpec(size=(32, 32), resize=36)
    save_checkpoint(tmp_path / "y.pth", femto, about={**about(), "spec": spec.to_dict()})
    ours = read_checkpoint(tmp_path / "y.pth")
    assert (spec_of(ours), labels_of(ours)) == (spec, tuple("abcde"))
    assert not model_of(ours).training
    headless = {k: v for k, v in femto.state_dict().items() if not k.startswith("head.")}
    torch.save(headless, tmp_path / "z.pth")
    with pytest.raises(CheckpointError, match="no classification head"):
        config_of(read_checkpoint(tmp_path / "z.pth"))


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
    [
        (b"", "not a readable|damaged"),
        (b"\x80hello", "damaged"),
        (b"# README", "is no PyTorch checkpoint; give a .pth file"),
        (b"PK\x03\x04garbage", "readable"),
    ],
)
def test_damaged_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ("{", "Expecting property name"),
        ("[]", "list indices"),
        ('{"config": {"depth": 3}}', "unexpected keyword argument 'depth'"),
        ('{"config": {}, "spec": {"size": [64, 64]}}', "missing ClipSpec fields"),
    ],
)
def test_a_file_that_describes_itself_wrongly_is_named(
    femto: VideoFocalNet, tmp_path: Path, about: str, message: str
) -> None:
    torch.save({"model": femto.state_dict(), "dvfl": about}, tmp_path / "bad.pth")
    with pytest.raises(
        CheckpointError, match=f"bad.pth: what it says of itself is wrong: .*{message}"
    ):
        read_checkpoint(tmp_path / "bad.pth")


def test_a_config_of_another_size_takes_no_memory(femto: VideoFocalNet, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.pth", femto, about=about())
    huge = dataclasses.replace(femto.config, embed_dim=4_000_000)  # terabytes of weights
    lying = dataclasses.replace(read_checkpoint(tmp_path / "x.pth"), config=huge)
    with pytest.raises(CheckpointError, match=r"does not fit the model.* fit variant 'femto'"):
        model_of(lying)


def test_truncated_file(femto: VideoFocalNet, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save(femto.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="not a readable PyTorch checkpoint"):
        read_checkpoint(path)


def test_missing_file_and_no_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        read_checkpoint(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match=r"model\.start is .*none\.pth: no such file; train"):
        read_checkpoint(tmp_path / "none.pth", "model.start")
    with pytest.raises(CheckpointError, match="the path of the checkpoint is empty"):
        read_checkpoint("")
    (tmp_path / "x.onnx").touch()
    with pytest.raises(CheckpointError, match=r"exported file already.* -o FILE\.pth"):
        read_checkpoint(tmp_path / "x.onnx")
    torch.save({"epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="holds no state_dict"):
        read_checkpoint(tmp_path / "x.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a value of type list"):
        read_checkpoint(tmp_path / "list.pth")


def test_nothing_is_left_where_nothing_can_be_written(femto: VideoFocalNet, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="existing, writable folder"):
        save_checkpoint(tmp_path / "absent" / "x.pth", femto, about=about())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_and_the_old_file_stays(femto: VideoFocalNet, tmp_path: Path) -> None:
    """A limit on the size of files stops writing as a full disk does."""
    (tmp_path / "x.pth").write_bytes(b"the old one")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*x\.pth: File too large") as found:
            save_checkpoint(tmp_path / "x.pth", femto, about=about())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(found.value)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"the old one"]
