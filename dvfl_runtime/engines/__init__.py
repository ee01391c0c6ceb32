"""Engines execute a model's graph: a module for each, one interface for all, a table of them."""

from dvfl_runtime.engines.engine import Engine
from dvfl_runtime.engines.opening import open_engine
from dvfl_runtime.engines.table import DEVICES, ENGINES, PRECISIONS, installed_engines

__all__ = ["DEVICES", "ENGINES", "PRECISIONS", "Engine", "installed_engines", "open_engine"]
