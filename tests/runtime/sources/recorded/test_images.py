from __future__ import annotations

import struct
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from frames import read, warnings_of

from dvfl_runtime.errors import SourceError
from dvfl_runtime.sources import open_source
from dvfl_runtime.sources.decoding.stills import sizes_in
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
    (folder / "3.png").write_bytes(b"P6 " + b"9" * 5000 + b" 1 255\n")  # digits for a width
    source = open_source(folder, fps=1)
    for _ in range(2):
        frames = list(source.frames())
        assert [(f.index, f.time_s) for f in frames] == [(0, 0.0), (1, 2.0), (2, 4.0)]
    (message,) = warnings_of(caplog)
    assert "2 of 5" in message
    assert "1.png" in message


def test_opencvs_log_is_as_before_when_folders_were_read_side_by_side(tmp_path):
    folders = [image_folder(tmp_path / name, [f"{i}.png" for i in range(30)]) for name in "ab"]
    before = cv2.utils.logging.getLogLevel()
    with ThreadPoolExecutor() as pool:
        assert [len(frames) for frames in pool.map(read, folders * 4)] == [30] * 8
    assert cv2.utils.logging.getLogLevel() == before


def test_folder_without_a_readable_image(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"nothing")
    with pytest.raises(SourceError, match=r"none of the 1 images"):
        read(tmp_path)


def as_file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def png(width: int, height: int) -> bytes:
    """Return a black picture of one bit a pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer = zlib.compressobj(9)
    line = bytes(1 + (width + 7) // 8)
    data = b"".join([packer.compress(line) for _ in range(height)] + [packer.flush()])
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("as_folder", [True, False])
def test_a_small_file_of_a_huge_picture_is_refused_before_it_is_decoded(tmp_path, as_folder):
    path = as_file(tmp_path / "a.png", png(22_400, 22_400))
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    with pytest.raises(SourceError, match=r"have more than 134 megapixels, beginning with a\.png"):
        read(tmp_path if as_folder else path)
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


KINDS = ["bmp", "png", "ppm", "pgm", "jpg", "jpe", "jfif", "jp2", "tif", "webp", "avif"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_and_its_size(tmp_path, kind, caplog):
    image = np.full((47, 65, 3), (30, 60, 240), np.uint8)
    image = image[..., 0] if kind == "pgm" else image
    try:
        good, data = cv2.imencode(f".{'jpg' if kind == 'jfif' else kind}", image)
    except cv2.error:
        good = False
    if not good:
        pytest.skip(f"this OpenCV does not write {kind}")
    assert set(sizes_in(data.tobytes())) == {(65, 47)}
    path = as_file(tmp_path / f"a.{kind}", data.tobytes())
    for source in (path, tmp_path):
        (frame,) = read(source)
        colour = (30, 30, 30) if kind == "pgm" else (240, 60, 30)
        np.testing.assert_allclose(frame.image.mean((0, 1)), colour, atol=4)
    assert warnings_of(caplog) == []


def test_images_of_kinds_that_cannot_be_read_are_named(tmp_path, caplog):
    image_folder(tmp_path, ["1.png"])
    for name in ("2.heic", "3.HEIC", "4.exr", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert len(read(tmp_path)) == 1
    with pytest.raises(SourceError, match=r"none of the 1 images in .*2\.heic can be read"):
        read(tmp_path / "2.heic")  # FFmpeg would give one of the tiles that phones make
    (message,) = warnings_of(caplog)
    assert "3 images of kinds that cannot be read are left out, beginning with 2.heic" in message


@pytest.mark.parametrize(("bits", "warned"), [(10, True), (12, True), (14, True), (16, False)])
@pytest.mark.parametrize("kind", ["png", "tif"])
def test_images_that_use_a_part_of_16_bits_are_told(tmp_path, caplog, bits, warned, kind):
    ramp = np.linspace(0, (1 << bits) - 1, 64 * 48).reshape(48, 64, 1).repeat(3, 2)
    assert cv2.imwrite(str(tmp_path / f"a.{kind}"), ramp.astype(np.uint16))
    assert cv2.imwrite(str(tmp_path / "black.png"), np.zeros((48, 64), np.uint8))
    assert len(read(tmp_path)) == 2
    expected = f"1 of 2 images use the lowest {bits} of 16 bits and look too dark"
    messages = warnings_of(caplog)
    assert [expected in m for m in messages] == ([True] if warned else [])


def test_animated_images(tmp_path, caplog):
    with av.open(str(tmp_path / "a.png"), "w", format="apng") as container:
        stream = container.add_stream("apng", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        for i in range(3):
            image = np.full((48, 64, 3), 80 * i + 50, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode())
    assert len(read(tmp_path / "a.png")) == 3  # a video
    (tmp_path / "f").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "f" / "a.png")
    assert len(read(tmp_path / "f")) == 1
    (message,) = warnings_of(caplog)
    assert "1 of 1 images are animations, of which the first picture is read" in message


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_a_tiff_is_applied(tmp_path, orientation):
    upright = np.zeros((6, 8, 3), np.uint8)
    upright[:3, :4], upright[:3, 4:], upright[3:, :4] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    stored = np.ascontiguousarray({
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.swapaxes(0, 1), 6: np.rot90(upright), 7: np.rot90(upright, 2).swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation])  # fmt: skip
    height, width = stored.shape[:2]
    pixels, tags = stored.tobytes(), [
        (256, width), (257, height), (258, 8), (259, 1), (262, 2), (273, 8), (274, orientation),
        (277, 3), (278, height), (279, len(stored.tobytes())),
    ]  # fmt: skip
    after = 8 + len(pixels) + 2 + 12 * len(tags) + 4
    entries = [struct.pack("<HHII", t, 3, 1, v) for t, v in tags]
    entries[2] = struct.pack("<HHII", 258, 3, 3, after)
    data = b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(tags))
    data += b"".join(entries) + bytes(4) + struct.pack("<HHH", 8, 8, 8)
    path = as_file(tmp_path / "a.tif", data)
    for source in (path, tmp_path):
        np.testing.assert_array_equal(read(source)[0].image, upright)
