import asyncio
import contextlib
import dataclasses
import json
import os
import pty
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from itertools import count, islice

import cv2
import numpy as np
import pytest
from artifacts import COLOURS, coloured, write_colour_model
from serving import Served, ask, events, status, stuck_client
from streams import RtspServer, encode
from videos import write_video

from dvfl_runtime import Frame, Grabbed, LiveOptions, LiveSource, Recognizer, cli
from dvfl_runtime.job import Reader
from dvfl_runtime.serve import board, cards, connections
from dvfl_runtime.serve.address import Address, listen
from dvfl_runtime.serve.server import PageServer
from dvfl_runtime.sources import MemorySource, open_source
from dvfl_runtime.sources.file import FileSource

ROUTES = ("/", "/state", "/events", "/picture/0", "/picture/0.jpg")


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
    """Starts servers in this process."""
    with contextlib.ExitStack() as stack:

        def start(host="127.0.0.1", token=None):
            listening, address = listen(Address(host, 0), token)
            info, labels = recognizer.info, recognizer.labels
            server = PageServer(listening, host, token, info=info, labels=labels)
            stack.callback(server.close)
            return server, address.port

        yield start


def recognise(server, recognizer, *sources):
    watched = [server.watch(source) for source in sources]
    for prediction in recognizer.stream(watched, hop_s=0.1):
        server.write(prediction)


def red(seconds):
    return MemorySource(coloured(("red", round(25 * seconds))), 25.0)


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
        is_one_error([*words, "--serve", str(port)], [f"127.0.0.1:{port}", "in use"], capsys)
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


def test_every_route_needs_the_token(serve):
    server, port = serve("0.0.0.0", "se/cr?t ü")
    server.watch(red(1))
    query = "?token=se/cr%3Ft%20%C3%BC"
    for route in (*ROUTES, "/nothing"):
        assert status(port, route) == 401
        assert status(port, f"{route}?token=se/cr") == 401
        assert status(port, route, Authorization="Bearer x") == 401
        assert status(port, route, Host="camera.local") == 401
    for route in ROUTES:
        assert status(port, route + query) in (200, 204)
    assert status(port, "/state" + query, Host="camera.local") == 200
    with ask(port, "/", Authorization="Bearer x") as answer:
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert b"secr" not in answer.read()


def test_a_token_in_a_header_will_do(serve):
    _, port = serve(token="secret")
    assert status(port, "/state", Authorization="Bearer secret") == 200
    assert status(port, "/state", Authorization="bearer secret") == 200
    assert status(port, "/state", Authorization="Basic secret") == 401


def test_a_token_of_the_environment_is_asked_for_too(folder, monkeypatch):
    monkeypatch.setenv("DVFL_TOKEN", "secret")
    words = (folder / "long.mp4", "--model", folder / "m.onnx", "--serve", "0.0.0.0:0")
    with Served(*words) as served:
        assert "secret" not in served.url
        assert status(served.port, "/state") == 401
        assert status(served.port, "/state", Authorization="Bearer secret") == 200


