"""dvfl-teach record: from a camera that sends JPEG over http, and from one of the caller's own."""

from __future__ import annotations

import contextlib
import http.client
import re
import resource
import threading
import time

import numpy as np
import pytest
from artifacts import SPEC, write_colour_model
from playwright.sync_api import expect, sync_playwright
from serving import TIMEOUT_S, Served, chromium, status
from streams import numbered
from videos import pictures, write_video
from web import Web

from dvfl_runtime.sources import Grabbed, LiveOptions, LiveSource, open_source
from dvfl_runtime.teach import record_cli
from dvfl_runtime.teach.cli import main

QUICK = ("--seconds", "0.5", "--countdown", "0.1")


class OwnCamera:
    """A camera at 50 Hz, until it is unplugged."""

    def __init__(self, image, is_unplugged):
        self._image, self._is_unplugged, self._count = image, is_unplugged, 0

    def open(self):
        if self._is_unplugged():
            raise ConnectionError("it is unplugged")

    def read(self):
        time.sleep(0.02)
        self.open()
        self._count += 1
        return Grabbed(self._image(self._count % 1000))

    def close(self):
        """Do nothing."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_colour_model(tmp_path_factory.mktemp("model") / "m.onnx")


@pytest.fixture(scope="module")
def camera():
    with Web(b"") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"{server.url}/mjpeg"
        server.ended.set()
        server.shutdown()


@pytest.fixture
def plugged_in(monkeypatch):
    """Make a camera of the caller's own the source of the command."""

    def plug(image, is_unplugged=lambda: False, **options):
        source = LiveSource("cam", OwnCamera(image, is_unplugged), options=LiveOptions(**options))
        monkeypatch.setattr(record_cli, "open_source", lambda *_, **__: source)

    return plug


def moving(number):
    return numbered(number, 96, 160)


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def frames_of(path):
    with contextlib.closing(open_source(path)) as source:
        return list(source.frames())


def length_s(row):
    """Return the length of the clip that a row is about."""
    return float(re.search(r"  (\d\.\d) s, ", row)[1])


def test_clips_of_two_actions_one_after_the_other(tmp_path, camera, model, capsys):
    words = ("record", camera, tmp_path / "wave", tmp_path / "clap", "--model", model)
    assert main([*map(str, words), *QUICK, "--count", "1", "--person", "anna"]) == 0
    out, err = capsys.readouterr()
    assert names(tmp_path) == ["clap/anna_01.mp4", "wave/anna_01.mp4"]
    rows = out.splitlines()
    assert rows[0].startswith(f"{tmp_path / 'wave' / 'anna_01.mp4'}  ")
    assert length_s(rows[0]) == pytest.approx(0.5, abs=0.1)
    assert "WARNING" not in out
    assert "2 clips recorded\n" in err
    times = [frame.time_s for frame in frames_of(tmp_path / "wave" / "anna_01.mp4")]
    assert times[-1] - times[0] == pytest.approx(0.5, abs=0.1)


def test_a_clip_is_half_as_long_again_as_the_window_and_warnings_are_told(
    tmp_path, model, plugged_in, capsys
):
    plugged_in(lambda _: np.full((96, 160, 3), 9, np.uint8))
    words = ("record", "0", tmp_path / "wave", "--model", model, "--countdown", "0", "--count", "1")
    assert main([*map(str, words)]) == 0
    out, err = capsys.readouterr()
    assert length_s(out) == pytest.approx(1.5 * SPEC.window_s, abs=0.2)  # a busy camera is late
    assert "  WARNING: dark: brightness 9 of 255" in out
    assert "1 clip recorded, 1 of them with a warning" in err


def test_a_camera_that_goes_away_ends_it_and_whole_clips_stay(tmp_path, model, plugged_in, capsys):
    first = tmp_path / "clips" / "wave" / "wave_01.mp4"
    plugged_in(moving, first.exists, max_outage_s=0.3, first_pause_s=0.1)
    words = ("record", "0", tmp_path / "clips" / "wave", "--model", model)
    assert main([*map(str, words), *QUICK]) == 2
    error = capsys.readouterr().err
    assert "cam: no frame for 0.3 s (it is unplugged)" in error
    assert "Traceback" not in error
    assert names(tmp_path) == ["clips/wave/wave_01.mp4"]


