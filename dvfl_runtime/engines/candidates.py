"""Engines that have opened a model and work so far, while the fastest of them is found."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.engines.engine import Engine
from dvfl_runtime.engines.table import engine_error
from dvfl_runtime.errors import DvflError

Failure: TypeAlias = tuple[str, DvflError]  # the name of an engine, and its error


class Candidates:
    """Engines that work so far.

    Args:
        open_one: opens the engine of a name.
        run_once: whether an engine must run a clip to count as open; a GPU may lack memory or
            kernels for it, and another device can take its place.

    Attributes:
        working: the engines by their names.
        failed: the others.
    """

    def __init__(self, open_one: Callable[[str], Engine], *, run_once: bool = False) -> None:
        self.working: dict[str, Engine] = {}
        self.failed: list[Failure] = []
        self._open_one = open_one
        self._run_once = run_once

    def open(self, name: str) -> Engine | None:
        """Open an engine; return None if that fails."""
        try:
            self.working[name] = engine = self._open_one(name)
            if self._run_once:
                engine.run(noise_clip(engine))
        except Exception as err:
            self.leave_out(name, err)
        return self.working.get(name)

    def leave_out(self, name: str, err: Exception) -> None:
        """Close an engine that failed, if it was open."""
        self.failed.append((name, engine_error(name, err)))
        self._close(name)

    def keep_only(self, name: str) -> Engine:
        """Close all engines but one, and return that."""
        for other in [other for other in self.working if other != name]:
            self._close(other)
        return self.working[name]

    def _close(self, name: str) -> None:
        """Close an engine; an error of that is no reason to go without another one."""
        engine = self.working.pop(name, None)
        if engine is not None:
            with suppress(Exception):
                engine.close()


def noise_clip(engine: Engine) -> NDArray[np.uint8]:
    """Return a clip (1, T, H, W, 3) of noise that an engine can run."""
    shape = (1, *(1 if n is None else n for n in engine.clip_shape[1:]))
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)