def test_other_sites_get_nothing(serve):
    _, port = serve()
    for host in ("localhost", "127.0.0.1", f"LOCALHOST:{port}", "[::1]:1"):
        assert status(port, "/state", Host=host) == 200
    for host in ("example.org", "127.0.0.1.example.org", "localhost@example.org", "[", ""):
        assert status(port, "/state", Host=host) == 400
    for site in ("cross-site", "same-site"):
        assert status(port, "/events", Sec_Fetch_Site=site, Sec_Fetch_Mode="no-cors") == 403
        assert status(port, "/", Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate") == 200
    with ask(port, "/events", Origin="http://example.org") as answer:
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_the_page_loads_nothing_from_elsewhere(serve):
    _, port = serve()
    with ask(port, "/") as answer:
        page = answer.read().decode()
        policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    nonce = policy.partition("'nonce-")[2].partition("'")[0]
    assert page.count(f'nonce="{nonce}"') == 2
    assert [part for part in page.split('"') if part.startswith(("http:", "https:", "//"))] == []


def test_predictions_are_told_as_in_jsonl_with_states_and_an_end(folder, tmp_path):
    rows = tmp_path / "o.jsonl"
    videos = [folder / "red.mp4", folder / "blue.mp4", folder / "red.mp4"]
    with (
        Served(*videos, "--model", folder / "m.onnx", "--serve", "0", "-o", rows) as served,
        ask(served.port, "/events") as answer,
    ):
        told = list(events(answer))
        assert served.process.wait(60) == 0
        assert served.errors() == ""
    kinds = [kind for kind, _, _ in told]
    assert (kinds[0], kinds[-1]) == ("hello", "end")
    hello = told[0][2]
    assert hello["model"] == "colours"
    assert list(hello["colours"]) == ["red", "green", "blue"]
    predictions = [data for kind, _, data in told if kind == "message"]
    assert predictions == [json.loads(line) for line in rows.read_text().splitlines()]
    names = [str(videos[0]), str(videos[1]), f"{videos[2]} [3]"]
    assert {(p["source"], p["label"]) for p in predictions} == {
        *((names[0], "red"), (names[1], "blue"), (names[2], "red"))
    }
    last = [data["sources"] for kind, _, data in told if kind == "state"][-1]
    assert [(s["source"], s["state"], s["error"]) for s in last] == [
        (name, "ended", None) for name in names
    ]


def test_a_browser_that_comes_back_gets_what_it_missed(serve, recognizer):
    server, port = serve()
    for prediction in recognizer.stream(red(1.4), hop_s=0.1):
        server.write(prediction)
    with ask(port, "/events") as answer:
        got = (number for kind, number, _ in events(answer) if kind == "message")
        numbers = [next(got) for _ in range(4)]
    with ask(port, "/events", Last_Event_ID=numbers[1]) as answer:
        kinds = events(answer)
        assert next(kinds)[0] == "hello"
        assert next(kinds)[1] == numbers[2]
    with ask(port, "/events", Last_Event_ID=f"other-{10**9}") as answer:
        assert next(number for _, number, _ in events(answer) if number) == numbers[0]


def test_a_fast_source_leaves_the_history_of_a_slow_one(serve, recognizer):
    server, port = serve()
    (*_, one) = recognizer.stream(red(1.4))
    server.write(dataclasses.replace(one, source="slow"))
    for _ in range(2 * board.HISTORY):
        server.write(dataclasses.replace(one, source="fast"))
    with ask(port, "/events") as answer:
        told = (data["source"] for kind, _, data in events(answer) if kind == "message")
        first = list(islice(told, 1 + board.HISTORY))
    assert first == ["slow"] + ["fast"] * board.HISTORY


@pytest.mark.parametrize("number", ["1" * 5000, "-1", "1", "x", "%C2%B2", "0x0", "0.5", "%00"])
def test_a_source_that_is_none_is_not_found(serve, number):
    server, port = serve()
    server.watch(red(1))
    assert status(port, f"/picture/{number}") == 404
    assert status(port, f"/picture/{number}.jpg") == 404


@pytest.mark.parametrize("number", ["1" * 5000, "x", "-1", "\xb2"])
def test_an_event_that_is_none_is_before_all_others(serve, number):
    _, port = serve()
    with ask(port, "/events") as answer:
        run = next(events(answer))[2]["run"]
    with ask(port, "/events", Last_Event_ID=f"{run}-{number}") as answer:
        assert next(events(answer))[0] == "hello"


def test_a_token_is_compared_as_bytes(serve):
    text, odd = "sécret", b"s\xffcret"
    _, port = serve(token=text)
    assert status(port, "/state", Authorization=f"Bearer {text.encode().decode('latin-1')}") == 200
    assert status(port, "/state?token=s%C3%A9cret") == 200
    assert status(port, "/state?x=1&token=s%C3%A9cret&token=x") == 200
    for wrong in ("s%E9cret", "s%FFcret", "%", ""):
        assert status(port, f"/state?token={wrong}") == 401
    _, port = serve(token=os.fsdecode(odd))  # as the environment hands it over
    assert status(port, "/state", Authorization=f"Bearer {odd.decode('latin-1')}") == 200
    assert status(port, "/state?token=s%FFcret") == 200
    assert status(port, "/state?token=s%C3%BFcret") == 401


def test_why_a_source_is_connecting_is_told_without_its_secrets(serve):
    server, port = serve()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed_port = taken.getsockname()[1]
    source = server.watch(open_source(f"rtsp://admin:pa#ss@127.0.0.1:{closed_port}/x"))
    reading = threading.Thread(target=lambda: list(source.frames()))
    reading.start()
    try:
        deadline_s = time.monotonic() + 60
        error = None
        while not error and time.monotonic() < deadline_s:
            with ask(port, "/state") as answer:
                state = json.load(answer)["sources"][0]
            error = state["error"]
    finally:
        source.close()
        reading.join()
    assert state["state"] == "connecting"
    assert "refused" in error
    assert not any(word in json.dumps(state) for word in ("admin", "pa#", "ss@"))


class _Flaky:
    """A camera that is away at first."""

    def __init__(self):
        self.opened = 0

    def open(self):
        self.opened += 1
        if self.opened == 1:
            raise ConnectionError("no answer from rtsp://me:secret@door/1")

    def read(self):
        time.sleep(0.01)
        return Grabbed(np.zeros((4, 4, 3), np.uint8))

    def close(self): ...


def test_an_outage_is_over_with_the_first_picture():
    source = LiveSource("door", _Flaky(), options=LiveOptions(first_pause_s=0.3))
    frames = source.frames()
    reading = threading.Thread(target=next, args=(frames,))
    reading.start()
    while source.outage is None and reading.is_alive():
        time.sleep(0.01)
    assert "no answer" in source.outage
    assert "secret" not in source.outage
    reading.join()
    assert source.outage is None
    source.close()


@contextlib.contextmanager
def idle_clients(port, number, sent=b""):
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(number):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), 60))
            client.sendall(sent)
            clients.append(client)
        yield clients


