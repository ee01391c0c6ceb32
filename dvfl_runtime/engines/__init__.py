"""What executes a model's graph. One file per engine, one small protocol for all of them."""

from dvfl_runtime.engines.opening import (
    CPU_ENGINES,
    DEVICES,
    ENGINES,
    Engine,
    installed_engines,
    open_engine,
)

__all__ = ["CPU_ENGINES", "DEVICES", "ENGINES", "Engine", "installed_engines", "open_engine"]
