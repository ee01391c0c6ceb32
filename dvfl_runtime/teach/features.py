"""The features of videos: what a model file computes of their windows, before its head.

They are computed by any engine, because the model without its head is a model file too, and kept in
the cache, so that another clip or another class costs no more than itself.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.clips.evaluation import sample_windows
from dvfl_runtime.clips.spec import Clip, ClipSpec
from dvfl_runtime.engines import Engine, open_engine
from dvfl_runtime.engines.cache import private_folder, read_private, write_private
from dvfl_runtime.errors import ArtifactError, OutputError
from dvfl_runtime.sources import open_source
from dvfl_runtime.teach.graph import without_head

logger = logging.getLogger(__name__)

VERSION = 2  # of how features are made; another one makes what is kept worthless
WHOLE_SHARE = 0.9  # of a window; of a shorter video little is seen


@dataclass(frozen=True, eq=False)
class VideoFeatures:
    """The features of the windows of a video.

    Attributes:
        plain: (windows, C).
        mirrored: (windows, C) of their mirror images.
        length_s: of the video.
    """

    plain: NDArray[np.float32]
    mirrored: NDArray[np.float32]
    length_s: float


@dataclass(frozen=True)
class EngineChoice:
    """Which engine computes, as for a Recognizer.

    Attributes:
        name: of the engine, or "auto".
        device: "cpu", "cuda" or "auto".
        num_threads: for CPU work; by default as many as this process may use.
    """

    name: str = "auto"
    device: str = "auto"
    num_threads: int | None = None

    def open(self, file: ModelFile) -> Engine:
        """Open a model file; see `dvfl_runtime.engines.open_engine` for the errors."""
        return open_engine(self.name, file, device=self.device, num_threads=self.num_threads)


class FeatureReader:
    """Computes the features of videos, or takes them from the cache.

    Args:
        file: the model.
        spec: how clips are made for it.
        engine: of the model without its head.
    """

    def __init__(self, file: ModelFile, spec: ClipSpec, engine: Engine) -> None:
        self.file, self.spec, self.engine = file, spec, engine

    def read(self, path: Path) -> VideoFeatures:
        """Return the features of a video.

        Raises:
            SourceError: if no frame of it can be read.
            ArtifactError: if the features are not finite.
        """
        return read_by_all([self], path)[0]

    def recall(self, path: Path) -> VideoFeatures | None:
        """Return the features of a video if they are in the cache."""
        kept = self._kept_at(path)
        return None if kept is None else _recall(kept)

    def compute(self, path: Path, clips: list[Clip], length_s: float) -> VideoFeatures:
        """Return the features of a video's windows, and keep them in the cache.

        Raises:
            ArtifactError: if the features are not finite.
        """
        both = [self._features(np.stack([clip, clip[:, :, ::-1]])) for clip in clips]
        plain, mirrored = np.stack(both, axis=1)
        features = VideoFeatures(plain, mirrored, length_s)
        if (kept := self._kept_at(path)) is not None:
            _remember(kept, features)
        return features

    def features_of(self, clips: list[Clip]) -> NDArray[np.float32]:
        """Return the features of clips, each (T, H, W, 3): -> (N, C)."""
        return np.concatenate([self._features(clip[None]) for clip in clips])

    def _features(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(B, T, H, W, 3) -> (B, C); one clip at a time, so that a small device has room for it."""
        found = np.concatenate([self.engine.run(np.ascontiguousarray(c[None])) for c in clips])
        if not np.isfinite(found).all():
            raise ArtifactError(
                f"model {self.file.path} gives features that are not finite; export it again in "
                f"fp32"
            )
        return found

    def _kept_at(self, path: Path) -> Path | None:
        """Return where the features of a video are kept; `None` where nothing can be."""
        try:
            about = path.stat()
            folder = private_folder("features")
        except (OSError, OutputError) as err:
            logger.info("features are not kept: %s", err)
            return None
        key = {
            "version": VERSION,
            "model": self.file.graph_sha256,
            "features": self.file.artifact.features,
            "spec": self.spec.to_dict(),
            "file": [str(path.resolve()), about.st_size, about.st_mtime_ns],
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return folder / f"{digest[:32]}.npy"


def read_by_all(readers: Sequence[FeatureReader], path: Path) -> list[VideoFeatures]:
    """Return what each of several models of the same clips computes of a video.

    Raises:
        SourceError: if no frame of it can be read.
        ArtifactError: if features are not finite.
    """
    found = [reader.recall(path) for reader in readers]
    if None in found:  # a video is decoded once for all of them
        clips, length_s = cut_windows(path, readers[0].spec)
        return [
            kept or reader.compute(path, clips, length_s)
            for kept, reader in zip(found, readers, strict=True)
        ]
    return [kept for kept in found if kept is not None]


@contextmanager
def open_features(file: ModelFile, spec: ClipSpec, choice: EngineChoice) -> Iterator[FeatureReader]:
    """Open a model without its head.

    Args:
        file: the model.
        spec: how clips are made for it.
        choice: of the engine.

    Raises:
        ArtifactError: if the head is not one linear layer, or the engine cannot load the file.
        EngineUnavailable: if the engine or the device cannot be used here.
        DvflError: if onnx is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="dvfl-teach-") as folder:
        path = Path(folder) / f"{file.path.stem}.onnx"
        path.write_bytes(without_head(file))
        with closing(choice.open(ModelFile(path))) as engine:
            yield FeatureReader(file, spec, engine)


def cut_windows(path: Path, spec: ClipSpec) -> tuple[list[Clip], float]:
    """Cut the windows of a video (see `sample_windows`), and tell its length in seconds.

    Raises:
        SourceError: if no frame can be read.
    """
    source = open_source(path)
    try:
        clips, origin = sample_windows(source, spec)
    finally:
        source.close()
    return clips, origin.end_s - origin.start_s


def _recall(path: Path) -> VideoFeatures | None:
    with suppress(OSError, ValueError, EOFError, OutputError):
        content = io.BytesIO(read_private(path))
        plain, mirrored = np.load(content, allow_pickle=False)
        return VideoFeatures(plain, mirrored, float(np.load(content, allow_pickle=False)))
    return None


def _remember(path: Path, features: VideoFeatures) -> None:
    content = io.BytesIO()
    np.save(content, np.stack([features.plain, features.mirrored]))
    np.save(content, np.float64(features.length_s))
    try:
        write_private(path, content.getvalue())
    except OutputError as err:
        logger.info("features are not kept: %s", err)
