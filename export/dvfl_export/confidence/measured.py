"""What was measured of a model, for the description that its file carries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dvfl_runtime.errors import ExportError
from dvfl_runtime.files import read_text

ALARMS = ("enter", "per_hour", "per_hour_ci95", "recall")


def read_measured(path: Path, labels: tuple[str, ...]) -> dict[str, Any]:
    """Return the accuracies and the false alarms per hour that dvfl-eval wrote with `--json`.

    Returns:
        {"tests": {name: {"top1", "ci95", "clips"}}, "false_alarms": {"enter", "per_hour",
        "per_hour_ci95", "recall", "hours"}}, each if it was measured; the alarms are those at the
        default threshold `enter`, `recall` is the share of the clips whose action was found there.

    Raises:
        ExportError: if it is no such result, or one of a model with other labels.
    """
    try:
        result = json.loads(read_text(path))
        found: dict[str, Any] = {}
        classes = [result["labels"]] if "labels" in result else []
        for name, test in result.get("tests", {}).items():
            top1 = test["top1"]
            classes.append(test["labels"])
            row = {"top1": top1["value"], "ci95": top1["ci95"], "clips": test["clips"]}
            found.setdefault("tests", {})[name] = row
        # the comparison `alarms` of the benchmarks has them at its top
        alarms = result.get("false_alarms") or (result if "default" in result else None)
        if alarms:
            point = {name: alarms["default"][name] for name in ALARMS}
            found["false_alarms"] = point | {"hours": alarms["hours"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise ExportError(f"--measured {path} cannot be used: {_reason(err)}") from err
    if any(list(labels) != its for its in classes):
        raise ExportError(f"--measured {path} is of a model with other labels")
    if not found:
        raise ExportError(
            f"--measured {path} has neither accuracies nor false alarms; give what dvfl-eval wrote "
            f"with --json"
        )
    return found


def _reason(err: Exception) -> str:
    if isinstance(err, OSError):
        return err.strerror or str(err)
    return f"it is no result of dvfl-eval --json ({type(err).__name__}: {err})"