def test_connections_that_ask_for_nothing_lock_nobody_out(serve, recognizer, folder):
    server, port = serve()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    try:
        with contextlib.ExitStack() as stack:
            told = events(stack.enter_context(ask(port, "/events")))
            assert next(told)[0] == "hello"
            before = len(os.listdir("/proc/self/fd"))
            for sent in (b"", b"GET /state HTTP/1.1\r\nHost: loc"):
                stack.enter_context(idle_clients(port, 500, sent))
            assert status(port, "/state") == 200
            # the clients' own ends, which are in this process too, and what is kept of the others
            assert len(os.listdir("/proc/self/fd")) < before + 1000 + 110
            recognise(server, recognizer, FileSource(folder / "short.mp4"))
            assert any(kind == "message" for kind, _, _ in told)  # who listens is not sent away
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_where_few_files_may_be_open_there_are_fewer_connections(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    assert connections.max_connections() == 16


def test_who_does_not_finish_a_request_is_cut_off(serve, monkeypatch):
    monkeypatch.setattr(connections, "REQUEST_S", 0.3)
    _, port = serve()
    request = b"GET /state HTTP/1.1\r\nHost: localhost\r\n"
    with (
        ask(port, "/events") as answer,
        idle_clients(port, 1) as (silent,),
        idle_clients(port, 1, request) as (slow,),
        idle_clients(port, 1, request + b"\r\n") as (again,),
    ):
        assert again.recv(65536).startswith(b"HTTP/1.1 200")
        begin_s = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() < begin_s + 10:
                for client in (slow, again):  # bytes do not set the time back
                    client.sendall(b"X")
                time.sleep(0.05)
        assert time.monotonic() - begin_s < 5
        for client in (silent, slow, again):
            with contextlib.suppress(ConnectionResetError):
                while client.recv(65536):
                    pass
        assert next(events(answer))[0] == "hello"  # who has asked is not cut off
    assert status(port, "/state") == 200


def test_large_headers_are_refused(serve):
    _, port = serve()
    assert status(port, "/state", X="x" * 60_000) == 431
    assert status(port, "/state") == 200


def test_errors_of_accept_are_told_once(serve, caplog):
    _, port = serve()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    clients = [socket.socket() for _ in range(3)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (clients[-1].fileno() + 1, hard))
        for client in clients:
            client.connect(("127.0.0.1", port))
        time.sleep(3 * connections.ACCEPT_PAUSE_S)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for client in clients:
            client.close()
    assert [record.message for record in caplog.records] == [
        "the page cannot take a connection: Too many open files"
    ]
    assert status(port, "/state") == 200


def test_pictures_of_a_source(serve, recognizer):
    server, port = serve()
    wide = [np.full((100, 1280, 3), COLOURS["green"], np.uint8)] * 250
    source = MemorySource(wide, 25.0)
    reading = threading.Thread(target=recognise, args=(server, recognizer, source))
    reading.start()
    try:
        while status(port, "/picture/0.jpg") != 200:
            time.sleep(0.05)
        with ask(port, "/picture/0.jpg") as answer:
            assert answer.headers["Content-Type"] == "image/jpeg"
            picture = cv2.imdecode(np.frombuffer(answer.read(), np.uint8), cv2.IMREAD_COLOR_RGB)
        assert picture.shape == (50, 640, 3)
        assert np.abs(picture.mean((0, 1)) - COLOURS["green"]).max() < 6
        with ask(port, "/picture/0") as answer:
            kind, _, boundary = answer.headers["Content-Type"].partition("; boundary=")
            assert kind == "multipart/x-mixed-replace"
            for _ in range(3):
                assert answer.readline() == f"--{boundary}\r\n".encode()
                assert answer.readline() == b"Content-Type: image/jpeg\r\n"
                size = int(answer.readline().removeprefix(b"Content-Length: "))
                assert answer.readline() == b"\r\n"
                assert answer.read(size).startswith(b"\xff\xd8")
                assert answer.readline() == b"\r\n"
        assert status(port, "/picture/1.jpg") == 404
    finally:
        source.close()
        reading.join(60)


def test_pictures_are_made_for_those_who_look_and_not_too_often():
    made = count()

    def make():
        next(made)
        return np.zeros((8, 8, 3), np.uint8)

    async def look():
        card = cards.Card(red(1), asyncio.get_running_loop())
        for index in range(1000):
            card._look(Frame.later(make, index / 25, index))
        assert next(made) == 0
        looking = [asyncio.ensure_future(card.picture(60)) for _ in range(3)]
        await asyncio.sleep(0)
        for index in range(1000):
            card._look(Frame.later(make, index / 25, index))
        pictures = await asyncio.gather(*looking)
        assert next(made) == 2
        assert pictures[0] is pictures[1] is pictures[2]
        begin_s = time.monotonic()
        looking = asyncio.ensure_future(card.picture(60))
        while not looking.done():
            card._look(Frame.later(make, 0.0, 0))
            await asyncio.sleep(0.001)
        assert time.monotonic() - begin_s > 0.5 / cards.MAX_PICTURES_HZ
        assert await card.picture(0.01) is looking.result()

    asyncio.run(look())


def test_a_client_that_does_not_read_costs_no_memory(serve, recognizer):
    server, port = serve()
    (*_, prediction) = recognizer.stream(red(1.4))
    with stuck_client(port, "/events"), ask(port, "/events") as answer:
        told = events(answer)
        assert next(told)[0] == "hello"
        total = 20_000
        for _ in range(total):
            server.write(prediction)
        numbers = (int(number.partition("-")[2]) for _, number, _ in told if number)
        assert total in numbers
        (history,) = server._board._history.values()  # all that is kept for any browser
        assert len(history) == board.HISTORY


def test_the_page_stays_when_the_files_are_complete(folder, tmp_path):
    rows, marks = tmp_path / "o.jsonl", tmp_path / "s.json"
    words = ("--model", folder / "m.onnx", "--serve", "0", "-o", rows, "--segments", marks)
    with Served(folder / "short.mp4", *words, "--linger", "60") as served:
        for line in served.process.stderr:
            if "the page stays for 60 s, or until Ctrl-C" in line:
                break
        assert json.loads(marks.read_text())["segments"][0]["label"] == "red"
        with ask(served.port, "/events") as answer:
            told = events(answer)
            kind, _, hello = next(told)
            assert (kind, [s["state"] for s in hello["sources"]]) == ("hello", ["ended"])
            assert next(told)[2] == json.loads(rows.read_text().splitlines()[0])
            assert status(served.port, "/picture/0.jpg") in (200, 204)
            assert served.interrupt() == 130
            assert [kind for kind, _, _ in told][-1] == "end"
        assert served.errors() == ""
    assert rows.read_text().count('"label": "red"') == len(rows.read_text().splitlines()) == 1


def test_on_a_terminal_the_page_stays_until_ctrl_c_and_with_0_it_does_not(folder, tmp_path):
    words = (folder / "short.mp4", "--model", folder / "m.onnx", "--serve", "0")
    command = [sys.executable, "-m", "dvfl_runtime.cli", *map(str, words)]
    ours, theirs = pty.openpty()
    with (
        open(ours, encoding="utf-8") as screen,
        subprocess.Popen(command, stdout=theirs, stderr=theirs) as staying,
        subprocess.Popen([*command, "--linger", "0"], stdout=theirs, stderr=theirs) as ending,
    ):
        assert any("the page stays until Ctrl-C" in line for line in screen)
        assert ending.wait(60) == 0
        staying.send_signal(signal.SIGINT)
        assert staying.wait(60) == 130
    os.close(theirs)


def test_ctrl_c_ends_it_at_once_with_browsers_connected(folder, tmp_path):
    rows, marks = tmp_path / "o.jsonl", tmp_path / "s.csv"
    words = ("--model", folder / "m.onnx", "--serve", "0", "-o", rows, "--segments", marks)
    with Served(folder / "long.mp4", *words) as served, contextlib.ExitStack() as stack:
        for path in ("/events", "/picture/0"):
            stack.enter_context(stuck_client(served.port, path))
        told = events(stack.enter_context(ask(served.port, "/events")))
        pictures = stack.enter_context(ask(served.port, "/picture/0"))
        assert pictures.readline()
        assert next(data["label"] for kind, _, data in told if kind == "message") == "red"
        begin_s = time.monotonic()
        assert served.interrupt() == 130
        assert time.monotonic() - begin_s < 10
        assert [kind for kind, _, _ in told][-1] == "end"
        assert served.errors() == ""
    assert "red" in rows.read_text()
    assert "red" in marks.read_text()


def test_states_of_a_live_source_are_told_as_they_change(folder, tmp_path):
    stream = encode(tmp_path / "stream", range(250), 64, 96)
    server = RtspServer(tmp_path, stream)
    try:
        words = (server.url, folder / "red.mp4", "--model", folder / "m.onnx", "--serve", "0")
        with Served(*words) as served, ask(served.port, "/events") as answer:
            states = (
                data["sources"][0]["state"]
                for _, _, data in events(answer)
                if data.get("sources")  # the first ones come before the sources are open
            )
            assert "live" in states
            assert status(served.port, "/picture/0.jpg") == 200
            server.suspend()
            assert "stalled" in states
            server.resume()
            assert "live" in states
            assert served.interrupt() == 130
            assert list(states)[-1] == "ended"
    finally:
        server.resume()
        server.kill()


def test_a_source_that_fails_is_told_and_the_others_go_on(serve, recognizer, caplog):
    server, port = serve()

    def failing():
        yield from coloured(("blue", 30))
        yield np.zeros((4, 4), np.uint8)

    bad = Reader(MemorySource(failing(), 25.0), "bad")
    recognise(server, recognizer, red(1.4), bad)
    with ask(port, "/state") as answer:
        good, bad = json.load(answer)["sources"]
    assert (good["state"], good["error"]) == ("ended", None)
    assert bad["state"] == "ended"
    assert "frame 30" in bad["error"]
    assert (good["source"], bad["source"]) == ("frames", "bad")
    assert "the other sources go on" in caplog.text
