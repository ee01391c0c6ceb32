"""GStreamer pipelines for the cameras and the video decoder of NVIDIA Jetson, as strings.

Experimental: not yet run on a Jetson. Elements and caps are those of NVIDIA's Accelerated GStreamer
guide for JetPack 6 (nvarguscamerasrc, nvv4l2decoder, nvvidconv).
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from dvfl_runtime.errors import ArgumentError, SourceError
from dvfl_runtime.errors.addresses import shown
from dvfl_runtime.errors.checks import check_number, check_whole
from dvfl_runtime.sources.live.capture import BGR, NEWEST_BGR

PARSERS = {"h264": "h264parse", "hevc": "h265parse"}
DEPAYLOADERS = {"h264": "rtph264depay", "hevc": "rtph265depay"}
DEMUXERS = {"mov,mp4,m4a,3gp,3g2,mj2": "qtdemux", "matroska,webm": "matroskademux"}

_DECODE = "nvv4l2decoder ! nvvidconv ! video/x-raw,format=BGRx"
_EVERY_BGR = f"{BGR} ! appsink drop=false max-buffers=4 sync=false"


@dataclass(frozen=True)
class CsiCamera:
    """A camera on the CSI connector, such as csi://0?width=1280&height=720&fps=30.

    Attributes:
        sensor: number of the sensor.
        width: width of the pictures, pixels.
        height: height of the pictures, pixels.
        fps: frames per second; the sensor must have a mode with this rate and size.
        flip: nvvidconv's flip-method: 0 none, 2 upside down, 1 and 3 a quarter of a turn.
    """

    sensor: int = 0
    width: int = 1280
    height: int = 720
    fps: float = 30.0
    flip: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            check_whole(name, getattr(self, name))
        check_whole("sensor", self.sensor, 0)
        check_number("fps", self.fps, above=0)
        check_whole("flip", self.flip, 0, 7)

    @classmethod
    def parse(cls, url: str) -> CsiCamera:
        """Parse csi://SENSOR?width=W&height=H&fps=F&flip=M; all but the sensor may be missing.

        Raises:
            SourceError: if a part is unknown, or not a number in its range.
        """
        known = {field.name for field in fields(cls)} - {"sensor"}
        try:
            parts = urlsplit(url)
            pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
            if parts.path.strip("/") or parts.fragment:
                raise ArgumentError("nothing but ?NAME=VALUE may follow the number")
            given = dict(pairs)
            if len(given) < len(pairs) or not given.keys() <= known:
                raise ArgumentError(
                    f"{', '.join(sorted(known))} are known, and each may be given once"
                )
            if not re.fullmatch(r"-?[0-9]+", parts.netloc):
                raise ArgumentError("the camera is not a number")
            numbers = {name: _number_or_text(value) for name, value in given.items()}
            return cls(int(parts.netloc), **numbers)
        except ValueError as err:
            raise SourceError(
                f"cannot read {shown(url)}: {err}; pass csi://0?width=1280&height=720&fps=30"
            ) from err

    def pipeline(self) -> str:
        """Return the pipeline; it ends in an appsink with the newest BGR picture."""
        rate = Fraction(self.fps).limit_denominator(1001)
        return (
            f"nvarguscamerasrc sensor-id={self.sensor} ! video/x-raw(memory:NVMM),"
            f"width={self.width},height={self.height},"
            f"framerate={rate.numerator}/{rate.denominator} ! "
            f"nvvidconv flip-method={self.flip} ! video/x-raw,format=BGRx ! {NEWEST_BGR}"
        )


def _number_or_text(text: str) -> Any:
    """Return the number, or the text itself, for which the checks of the class raise an error."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def file_pipeline(path: Path, container: str, codec: str) -> str | None:
    """Return the pipeline that decodes every picture of a file by hardware.

    Args:
        path: the file.
        container: libav's name of the container format.
        codec: libav's name of the codec.

    Returns:
        The pipeline, or `None` if the decoder cannot read this container or codec.
    """
    if container not in DEMUXERS or codec not in PARSERS:
        return None
    return (
        f"filesrc location={quoted(str(path))} ! {DEMUXERS[container]} ! {PARSERS[codec]} ! "
        f"{_DECODE} ! {_EVERY_BGR}"
    )


def rtsp_pipeline(url: str, codec: str, transport: str = "tcp") -> str | None:
    """Return the pipeline that decodes an RTSP stream by hardware, or `None` if it cannot."""
    if codec not in PARSERS:
        return None
    return (
        f"rtspsrc location={quoted(url)} protocols={transport} latency=100 ! "
        f"{DEPAYLOADERS[codec]} ! {PARSERS[codec]} ! {_DECODE} ! {NEWEST_BGR}"
    )


def quoted(text: str) -> str:
    """Return the text as one value in gst-launch's notation."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def is_jetson(root: Path = Path("/")) -> bool:
    """Return whether this machine is an NVIDIA Jetson."""
    if (root / "etc/nv_tegra_release").exists():
        return True
    model = root / "proc/device-tree/compatible"
    try:
        return b"nvidia,tegra" in model.read_bytes()
    except OSError:
        return False
