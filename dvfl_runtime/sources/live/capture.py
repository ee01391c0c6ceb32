"""Cameras and GStreamer pipelines, read by OpenCV.

Experimental: tested with files and GStreamer's test source, not yet run with camera hardware.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dvfl_runtime.errors import SourceError
from dvfl_runtime.errors.addresses import printable
from dvfl_runtime.errors.packages import MEDIA, needed
from dvfl_runtime.sources.live.grabber import Grabbed
from dvfl_runtime.sources.opencv import quiet_opencv, rgb_from_bgr

if TYPE_CHECKING:
    import cv2

V4L2_MAJOR = 81  # Linux's major device number of video devices
TIMEOUT_MS = 4000  # of GStreamer; OpenCV gives up a V4L2 camera that hangs after 10 s
BGR = "videoconvert ! video/x-raw,format=BGR"
NEWEST_BGR = f"{BGR} ! appsink drop=true max-buffers=1 sync=false"
PIPELINE_HINT = "try it with gst-launch-1.0"


class CaptureGrabber:
    """Reads an OpenCV `VideoCapture`.

    Args:
        name: how errors call it.
        hint: what may help when it cannot be opened.
        open_capture: opens it, and raises what `Grabber.open` may raise.

    Raises:
        DvflError: if OpenCV is missing.
    """

    def __init__(self, name: str, hint: str, open_capture: Callable[[], cv2.VideoCapture]) -> None:
        _require_cv2()
        self._name = name
        self._hint = hint
        self._open_capture = open_capture
        self._capture: cv2.VideoCapture | None = None

    def open(self) -> None:
        """Open the device; raise SourceError if it is missing or its use is not permitted."""
        self._capture = self._open_capture()
        if not self._capture.isOpened():
            raise ConnectionError(f"{self._name} cannot be opened; {self._hint}")

    def read(self) -> Grabbed | None:
        """Return the next picture, or `None` at the end of a recording."""
        import cv2

        assert self._capture is not None
        good, bgr = self._capture.read()
        if not good:
            if self._capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0:  # its length is known
                return None
            raise ConnectionError(f"{self._name} gives no picture")
        # 0 or -1 where there is none; of GStreamer the time of the newest frame in its queue of one
        stamp_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)
        image = np.asarray(bgr, np.uint8)
        return Grabbed(partial(rgb_from_bgr, image), stamp_ms / 1000 if stamp_ms > 0 else None)

    def close(self) -> None:
        """Release the device."""
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.release()


def camera_grabber(which: int | str) -> CaptureGrabber:
    """Return a grabber of a camera: on Linux /dev/videoN, elsewhere the N-th that OpenCV finds.

    Args:
        which: its index, or the path of its device; those in /dev/v4l/by-id stay the same.

    Raises:
        SourceError: if the index is negative, there is no such camera, its use is not permitted,
            or OpenCV is missing.
    """
    if isinstance(which, int) and which < 0:
        raise SourceError(f"a camera's index must be >= 0, got {which}")
    device = Path(f"/dev/video{which}" if isinstance(which, int) else which)
    is_device = isinstance(which, str) or sys.platform == "linux"

    def open_camera() -> cv2.VideoCapture:
        import cv2

        if not is_device:
            return cv2.VideoCapture(which)
        check_device(device)
        capture = cv2.VideoCapture(which, cv2.CAP_V4L2)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # where the driver can: older frames never wait
        return capture

    if is_device:
        check_device(device)
    name = f"camera {which}" if isinstance(which, int) else printable(which)
    return CaptureGrabber(name, "is another program using it?", open_camera)


def is_camera(path: str) -> bool:
    """Return whether this is the path of a V4L2 camera, or of a link to one."""
    if re.match(r"/dev/(video[0-9]|v4l/)", path):
        return True
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return False
    return stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) == V4L2_MAJOR


def pipeline_grabber(text: str) -> CaptureGrabber:
    """Return a grabber of a GStreamer pipeline.

    Args:
        text: in gst-launch's notation; one that does not end in an appsink gets one.

    Raises:
        SourceError: if it is empty, or OpenCV was built without GStreamer.
        DvflError: if OpenCV is missing.
    """
    if not text.strip():
        raise SourceError("the pipeline is empty; pass gst:ELEMENT ! ELEMENT ...")
    check_gstreamer()
    complete = text if "appsink" in text else f"{text} ! {NEWEST_BGR}"
    return CaptureGrabber("the pipeline", PIPELINE_HINT, lambda: open_pipeline(complete))


def open_pipeline(text: str) -> cv2.VideoCapture:
    """Start a complete pipeline, with time-outs from OpenCV 4.8 on.

    An older OpenCV has none for GStreamer: it waits for ever in a pipeline that hangs, and opens
    no pipeline if a time-out is set.
    """
    import cv2

    limits = [
        *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT_MS),
        *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT_MS),
    ]
    is_old = tuple(map(int, cv2.__version__.split(".")[:2])) < (4, 8)
    # OpenCV's warnings repeat values of properties, and so passwords
    with quiet_opencv():
        return cv2.VideoCapture(text, cv2.CAP_GSTREAMER, *([] if is_old else [limits]))


def check_device(device: Path) -> None:
    """Raise SourceError unless the device is there and may be read."""
    if not device.exists():
        pattern = "*-index*" if "v4l" in device.parts else "video*"  # as udev names links
        there = sorted(str(path) for path in device.parent.glob(pattern))
        raise SourceError(
            f"there is no camera {printable(str(device))}; "
            + (f"there are {', '.join(there)}" if there else "none is connected, connect one")
        )
    if not os.access(device, os.R_OK | os.W_OK):
        raise SourceError(
            f"no permission to use {device}; add the user to the group that owns it (often 'video')"
        )


def check_gstreamer() -> None:
    """Raise SourceError unless OpenCV can run GStreamer pipelines."""
    _require_cv2()
    import cv2

    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        raise SourceError(
            f"the installed OpenCV {cv2.__version__} has no GStreamer, as all builds from pip; "
            "uninstall it (pip uninstall opencv-python opencv-python-headless) and use the "
            "system's, such as JetPack's or Debian's python3-opencv"
        )


def _require_cv2() -> None:
    with needed("reading cameras", *MEDIA):
        import cv2  # noqa: F401
