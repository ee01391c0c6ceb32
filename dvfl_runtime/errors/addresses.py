"""Addresses of streams: how they are read, and which part of a source's name may be shown.

Addresses contain names and passwords, and cameras expect them in many places: before the host, in
the query, in the path. All values that are not known to be harmless are therefore left out: shown
are the scheme, host, port and path of an address, and the elements of a pipeline.
"""

from __future__ import annotations

import os
import re
import shlex
from itertools import pairwise
from urllib.parse import quote, urlsplit

from dvfl_runtime.errors import DvflError

# control characters, ends of lines and lone surrogates: they would end a line of a subtitle or a
# table, control a terminal, or could not be encoded at all
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ADDRESS = re.compile(r"\s*((?:jetson:)?[a-z][a-z0-9+.-]+://)(.*)", re.I | re.S)
_INCOMPLETE = re.compile(r"\s*((?:jetson:)?(?:rtsps?|https?|rtmps?|udp|tcp|srt|mms|csi):)", re.I)
_WITHOUT_SCHEME = re.compile(r"\s*(?://|[^/\\]*:).*@|[^?]*\?[^=]*=", re.S)
_PIPELINE = re.compile(r"\s*((?:jetson:)?gst:)(.*)", re.I | re.S)
AS_BYTES = "surrogateescape"  # bytes of a command line that are not UTF-8 are sent unchanged
_END = re.compile(r"[/?#]")  # of the part with name, password, host and port
_HOST = re.compile(r"(?:[\w.-]*|\[[0-9a-f:.]+(?:%\w+)?\])(?::[0-9]*)?", re.I)
_NAME_AND_DIGITS = re.compile(r"(?!localhost:)[\w-]+:[0-9]+", re.I)
_HARMLESS = re.compile(
    r"(?:camera|ch|channel|flip|fps|height|profile|stream|subtype|width)=[0-9.]{1,6}", re.I
)
_ELEMENT = re.compile(r"[a-z][\w-]*(?:/[\w-]+)?", re.I)


def shown(source: str) -> str:
    """Return the part of a source's name that errors, logs, results and the page may show.

    Of an address, everything up to the last `@` is left out, and so are the values in its query and
    path except numbers of channels and sizes; of a pipeline, all properties. A path of a file stays
    whole. Applied to its own result, the function changes nothing.
    """
    if match := _PIPELINE.match(source):
        return match[1] + _pipeline_elements(match[2])
    if match := _ADDRESS.match(source):
        return printable(match[1] + _shown_address(match[2]))
    if match := _INCOMPLETE.match(source):
        return match[1] + "..."
    # it looks like an address without its scheme, so possible secrets are left out too
    if _WITHOUT_SCHEME.match(source) and not os.path.lexists(source):
        return printable("..." + source.rpartition("@")[2].partition("?")[0])
    return printable(source)


def without_secrets(text: str) -> str:
    """Return the text of a library, such as an error, without the secrets of addresses in it."""
    text = re.sub(r"\bgst:.*", lambda found: shown(found[0]), text, flags=re.I | re.S)
    text = re.sub(r"(\b[a-z][a-z0-9+.-]+:/+).*@", r"\1", text, flags=re.I | re.S)
    return re.sub(r"\b[a-z][a-z0-9+.-]+:/+\S*", lambda found: shown(found[0]), text, flags=re.I)


def reason_of(error: Exception) -> str:
    """Return the text of an error, without the secrets that a library may repeat."""
    return str(error) if isinstance(error, DvflError) else without_secrets(str(error))


def printable(name: str) -> str:
    r"""Return a file's name as text that can be written anywhere, on one line.

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
    """Return an address whose name and password are quoted as RFC 3986 demands.

    Passwords of cameras may contain `/`, `?`, `#` and `@`, which end a password in an address.

    Returns:
        The address, or `None` if it names no host or an impossible port.
    """
    scheme, separator, rest = url.partition("://")
    userinfo, place = _split_userinfo(rest)
    host = _host_of(place)
    name, _, port = host.rpartition(":") if re.search(r":[0-9]*$", host) else (host, "", "")
    if not (separator and name and _HOST.fullmatch(host) and (not port or 0 < int(port) < 65536)):
        return None
    try:  # FFmpeg knows schemes in small letters only
        address = f"{scheme.lower()}://{_quoted(userinfo)}{place}"
        address.encode(errors=AS_BYTES)
        urlsplit(address)
    except ValueError:  # half a character, or no IPv6 number in the brackets
        return None
    return address


def _split_userinfo(rest: str) -> tuple[str | None, str]:
    """Split an address without its scheme into name and password, and host and path."""
    authority = _host_of(rest)
    userinfo, at, host = authority.rpartition("@")
    head, later, tail = rest.rpartition("@")
    if later and len(head) > len(authority) and _HOST.fullmatch(_host_of(tail)):
        # admin:pa/ss@host cannot begin with a host and a port; admin:12/34@host could
        if not _HOST.fullmatch(host):
            return head, tail
        if not at and _NAME_AND_DIGITS.fullmatch(host) and "?" not in head:
            return head, tail
        if head[len(authority)] == "#":  # a fragment has no meaning in the address of a stream
            return head, tail
    return (userinfo, rest[len(userinfo) + 1 :]) if at else (None, rest)


def _shown_address(rest: str) -> str:
    head, at, tail = rest.rpartition("@")
    left_out = ""
    if at and _END.search(head) and _split_userinfo(rest)[0] != head:
        # this @ is in the path or in the query, or in a password after all
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


def _pipeline_elements(pipeline: str) -> str:
    """Return the elements of a pipeline without their properties, `...` for an unclear one."""
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
