"""dvfl's plugins of TensorRT, loaded where the package dvfl-kernels has them.

Without them TensorRT runs the functions in the file. Not yet run on a GPU.
"""

from __future__ import annotations

from typing import Any

from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.engines.kernels import kernel_library, say_lacking, say_unused

NODES = {"SpatialContext": "1", "TemporalContext": "1"}  # and their plugin_version
NAMESPACE = "dvfl"


class Plugins:
    """The plugins for a model, in TensorRT's registry, of which a process has one.

    Args:
        plugin_registry: TensorRT's `IPluginRegistry`.
        model: the file.

    Attributes:
        names: the kinds of nodes that plugins compute.
    """

    def __init__(self, plugin_registry: Any, model: ModelFile) -> None:
        self.names: tuple[str, ...] = ()
        self._registry = plugin_registry
        self._loaded: Any = None  # the library, if it was loaded here
        wanted = {
            name: version
            for name in sorted(model.fused_operators)
            # a name may end in a number of levels
            if (version := NODES.get(name.rstrip("0123456789")))
        }
        library = kernel_library("tensorrt") if wanted else ""
        if not library:
            return
        try:
            if self._missing(wanted):
                self._loaded = plugin_registry.load_library(library)
            lacks = self._missing(wanted)
            if lacks == list(wanted):
                raise OSError(f"{library} cannot be loaded, or has no {', '.join(lacks)}")
        except Exception as err:  # of bindings: they share no base of their own
            say_unused("tensorrt", err)
            return
        if lacks:
            say_lacking("tensorrt", lacks)
        self.names = tuple(name for name in wanted if name not in lacks)

    def unload(self) -> bool:
        """Take the library out again; return False if another engine may need it."""
        if self._loaded is None:
            return False
        plugin_registry = self._registry
        plugin_registry.deregister_library(self._loaded)
        self._loaded, self.names = None, ()
        return True

    def _missing(self, wanted: dict[str, str]) -> list[str]:
        plugin_registry = self._registry
        return [
            name
            for name, version in wanted.items()
            if plugin_registry.get_creator(name, version, NAMESPACE) is None
        ]
