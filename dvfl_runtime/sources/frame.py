"""Frame, which every source yields, and Source, the protocol that users may implement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.errors import ClipError

Image: TypeAlias = NDArray[np.uint8]  # (H, W, 3) RGB


class Frame:
    """One picture of a source.

    Attributes:
        image: (H, W, 3) uint8 RGB, upright. A function passed in its place is called once, when
            the picture is first asked for: most pictures of a stream never are, and converting one
            to RGB can cost more than decoding it (0.24 ms and 0.12 ms at 192 x 192 px).
        time_s: when it is shown, seconds on the source's clock. That of a file is a player's: 0 is
            where the file begins, even if only its sound begins there. The clock of a live source
            starts with its first frame.
        index: 0, 1, 2 ... in the order in which the source yields its frames.
        arrival_ns: `time.monotonic_ns()` when a live source received it; 0 for files.
        dropped: frames that a live source dropped since the previous frame that it yielded.
        after_gap: whether time broke before this frame (a reconnect or a stall), so that no window
            may span it.
    """

    def __init__(
        self,
        image: Image | Callable[[], Image],
        time_s: float,
        index: int,
        *,
        arrival_ns: int = 0,
        dropped: int = 0,
        after_gap: bool = False,
    ) -> None:
        self._image = image
        self.time_s = time_s
        self.index = index
        self.arrival_ns = arrival_ns
        self.dropped = dropped
        self.after_gap = after_gap

    @property
    def image(self) -> Image:
        """The picture, (H, W, 3) uint8 RGB."""
        image = self._image
        if callable(image):
            self._image = image = image()
        return image

    def replace(self, **changes: Any) -> Frame:
        """Return a copy with other values for the named arguments; it makes no picture."""
        about = {name: value for name, value in vars(self).items() if name != "_image"}
        return Frame(**{"image": lambda: self.image, **about, **changes})

    def __repr__(self) -> str:
        about = (f"{name}={value}" for name, value in vars(self).items() if name != "_image")
        return f"Frame({', '.join(about)})"

    def __getstate__(self) -> dict[str, object]:
        """Return the state to pickle: a frame travels with its picture, not with the function."""
        return {**vars(self), "_image": self.image}


@runtime_checkable
class Source(Protocol):
    """Where frames come from.

    Attributes:
        name: how predictions and log lines call it.
        live: whether frames may be dropped to keep up; files never drop one.
        duration_s: the container's own estimate, for progress only; `None` where unknown.
        rewindable: whether `frames()` may be called again and gives the same frames.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - described by the class

    @property
    def live(self) -> bool: ...  # noqa: D102

    @property
    def duration_s(self) -> float | None: ...  # noqa: D102

    @property
    def rewindable(self) -> bool: ...  # noqa: D102

    def frames(self) -> Iterator[Frame]:
        """Yield the frames, with `time_s` strictly increasing and `index` 0, 1, 2 ...

        Each frame needs memory of its own, because its picture is used after the next frame has
        come: copy an array that is filled again and again.

        Raises:
            SourceError: if not one frame can be read.
        """
        ...

    def close(self) -> None:
        """End a running `frames()`; may be called twice and from any thread."""
        ...


def check_rgb(
    array: object, name: str = "a frame", axes: Sequence[str] = ("H", "W", "3")
) -> NDArray[np.uint8]:
    """Return the array if it is uint8 and has these axes, of which the last three are H, W and 3.

    Raises:
        ClipError: if it is not; the message begins with `name`.
    """
    shape = f"({', '.join(axes)})"
    if not isinstance(array, np.ndarray):
        raise ClipError(f"{name} must be a numpy array {shape}, got {type(array).__name__}")
    if array.ndim != len(axes) or array.shape[-1] != 3 or 0 in array.shape[-3:]:
        raise ClipError(f"{name} must have the shape {shape}, got {array.shape}; convert it to RGB")
    if array.dtype != np.uint8:
        raise ClipError(f"{name} must be uint8 RGB from 0 to 255, got {array.dtype}; convert it")
    return array
