"""A model file that has been read, checked and described: engines take it instead of a path."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path

from dvfl_runtime.artifact.description import METADATA_KEY, Artifact, brief
from dvfl_runtime.artifact.onnx_file import INPUTS, OUTPUTS, OnnxFile
from dvfl_runtime.errors import ArtifactError
from dvfl_runtime.errors.checks import wrong

INPUT, OUTPUT = "clip", "logits"
FUSED_DOMAIN = "dvfl"  # of nodes, see export/README.md
MAX_FILE_BYTES = 2**31 - 1  # of any protobuf message


class ModelFile:
    """The content of a model file, read once, so that an engine runs the content that was checked.

    It holds all bytes of the file until it is dropped, as soon as an engine has been opened: a file
    of 85 MB adds 82 MB to the peak of the memory at the start, and nothing afterwards.

    Args:
        path: of the file.

    Raises:
        ArtifactError: if the file is missing, empty, truncated, not ONNX, without dvfl metadata,
            takes weights from another file, if its metadata is damaged or of a newer format, or if
            its graph does not map the clips of its ClipSpec to a logit for each label.

    Attributes:
        path: where it was read from.
        content: all bytes of the file.
        artifact: the description that it carries.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not os.fspath(path):
            raise wrong("path", "that of a model file", path)
        self.path = Path(path)
        with _naming(self.path):
            self.content = _read(self.path)
            self._onnx = OnnxFile(self.content)
            text = self._onnx.metadata(METADATA_KEY)
            if text is None:
                raise ArtifactError(
                    "it has no dvfl metadata because it was not exported by dvfl-export; "
                    "run: dvfl-export CHECKPOINT -o FILE.onnx"
                )
            self.artifact = Artifact.from_json(text)
            _check_graph(self._onnx, self.artifact)

    @cached_property
    def fused_operators(self) -> frozenset[str]:
        """The kinds of nodes in the graph that a native kernel can compute at once."""
        return self._onnx.operators(FUSED_DOMAIN)

    def content_for_kernels(self, operators: Collection[str]) -> bytes:
        """Return the content without what these fused nodes consist of: only kernels can run it."""
        return self._onnx.without_functions(operators)

    @cached_property
    def graph_sha256(self) -> str:
        """A digest of everything in the file that takes part in the computation.

        Labels and reports are left out: plans and measurements stay valid when they change.
        """
        return self._onnx.graph_sha256()


def _check_graph(onnx: OnnxFile, artifact: Artifact) -> None:
    """Check that a graph maps clip: uint8 (B, T, H, W, 3) to logits: float32 (B, N).

    This is done before an engine makes room for what the graph declares. T, H and W must be fixed:
    after a graph that left them open had run on clips that it was not made for, the next good model
    of the process crashed in OpenVINO 2026.4.

    Raises:
        ArtifactError: if it does not, or if the artifact describes other clips or logits.
    """
    inputs, outputs = onnx.declared(INPUTS), onnx.declared(OUTPUTS)
    found = [
        [(name, kind, None if shape is None else len(shape)) for name, kind, shape in side]
        for side in (inputs, outputs)
    ]
    wanted = [[(INPUT, "uint8", 5)], [(OUTPUT, "float32", 2)]]
    shapeless = [(OUTPUT, "float32", None)]  # engines find it out
    if found not in (wanted, [wanted[0], shapeless]):
        raise ArtifactError(
            f"its graph maps {brief(found[0])} to {brief(found[1])}, wanted {wanted[0]} to "
            f"{wanted[1]}; export it with dvfl-export"
        )
    clip_shape, logits_shape = inputs[0].shape or (), outputs[0].shape
    if None in clip_shape[1:]:
        raise ArtifactError(
            f"its graph takes clips of shape {clip_shape}, wanted fixed numbers but for the batch; "
            f"export it with dvfl-export"
        )
    artifact.check_graph(clip_shape, logits_shape[-1] if logits_shape else None)


def _read(path: Path) -> bytes:
    with open(path, "rb", opener=_without_waiting) as stream:
        about = os.fstat(stream.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise ArtifactError("it is not a regular file; copy it to one")
        if about.st_size == 0:
            raise ArtifactError("it is empty; copy it again")
        if about.st_size > MAX_FILE_BYTES:
            raise ArtifactError("it has more than 2 GB, and no ONNX file has; check the path")
        return stream.read(about.st_size)


def _without_waiting(path: str, flags: int) -> int:
    """Open a pipe, too, without waiting for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the name of the file in front of the messages of errors."""
    try:
        yield
    except (OSError, ValueError) as err:  # a ValueError: the path holds a null character
        reason = getattr(err, "strerror", None) or err
        raise ArtifactError(f"cannot read model {path}: {reason}; check the path") from err
    except ArtifactError as err:
        raise ArtifactError(f"cannot use model {path}: {err}") from err.__cause__
