"""What may be shown of a source's name, and what libraries connect to."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
from urllib.parse import unquote, urlsplit

import av
import pytest
from artifacts import write_colour_model
from hypothesis import given
from hypothesis import strategies as st

from dvfl_runtime.app import cli
from dvfl_runtime.errors import SourceError
from dvfl_runtime.errors.addresses import complete_address, printable, shown, without_secrets
from dvfl_runtime.sources import LiveOptions, LiveSource, RtspGrabber, display_name, open_source

PASSWORDS = ["s3cret", "pa#s3", "pa/s3", "p?s3", "12/34", "s3:x", "a@s3", "a@b/s3?", "%s3", "s3\\"]


@pytest.mark.parametrize("scheme", ["rtsp", "RTSPS", "http", "jetson:rtsp", "ftp"])
@pytest.mark.parametrize("password", PASSWORDS)
def test_nothing_up_to_the_last_at_is_shown(scheme, password):
    name = shown(f"{scheme}://admin:{password}@10.0.0.3:554/live")
    assert re.fullmatch(rf"{scheme}://(\.\.\.|(\.\.\./)?10\.0\.0\.3:554/live)", name), name


@pytest.mark.parametrize("password", [p for p in PASSWORDS if p != "a@b/s3?"])
def test_passwords_reach_the_camera_whole(password):
    parts = urlsplit(complete_address(f"rtsp://admin:{password}@cam:554/live?channel=1") or "")
    assert (parts.hostname, parts.port, parts.path, parts.query) == (
        *("cam", 554, "/live"),
        "channel=1",
    )
    assert (parts.username, unquote(parts.password or "")) == ("admin", password)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("rtsp://cam/h264Preview_01_main", "rtsp://cam/h264Preview_01_main"),
        ("rtsp://cam/1?authbasic=YWRtaW46MTIz", "rtsp://cam/1?..."),
        ("rtsp://cam/1?user=me&password=s3cret&c=1", "rtsp://cam/1?..."),
        ("rtsp://nvr/cam/realmonitor?channel=1&subtype=0&pin=7", "rtsp://nvr/cam/realmonitor?channel=1&subtype=0&..."),
        ("rtsp://cam/1#s3cret", "rtsp://cam/1?..."),
        ("rtsp://cam/user=admin_password=s3cret_channel=1", "rtsp://cam/user=..."),
        ("rtsp://cam/user%3Dadmin%26password%3Ds3cret", "rtsp://cam/user=..."),
        ("rtsp://admin:s3cret/live", "rtsp://.../live"),
        ("rtsp://10.0.0.3/live@main", "rtsp://.../main"),
        ("http://cam/a?mail=x@s3cret", "http://..."),
        ("rtsp:/me:s3cret@cam/1", "rtsp:..."),
        ("rtsp:me:s3cret@cam/1", "rtsp:..."),
        (" rtsp://me:s3cret@cam/1", "rtsp://cam/1"),
        ("me:s3cret@cam/1", "...cam/1"),
        ("//me:s3cret@cam/1", "...cam/1"),
        ("cam/1?token=s3cret", "...cam/1"),
        ("gst:rtspsrc user-pw=s3cret location='rtsp://u:s3cret@h' ! queue", "gst:rtspsrc ! queue"),
        ("gst:rtsp://u:s3cret@h ! video/x-raw,format=BGR ! tee", "gst:... ! video/x-raw ! tee"),
        ("gst:rtspsrc user-pw=\"a ! s3cret ! b\" ! appsink", "gst:rtspsrc ! appsink"),
        ("gst:rtspsrc user-pw='a\\' ! s3cret ! b' ! appsink", "gst:..."),
        ("gst:rtspsrc user-pw='s3cret ! s3cret", "gst:..."),
        ("csi://0?width=1280&height=720&fps=29.97", "csi://0?width=1280&height=720&fps=29.97"),
        ("clips/me@home.mp4", "clips/me@home.mp4"),
        ("clip?.mp4", "clip?.mp4"),
        ("caf\udce9\n\x1b[2J.mp4", r"caf\xe9\n\x1b[2J.mp4"),
        ("動画 é.mp4", "動画 é.mp4"),
        ("\ud800.mp4", r"\ud800.mp4"),
    ],
)  # fmt: skip
def test_what_is_shown(source, name):
    assert shown(source) == name
    assert shown(name) == name
    assert display_name(source) == name


def test_files_keep_names_that_look_like_addresses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "12:30@home.mp4").touch()
    assert shown("12:30@home.mp4") == "12:30@home.mp4"
    assert shown("12:31@home.mp4") == "...home.mp4"


@given(
    st.sampled_from(["rtsp://", "http://", "gst:", "csi://", "jetson:rtsp://", "rtsp:", ""]),
    st.text(st.sampled_from("ab1:/?#@=&!.\"'\\% [],-\n\udcff"), max_size=30),
)
def test_showing_twice_changes_nothing_and_is_text(scheme, rest):
    name = shown(scheme + rest)
    assert shown(name) == name
    name.encode()
    assert "\n" not in name


@given(
    st.sampled_from(["rtsp", "https"]),
    st.text(st.sampled_from("ab1:/?#@=&!.%[]"), max_size=12),
    st.text(st.sampled_from("ab1/?#=&!.%"), max_size=12),
)
def test_no_secret_is_shown_wherever_it_ends(scheme, password, more):
    name = shown(f"{scheme}://admin:SECRET{password}SECRET@cam/live?token=SECRET{more}")
    assert "SECRET" not in name


def test_other_peoples_texts():
    assert without_secrets("cannot open 'rtsp://u:p@h/1': no") == "cannot open 'rtsp://h/1': no"
    assert "pw" not in without_secrets("unrecognized: rtsp://a:pw@h gst:x pw=1 rtsp://c:pw@e")
    assert without_secrets("a b: no such file a@b") == "a b: no such file a@b"


def test_schemes_in_capitals_reach_libraries_in_small_letters():
    assert complete_address("RTSP://me:pw@Cam:554/Live") == "rtsp://me:pw@Cam:554/Live"


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://h:0/1",
        "rtsp://",
        "rtsp:///a",
        "rtsp:h",
        "rtsp://h:99999",
        "rtsp://[1:/a",
        "rtsp://h/\ud800",
    ],
)
def test_addresses_that_name_no_host(url):
    assert complete_address(url) is None


def test_bytes_of_a_command_line_reach_the_camera_as_they_came():
    assert complete_address("rtsp://me:p\udcff@h/\udcff") == "rtsp://me:p%FF@h/\udcff"
    with pytest.raises(SourceError, match=r"127\.0\.0\.1:1/\\xff\.mp4: cannot connect"):
        open_source("http://me:p\udcff@127.0.0.1:1/\udcff.mp4")


class Refusing:
    """A grabber of the caller's whose library repeats the address in its errors."""

    def open(self):
        raise OSError("cannot reach rtsp://me:s3cret@cam/1?token=s3cret now")

    def read(self):
        raise AssertionError

    def close(self):
        pass


