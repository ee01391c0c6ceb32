"""What executes a model's graph. One file per engine, one small protocol for all of them."""

from dvfl_runtime.engines.engine import Engine
from dvfl_runtime.engines.opening import open_engine
from dvfl_runtime.engines.table import DEVICES, ENGINES, installed_engines

__all__ = ["DEVICES", "ENGINES", "Engine", "installed_engines", "open_engine"]
