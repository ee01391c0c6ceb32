"""A new result against an old one: ratios, because a machine's absolute times move."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dvfl_runtime.errors import DvflError
from dvfl_runtime.files import read_text

SAME_MACHINE = ("cpu", "usable_cpus", "threads")


def read_result(path: Path, schema: int) -> dict[str, Any]:
    """Read a file of `dvfl-bench --json`.

    Raises:
        DvflError: if it cannot be read, is something else, or of another schema.
    """
    try:
        result = json.loads(read_text(path))
    except (OSError, ValueError) as err:
        reason = getattr(err, "strerror", None) or err
        raise DvflError(
            f"cannot read the baseline {path}: {reason}; pass a file of --json"
        ) from err
    if not isinstance(result, dict) or result.get("what") != "dvfl-bench":
        raise DvflError(f"{path} is not a result of dvfl-bench --json")
    if result.get("schema") != schema:
        raise DvflError(
            f"{path} has schema {result.get('schema')} and this dvfl-bench {schema}; measure anew"
        )
    return result


def compare(old: dict[str, Any], new: dict[str, Any], allowed: float) -> list[dict[str, Any]]:
    """Compare the median of each model, engine and precision that is in both results.

    Args:
        old: the baseline.
        new: the result of now.
        allowed: how much slower is still no regression: 0.15 for 15 %.

    Raises:
        DvflError: if nothing is in both.
    """
    known = {_key(run): run["inference"]["p50_ms"] for run in old["runs"]}
    rows = []
    for run in new["runs"]:
        if (old_ms := known.get(_key(run))) is None:
            continue
        new_ms = run["inference"]["p50_ms"]
        ratio = new_ms / old_ms
        rows.append(
            {
                **{name: run[name] for name in ("model", "engine", "precision")},
                **{"old_ms": old_ms, "new_ms": new_ms, "ratio": round(ratio, 3)},
                "regressed": ratio > 1 + allowed,
            }
        )
    if not rows:
        raise DvflError("the baseline has none of these models and engines; nothing to compare")
    return rows


def other_machine(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Return the differences of the two machines that matter, "" if there are none."""
    differences = [
        f"{name} {old['machine'][name]!r} then, {new['machine'][name]!r} now"
        for name in SAME_MACHINE
        if old["machine"].get(name) != new["machine"].get(name)
    ]
    return "; ".join(differences)


def _key(run: dict[str, Any]) -> tuple[str, ...]:
    return run["model"], run["engine"], run["precision"], run["device"]