def test_errors_and_logs_of_live_sources(caplog):
    once = LiveOptions(first_pause_s=0.01, longest_pause_s=0.01, max_outage_s=0.05)
    source = LiveSource("rtsp://me:s3cret@cam/1", Refusing(), options=once)
    assert source.name == "rtsp://cam/1"
    with caplog.at_level(logging.INFO), pytest.raises(SourceError) as caught:
        next(source.frames())
    assert "rtsp://cam/1" in str(caught.value)
    assert "s3cret" not in str(caught.value) + caplog.text


def test_libavs_errors_and_log_come_without_the_address(caplog):
    av.logging.set_level(av.logging.VERBOSE)
    try:
        with pytest.raises(ConnectionError) as caught:
            RtspGrabber("rtsp://me:s3cret@127.0.0.1:9/1?token=s3cret").open()
    finally:
        av.logging.set_level(None)
    assert "Connection refused" in caplog.text
    assert "s3cret" not in f"{caught.value} {caught.value.__cause__!r} {caplog.text}"


@pytest.mark.parametrize(
    "words",
    [
        ["rtsp://me:s3cret@", "--demo"],
        ["ftp://me:s3cret@cam/1"],
        ["me:s3cret@cam/1"],
        ["a.mp4", "--top-k", "1", "rtsp://me:s3cret@cam/1"],
        ["--top-k", "rtsp://me:s3cret@cam/1"],
    ],
)
def test_the_command_shows_no_secret(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with contextlib.suppress(SystemExit):  # of argparse
        model = write_colour_model(tmp_path / "m.onnx")
        assert cli.main([*words, "--model", str(model), "--engine", "onnxruntime"]) == 2
    told = capsys.readouterr().err
    assert "s3cret" not in told
    assert told.count("\n") == 1


def test_names_of_files_are_one_line_of_text(tmp_path):
    assert printable("plain name.mp4") == "plain name.mp4"
    with pytest.raises(SourceError, match=r"a\\nb\\xff\.mp4 does not exist") as caught:
        open_source(str(tmp_path / "a\nb\udcff.mp4"))
    assert str(caught.value).encode()
