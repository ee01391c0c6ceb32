"""A model, videos and servers for the tests of the page."""

import contextlib

import pytest
from artifacts import coloured, write_colour_model
from playwright.sync_api import sync_playwright
from serving import chromium
from videos import write_video

from dvfl_runtime import Recognizer
from dvfl_runtime.serve.address import Address, listen
from dvfl_runtime.serve.server import PageServer

SWITCHES = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("serve")
    write_colour_model(path / "m.onnx")
    for colour in ("red", "blue"):
        write_video(path / f"{colour}.mp4", coloured((colour, 50)), pix_fmt="yuv444p")
    write_video(path / "short.mp4", coloured(("red", 5)), pix_fmt="yuv444p")
    long = coloured(("red", 60 * 25), height=16, width=16)
    write_video(path / "long.mp4", long, pix_fmt="yuv444p")
    return path


@pytest.fixture(scope="module")
def recognizer(folder):
    with Recognizer(folder / "m.onnx", engine="onnxruntime") as opened:
        yield opened


@pytest.fixture
def serve(recognizer):
    """Start servers in this process."""
    with contextlib.ExitStack() as stack:

        def start(host="127.0.0.1", token=None):
            listening, address = listen(Address(host, 0), token)
            info, labels = recognizer.info, recognizer.labels
            server = PageServer(listening, host, token, info=info, labels=labels)
            stack.callback(server.close)
            return server, address.port

        yield start


@pytest.fixture(scope="module")
def browser():
    program = chromium()
    if program is None:
        pytest.skip("needs Chromium; sudo make test-tools installs it on Debian")
    with (
        sync_playwright() as playwright,
        contextlib.closing(
            playwright.chromium.launch(executable_path=program, args=SWITCHES)
        ) as opened,
    ):
        yield opened
