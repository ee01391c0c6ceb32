"""The folders of the four packages that the distribution consists of."""

from shared import ROOT

RUNTIME = ROOT / "dvfl_runtime"
PACKAGES = (
    RUNTIME,
    ROOT / "models" / "dvfl_models",
    ROOT / "export" / "dvfl_export",
    ROOT / "benchmarks" / "dvfl_bench",
)
