"""A web server on loopback that behaves as the path of a request says."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
from streams import numbered

NAME, PASSWORD = "us#er", "p/w@?%"
NONCE = "abc"


class Web(ThreadingHTTPServer):
    """Serves one video in many ways.

        /range/*    with ranges          /plain/*  without      /endless/*  without its length
        /cut/*      breaks off once, and goes on when it is asked for the rest
        /broken/*   breaks off at the same place each time
        /mjpeg      a camera: numbered pictures at 50 Hz; /mjpeg/3 ends after three
        /junk       says that it is a camera, and sends no picture
        /page/*     a web page, such as one to log in
        /hang/*     never answers        /basic/* /digest/*  ask for name and password
        /to/X       leads to X           /NUMBER/*  refuses

    Attributes:
        asked: path and range of each request.
        video: what is served.
    """

    daemon_threads = True

    def __init__(self, video: bytes, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.video = video
        self.asked: list[tuple[str, str]] = []
        self.ended = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Says nothing: clients go when they have enough."""


class Handler(BaseHTTPRequestHandler):
    server: Web

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        kind = self.path.split("?")[0].split("/")[1]
        self.server.asked.append((self.path, self.headers.get("Range", "")))
        login = self.headers.get("Authorization", "")
        if kind.isdecimal():
            self.send_error(int(kind))
        elif kind == "to":
            self.answer(302, Location=self.path.removeprefix("/to/"))
        elif kind == "page":
            page = b"<!DOCTYPE html><title>Log in</title>"
            self.answer(200, Content_Type="text/html; charset=utf-8", Content_Length=len(page))
            self.wfile.write(page)
        elif kind == "hang":
            self.server.ended.wait(20)
        elif kind == "mjpeg":
            self.send_pictures(
                int(self.path.rpartition("/")[2] or 0) if "/mjpeg/" in self.path else 0
            )
        elif kind == "junk":
            self.answer(200, Content_Type="multipart/x-mixed-replace", Content_Length=None)
            while not self.server.ended.wait(0.02):
                self.wfile.write(b"no picture ")
        elif (
            kind == "basic"
            and login != "Basic " + base64.b64encode(f"{NAME}:{PASSWORD}".encode()).decode()
        ):
            self.answer(401, WWW_Authenticate='Basic realm="cam"')
        elif kind == "digest" and not self.is_digest(login):
            self.answer(401, WWW_Authenticate=f'Digest realm="cam", nonce="{NONCE}", qop="auth"')
        else:
            self.send_video(kind)

    def is_digest(self, login: str) -> bool:
        given = dict(re.findall(r'(\w+)="?([^",]*)', login))
        first = md5(f"{NAME}:cam:{PASSWORD}")
        second = md5(f"GET:{self.path}")
        middle = f"{NONCE}:{given.get('nc')}:{given.get('cnonce')}:auth"
        return given.get("response") == md5(f"{first}:{middle}:{second}")

    def answer(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": 0, **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def send_video(self, kind: str) -> None:
        data, begin = self.server.video, 0
        if (asked := self.headers.get("Range")) and kind in ("range", "cut", "basic"):
            begin = int(re.findall("[0-9]+", asked)[0])
            where = f"bytes {begin}-{len(data) - 1}/{len(data)}"
            self.answer(206, Content_Length=len(data) - begin, Content_Range=where)
        else:
            self.answer(200, Content_Length=None if kind == "endless" else len(data))
        if kind == "broken" or (kind == "cut" and not begin):
            data = data[: len(data) // 2]
        self.wfile.write(data[begin:])

    def send_pictures(self, count: int) -> None:
        kind = "multipart/x-mixed-replace; boundary=--frame"
        self.answer(200, Content_Type=kind, Content_Length=None)
        number = 0
        while not self.server.ended.wait(0.02) and (number < count or not count):
            jpeg = cv2.imencode(".jpg", numbered(number % 1000, 96, 160))[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.wfile.write(head.encode() + jpeg + b"\r\n")
            number += 1


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


@contextlib.contextmanager
def serving(video: bytes = b"", port: int = 0) -> Iterator[Web]:
    """Yields a server that answers until the end of the block."""
    with Web(video, port) as web:
        thread = threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield web
        finally:
            web.ended.set()
            web.shutdown()
            thread.join()
