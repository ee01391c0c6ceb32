"""Text files written by users, in whatever encoding their editor chose."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

from dvfl_runtime.errors import ArgumentError

# UTF-32 comes first: its little-endian mark begins with that of UTF-16
_ENCODINGS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: str | os.PathLike[str]) -> str:
    r"""Return the text of a user's file: in UTF-8, or as its byte order mark says.

    Editors on Windows write such marks, and PowerShell writes UTF-16. Lines end in `\n`.

    Raises:
        OSError: if it cannot be read.
        ArgumentError: if it is not text in these encodings.
    """
    data = Path(path).read_bytes()
    encoding = next((name for mark, name in _ENCODINGS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as err:
        raise ArgumentError(f"{path} is not a text in UTF-8; save it as UTF-8") from err
    return text.replace("\r\n", "\n").replace("\r", "\n")
