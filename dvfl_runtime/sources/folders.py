"""Finds the videos and the images in folders, by their names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from dvfl_runtime.errors import SourceError
from dvfl_runtime.errors.addresses import printable

IMAGE_SUFFIXES = frozenset({
    *(".avif", ".bmp", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif"),
    *(".tiff", ".webp"),
})  # fmt: skip
OTHER_IMAGE_SUFFIXES = frozenset({
    *(".arw", ".cr2", ".cr3", ".dng", ".exr", ".hdr", ".heic", ".heif", ".j2k", ".jxl", ".jxr"),
    *(".nef", ".psd", ".raw", ".svg", ".tga"),
})  # fmt: skip
VIDEO_SUFFIXES = frozenset({
    *(".3gp", ".avi", ".flv", ".gif", ".h264", ".h265", ".hevc", ".m2ts", ".m4v", ".mkv", ".mov"),
    *(".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".webm", ".wmv"),
})  # fmt: skip


def is_video(path: Path) -> bool:
    """Return whether a file is named like a video and not hidden, as macOS's `._a.mp4` is."""
    return path.suffix.lower() in VIDEO_SUFFIXES and path.name[0] != "."


def is_image(path: Path) -> bool:
    """Return whether a file is named like an image and not hidden."""
    return path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "."


def images_in(folder: Path) -> list[Path]:
    """Return the images of a folder in natural order.

    Raises:
        SourceError: if it cannot be listed, holds no image, or holds videos.
    """
    images, videos = _contents(folder)
    name = printable(str(folder))
    if videos and not images:
        raise SourceError(
            f"the folder {name} holds videos and no images; pass the videos one after "
            f"the other, beginning with {printable(videos[0].name)}"
        )
    if not images:
        raise SourceError(
            f"the folder {name} holds no images and no videos; pass a video file, or put images "
            f"into it that end in one of {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return images


def other_images_in(folder: Path) -> list[Path]:
    """Return the images of a folder in formats that cannot be read, in natural order."""
    files = (p for p in folder.iterdir() if p.suffix.lower() in OTHER_IMAGE_SUFFIXES)
    return sorted((p for p in files if p.name[0] != "."), key=natural_key)


def sources_in(source: str) -> list[str]:
    """Return the videos of a folder of videos in natural order, or else the source itself.

    Raises:
        SourceError: if it is a folder that cannot be listed or holds neither images nor videos, or
            both.
    """
    if not source or not os.path.isdir(source):
        return [source]
    images, videos = _contents(Path(source))
    return [str(path) for path in videos] if videos and not images else [source]


def videos_below(folder: Path) -> Iterator[Path]:
    """Yield the videos in a folder and in the folders below it, in the order of their names.

    Raises:
        SourceError: if one of the folders cannot be listed.
    """
    for path in sorted(_listed(folder)):
        if path.is_dir() and path.name[0] != ".":
            yield from videos_below(path)
        elif is_video(path):
            yield path


def natural_key(path: Path) -> tuple[list[str | int], str]:
    """Return a sort key that compares runs of digits as numbers and ignores case."""
    parts = re.split(r"([0-9]+)", path.name.lower())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.name


def _contents(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the images and the videos of a folder.

    Raises:
        SourceError: if it cannot be listed or holds both.
    """
    name = printable(str(folder))
    files = sorted(_listed(folder), key=natural_key)
    images, videos = [*filter(is_image, files)], [*filter(is_video, files)]
    if images and videos:
        raise SourceError(
            f"the folder {name} holds {len(images)} images and {len(videos)} videos; say which, "
            "such as FOLDER/*.mp4, or put them into two folders"
        )
    return images, videos


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as err:
        raise SourceError(
            f"cannot list the folder {printable(str(folder))}: {err.strerror}; check its "
            "permissions"
        ) from err
