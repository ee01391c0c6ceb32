"""Frame and Source: what every source yields, and the protocol that users may implement."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a source.

    Attributes:
        image: (H, W, 3) uint8 RGB, upright.
        time_s: when it is shown, seconds on the source's clock; the first frame of a file is at 0.
        index: 0, 1, 2 ... in the order of the source.
    """

    image: NDArray[np.uint8] = field(repr=False)
    time_s: float
    index: int


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
        """Yields the frames, with `time_s` strictly increasing and `index` 0, 1, 2 ...

        Raises:
            SourceError: if not one frame can be read.
        """
        ...

    def close(self) -> None:
        """Ends a running `frames()`; may be called twice and from any thread."""
        ...
