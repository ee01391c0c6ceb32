from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from frames import read, warnings_of

from dvfl_runtime.errors import SourceError
from dvfl_runtime.sources import open_source
from dvfl_runtime.sources.folders import natural_key


def image_folder(folder: Path, names: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        image = np.full((8 + i, 12, 3), (0, 0, 10 * i), np.uint8)  # BGR: pure red
        assert cv2.imwrite(str(folder / name), image)
    return folder


def test_images_come_in_natural_order_as_rgb(tmp_path):
    folder = image_folder(tmp_path / "f", ["frame2.png", "frame10.png", "frame1.png"])
    (folder / "notes.txt").write_text("no image")
    (folder / "._frame0.png").write_bytes(b"left by a Mac")
    source = open_source(folder, fps=10)
    frames = list(source.frames())
    assert [f.image[0, 0].tolist() for f in frames] == [[20, 0, 0], [0, 0, 0], [10, 0, 0]]
    assert [f.image.shape[0] for f in frames] == [10, 8, 9]  # sizes may differ
    np.testing.assert_allclose([f.time_s for f in frames], [0, 0.1, 0.2])
    assert source.duration_s == pytest.approx(0.3)
    assert (source.name, source.live, source.rewindable) == (str(folder), False, True)
    assert len(list(source.frames())) == 3
    source.close()
    with pytest.raises(SourceError, match="is closed"):
        next(source.frames())


def test_natural_order_of_mixed_names():
    names = ["b1.png", "a10.png", "a2.png", "10.png", "9.png", "A1.png"]
    ordered = sorted((Path(n) for n in names), key=natural_key)
    assert [p.name for p in ordered] == [
        "9.png", "10.png", "A1.png", "a2.png", "a10.png", "b1.png",
    ]  # fmt: skip


def test_unreadable_images_are_counted_in_one_warning(tmp_path, caplog):
    folder = image_folder(tmp_path / "f", [f"{i}.png" for i in range(5)])
    (folder / "1.png").write_bytes(b"")
    (folder / "3.png").write_bytes(b"not an image")
    source = open_source(folder, fps=1)
    for _ in range(2):
        frames = list(source.frames())
        assert [(f.index, f.time_s) for f in frames] == [(0, 0.0), (1, 2.0), (2, 4.0)]
    (message,) = warnings_of(caplog)
    assert "2 of 5" in message
    assert "1.png" in message


def test_folder_without_a_readable_image(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"nothing")
    with pytest.raises(SourceError, match=r"none of the 1 images"):
        read(tmp_path)
