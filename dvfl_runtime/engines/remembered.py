"""What was measured on this machine, kept so that it need not be measured at each start.

Each fact is a small JSON file in `dvfl_runtime.files.cache_folder`. A folder that is not there or
cannot be written is no error: the fact is measured again. So is one that another user has written.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dvfl_runtime.engines.cache import MINE, read_private, write_private
from dvfl_runtime.errors import OutputError
from dvfl_runtime.files import cache_folder

logger = logging.getLogger(__name__)

Key = Mapping[str, object]


def recall(kind: str, key: Key) -> dict[str, Any]:
    """Returns what was remembered of this kind under exactly this key, {} if nothing was."""
    with suppress(OSError, ValueError, KeyError, TypeError, OutputError):
        about: dict[str, Any] = json.loads(read_private(_file(kind, key)))
        if about["key"] == key:
            return about
    return {}


def remember(kind: str, key: Key, facts: Mapping[str, object]) -> None:
    """Writes facts down, in place of those before them.

    Args:
        kind: what they are about; the file's name begins with it.
        key: all that they depend on, as JSON has it.
        facts: JSON-ready.
    """
    try:
        file = _file(kind, key)
        file.parent.mkdir(MINE, parents=True, exist_ok=True)
        write_private(file, (json.dumps({**facts, "key": key}, indent=1) + "\n").encode())
    except (OSError, OutputError) as err:
        logger.info("the %s is not remembered: %s", kind, err)


def cpu_name() -> str:
    """Returns the CPU's name, which belongs to the key of what was measured on it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _file(kind: str, key: Key) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_folder() / f"{kind}-{digest[:16]}.json"
