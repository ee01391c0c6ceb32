"""The newest picture of each source as JPEG, made only while a browser waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import time

import numpy as np

from dvfl_runtime.sources import Frame, Image

MAX_PICTURES_HZ = 12.0
MAX_PICTURE_PX = 640  # the longer side
JPEG_QUALITY = 80


class NewestPicture:
    """The newest picture of one source.

    A picture is encoded only while somebody waits for one, and at most `MAX_PICTURES_HZ` times a
    second. Nothing is queued: a slow browser asks less often, and always gets the newest.

    Args:
        loop: of the server; all methods but `offer` are called in it.

    Attributes:
        jpeg: the picture that was encoded last, `None` if there was none.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.jpeg: bytes | None = None
        self._loop = loop
        self._wanted = False  # set by the server, cleared by the thread that reads the source
        self._taken_s = -1.0
        self._waiting: list[asyncio.Future[None]] = []

    def offer(self, frame: Frame) -> None:
        """Take a frame if a picture is wanted; for the thread that reads the source."""
        now_s = time.monotonic()
        if not self._wanted or now_s - self._taken_s < 1 / MAX_PICTURES_HZ:
            return
        self._wanted, self._taken_s = False, now_s
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._encode, frame.image)

    async def next(self, patience_s: float) -> bytes | None:
        """Return the next picture as JPEG, the last one if none comes, `None` if there was none.

        Args:
            patience_s: how long to wait for the next one.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(future)
        self._wanted = True
        try:
            await asyncio.wait([future], timeout=patience_s)
        finally:
            if future in self._waiting:
                self._waiting.remove(future)
        return self.jpeg

    def release(self) -> None:
        """Give the last picture to all who wait for the next one."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _encode(self, image: Image) -> None:
        if self._waiting:
            encoding = self._loop.run_in_executor(None, encode_jpeg, image)
            encoding.add_done_callback(self._take_jpeg)

    def _take_jpeg(self, encoding: asyncio.Future[bytes]) -> None:
        self.jpeg = encoding.result()
        self.release()


def encode_jpeg(image: Image, max_px: int = MAX_PICTURE_PX) -> bytes:
    """Return a picture as JPEG, its longer side at most `max_px`."""
    import cv2

    height, width = image.shape[:2]
    scale = max_px / max(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
    return data.tobytes()
