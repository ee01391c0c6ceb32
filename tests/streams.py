"""Numbered pictures as encoded video, and a real RTSP server on loopback that plays them."""

from __future__ import annotations

import signal
import subprocess
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from system_python import SYSTEM_PYTHON, system_python_can

SERVER = Path(__file__).with_name("rtsp_server.py")
DIGITS = 10  # bits of a picture's number
FPS = 25
ENCODERS = {"h264": "libx264", "h265": "libx265", "jpeg": "mjpeg"}
PROBE = """
import gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
assert Gst.ElementFactory.find("rtph264pay") and Gst.ElementFactory.find("appsrc")
"""


def numbered(number: int, height: int, width: int) -> NDArray[np.uint8]:
    """Returns a grey picture that carries its number as light and dark blocks."""
    image = np.full((height, width, 3), 60, np.uint8)
    for bit in range(DIGITS):
        block = slice(bit * width // DIGITS, (bit + 1) * width // DIGITS)
        image[: height // 2, block] = 235 if number >> bit & 1 else 16
    return image


def number_of(image: NDArray[np.uint8]) -> int:
    """Returns the number that a picture carries, and raises unless all of it is that picture."""
    height, width = image.shape[:2]
    centres = [(2 * bit + 1) * width // (2 * DIGITS) for bit in range(DIGITS)]
    number = sum(int(image[height // 4, x, 1] > 128) << bit for bit, x in enumerate(centres))
    error = np.abs(image.astype(int) - numbered(number, height, width)).mean()
    assert error < 6, f"the picture is not number {number}: off by {error:.1f}"
    return number


def encode(
    path: Path,
    numbers: range,
    height: int,
    width: int,
    kind: str = "h264",
    more: dict[str, str] | None = None,
) -> Path:
    """Writes pictures as the access units that rtsp_server.py plays; a key frame each 10th.

    Args:
        path: the file.
        numbers: of the pictures.
        height: of the pictures, px.
        width: of the pictures, px.
        kind: of the encoder.
        more: of its options.
    """
    codec = av.CodecContext.create(ENCODERS[kind], "w")
    codec.width, codec.height = width, height
    codec.pix_fmt = "yuvj420p" if kind == "jpeg" else "yuv420p"
    codec.time_base, codec.framerate = Fraction(1, FPS), Fraction(FPS)
    options = {"g": "10", "bf": "0", "preset": "ultrafast", "tune": "zerolatency"}
    codec.options = {
        "h264": options,
        "h265": {**options, "x265-params": "log-level=none:repeat-headers=1"},
        "jpeg": {},
    }[kind] | (more or {})
    data = bytearray()
    for i, number in enumerate(numbers):
        frame = av.VideoFrame.from_ndarray(numbered(number, height, width), format="rgb24")
        frame.pts = i
        for packet in codec.encode(frame):
            data += packet.size.to_bytes(4, "big") + bytes(packet)
    for packet in codec.encode(None):
        data += packet.size.to_bytes(4, "big") + bytes(packet)
    path.write_bytes(data)
    return path


class RtspServer:
    """GStreamer's RTSP server in a process of its own, or a skipped test where it is missing."""

    def __init__(self, folder: Path, *streams: Path, port: int = 0, options: str = "") -> None:
        if not system_python_can(PROBE):
            pytest.skip("needs GStreamer's RTSP server; sudo make test-tools installs it on Debian")
        self._log = folder / "server.log"
        command = [SYSTEM_PYTHON, str(SERVER), *map(str, streams), "--port", str(port)]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*command, *options.split()], stdin=subprocess.PIPE, stdout=log, stderr=log
            )
        self.port = self._wait_for_port()
        self.url = f"rtsp://127.0.0.1:{self.port}/live"

    def sent_ns(self) -> dict[int, int]:
        """Returns when each number was sent last, in the nanoseconds of `time.monotonic_ns`."""
        lines = (line.split() for line in self._log.read_text().splitlines())
        return {int(w[1]): int(w[2]) for w in lines if len(w) == 3 and w[0] == "SENT"}

    def suspend(self) -> None:
        """Makes it hang: connections stay open, and nothing comes."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Ends `suspend`."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends it without a farewell; may be called twice."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _wait_for_port(self) -> int:
        for _ in range(200):
            text = self._log.read_text()
            if text.startswith("PORT "):
                return int(text.split()[1])
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        self.kill()
        raise RuntimeError(f"the RTSP server did not start: {self._log.read_text()}")
