"""Requests to http:// and https:// servers: redirects, passwords, and errors without secrets.

Python connects and libav reads what arrives. So no answer can open another protocol, and libav,
whose log repeats addresses, never sees one.
"""

from __future__ import annotations

import base64
import contextlib
from typing import TYPE_CHECKING, cast
from urllib.parse import quote, unquote, urljoin, urlsplit

from dvfl_runtime.errors import SourceError
from dvfl_runtime.errors.addresses import AS_BYTES, complete_address, printable, shown
from dvfl_runtime.version import __version__

if TYPE_CHECKING:
    from http.client import HTTPResponse

READ_TIMEOUT_S = 4.0  # a server that hangs is noticed within 5 s
REDIRECTS = (301, 302, 303, 307, 308)
MAX_REQUESTS = 6  # redirects and requests for a password, all together
BUSY = (408, 425, 429)  # answers after which the same request may work later


def path_of(url: str) -> str:
    """Return the path of an address, whatever characters its password has."""
    return urlsplit(complete_address(url) or "").path


def request(url: str, begin: int = 0) -> HTTPResponse:
    """Request what is at an address, from byte `begin` on.

    Raises:
        SourceError: if the server refuses it, or redirects to another kind of address.
        OSError: if the server cannot be reached, is busy, or does not answer in time.
    """
    name = shown(url)
    place, login = _without_login(url)
    requested = urlsplit(place)
    headers = {"User-Agent": f"dvfl/{__version__}"}
    if begin:
        headers["Range"] = f"bytes={begin}-"
    for _ in range(MAX_REQUESTS):
        answer = _send(name, place, headers)
        if answer.status in (200, 206):
            return answer
        answer.close()
        if answer.status in REDIRECTS and (target := answer.headers.get("Location")):
            headers.pop("Authorization", None)
            try:
                place = _escaped(urljoin(place, target))
                scheme, host, *_ = urlsplit(place)
            except ValueError:  # not an address
                break
            if scheme not in ("http", "https"):
                break
            # the password goes to no other server, and over no connection that others can read
            if host != requested.netloc or (scheme, requested.scheme) == ("http", "https"):
                login = None
        elif answer.status == 401 and login and "Authorization" not in headers:
            challenges = answer.headers.get_all("WWW-Authenticate", [])
            headers["Authorization"] = _authorization(challenges, login, place)
        else:
            raise _refusal(name, answer.status, printable(answer.reason))
    raise SourceError(
        f"{name} redirects too often, or to what is not an http:// or https:// address; pass the "
        "address of the video itself"
    )


def failure_reason(err: object) -> str:
    """Return why a connection failed, in a few words."""
    if isinstance(err, TimeoutError):
        return "no answer in time"
    return str(getattr(err, "strerror", None) or err or type(err).__name__)


def _send(name: str, place: str, headers: dict[str, str]) -> HTTPResponse:
    """Send one request and return the answer, whatever its status is."""
    import urllib.request as web
    from http.client import HTTPException, InvalidURL
    from ssl import SSLCertVerificationError
    from urllib.error import URLError

    opener = web.OpenerDirector()  # without urllib's handlers of redirects, errors and passwords
    for handler in (web.ProxyHandler(), web.HTTPHandler(), web.HTTPSHandler()):
        opener.add_handler(handler)
    try:
        answer = opener.open(web.Request(place, headers=headers), timeout=READ_TIMEOUT_S)
    except (InvalidURL, UnicodeError) as err:  # its text repeats the address
        raise SourceError(
            f"{name} is not an address that can be opened, or redirects to one that is not"
        ) from err
    except (OSError, HTTPException) as err:
        reason = err.reason if isinstance(err, URLError) else err
        if isinstance(reason, SSLCertVerificationError):
            raise SourceError(
                f"the certificate of {name} cannot be verified: {reason.verify_message}; "
                "if it is your own, put it into a file and set SSL_CERT_FILE=FILE.pem"
            ) from err
        raise ConnectionError(f"cannot connect: {failure_reason(reason)}") from err
    return cast("HTTPResponse", answer)


def _without_login(url: str) -> tuple[str, tuple[str, str] | None]:
    """Return the address without name and password, and the two, if it has them."""
    address = complete_address(url)
    if address is None:
        raise SourceError(f"{shown(url)} is not a complete address; pass http://HOST:PORT/PATH")
    parts = urlsplit(address)
    userinfo, at, host = parts.netloc.rpartition("@")
    name, _, password = (unquote(part, errors=AS_BYTES) for part in userinfo.partition(":"))
    return _escaped(parts._replace(netloc=host).geturl()), (name, password) if at else None


def _escaped(place: str) -> str:
    return quote(place, safe="%/?#[]@!$&'()*+,;=:~", errors=AS_BYTES)


def _authorization(challenges: list[str], login: tuple[str, str], place: str) -> str:
    """Return the `Authorization` header for a server's challenges; "" if none is supported."""
    import urllib.request as web

    for challenge in challenges:
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "digest":
            passwords = web.HTTPPasswordMgrWithDefaultRealm()
            passwords.add_password(None, place, *login)
            values = web.parse_keqv_list(web.parse_http_list(rest))
            with contextlib.suppress(ValueError):  # an algorithm that Python does not know
                digest = web.HTTPDigestAuthHandler(passwords)
                return f"Digest {digest.get_authorization(web.Request(place), values)}"
        if scheme.lower() == "basic":
            return f"Basic {base64.b64encode(':'.join(login).encode(errors=AS_BYTES)).decode()}"
    return ""


def _refusal(name: str, code: int, reason: str) -> Exception:
    """Return the error for a status that is not a success."""
    if code in BUSY or code >= 500:
        return ConnectionError(f"the server answers {code} {reason}")
    if code in (401, 403):
        return SourceError(
            f"{name} refuses the connection ({code} {reason}); check the name and the password: "
            "http://NAME:PASSWORD@HOST/PATH"
        )
    return SourceError(f"{name}: the server answers {code} {reason}; check the path")
