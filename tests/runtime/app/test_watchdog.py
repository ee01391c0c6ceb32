"""What systemd's watchdog hears, on a real socket."""

import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from artifacts import coloured, write_colour_model
from videos import write_video

from dvfl_runtime.app.watchdog import ALIVE, Watchdog, wanted_watchdog
from dvfl_runtime.sources import Frame

PATIENCE_S = 0.2


@pytest.fixture
def listener(tmp_path):
    """The socket of a service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        yield heard


def hears(listener, within_s):
    """Return whether a word comes that is said from now on."""
    listener.setblocking(False)
    while True:
        try:
            listener.recv(64)
        except BlockingIOError:
            break
    listener.settimeout(within_s)
    try:
        return listener.recv(64) == ALIVE
    except TimeoutError:
        return False


def until(condition, seconds=30):
    """Wait until it is true, on a machine that may be busy."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        if condition():
            return True
    return False


class Camera:
    def __init__(self, state, live=True):
        self.state, self.live, self.observers = state, live, []


@pytest.fixture
def watchdog(listener):
    watchdog = Watchdog(listener.getsockname(), PATIENCE_S)
    yield watchdog
    watchdog.close()


def test_it_says_nothing_more_when_pictures_come_without_answers(listener, watchdog):
    camera = Camera("connecting")
    watchdog.watch(camera)
    assert hears(listener, 10)
    for state in ("stalled", "ended", "connecting"):  # the camera is away: no reason to restart
        camera.state = state
        time.sleep(PATIENCE_S)
        assert hears(listener, 10)
    camera.state = "live"
    assert until(lambda: not hears(listener, 2 * PATIENCE_S))
    watchdog.write(None)
    assert hears(listener, 10)
    assert until(lambda: not hears(listener, 2 * PATIENCE_S))
    camera.state = "connecting"
    assert hears(listener, 10)
    watchdog.close()
    assert not hears(listener, 2 * PATIENCE_S)


def test_each_frame_of_a_file_is_a_sign_of_life(listener, watchdog):
    file = Camera("playing", live=False)
    watchdog.watch(file)
    assert until(lambda: not hears(listener, 2 * PATIENCE_S))
    (observe,) = file.observers
    observe(Frame(np.zeros((2, 2, 3), np.uint8), 0.0, 0))
    assert hears(listener, 10)


def test_only_an_environment_that_asks_gets_one(listener, caplog):
    asked = {"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "400000"}
    wanted = wanted_watchdog(asked)
    assert hears(listener, 10)
    wanted.close()
    others = [
        {},
        {**asked, "WATCHDOG_PID": str(os.getpid() + 1)},  # that of a parent
        {**asked, "NOTIFY_SOCKET": ""},
        {**asked, "WATCHDOG_USEC": ""},
        {**asked, "WATCHDOG_USEC": "0"},
        {**asked, "WATCHDOG_USEC": "1 min"},
    ]
    assert [wanted_watchdog(other) for other in others] == [None] * 6
    assert [record.getMessage() for record in caplog.records] == [
        f"WATCHDOG_USEC is {text!r}, no number of microseconds; no watchdog"
        for text in ("0", "1 min")
    ]


def test_a_name_in_the_abstract_namespace_and_a_listener_that_is_gone():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        name = f"dvfl-test-{os.getpid()}"
        heard.bind("\0" + name)
        watchdog = Watchdog(f"@{name}", PATIENCE_S)
        assert hears(heard, 10)
    time.sleep(PATIENCE_S)
    watchdog.close()


def test_a_command_that_cannot_go_on_is_silent_until_it_can(tmp_path, listener):
    write_colour_model(tmp_path / "m.onnx")
    images = coloured(("red", 60 * 25), height=16, width=16)
    video = write_video(tmp_path / "v.mp4", images, pix_fmt="yuv444p")
    words = [video, "--model", tmp_path / "m.onnx", "--format", "jsonl", "--hop-s", "0.04"]
    command = [sys.executable, "-m", "dvfl_runtime.app.cli", *map(str, words)]
    asked = {"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "1000000"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **asked}) as served:
        assert hears(listener, 60)
        assert until(lambda: not hears(listener, 1.5), 90)  # nobody reads its rows
        assert served.poll() is None
        rows = served.stdout.read().splitlines()
        assert served.wait(60) == 0
    assert len(rows) > 1000
