"""Videos and cameras at http:// addresses, from a real server on loopback."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import shutil
import ssl
import subprocess
import threading
import time
from email.message import Message
from types import SimpleNamespace
from urllib.parse import quote

import numpy as np
import pytest
from artifacts import coloured, write_colour_model
from frames import warnings_of
from streams import number_of
from videos import pictures, write_video
from web import NAME, PASSWORD, serving

from dvfl_runtime import Recognizer
from dvfl_runtime.app import cli
from dvfl_runtime.errors import SourceError
from dvfl_runtime.sources import LiveOptions, LiveSource, is_live, open_source
from dvfl_runtime.sources import web as requests
from dvfl_runtime.sources.live import mjpeg
from dvfl_runtime.sources.recorded import web_video

SOON = LiveOptions(first_pause_s=0.05, longest_pause_s=0.1, max_outage_s=5)
COUNT = 60


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web_video, "PAUSES_S", (0.01,))
        yield


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """The bytes of a video, with its index at the beginning and at the end."""
    folder = tmp_path_factory.mktemp("http")
    first, last = (write_video(folder / name, pictures(COUNT)) for name in ("a.mp4", "b.m4v"))
    videos = {"first": first.read_bytes(), "last": last.read_bytes()}
    assert videos["first"].index(b"moov") < videos["first"].index(b"mdat")
    assert videos["last"].index(b"moov") > videos["last"].index(b"mdat")
    return videos


@pytest.fixture(scope="module")
def web(videos):
    with serving(videos["first"]) as server:
        yield server


def frames_of(url):
    with contextlib.closing(open_source(url, live=SOON)) as source:
        return list(source.frames())


@pytest.mark.parametrize("kind", ["range", "plain"])
@pytest.mark.parametrize("index", ["first", "last"])
def test_a_file_is_read_like_a_file(videos, kind, index, caplog):
    with serving(videos[index]) as web:
        source = open_source(f"{web.url}/{kind}/a.mp4")
        assert (source.live, source.rewindable, source.duration_s) == (False, True, 2.4)
        for _ in range(2):
            times = [frame.time_s for frame in source.frames()]
            np.testing.assert_allclose(times, np.arange(COUNT) / 25)
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("kind", ["range", "plain"])
def test_any_part_can_be_read_in_any_order(web, kind, monkeypatch):
    monkeypatch.setattr(web_video, "MAX_SKIP", 2000)
    random = np.random.default_rng(0)
    want = io.BytesIO(web.video)
    with contextlib.closing(web_video.WebVideo(f"{web.url}/{kind}/a.mp4").open()) as got:
        for _ in range(40):
            whence = int(random.integers(3))
            low, high = ((0, 50_000), (-min(900, want.tell()), 9000), (-9000, 10))[whence]
            offset = int(random.integers(low, high))
            assert got.seek(offset, whence) == want.seek(offset, whence)
            size = int(random.integers(1, 5000))
            left = min(size, max(0, len(web.video) - want.tell()))
            data = b""
            while len(data) < left:  # a read may give less than it was asked for
                data += got.read(left - len(data))
            assert data == want.read(left)
            assert got.tell() == want.tell()


def test_a_file_whose_length_is_not_told(web, videos):
    assert len(frames_of(f"{web.url}/endless/a.mp4")) == COUNT
    with serving(videos["last"]) as other, pytest.raises(SourceError, match="download it and pass"):
        frames_of(f"{other.url}/endless/a.mp4")


def test_a_web_page_in_the_place_of_a_video_is_named(web):
    with pytest.raises(SourceError, match=r"answers with a web page \(text/html\), not a video"):
        open_source(f"{web.url}/page/camera")


def test_a_connection_that_breaks_off_goes_on_where_it_was(web, caplog):
    assert len(frames_of(f"{web.url}/cut/a.mp4")) == COUNT
    assert any(asked and asked != "bytes=0-" for path, asked in web.asked if "/cut/" in path)
    assert warnings_of(caplog) == []


def test_a_file_that_cannot_be_had_whole_is_told(web, caplog):
    assert 0 < len(frames_of(f"{web.url}/broken/a.mp4")) < COUNT
    (message,) = warnings_of(caplog)
    assert "the connection is lost: it ended too early" in message


@pytest.mark.parametrize("kind", ["basic", "digest"])
def test_name_and_password_reach_the_server_and_nobody_else(web, kind, caplog):
    caplog.set_level(logging.DEBUG)
    for login in (f"{NAME}:{PASSWORD}", f"{quote(NAME)}:{quote(PASSWORD, safe='')}"):
        with contextlib.closing(
            open_source(web.url.replace("//", f"//{login}@") + f"/{kind}/a.mp4")
        ) as source:
            assert source.name == f"{web.url}/{kind}/a.mp4"
            assert len(list(source.frames())) == COUNT
    assert not any(PASSWORD in text or quote(PASSWORD, safe="") in text for text in [caplog.text])
    with pytest.raises(
        SourceError, match=r"refuses the connection \(401 Unauthorized\); check"
    ) as caught:
        open_source(web.url.replace("//", "//me:s3cret@") + f"/{kind}/a.mp4?token=s3cret")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/404/a.mp4", "the server answers 404 Not Found; check the path"),
        ("/404/camera", "the server answers 404 Not Found; check the path"),
        ("/401/camera", r"refuses the connection \(401 Unauthorized\)"),
        ("/503/a.mp4", "cannot open .*: the server answers 503"),
        ("/hang/a.mp4", "cannot open .*: cannot connect: no answer in time; check the address"),
        ("/to/http://127.0.0.1:x/a.mp4", "redirects to one that is not"),
        ("/to/http://127.0.0.1:1/a b.mp4", "cannot connect: Connection refused"),
        ("/to/file:///etc/passwd", "redirects too often, or to what is not"),
        ("/to/ftp://127.0.0.1/a.mp4", "redirects too often, or to what is not"),
        ("/to/http://[1/a.mp4", "redirects too often, or to what is not"),
        ("/to//to//to//to//to//to//to//to//to//to//to//to//to//plain/a.mp4", "redirects too often"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_clear_line(web, path, words, monkeypatch):
    if "hang" in path:
        monkeypatch.setattr(requests, "READ_TIMEOUT_S", 0.2)
    with pytest.raises(SourceError, match=words) as caught:
        open_source(web.url + path + "?token=s3cret")
    assert web.url in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_closing_does_not_wait_for_a_server_that_is_away(videos, monkeypatch):
    monkeypatch.setattr(web_video, "PAUSES_S", (9.0,))
    with serving(videos["first"]) as web:
        source = open_source(f"{web.url}/broken/a.mp4")
        threading.Timer(0.2, source.close).start()
        began_s = time.monotonic()
        list(source.frames())
    assert time.monotonic() - began_s < 5


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl to make a certificate")
def test_certificates_are_checked(videos, tmp_path, monkeypatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    how = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", *names]
    out = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", "req", *how, *out], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(videos["first"]) as web:
        web.socket = context.wrap_socket(web.socket, server_side=True)
        url = f"{web.url}/range/a.mp4".replace("http:", "https:")
        with pytest.raises(SourceError, match=r"cannot be verified: self.signed.*SSL_CERT_FILE"):
            open_source(url)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert len(frames_of(url)) == COUNT


def test_no_password_follows_a_redirect_to_where_others_can_read_it(monkeypatch):
    asked = []
    answers = {
        "https://cam/a": (302, "Location", "http://cam/a"),
        "https://cam/b": (302, "Location", "https://other/b"),
    }

    def ask(name, place, headers):
        asked.append((place, headers.get("Authorization")))
        status, header, value = answers.get(place, (401, "WWW-Authenticate", 'Basic realm="cam"'))
        told = Message()
        told[header] = value
        return SimpleNamespace(status=status, reason="", headers=told, close=lambda: None)

    monkeypatch.setattr(requests, "_send", ask)
    for name in ("a", "b"):
        with pytest.raises(SourceError, match="refuses the connection"):
            requests.request(f"https://me:s3cret@cam/{name}")
    places = ["https://cam/a", "http://cam/a", "https://cam/b", "https://other/b"]
    assert asked == [(place, None) for place in places]


def test_a_redirect_to_a_video_is_followed(web):
    assert len(frames_of(f"{web.url}/to//plain/a.mp4")) == COUNT


def test_what_comes_over_http_opens_nothing_else(tmp_path):
    part = write_video(tmp_path / "a.ts", pictures(5))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{part}\n#EXT-X-ENDLIST\n"
    with serving(playlist.encode()) as web, pytest.raises(SourceError, match="cannot open"):
        open_source(f"{web.url}/plain/a.m3u8")
    with pytest.raises(SourceError, match="cannot open"):
        open_source(playlist.encode())


def test_an_address_that_is_none():
    with pytest.raises(SourceError, match=r"is not a complete address; pass http://HOST"):
        open_source("http://me:s3cret@")


def test_a_camera_sends_one_picture_after_another(web):
    source = open_source(f"{web.url}/mjpeg", live=SOON)
    with contextlib.closing(source):
        assert isinstance(source, LiveSource)
        frames = list(itertools.islice(source.frames(), 20))
    numbers = [number_of(frame.image) for frame in frames]
    assert np.diff(numbers).tolist() == [1 + frame.dropped for frame in frames[1:]]
    span_s = frames[-1].time_s - frames[0].time_s  # by their arrival, not by 25 a second
    assert span_s == pytest.approx((numbers[-1] - numbers[0]) * 0.02, rel=0.5)


def test_a_camera_that_ends_or_is_away_is_tried_again(videos, caplog):
    with serving() as web:
        source = open_source(f"{web.url}/mjpeg/3", live=SOON)
        assert isinstance(source, LiveSource)
        with contextlib.closing(source):
            reading = source.frames()
            next(reading)
            while not next(reading).after_gap:
                pass
    away = open_source(f"{web.url}/mjpeg", live=SOON)  # nobody is there
    assert isinstance(away, LiveSource)
    with contextlib.closing(away), serving(port=web.server_port):
        assert number_of(next(away.frames()).image) >= 0
    with pytest.raises(SourceError, match=r"cannot open http://127.*/a\.mp4: cannot connect"):
        open_source(f"{web.url}/plain/a.mp4")
    with serving(videos["first"], port=web.server_port), contextlib.closing(away):
        grabber = mjpeg.MjpegGrabber(f"{web.url}/plain/a")
        with pytest.raises(SourceError, match="no pictures one after another"):
            grabber.open()


def test_a_camera_that_hangs_is_noticed(web, monkeypatch):
    monkeypatch.setattr(requests, "READ_TIMEOUT_S", 0.2)
    source = open_source(f"{web.url}/hang/camera", live=LiveOptions(max_outage_s=0.1))
    began_s = time.monotonic()
    with pytest.raises(SourceError, match="no answer in time"), contextlib.closing(source):
        next(source.frames())
    assert time.monotonic() - began_s < 3


def test_a_camera_that_sends_no_pictures_is_noticed(web, monkeypatch):
    monkeypatch.setattr(mjpeg, "NO_PICTURE_S", 0.2)
    source = open_source(f"{web.url}/junk", live=LiveOptions(max_outage_s=0.1))
    with contextlib.closing(source), pytest.raises(SourceError, match="no good picture within"):
        next(source.frames())


def test_which_addresses_are_taken_for_live_ones_before_anybody_is_asked():
    assert is_live("http://cam/video.cgi?x=a.mp4")
    assert is_live("https://me:p#w@cam:8443/mjpg/video.mjpg")
    assert not is_live("http://host/a%20b.mp4?token=1")
    assert not is_live("HTTP://host/snapshot.jpg")


def test_the_command_and_the_api_read_addresses(tmp_path, capsys):
    model = write_colour_model(tmp_path / "m.onnx")
    video = write_video(tmp_path / "a.mp4", coloured(("red", 50)), pix_fmt="yuv444p")
    with serving(video.read_bytes()) as web:
        url = f"{web.url}/range/a.mp4"
        words = [url, "--model", str(model), "--engine", "onnxruntime", "--format", "jsonl"]
        assert cli.main(words) == 0
        assert f'"source": "{url}"' in capsys.readouterr().out
        words[0] = web.url.replace("//", "//me:s3cret@") + "/401/a.mp4"
        assert cli.main(words) == 2
        told = capsys.readouterr().err
        assert (told.count("\n"), "s3cret" in told) == (1, False)
        with Recognizer(model, engine="onnxruntime") as recognizer:
            assert recognizer.classify(url).label == "red"
