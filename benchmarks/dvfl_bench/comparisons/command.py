"""What every benchmark does with its result: a JSON file, if one is wanted, and the log."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dvfl_runtime.errors import DvflError
from dvfl_runtime.files import check_places, replacing

log = logging.getLogger(__name__)


def report(
    measure: Callable[[], dict[str, Any]],
    path: Path | None,
    then: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any] | None:
    """Measures, writes the result and logs it; `None` after an error, which is logged in one line.

    Args:
        measure: returns what is ready for JSON.
        path: of the file to write, complete or not at all.
        then: takes the result when the file is written, such as to draw it.
    """
    logging.basicConfig(format="%(message)s")
    for ours in ("dvfl_bench", "dvfl_runtime"):  # not what exporters say about their own work
        logging.getLogger(ours).setLevel(logging.INFO)
    try:
        check_places([("--json", path)])
        result = measure()
        if path is not None:
            with replacing(path) as part:
                part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        if then is not None:
            then(result)
    except DvflError as err:
        log.error("error: %s", err)
        return None
    log.info(json.dumps(result, indent=1))
    return result
