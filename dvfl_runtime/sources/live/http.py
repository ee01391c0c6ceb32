"""Videos and cameras at http:// and https:// addresses.

Python connects and libav reads what comes: so no answer can open another protocol, a connection
that is lost goes on where it was, and libav, whose log repeats addresses, never sees one.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import quote, unquote, urljoin, urlsplit

from dvfl_runtime.errors import SourceError
from dvfl_runtime.errors.addresses import AS_BYTES, complete_address, printable, shown
from dvfl_runtime.sources.decoding.container import open_container
from dvfl_runtime.sources.folders import is_video
from dvfl_runtime.sources.live.rtsp import NO_PICTURE_S, READ_TIMEOUT_S, StreamGrabber
from dvfl_runtime.version import __version__

if TYPE_CHECKING:
    from http.client import HTTPResponse

    from av.container import InputContainer
    from av.video.frame import VideoFrame

PAUSES_S = (0.5, 1.0, 2.0, 4.0)  # before a file is asked for again where it broke off
SKIP = 1 << 20  # bytes: what lies nearer ahead is read, and not asked for anew
REDIRECTS = (301, 302, 303, 307, 308)
MAX_STEPS = 6  # of being sent elsewhere and asked for a password
BUSY = (408, 425, 429)  # answers after which the same request may work later


class WebVideo:
    """A video file at an address.

    Attributes:
        name: the address, as far as it may be shown.
        advice: what may help if it cannot be decoded.
    """

    def __init__(self, url: str) -> None:
        self.name = shown(url)
        self.advice = ""
        self._url = url
        self._stopped = threading.Event()

    def open(self) -> WebFile:
        """Connects.

        Raises:
            SourceError: if it cannot be opened.
        """
        try:
            file = WebFile(self._url, self._stopped)
        except OSError as err:
            raise SourceError(f"cannot open {self.name}: {err}; check the address") from err
        if file.is_page:
            self.advice = (
                "the server answers with a web page (text/html), not a video; check the address"
            )
        elif not file.seekable():
            self.advice = (
                "its server does not tell its length, so it can only be read if its index is at "
                "its beginning: download it and pass the file"
            )
        return file

    def stop(self) -> None:
        """Ends a read that tries to connect again."""
        self._stopped.set()


class WebFile:
    """A file at an address as libav reads files, in pieces and from any place.

    A server that knows no ranges is read from the beginning for each step back.

    Args:
        url: the address.
        stopped: once it is set no connection is made again.

    Attributes:
        is_page: whether the server calls it a web page.

    Raises:
        SourceError: if the server refuses it.
        OSError: if it cannot be reached.
    """

    def __init__(self, url: str, stopped: threading.Event) -> None:
        self.name = f"video{os.path.splitext(path_of(url))[1]}"  # libav looks at the suffix
        self._url = url
        self._stopped = stopped
        self._place = 0  # from where is read next
        self._size: int | None = None
        self._answer: HTTPResponse | None = None
        self._answer_place = 0
        self._knows_ranges = True
        self._ask()
        assert self._answer is not None
        self.is_page: bool = self._answer.headers.get_content_type() == "text/html"

    def seekable(self) -> bool:
        """Says whether its size is known."""
        return self._size is not None

    def tell(self) -> int:
        """Returns from where is read next, bytes."""
        return self._place

    def seek(self, offset: int, whence: int = 0) -> int:
        """Goes to another place."""
        self._place = offset + (0, self._place, self._size or 0)[whence]
        return self._place

    def read(self, size: int) -> bytes:
        """Reads up to `size` bytes; a connection that was lost is made again.

        Raises:
            OSError: if that does not help.
        """
        from http.client import HTTPException

        for pause_s in (*PAUSES_S, None):
            try:
                return self._read(size)
            except (OSError, HTTPException) as err:
                self.close()
                if pause_s is None or self._stopped.wait(pause_s):
                    raise ConnectionError(f"the connection is lost: {_told(err)}") from err
            except SourceError as err:
                raise ConnectionError(str(err)) from err
        raise AssertionError

    def close(self) -> None:
        """Ends the connection."""
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.close()

    def _read(self, size: int) -> bytes:
        if self._size is not None and self._place >= self._size:
            return b""
        ahead = self._place - self._answer_place
        if self._answer is None or ahead < 0 or (ahead > SKIP and self._knows_ranges):
            self._ask()
        while self._answer_place < self._place and self._next(self._place - self._answer_place):
            pass
        data = self._next(size)
        if not data and self._size is not None:
            raise ConnectionError("it ended too early")
        self._place += len(data)
        return data

    def _next(self, size: int) -> bytes:
        assert self._answer is not None
        data = self._answer.read1(min(size, SKIP))
        self._answer_place += len(data)
        return data

    def _ask(self) -> None:
        self.close()
        self._answer = request(self._url, self._place)
        headers = self._answer.headers
        found = re.fullmatch(r"bytes ([0-9]+)-[0-9]+/([0-9]+)", headers.get("Content-Range", ""))
        if found and self._answer.status == 206:
            self._answer_place, self._size = int(found[1]), int(found[2])
        else:  # the whole file
            self._knows_ranges = not self._place
            length = headers.get("Content-Length", "")
            self._answer_place, self._size = 0, int(length) if length.isdecimal() else None


class HttpGrabber(StreamGrabber):
    """Reads a camera that sends one JPEG picture after another (multipart/x-mixed-replace).

    Args:
        url: http:// or https://, with name and password if the camera wants them.

    Raises:
        SourceError: if PyAV is missing.
    """

    _arriving: _Arriving | None = None

    def _connect(self) -> InputContainer:
        import av

        answer = request(self._url)
        try:
            if not is_pictures(answer):
                raise SourceError(
                    f"{self._name} sends {answer.headers.get_content_type()} and no pictures one "
                    "after another (multipart/x-mixed-replace); open it again if it is a file"
                )
            options = {"protocol_whitelist": "none", "fpsprobesize": "0"}
            self._arriving = _Arriving(answer)
            return open_container(self._arriving, format="mpjpeg", options=options)
        except BaseException as err:
            answer.close()
            if isinstance(err, av.FFmpegError) and not isinstance(err, OSError):
                raise ConnectionError(f"no pictures come: {err.strerror}") from err
            raise

    def close(self) -> None:
        """Disconnects."""
        super().close()
        if self._arriving is not None:  # PyAV does not close it
            self._arriving.close()

    def _stamp_s(self, raw: VideoFrame) -> float | None:
        assert self._arriving is not None
        self._arriving.picture_s = time.monotonic()
        return None  # libav counts 25 a second, whatever comes


class _Arriving:
    """What comes over a connection, as soon as it is there.

    Attributes:
        picture_s: when the last picture was found in it, seconds of `time.monotonic`.
    """

    def __init__(self, answer: HTTPResponse) -> None:
        self._answer = answer
        self.picture_s = time.monotonic()

    def read(self, size: int) -> bytes:
        from http.client import HTTPException

        if time.monotonic() - self.picture_s > NO_PICTURE_S:  # libav would look for ever
            raise TimeoutError(f"no good picture within {NO_PICTURE_S:.0f} s")
        try:
            return self._answer.read1(size)
        except TimeoutError as err:
            raise TimeoutError(f"nothing came for {READ_TIMEOUT_S:.1f} s") from err
        except (OSError, HTTPException) as err:
            raise ConnectionError(f"the connection is lost: {_told(err)}") from err

    def close(self) -> None:
        self._answer.close()


def path_of(url: str) -> str:
    """Returns the path of an address, whatever its password is."""
    return urlsplit(complete_address(url) or "").path


def is_pictures(answer: HTTPResponse) -> bool:
    """Says whether an answer is that of a camera and not a file."""
    return answer.headers.get_content_maintype() == "multipart"


def camera_or_file(url: str) -> HttpGrabber | WebVideo:
    """Asks a server what it sends, and returns what reads it.

    Raises:
        SourceError: if it refuses, or cannot be reached and the address is that of a file.
    """
    try:
        with request(url) as answer:
            live = is_pictures(answer)
    except OSError as err:  # a camera may be away, a file may not
        live = not is_video(Path(path_of(url)))
        if not live:
            raise SourceError(f"cannot open {shown(url)}: {err}; check the address") from err
    return HttpGrabber(url) if live else WebVideo(url)


def request(url: str, begin: int = 0) -> HTTPResponse:
    """Asks for what is at an address, from byte `begin` on.

    Raises:
        SourceError: if the server refuses it, or redirects to another kind of address.
        OSError: if the server cannot be reached, is busy, or does not answer in time.
    """
    name = shown(url)
    place, login = _place(url)
    asked = urlsplit(place)
    headers = {"User-Agent": f"dvfl/{__version__}"}
    if begin:
        headers["Range"] = f"bytes={begin}-"
    for _ in range(MAX_STEPS):
        answer = _ask(name, place, headers)
        if answer.status in (200, 206):
            return answer
        answer.close()
        if answer.status in REDIRECTS and (target := answer.headers.get("Location")):
            headers.pop("Authorization", None)
            try:
                place = _escaped(urljoin(place, target))
                scheme, host, *_ = urlsplit(place)
            except ValueError:  # it is no address
                break
            if scheme not in ("http", "https"):
                break
            if host != asked.netloc or (scheme, asked.scheme) == ("http", "https"):
                login = None  # another server, or one that everybody on the way can listen to
        elif answer.status == 401 and login and "Authorization" not in headers:
            wanted = answer.headers.get_all("WWW-Authenticate", [])
            headers["Authorization"] = _authorization(wanted, login, place)
        else:
            raise _refusal(name, answer.status, printable(answer.reason))
    raise SourceError(
        f"{name} redirects too often, or to what is not an http:// or https:// address; pass the "
        "address of the video itself"
    )


def _ask(name: str, place: str, headers: dict[str, str]) -> HTTPResponse:
    """Returns the answer, whatever it is."""
    import urllib.request as web
    from http.client import HTTPException, InvalidURL
    from ssl import SSLCertVerificationError
    from urllib.error import URLError

    opener = web.OpenerDirector()
    for handler in (web.ProxyHandler(), web.HTTPHandler(), web.HTTPSHandler()):
        opener.add_handler(handler)
    try:
        answer = opener.open(web.Request(place, headers=headers), timeout=READ_TIMEOUT_S)
    except (InvalidURL, UnicodeError) as err:  # which repeats it
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
        raise ConnectionError(f"cannot connect: {_told(reason)}") from err
    return cast("HTTPResponse", answer)


def _place(url: str) -> tuple[str, tuple[str, str] | None]:
    """Returns the address without name and password, and these."""
    address = complete_address(url)
    if address is None:
        raise SourceError(f"{shown(url)} is not a complete address; pass http://HOST:PORT/PATH")
    scheme, _, rest = address.partition("://")
    login, at, _ = re.split("[/?#]", rest, maxsplit=1)[0].rpartition("@")
    rest = rest[len(login) + len(at) :]
    name, _, password = login.partition(":")
    return _escaped(f"{scheme}://{rest}"), (_unquoted(name), _unquoted(password)) if at else None


def _unquoted(text: str) -> str:
    return unquote(text, errors=AS_BYTES)


def _escaped(place: str) -> str:
    return quote(place, safe="%/?#[]@!$&'()*+,;=:~", errors=AS_BYTES)


def _authorization(wanted: list[str], login: tuple[str, str], place: str) -> str:
    """Returns the answer to a server that asks for name and password, "" if there is none."""
    import urllib.request as web

    for challenge in wanted:
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "digest":
            passwords = web.HTTPPasswordMgrWithDefaultRealm()
            passwords.add_password(None, place, *login)
            values = web.parse_keqv_list(web.parse_http_list(rest))
            with contextlib.suppress(ValueError):  # an algorithm that Python does not know
                digest = web.HTTPDigestAuthHandler(passwords)
                return f"Digest {digest.get_authorization(web.Request(place), values)}"
        if kind.lower() == "basic":
            return f"Basic {base64.b64encode(':'.join(login).encode(errors=AS_BYTES)).decode()}"
    return ""


def _refusal(name: str, code: int, reason: str) -> Exception:
    """Returns the error that an answer other than success is."""
    if code in BUSY or code >= 500:
        return ConnectionError(f"the server answers {code} {reason}")
    if code in (401, 403):
        return SourceError(
            f"{name} refuses the connection ({code} {reason}); check the name and the password: "
            "http://NAME:PASSWORD@HOST/PATH"
        )
    return SourceError(f"{name}: the server answers {code} {reason}; check the path")


def _told(err: object) -> str:
    if isinstance(err, TimeoutError):
        return "no answer in time"
    return str(getattr(err, "strerror", None) or err or type(err).__name__)
