"""Connections of the page: how many there are, and how long one may take."""

import contextlib
import os
import resource
import socket
import time

from serving import ask, events, recognise, red, status, stuck_client

from dvfl_runtime.serve import connections
from dvfl_runtime.serve.state import HISTORY
from dvfl_runtime.sources.recorded.file import FileSource


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
        (history,) = server._state._history.values()  # all that is kept for any browser
        assert len(history) == HISTORY