def test_a_full_disk_ends_it_and_whole_clips_stay(tmp_path, model, plugged_in, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (60, 240, 320, 3), np.uint8)
    plugged_in(lambda number: noise[number % 60])
    (tmp_path / "wave").mkdir()
    (tmp_path / "wave" / "wave_01.mp4").write_bytes(b"before")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        words = ("record", "0", tmp_path / "wave", "--model", model)
        assert main([*map(str, words), *QUICK]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "wave_02.mp4: File too large" in capsys.readouterr().err
    assert names(tmp_path) == ["wave/wave_01.mp4"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("video.mp4", "clips/wave"), "video.mp4"),
        (("0", "wave"), "is no FOLDER/LABEL"),
        (("0", "clips/wave", "--token", "x"), "--token is what the page of --serve"),
        (("0", "clips/wave", "--seconds", "0"), "must be a number >= 0.2"),
        (("0", "clips/wave", "--model", "none.onnx"), "none.onnx"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(SystemExit):
        assert main(["record", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("error:") == 1
    assert not (tmp_path / "clips" / "wave").exists()


def test_a_video_file_is_recorded_already(tmp_path, model, capsys):
    video = write_video(tmp_path / "v.mp4", pictures(5))
    assert main(["record", str(video), str(tmp_path / "wave"), "--model", str(model)]) == 2
    assert "v.mp4 is recorded already" in capsys.readouterr().err


def post(port, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        connection.request("POST", path, headers=headers)
        return connection.getresponse().status


def test_the_page_records_at_the_press_of_a_button(tmp_path, camera, model):
    program = chromium()
    words = ("record", camera, tmp_path / "wave", tmp_path / "clap", "--model", model, *QUICK)
    token = {"Authorization": "Bearer secret"}
    with Served(*words, "--serve", "0", "--token", "secret", module="dvfl_runtime.teach.cli") as it:
        port = it.port
        assert post(port, "/ask?label=wave") == 401
        assert status(port, "/ask?label=wave", **token) == 405  # a link changes nothing
        other = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
        assert post(port, "/ask?label=wave", **token, **other) == 403
        assert post(port, "/ask?label=wave", **token, Origin="http://evil.example") == 403
        navigates = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert post(port, "/ask?label=wave", **token, **navigates) == 403
        assert post(port, "/ask?label=jump", **token) == 409
        assert status(port, "/clip/1.jpg?token=secret") == 404
        assert names(tmp_path) == []
        if program is None:
            pytest.skip("needs Chromium; sudo make test-tools installs it on Debian")
        with (
            sync_playwright() as playwright,
            contextlib.closing(
                playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
            ) as browser,
        ):
            page = browser.new_page(viewport={"width": 390, "height": 844})
            expect.set_options(timeout=TIMEOUT_S * 1000)
            complaints = []
            page.on("console", lambda message: complaints.append(message.text))
            page.goto(it.url.replace("...", "secret"))
            expect(page.locator("#status")).to_contain_text("press a button")
            expect(page.get_by_role("button")).to_have_text(["Record wave0", "Record clap0"])
            page.get_by_role("button").last.click()
            expect(page.locator("#clips li")).to_have_count(1)
            expect(page.locator("#clips li")).to_contain_text(
                re.compile(r"clap clap_01\.mp4, 0\.\d+ s")
            )
            expect(page.get_by_role("button").last).to_have_text("Record clap1")
            strip = page.locator("#clips img")
            assert strip.evaluate("image => image.decode().then(() => image.naturalWidth)") == 32
            expect(page.locator("#status")).to_contain_text("press a button")
            widths = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
            assert page.evaluate(f"(([a, b]) => a <= b)({widths})"), "a phone would scroll sideways"
            assert complaints == []
            page.get_by_role("button").first.click()
            expect(page.locator("#status")).to_contain_text("wave: now")
            assert it.interrupt() == 130  # in the middle of a clip
    assert names(tmp_path) == ["clap/clap_01.mp4"]
    assert not (tmp_path / "wave").exists()
