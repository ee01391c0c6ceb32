"""What --serve and its options accept."""

import socket
import sys

import pytest

from dvfl_runtime.app import cli
from dvfl_runtime.serve.address import Address


@pytest.mark.parametrize(
    ("text", "host", "port", "is_loopback", "again"),
    [
        ("8000", "127.0.0.1", 8000, True, "127.0.0.1:8000"),
        (":0", "127.0.0.1", 0, True, "127.0.0.1:0"),
        ("localhost:80", "localhost", 80, True, "localhost:80"),
        ("[::1]:80", "::1", 80, True, "[::1]:80"),
        ("127.8.8.8:80", "127.8.8.8", 80, True, "127.8.8.8:80"),
        ("0.0.0.0:65535", "0.0.0.0", 65535, False, "0.0.0.0:65535"),
        ("[::]:80", "::", 80, False, "[::]:80"),
        ("camera.local:80", "camera.local", 80, False, "camera.local:80"),
        ("localhost.example.org:80", "localhost.example.org", 80, False, None),
    ],
)
def test_addresses(text, host, port, is_loopback, again):
    address = Address.parse(text)
    assert (address.host, address.port, address.is_loopback) == (host, port, is_loopback)
    assert str(address) == (again or text)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--serve", "page"], ["--serve", "'page'", "HOST:PORT"]),
        (["--serve", "localhost:"], ["--serve", "'localhost:'"]),
        (["--serve", "::1:80"], ["--serve", "'::1:80'"]),
        (["--serve", "65536"], ["--serve", "65535", "'65536'"]),
        (["--serve", "http://localhost:80"], ["--serve", "PORT or HOST:PORT", "'http://"]),
        (["--serve", "0.0.0.0:0"], ["0.0.0.0", "--token TOKEN"]),
        (["--serve", "camera.local:0"], ["camera.local", "--token TOKEN"]),
        (["--serve", "203.0.113.1:0", "--token", "x"], ["203.0.113.1:0", "of this machine"]),
        (["--serve", "0", "--token", ""], ["--token is empty"]),
        (["--linger", "1"], ["--linger", "pass both"]),
        (["--serve", "0", "--linger", "-1"], ["--linger", ">= 0", "'-1'"]),
        (["--token", "x"], ["--token", "pass both"]),
        (["--serve", "0", "--whole"], ["--serve", "--whole"]),
    ],
)
def test_bad_arguments_are_one_line_before_any_work(words, parts, tmp_path, capsys):
    words = ["none.mp4", "--model", "none.onnx", "-o", str(tmp_path / "o.jsonl"), *words]
    is_one_error(words, parts, capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_one_line_before_any_work(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        words = ["none.mp4", "--model", "none.onnx", "-o", str(tmp_path / "o.jsonl")]
        is_one_error(
            [*words, "--serve", str(port)],
            [f"127.0.0.1:{port}: Address already in use; choose"],
            capsys,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["uvicorn", "starlette"])
def test_what_is_missing_is_one_line(package, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    is_one_error(["none.mp4", "--serve", "0"], [package, f"run: pip install {package}"], capsys)


def is_one_error(words, parts, capsys):
    try:
        code = cli.main(words)
    except SystemExit as err:
        code = err.code
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert all(part in err for part in ["dvfl-recognize: error: ", *parts]), err
