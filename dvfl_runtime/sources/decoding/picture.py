"""Converts decoded pictures to upright RGB images, as a player shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dvfl_runtime.sources.frame import Image

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

MAX_PIXELS = 1 << 27  # of one picture: 8K video has a quarter of them; their RGB takes 400 MB


class Orientation(NamedTuple):
    """How a stored picture is turned upright: first transposed, then mirrored."""

    transposed: bool = False
    left_to_right: bool = False
    upside_down: bool = False

    def apply(self, image: Image) -> Image:
        """Return the upright picture, contiguous.

        Args:
            image: (H, W, 3) as it is stored.
        """
        if self.transposed:
            image = image.swapaxes(0, 1)  # (H, W, 3) -> (W, H, 3)
        if self.left_to_right:
            image = image[:, ::-1]
        if self.upside_down:
            image = image[::-1]
        return np.ascontiguousarray(image)


class OrientationTracker:
    """Follows the orientation of the pictures of a stream.

    A container states one for all its pictures. Inside an H.264 or H.265 stream a keyframe states
    it, and it holds up to the next keyframe.
    """

    def __init__(self) -> None:
        from av.sidedata.sidedata import SideDataContainer

        self._last = Orientation()
        # `raw.side_data` would make a reference cycle of picture and side data, which keeps the
        # memory of every picture until Python's next full garbage collection: 150 MB after 30 s
        self._side_data: Any = SideDataContainer

    def update(self, raw: VideoFrame) -> Orientation:
        """Return the orientation of the next picture, to the nearest quarter of a turn."""
        data = self._side_data(raw).get("DISPLAYMATRIX")
        if data is not None:
            # x' = a x + c y and y' = b x + d y; the matrix is stored as a b u c d v x y w
            a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
            turned = abs(a) + abs(d) < abs(b) + abs(c)
            self._last = (
                Orientation(True, c < 0, b < 0) if turned else Orientation(False, a < 0, d < 0)
            )
        elif raw.key_frame:
            self._last = Orientation()
        return self._last


def upright_rgb(raw: VideoFrame, orientation: Orientation) -> Image:
    """Return (H, W, 3) uint8 RGB, by the colour matrix and the range that the stream states."""
    try:
        # by default PyAV 17 starts threads for each picture: 4.0 ms instead of 0.6 at 1280 x 720 px
        image = np.asarray(raw.to_ndarray(format="rgb24", threads=1), np.uint8)
    except TypeError:  # before 17, PyAV has no such argument and uses one thread
        image = np.asarray(raw.to_ndarray(format="rgb24", **_colours(raw)), np.uint8)
    return orientation.apply(image)  # contiguous: libav pads the lines


def _colours(raw: VideoFrame) -> dict[str, Any]:
    """Return the arguments with which PyAV before 17 applies the colour matrix of a picture.

    It applies matrix and range only where source and target differ. RGB has no matrix, so the
    target is given any other than the source's.
    """
    if raw.format.is_rgb:
        return {}
    return {
        "dst_colorspace": "itu601" if raw.colorspace == 1 else "itu709",
        "src_color_range": "JPEG" if raw.color_range == 2 else "MPEG",
        "dst_color_range": "JPEG",
    }
