"""The core: videos in, one row for each out, with its segments or with the reason why not."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from dvfl_runtime.errors import ArtifactError, EngineUnavailable, SourceError
from dvfl_runtime.errors.addresses import reason_of, shown
from dvfl_runtime.errors.packages import needed
from dvfl_runtime.recognizer import Recognizer
from dvfl_runtime.results import Prediction, Segment
from dvfl_runtime.sources import Source, is_live, open_source
from dvfl_runtime.sources.recorded.file import FileSource
from dvfl_runtime.sources.recorded.media import CheckedReader, Opened
from dvfl_runtime.streams.smoothing import Segmenter

Row: TypeAlias = dict[str, Any]  # of one video, in JSON's types; see `tables.RESULT`

EMPTY: Row = {
    **{"status": "failed", "error_class": None, "error": None, "duration_s": None},
    **{"size_bytes": None, "modified": None, "segments": [], "windows": None, "seconds": None},
}
FATAL = (ArtifactError, EngineUnavailable)  # every other video would fail as well


@dataclass(frozen=True)
class Reading:
    """How videos are recognised; the same for all rows of an archive.

    Attributes:
        window_s: length of a window, seconds; `None` for the model's own.
        hop_s: from window to window, seconds; `None` for a quarter of a window.
        windows: whether a row has the windows of its video too.
    """

    window_s: float | None = None
    hop_s: float | None = None
    windows: bool = False


def recognise_videos(
    paths: Iterable[str],
    recognizer: Recognizer,
    reading: Reading,
    alive: Callable[[], None] = lambda: None,
) -> Iterator[Row]:
    """Yield one row for each video, in their order; whatever is wrong with one is in its row.

    Args:
        paths: of files or folders of images, and addresses.
        recognizer: runs the model.
        reading: how.
        alive: called whenever something new is known about the video at hand.

    Raises:
        ArtifactError: if the model is wrong, so that no video could be recognised.
        EngineUnavailable: likewise for the engine.
    """
    for path in paths:
        begin_s = time.monotonic()
        row: Row = dict(EMPTY)
        try:
            with closing(open_listed(path)) as source:
                row["size_bytes"], row["modified"] = version_of(path)
                row["duration_s"] = source.duration_s
                row |= _recognise(source, recognizer, reading, alive)
        except FATAL:
            raise
        except Exception as err:  # whatever a library makes of a bad file
            row["error_class"], row["error"] = type(err).__name__, reason_of(err)
        else:
            damage = getattr(source, "damage", "")
            row["status"] = "damaged" if damage else "ok"
            row["error_class"], row["error"] = ("Damaged", damage) if damage else (None, None)
        row["seconds"] = round(time.monotonic() - begin_s, 3)
        yield row


def open_listed(path: str) -> Source:
    """Open a video by its path or address.

    An address at http:// or https:// is read like any other of dvfl's, all others by fsspec.

    Raises:
        SourceError: if it cannot be opened, or is live and so has no end.
    """
    if not path.strip():
        raise SourceError("its path is empty; give one in the list")
    if "://" in path and not path.lower().startswith(("http://", "https://")):
        if is_live(path):
            raise SourceError(f"{shown(path)} is live and has no end; list recorded videos")
        return FileSource(_StoredVideo(path))
    source = open_source(path)
    if source.live:
        source.close()
        raise SourceError(f"{shown(path)} is live and has no end; list recorded videos")
    return source


def version_of(path: str) -> tuple[int | None, int | None]:
    """Return the size of a video in bytes and when it was changed, microseconds since 1970.

    What is not known is `None`.
    """
    try:
        if "://" not in path:
            about = os.stat(path)
            return about.st_size, about.st_mtime_ns // 1000
        import fsspec

        files, place = fsspec.core.url_to_fs(path)
        size = files.size(place)
        try:
            changed = cast(datetime.datetime, files.modified(place))
        except NotImplementedError:
            return size, None
        if changed.tzinfo is None:
            changed = changed.replace(tzinfo=datetime.timezone.utc)
        return size, int(changed.timestamp() * 1_000_000)
    except Exception:  # a file system that does not tell them
        return None, None


def _recognise(
    source: Source, recognizer: Recognizer, reading: Reading, alive: Callable[[], None]
) -> Row:
    segmenter = Segmenter(recognizer.labels)
    segments: list[Segment] = []
    windows: list[Prediction] = []
    stream = recognizer.stream(source, window_s=reading.window_s, hop_s=reading.hop_s, top_k=1)
    for prediction in stream:
        alive()
        segments += segmenter.push(prediction)
        if reading.windows:
            windows.append(prediction)
    segments += segmenter.finish()
    found: Row = {"segments": [_span(segment) for segment in segments]}
    if reading.windows:
        found["windows"] = [_span(prediction) for prediction in windows]
    return found


def _span(result: Segment | Prediction) -> Row:
    return {
        "start_s": round(result.start_s, 6),
        "end_s": round(result.end_s, 6),
        "label": result.label,
        "confidence": round(result.confidence, 6),
    }


class _StoredVideo:
    """A video at an address that fsspec opens: s3://, gs://, sftp://, file://, memory:// ..."""

    advice = "check that it is a complete video file"

    def __init__(self, url: str) -> None:
        self.name = shown(url)
        self._url = url

    def open(self) -> Opened:
        """Open it at its beginning.

        Raises:
            SourceError: if it cannot be opened, or fsspec does not know such addresses.
        """
        with needed(f"reading {self.name}", "fsspec"):
            import fsspec
        try:
            file = fsspec.open(self._url, "rb").open()
        except Exception as err:  # each kind of storage has errors of its own
            reason = reason_of(err) or type(err).__name__
            raise SourceError(f"cannot open {self.name}: {reason}; check the address") from err
        return CheckedReader(file, self.name, file.close)

    def stop(self) -> None:
        """Do nothing: how long a read takes is up to the storage."""
