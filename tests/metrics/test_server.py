"""The endpoint: what it answers, and that neither a client nor an address that is taken holds anything up."""

from __future__ import annotations

import gzip
import http.client
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest
from metrics.conftest import House, parse
from structlog.testing import capture_logs
from support.ports import free_port
from support.wait import wait_for

from mcastd.metrics import MetricsServer, scraped, server

ELSEWHERE = "127.0.0.2"  # as another host: the two ends have different addresses
HOUSE = House({"inbound": {"a": {"group": "239.255.1.2", "port": 9, "output": "/x/y"}}})


def serve(address: str, on_change: Callable[[], None] = lambda: None) -> MetricsServer:
    endpoint = MetricsServer(HOUSE.rows, on_change)
    endpoint.serve_at(address)
    return endpoint


@pytest.fixture
def port() -> Iterator[int]:
    """Of an endpoint that serves."""
    port = free_port()
    endpoint = serve(f"127.0.0.1:{port}")
    assert endpoint.problem == ""
    yield port
    endpoint.close()


def ask(
    port: int,
    path: str = "/metrics",
    method: str = "GET",
    host: str = "127.0.0.1",
    source: str = "",
    **headers: str,
) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(
        host, port, timeout=10, source_address=(source, 0) if source else None
    )
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    response.body = response.read()
    connection.close()
    return response


def test_a_scrape(port: int) -> None:
    response = ask(port)
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert response.headers["Server"] == "mcastd"
    samples = parse(response.body.decode())
    assert (
        "mcastd_worker_state",
        (("group", "239.255.1.2"), ("interface", ""), ("state", "inactive"), ("worker", "inbound/a")),
    ) in samples
    assert samples["mcastd_scrape_duration_seconds_count", ()] == 0
    assert parse(ask(port, "/metrics?x=y").body.decode())["mcastd_scrape_duration_seconds_count", ()] == 1


@pytest.mark.parametrize(
    ("header", "compressed"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("identity", False),
        ("xgzip", False),
    ],
)
def test_compression_if_it_is_accepted(port: int, header: str, compressed: bool) -> None:
    response = ask(port, source=ELSEWHERE, **{"Accept-Encoding": header})
    assert (response.headers["Content-Encoding"] == "gzip") == compressed
    text = gzip.decompress(response.body) if compressed else response.body
    assert int(response.headers["Content-Length"]) == len(response.body)
    assert b"mcastd_worker_info" in text


def test_what_does_not_leave_the_host_is_not_compressed(port: int) -> None:
    response = ask(port, **{"Accept-Encoding": "gzip"})
    assert response.headers["Content-Encoding"] is None
    assert b"mcastd_worker_info" in response.body


def test_what_else_may_be_asked(port: int) -> None:
    assert b'href="/metrics"' in ask(port, "/").body
    head = ask(port, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["Content-Length"]) > 1000
    assert ask(port, "/elsewhere").status == 404
    assert ask(port, "/metrics/").status == 404
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"GET http://[::1/metrics HTTP/1.0\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.0 404"
    assert ask(port, method="POST").status == 501


@pytest.mark.parametrize(
    "garbage", [b"\r\n\r\n", b"\0" * 100, b"GET\r\n\r\n", b"GET / HTTP/9.9.9\r\n\r\n", b"A" * 70_000]
)
def test_garbage_is_refused_and_the_next_is_served(port: int, garbage: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(garbage)
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass
    assert ask(port).status == 200


def test_a_long_head_is_not_read_to_its_end(port: int) -> None:
    """100 lines of 64 KiB are what http.server would keep, of each of eight clients."""
    line = b"x: " + b"y" * 4000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n" + 3 * line + b"\r\n")
        assert client.recv(12) == b"HTTP/1.0 200"
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n")
        sent = 0
        with suppress(OSError):  # it is hung up on
            while sent < 100 and not select.select([client], [], [], 0)[0]:
                client.sendall(line)
                sent += 1
            client.settimeout(60)
            assert client.recv(12) == b"HTTP/1.0 431"
    assert ask(port).status == 200


def test_clients_that_say_nothing_or_never_read_hold_nobody_up(port: int) -> None:
    before = threading.active_count()
    with ExitStack() as stack:
        for number in range(4 * scraped.CLIENTS_MAX):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            if number % 2:
                client.sendall(b"GET /metrics HTTP/1.0\r\n")  # and no more
        assert ask(port).status == 200
        # The first one was ended to make room
        wait_for(lambda: threading.active_count() <= before + scraped.CLIENTS_MAX + 1)
        assert ask(port).status == 200
    wait_for(lambda: threading.active_count() <= before)


def test_a_client_that_takes_too_long_is_left(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraped._Handler, "timeout", 0.05)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"GET /metrics")
        assert client.recv(1) == b""


def test_without_a_thread_for_a_client_the_servers_own_answers(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "metrics-client":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as silent:
        assert [ask(port).status for _ in range(3)] == [200] * 3
        assert silent.recv(1) == b"", "it was not waited for long"


def test_an_address_in_use_is_said_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "BIND_RETRY_SECONDS", 0.02)
    changes: list[str] = []
    with capture_logs() as said, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        endpoint = serve(f"127.0.0.1:{port}", lambda: changes.append(""))
        problem = endpoint.problem
        other.close()
        wait_for(lambda: not endpoint.problem)
        assert ask(port).status == 200
        wait_for(lambda: len(said) > 1)  # which is after the problem is taken back
        endpoint.close()
    assert problem == f"no metrics at 127.0.0.1:{port}: address already in use; trying again"
    assert [event["event"] for event in said] == ["metrics.unavailable", "metrics.served"]
    assert len(changes) == 2


def test_it_ends_while_clients_are_there_and_while_it_has_no_address(no_fd_leak: None) -> None:
    port = free_port()
    endpoint = serve(f"127.0.0.1:{port}")
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"GET ")
        endpoint.close()
        with suppress(ConnectionResetError):  # if it had not been accepted yet
            assert client.recv(1) == b"", "hung up on"
    waiting = serve("192.0.2.77:9465")
    assert "cannot assign requested address" in waiting.problem
    waiting.close()
    wait_for(lambda: all(thread.name != "metrics" for thread in threading.enumerate()))


def test_ipv6_and_names() -> None:
    for address, host in (("[::1]", "::1"), ("localhost", "localhost")):
        port = free_port()
        endpoint = serve(f"{address}:{port}")
        assert endpoint.problem == ""
        assert ask(port, host=host).status == 200
        endpoint.close()
