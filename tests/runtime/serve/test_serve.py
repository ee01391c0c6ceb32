import asyncio
import contextlib
import dataclasses
import json
import os
import pty
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
from artifacts import COLOURS, coloured
from serving import Served, ask, events, recognise, red, status, stuck_client
from streams import RtspServer, encode

from dvfl_runtime import Frame, Grabbed, LiveOptions, LiveSource
from dvfl_runtime.serve.pictures import MAX_PICTURES_HZ, NewestPicture
from dvfl_runtime.serve.state import HISTORY
from dvfl_runtime.sources import MemorySource, open_source
from dvfl_runtime.sources.observed import ObservedSource

ROUTES = ("/", "/state", "/events", "/picture/0", "/picture/0.jpg")


def test_every_route_needs_the_token(serve):
    server, port = serve("0.0.0.0", "se/cr?t ü")
    server.watch(ObservedSource(red(1)))
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
    addresses = [part for part in page.split('"') if part.startswith(("http:", "https:", "//"))]
    assert addresses == ["http://www.w3.org/2000/svg"]  # a namespace, which nobody loads


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
    for _ in range(2 * HISTORY):
        server.write(dataclasses.replace(one, source="fast"))
    with ask(port, "/events") as answer:
        told = (data["source"] for kind, _, data in events(answer) if kind == "message")
        first = list(islice(told, 1 + HISTORY))
    assert first == ["slow"] + ["fast"] * HISTORY


@pytest.mark.parametrize("number", ["1" * 5000, "-1", "1", "x", "%C2%B2", "0x0", "0.5", "%00"])
def test_a_source_that_is_none_is_not_found(serve, number):
    server, port = serve()
    server.watch(ObservedSource(red(1)))
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
    source = ObservedSource(open_source(f"rtsp://admin:pa#ss@127.0.0.1:{closed_port}/x"))
    server.watch(source)
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

    async def wait_for_pictures():
        newest = NewestPicture(asyncio.get_running_loop())
        for index in range(1000):
            newest.offer(Frame(make, index / 25, index))
        assert next(made) == 0
        looking = [asyncio.ensure_future(newest.next(60)) for _ in range(3)]
        await asyncio.sleep(0)
        for index in range(1000):
            newest.offer(Frame(make, index / 25, index))
        pictures = await asyncio.gather(*looking)
        assert next(made) == 2
        assert pictures[0] is pictures[1] is pictures[2]
        begin_s = time.monotonic()
        looking = asyncio.ensure_future(newest.next(60))
        while not looking.done():
            newest.offer(Frame(make, 0.0, 0))
            await asyncio.sleep(0.001)
        assert time.monotonic() - begin_s > 0.5 / MAX_PICTURES_HZ
        assert await newest.next(0.01) is looking.result()

    asyncio.run(wait_for_pictures())


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
    command = [sys.executable, "-m", "dvfl_runtime.app.cli", *map(str, words)]
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

    bad = ObservedSource(MemorySource(failing(), 25.0), name="bad")
    recognise(server, recognizer, red(1.4), bad)
    with ask(port, "/state") as answer:
        good, bad = json.load(answer)["sources"]
    assert (good["state"], good["error"]) == ("ended", None)
    assert bad["state"] == "ended"
    assert "frame 30" in bad["error"]
    assert (good["source"], bad["source"]) == ("frames", "bad")
    assert "the other sources go on" in caplog.text
