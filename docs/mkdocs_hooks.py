"""Links that leave docs/ are for readers of the repository; the site shows the file's name."""

import re

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#\s]+)(?:#[^)\s]*)?\)")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Return the text of a page with such links as the file's path in the repository."""
    return _OUTSIDE.sub(lambda m: f"{m[1]} (`{m[2]}`)", markdown)
