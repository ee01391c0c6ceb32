"""Checkpoint files, which are read and written: official ones, plain state_dicts and our own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dvfl_models.network.config import VARIANTS, VideoFocalNetConfig
from dvfl_models.network.video_focalnet import VideoFocalNet
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.errors import CheckpointError
from dvfl_runtime.files import replacing

StateDict = Mapping[str, Tensor]

# Trainers keep settings of these types beside the weights. They are read as plain dictionaries, so
# that no code of these packages is imported or run.
SETTINGS = ("yacs.config.CfgNode", "fvcore.common.config.CfgNode", "argparse.Namespace")
_BEGINNINGS = (b"PK", b"\x80")  # of the archives and pickles that torch.save writes


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file; only files of our own have more than weights.

    Attributes:
        path: of the file.
        state_dict: weights by official key names.
        sha256: of the file.
        config: of the network, if the file has it.
        variant: name of the network, "" if the file has none.
        labels: class names in the order of the logits, empty if the file has none.
        spec: the clips that the network was trained on, if the file has it.
        training: data and measured accuracy, as our trainer wrote them.
        trainer: state of the optimiser and all else that is needed to resume the training.
    """

    path: Path
    state_dict: StateDict
    sha256: str
    config: VideoFocalNetConfig | None = None
    variant: str = ""
    labels: tuple[str, ...] = ()
    spec: ClipSpec | None = None
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    trainer: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def read_checkpoint(path: str | os.PathLike[str], key: str = "") -> Checkpoint:
    """Read an official `.pth` ({"model": ...}), a plain state_dict or our own checkpoint.

    Args:
        path: of the file.
        key: of the recipe that names the file, such as "model.start"; the error for a missing file
            names it.

    Raises:
        CheckpointError: if the file is missing, damaged, a pickle of objects, or holds no weights.
    """
    _check_file(path, key)
    path = Path(path)
    try:
        with warnings.catch_warnings():
            # PyTorch warns about the pickle protocol of foreign files
            warnings.simplefilter("ignore", UserWarning)
            with torch.serialization.safe_globals([(OrderedDict, name) for name in SETTINGS]):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        if not path.read_bytes().startswith(_BEGINNINGS):
            raise CheckpointError(
                f"{path} is no PyTorch checkpoint; give a .pth file of dvfl-train, or one with "
                f"published weights"
            ) from err
        raise CheckpointError(
            f"{path} holds pickled Python objects or is damaged, and is not loaded because that "
            f"could run code; save it again as torch.save(model.state_dict(), path)"
        ) from err
    except Exception as err:  # damaged bytes make the unpickler raise errors of any type
        reason = " ".join([f"{type(err).__name__}:", *str(err).splitlines()[:1]]).rstrip(":")
        raise CheckpointError(
            f"{path} is not a readable PyTorch checkpoint ({reason}); copy it or save it again"
        ) from err
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a value of type {type(content).__name__}, expected a state_dict"
        )
    state = content.get("model", content)
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path} holds no state_dict, neither at the top nor under 'model'")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if "dvfl" not in content:
        return Checkpoint(path, state, sha256)
    try:
        about = json.loads(content["dvfl"])
        return Checkpoint(
            path=path,
            state_dict=state,
            sha256=sha256,
            config=VideoFocalNetConfig(**about["config"]),
            variant=about.get("variant", ""),
            labels=tuple(about.get("labels", ())),
            spec=ClipSpec.from_dict(about["spec"]),
            training=about.get("training", {}),
            trainer=content.get("trainer", {}),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as err:
        raise CheckpointError(f"{path}: what it says of itself is wrong: {err}") from err


def _check_file(path: str | os.PathLike[str], key: str) -> None:
    """Raise CheckpointError if the path alone shows that there is no checkpoint to read."""
    if not os.fspath(path):
        raise CheckpointError("the path of the checkpoint is empty; give that of a .pth file")
    path = Path(path)
    if key and not path.exists():
        raise CheckpointError(
            f"{key} is {path}: no such file; train or fetch it first, or pass --set {key}=FILE.pth"
        )
    if path.suffix == ".onnx" and path.is_file():
        raise CheckpointError(
            f"{path} is an exported file already, not a checkpoint; the way back is "
            f"dvfl-export {path} -o FILE.pth"
        )
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}; give the path of a .pth file")


