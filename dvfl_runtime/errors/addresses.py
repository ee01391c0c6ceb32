"""Addresses of streams: how they are read, and what of a source's name may be shown.

Names and passwords stand in addresses, and cameras want them in many places: before the host, in
the query, in the path. What is not known to be harmless is therefore left out: shown are the
scheme, host, port and path of an address, and of a pipeline its elements.
"""

from __future__ import annotations

import os
import re
import shlex
from itertools import pairwise
from urllib.parse import quote, urlsplit

# control characters, ends of lines and lone surrogates: they would end a line of a subtitle or a
# table, act on a terminal, or could not be written at all
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ADDRESS = re.compile(r"\s*((?:jetson:)?[a-z][a-z0-9+.-]+://)(.*)", re.I | re.S)
_INCOMPLETE = re.compile(r"\s*((?:jetson:)?(?:rtsps?|https?|rtmps?|udp|tcp|srt|mms|csi):)", re.I)
_WITHOUT_SCHEME = re.compile(r"\s*(?://|[^/\\]*:).*@|[^?]*\?[^=]*=", re.S)
_PIPELINE = re.compile(r"\s*((?:jetson:)?gst:)(.*)", re.I | re.S)
AS_BYTES = "surrogateescape"  # what is not UTF-8 on a command line is sent as it came
_END = re.compile(r"[/?#]")  # of the part with name, password, host and port
_HOST = re.compile(r"(?:[\w.-]*|\[[0-9a-f:.]+(?:%\w+)?\])(?::[0-9]*)?", re.I)
_NAME_AND_DIGITS = re.compile(r"(?!localhost:)[\w-]+:[0-9]+", re.I)
_HARMLESS = re.compile(
    r"(?:camera|ch|channel|flip|fps|height|profile|stream|subtype|width)=[0-9.]{1,6}", re.I
)
_ELEMENT = re.compile(r"[a-z][\w-]*(?:/[\w-]+)?", re.I)


def shown(source: str) -> str:
    """Returns what may be shown of a source's name: in errors, logs, results, on the page.

    Nothing up to the last `@` of an address is in it, no value of its query or path (but numbers
    of channels and sizes), and no property of a pipeline. A path stays whole. Showing what may be
    shown changes nothing more.
    """
    if match := _PIPELINE.match(source):
        return match[1] + _elements(match[2])
    if match := _ADDRESS.match(source):
        return printable(match[1] + _shown_address(match[2]))
    if match := _INCOMPLETE.match(source):
        return match[1] + "..."
    # this looks like an address without its scheme, so what may be a secret is left out too
    if _WITHOUT_SCHEME.match(source) and not os.path.lexists(source):
        return printable("..." + source.rpartition("@")[2].partition("?")[0])
    return printable(source)


def without_secrets(text: str) -> str:
    """Returns the text of a library, such as its error, without secrets of addresses."""
    text = re.sub(r"\bgst:.*", lambda found: shown(found[0]), text, flags=re.I | re.S)
    text = re.sub(r"(\b[a-z][a-z0-9+.-]+:/+).*@", r"\1", text, flags=re.I | re.S)
    return re.sub(r"\b[a-z][a-z0-9+.-]+:/+\S*", lambda found: shown(found[0]), text, flags=re.I)


def printable(name: str) -> str:
    r"""Returns a file's name as text that can be written anywhere, on one line.

    Bytes that are not UTF-8 and control characters become escapes such as `\xff`.
    """
    if name.isprintable():
        return name
    return UNPRINTABLE.sub(_escape, name)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # Python's way to keep a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return found[0].encode("unicode_escape").decode()


def complete_address(url: str) -> str | None:
    """Returns an address whose name and password are written as the standard has it (RFC 3986).

    In cameras' passwords there may be `/`, `?`, `#` and `@`, which would end them.

    Returns:
        The address, or `None` if it names no host or an impossible port.
    """
    scheme, separator, rest = url.partition("://")
    userinfo, place = _split(rest)
    host = _host_of(place)
    name, _, port = host.rpartition(":") if re.search(r":[0-9]*$", host) else (host, "", "")
    if not (separator and name and _HOST.fullmatch(host) and (not port or 0 < int(port) < 65536)):
        return None
    try:  # FFmpeg knows a scheme by its small letters alone
        address = f"{scheme.lower()}://{_quoted(userinfo)}{place}"
        address.encode(errors=AS_BYTES)
        urlsplit(address)
    except ValueError:  # half a character, or what stands in brackets is no number of IPv6
        return None
    return address


def _split(rest: str) -> tuple[str | None, str]:
    """Splits what follows the scheme into name and password, and the place."""
    authority = _host_of(rest)
    userinfo, at, host = authority.rpartition("@")
    head, later, tail = rest.rpartition("@")
    if later and len(head) > len(authority) and _HOST.fullmatch(_host_of(tail)):
        # admin:pa/ss@host is no host with a port; admin:12/34@host could be one
        if not _HOST.fullmatch(host):
            return head, tail
        if not at and _NAME_AND_DIGITS.fullmatch(host) and "?" not in head:
            return head, tail
        if head[len(authority)] == "#":  # which means nothing where a stream is asked for
            return head, tail
    return (userinfo, rest[len(userinfo) + 1 :]) if at else (None, rest)


def _shown_address(rest: str) -> str:
    head, at, tail = rest.rpartition("@")
    left_out = ""
    if at and _END.search(head) and _split(rest)[0] != head:
        # this @ is in the path or in the query, if it is not in a password after all
        if re.search(r"[?#]", head):
            return "..."
        left_out = ".../"
    host = _host_of(tail)
    place, *query = re.split(r"[?#]", tail[len(host) :], maxsplit=1)
    path, *values = re.split(r"=|%3d", place, maxsplit=1, flags=re.I)
    pairs = query[0].split("&") if query else []
    harmless = [pair for pair in pairs if _HARMLESS.fullmatch(pair)]
    return (
        f"{left_out}{host if _HOST.fullmatch(host) else '...'}{path}{'=...' if values else ''}"
        f"{'?' if query else ''}{'&'.join(harmless + ['...'] * (len(harmless) < len(pairs)))}"
    )


def _elements(pipeline: str) -> str:
    """Returns the elements of a pipeline without their properties, `...` where one is unclear."""
    try:
        words = ["!", *(shlex.split(pipeline) if "\\" not in pipeline else ["..."])]
    except ValueError:  # a quote that does not end
        words = ["!", "..."]
    firsts = [word for before, word in pairwise(words) if before == "!"]
    names = [re.split(r"[,(]", word, maxsplit=1)[0] for word in firsts]  # caps have values too
    return " ! ".join(name if _ELEMENT.fullmatch(name) else "..." for name in names)


def _host_of(rest: str) -> str:
    end = _END.search(rest)
    return rest[: end.start()] if end else rest


def _quoted(userinfo: str | None) -> str:
    if userinfo is None:
        return ""
    escaped = re.sub(r"%(?![0-9a-f]{2})", "%25", userinfo, flags=re.I)
    name, colon, password = escaped.partition(":")
    name, password = (quote(text, safe="%", errors=AS_BYTES) for text in (name, password))
    return f"{name}{colon}{password}@"
