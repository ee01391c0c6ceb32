"""From a decoded picture to the upright RGB image that a viewer is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

MAX_PIXELS = 1 << 27  # of one picture: 8K video has a quarter of it; RGB of so many takes 400 MB


class Orientation(NamedTuple):
    """How stored pictures are brought upright: first transposed, then mirrored."""

    transposed: bool = False
    left_to_right: bool = False
    upside_down: bool = False

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Returns the upright picture, contiguous.

        Args:
            image: (H, W, 3) as it is stored.
        """
        if self.transposed:
            image = image.swapaxes(0, 1)
        if self.left_to_right:
            image = image[:, ::-1]
        if self.upside_down:
            image = image[::-1]
        return np.ascontiguousarray(image)


class Orientations:
    """Follows how the pictures of a stream are turned.

    Containers say it of all pictures. Inside an H.264 or H.265 stream it is said at a key picture
    and holds up to the next one.
    """

    def __init__(self) -> None:
        from av.sidedata.sidedata import SideDataContainer

        self._last = Orientation()
        # `raw.side_data` would tie picture and side data into a circle, which keeps the memory of
        # every picture until Python's next full garbage collection: 150 MB more after 30 s
        self._side_data: Any = SideDataContainer

    def of(self, raw: VideoFrame) -> Orientation:
        """Returns it for the next picture, to the nearest quarter of a turn."""
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


def upright_rgb(raw: VideoFrame, orientation: Orientation) -> NDArray[np.uint8]:
    """Returns (H, W, 3) uint8 RGB; colour matrix and range are those that the stream states."""
    try:
        # by default PyAV 17 starts threads for each picture: 4.0 ms instead of 0.6 at 1280 x 720 px
        image = np.asarray(raw.to_ndarray(format="rgb24", threads=1), np.uint8)
    except TypeError:  # before 17 there is one thread, and no such argument
        image = np.asarray(raw.to_ndarray(format="rgb24", **_colours(raw)), np.uint8)
    return orientation.apply(image)  # without libav's padding of the lines


def _colours(raw: VideoFrame) -> dict[str, Any]:
    """Returns the arguments with which PyAV before 17 follows the colour matrix of a picture.

    It follows matrix and range only where those of source and target differ. RGB has no matrix, so
    that any other one will do as the target's.
    """
    if raw.format.is_rgb:
        return {}
    return {
        "dst_colorspace": "itu601" if raw.colorspace == 1 else "itu709",
        "src_color_range": "JPEG" if raw.color_range == 2 else "MPEG",
        "dst_color_range": "JPEG",
    }