def save_checkpoint(
    path: str | os.PathLike[str],
    model: VideoFocalNet,
    *,
    about: Mapping[str, Any],
    trainer: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint of our own, complete or not at all; readable with `weights_only=True`.

    Args:
        path: of the file.
        model: its weights and config are stored.
        about: `variant`, `labels`, `spec` and `training`, ready for JSON.
        trainer: tensors and plain values with which the training can be resumed.

    Raises:
        OutputError: if the file cannot be written.
    """
    described = {"config": dataclasses.asdict(model.config), **about}
    content = {"model": model.state_dict(), "dvfl": json.dumps(described)}
    if trainer is not None:
        content["trainer"] = dict(trainer)
    with replacing(path) as part:
        _save(content, part)


def _save(content: Mapping[str, Any], path: Path) -> None:
    """Save with PyTorch; raise an OSError that tells why it cannot write, such as a full disk."""
    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as err:  # of PyTorch's zip writer; the file's own error is its context
            cause: BaseException | None = err
            while cause is not None and not isinstance(cause, OSError):
                cause = cause.__context__
            raise cause or err from None


def load_checkpoint(model: VideoFocalNet, path: str | os.PathLike[str]) -> Checkpoint:
    """Read `path` and load its weights into `model`, strictly.

    Raises:
        CheckpointError: if the file cannot be read or does not fit; lists the missing, unexpected
            and wrong-shape keys and the variant that would fit.
    """
    checkpoint = read_checkpoint(path)
    check_fit(model.state_dict(), checkpoint)
    model.load_state_dict(checkpoint.state_dict)
    return checkpoint


def check_fit(wanted: StateDict, checkpoint: Checkpoint, given: StateDict | None = None) -> None:
    """Raise CheckpointError, with the variant that would fit, unless all keys and shapes agree.

    Args:
        wanted: weights of the network to load into.
        checkpoint: the source of the weights.
        given: weights that were made from the checkpoint's; by default its own.
    """
    if report := mismatch(wanted, checkpoint.state_dict if given is None else given):
        fits = matching_variant(checkpoint.state_dict)
        hint = f"; these weights fit variant {fits!r}" if fits else ""
        raise CheckpointError(f"{checkpoint.path} does not fit the model: {report}{hint}")


def variant_of(checkpoint: Checkpoint) -> str:
    """Return the variant that a checkpoint names or, by its shapes, fits; "" if there is none."""
    return checkpoint.variant or matching_variant(checkpoint.state_dict)


def config_of(checkpoint: Checkpoint, variant: str = "") -> VideoFocalNetConfig:
    """Return the config that a checkpoint holds, or else that of the variant that it fits.

    Args:
        checkpoint: with the weights.
        variant: to use in place of the checkpoint's own config.

    Raises:
        CheckpointError: if the weights have no head, or fit no variant.
    """
    num_classes = width_of(checkpoint)
    if checkpoint.config is not None and not variant:
        return checkpoint.config
    variant = variant or variant_of(checkpoint)
    if variant not in VARIANTS:
        what = f"unknown variant {variant!r}" if variant else "these weights fit no variant"
        raise CheckpointError(f"{checkpoint.path}: {what}; known are: {', '.join(VARIANTS)}")
    return dataclasses.replace(VARIANTS[variant], num_classes=num_classes)


def model_of(checkpoint: Checkpoint, variant: str = "") -> VideoFocalNet:
    """Return the network of a checkpoint with its weights, in eval mode.

    Raises:
        CheckpointError: as `config_of`, or if the weights do not fit that network.
    """
    config = config_of(checkpoint, variant)
    with torch.device("meta"):  # a wrong config may ask for more memory than there is
        check_fit(VideoFocalNet(config).state_dict(), checkpoint)
    model = VideoFocalNet(config)
    model.load_state_dict(checkpoint.state_dict)
    return model.eval()


def width_of(checkpoint: Checkpoint) -> int:
    """Return the number of outputs of a checkpoint's head.

    Raises:
        CheckpointError: if it has no head.
    """
    width = num_classes_of(checkpoint.state_dict)
    if width is None:
        raise CheckpointError(f"{checkpoint.path} has no classification head (head.weight)")
    return width


def mismatch(wanted: StateDict, given: StateDict) -> str:
    """Return in words how two state_dicts differ in keys and shapes; "" if they do not."""
    wrong = [
        f"{k} {tuple(given[k].shape)} instead of {tuple(wanted[k].shape)}"
        for k in wanted
        if k in given and given[k].shape != wanted[k].shape
    ]
    parts = []
    for what, keys in (
        ("missing", [k for k in wanted if k not in given]),
        ("unexpected", [k for k in given if k not in wanted]),
        ("wrong shape", wrong),
    ):
        if keys:
            more = f", ... ({len(keys)} in all)" if len(keys) > 4 else ""
            parts.append(f"{what}: {', '.join(keys[:4])}{more}")
    return "; ".join(parts)


def num_classes_of(state: StateDict) -> int | None:
    """Return the width of the classification head, None if there is none."""
    return int(state["head.weight"].shape[0]) if "head.weight" in state else None


def matching_variant(state: StateDict) -> str:
    """Return the name of the variant that the weights fit exactly, "" if there is none."""
    num_classes = num_classes_of(state)
    if num_classes is None:
        return ""
    for name, config in VARIANTS.items():
        with torch.device("meta"):  # shapes alone, no memory
            wanted = VideoFocalNet(dataclasses.replace(config, num_classes=num_classes))
        if not mismatch(wanted.state_dict(), state):
            return name
    return ""


def clip_mismatch(name: str, trained: ClipSpec | None, given: ClipSpec) -> str:
    """Return a warning if a checkpoint was trained on other clips than a recipe's, else ""."""
    if trained is None:
        return ""
    fields = ("num_frames", "size", "resize", "crop", "mean", "std", "window_s")
    differ = [field for field in fields if getattr(trained, field) != getattr(given, field)]
    if not differ:
        return ""
    pairs = [f"clip.{field} {getattr(trained, field)} and {getattr(given, field)}"
             for field in differ]  # fmt: skip
    return (
        f"{name} was trained on other clips than the recipe's: {', '.join(pairs)}; set what is not "
        f"meant to differ"
    )
