"""The HTTP server against clients that are slow, greedy or rude, over real sockets."""

from __future__ import annotations

import errno
import json
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import monkey

from limehub.config import Address
from limehub.errors import ConfigError
from limehub.web import listener
from limehub.web.app import MAX_BODY
from limehub.web.listener import WebServer
from tests.support.waiting import wait_until


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Tell method, path and length of the body; `/broken` raises."""
    if environ["PATH_INFO"] == "/broken":
        raise RuntimeError("broken application")
    if environ["PATH_INFO"] == "/endless":
        start_response("200 OK", [])
        return [b"x" * 1_000_000] * 100
    body = environ["wsgi.input"].read()
    text = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} {len(body)}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
    return [text]


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    server = WebServer(echo, Address("127.0.0.1", 0))
    yield server.start()
    server.stop()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "READ_SECONDS", 1.0)


def ask(address: tuple[str, int], request: bytes) -> bytes:
    """Send *request*, and read until the server closes the connection."""
    with socket.create_connection(address, timeout=30) as sock:
        sock.sendall(request)
        return read_all(sock)


def ask_at_once(address: tuple[str, int], request: bytes) -> bytes:
    """As `ask`, but all of a small *request* is there before the server in this process looks."""
    unpatched = monkey.get_original("socket", "socket")()
    unpatched.connect(address)
    unpatched.sendall(request)
    with socket.socket(fileno=unpatched.detach()) as sock:
        sock.settimeout(30)
        return read_all(sock)


def read_all(sock: socket.socket) -> bytes:
    answer = b""
    try:
        while data := sock.recv(65_536):
            answer += data
    except ConnectionResetError:
        pass
    return answer


def post(body: bytes, *headers: str) -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return (
        f"POST /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n".encode() + body
    )


def test_port_zero_gives_the_real_port_and_requests_are_answered(address: tuple[str, int]) -> None:
    assert address[0] == "127.0.0.1"
    assert address[1] > 0
    answer = ask(address, b"GET /a?b=c HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"GET /a 0")


def test_several_requests_use_one_connection(address: tuple[str, int]) -> None:
    answer = ask(
        address,
        b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\n"
        b"POST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
        b"GET /3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    assert [part in answer for part in (b"GET /1 0", b"POST /2 3", b"GET /3 0")] == [True] * 3


@pytest.mark.alone
def test_a_body_is_not_held_back_until_the_client_has_acked_the_head(
    address: tuple[str, int],
) -> None:
    took = []
    with socket.create_connection(address, timeout=30) as sock:
        for _ in range(30):
            began, answer = time.monotonic(), b""
            sock.sendall(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\n")
            while not answer.endswith(b"GET /1 0"):
                answer += sock.recv(65_536)
            took.append(time.monotonic() - began)
    assert sorted(took)[10] < 0.03  # a delayed ack costs 0.04 s, nearly each time


def test_bodies_come_whole_with_a_length_or_in_chunks(address: tuple[str, int]) -> None:
    body = b"x" * MAX_BODY
    assert ask(address, post(body, f"Content-Length: {MAX_BODY}")).endswith(b" 1048576")
    chunks = b"5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n"
    assert ask(address, post(chunks, "Transfer-Encoding: chunked")).endswith(b" 8")
    waiting = post(b"abc", "Content-Length: 3", "Expect: 100-continue")
    assert b"100 Continue" in ask(address, waiting)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (post(b"", f"Content-Length: {MAX_BODY + 1}"), 413),
        (
            post(b"%x\r\n" % (MAX_BODY + 2) + b"x" * (MAX_BODY + 2), "Transfer-Encoding: chunked"),
            413,
        ),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"A: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"A%d: x\r\n" % n for n in range(200)) + b"\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (post(b"abc", "Content-Length: -3"), 400),
        (post(b"abc", "Content-Length: 3", "Content-Length: 4"), 400),
        (post(b"abc", "Content-Length: 1_0"), 400),
        (post(b"abc", "Transfer-Encoding: gzip, chunked"), 400),
        (post(b"zz\r\n", "Transfer-Encoding: chunked"), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n", 400),
        (post(b"0\r\n\r\n", "Content-Length: 5", "Transfer-Encoding: chunked"), 400),
        (post(b"0\r\n\r\n", "Transfer-Encoding: chunked", "Transfer-Encoding: identity"), 400),
        (post(b"", "Content-Length: 0", "Content-Length: 0"), 400),
        (post(b"", "Transfer-Encoding : chunked"), 400),
        (post(b"", "X: a\rTransfer-Encoding: chunked"), 400),
        (post(b"", "X: a", " folded"), 400),
        (post(b"", "no colon"), 400),
        (post(b"", ": no name"), 400),
        (post(b"", "X: a\0b"), 400),
        (b"GET / HTTP/1.1\r\n Host: x\r\n\r\n", 400),
        (b"GET /\xa0 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /?\x80 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /\r HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"get / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
    ],
)
def test_what_is_too_big_or_unclear_is_refused(
    address: tuple[str, int],
    request_: bytes,
    status: int,
    capfd: pytest.CaptureFixture[str],
) -> None:
    answer = ask(address, request_)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert capfd.readouterr() == ("", "")


def test_a_refusal_is_a_problem_of_rfc_9457(address: tuple[str, int]) -> None:
    head, _, body = ask(address, b"nonsense\r\n\r\n").partition(b"\r\n\r\n")
    assert b"Content-Type: application/problem+json\r\n" in head
    assert json.loads(body)["status"] == 400


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "beginning", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET / HTTP/1.1\r\nHo"]
)
def test_half_a_head_is_not_waited_for(address: tuple[str, int], beginning: bytes) -> None:
    began = time.monotonic()
    assert ask(address, beginning) == b""
    assert 0.9 < time.monotonic() - began < 20


@pytest.mark.usefixtures("impatient")
def test_a_byte_now_and_then_does_not_keep_a_connection_open(address: tuple[str, int]) -> None:
    began = time.monotonic()
    with socket.create_connection(address, timeout=30) as sock:
        with pytest.raises(OSError, match=r".*") as caught:
            while time.monotonic() - began < 20:
                sock.sendall(b"G")
                gevent.sleep(0.05)
        assert caught.value.errno in (errno.EPIPE, errno.ECONNRESET)


@pytest.mark.usefixtures("impatient")
def test_half_a_body_is_answered_with_a_timeout(address: tuple[str, int]) -> None:
    request = post(b"ab", "Content-Length: 3")  # the head, at least, is in time
    assert ask_at_once(address, request).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_does_not_read_is_let_go(
    address: tuple[str, int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(listener, "WRITE_SECONDS", 1.0)
    caplog.set_level(logging.DEBUG)
    with socket.create_connection(address, timeout=30) as sock:
        sock.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: "client does not read" in caplog.text)
        assert len(read_all(sock)) < 100_000_000
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("impatient")
def test_idle_connections_do_not_shut_others_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 3)
    server = WebServer(echo, Address("127.0.0.1", 0))
    address = server.start()
    idle = [socket.create_connection(address) for _ in range(3)]
    answer = ask(address, b"GET /in HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.endswith(b"GET /in 0")
    for sock in idle:
        sock.close()
    server.stop()


def test_requests_are_logged_at_debug_without_their_query(
    address: tuple[str, int], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    ask(address, b"GET /a?token=hunter2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    ask(address, b"nonsense\r\n\r\n")
    wait_until(lambda: len(requests_in(caplog)) == 2)
    first, second = requests_in(caplog)
    assert (first["method"], first["path"], first["status"]) == ("GET", "/a", 200)
    assert second["status"] == 400
    assert "hunter2" not in caplog.text
    assert capfd.readouterr() == ("", "")


def requests_in(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if record.getMessage() == "request"]


def errors_in(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Errors that the listener has told, and none of anybody's before it."""
    return [
        record
        for record in caplog.records
        if record.name == listener.__name__ and record.levelno >= logging.ERROR
    ]


def test_an_application_that_raises_is_answered_with_500_and_logged_once(
    address: tuple[str, int], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    request = b"GET /broken HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert ask(address, request).startswith(b"HTTP/1.1 500 ")
    assert [record.getMessage() for record in errors_in(caplog)] == ["request failed"]
    assert capfd.readouterr() == ("", "")


def test_stopping_closes_the_port_and_ends_what_runs_quietly(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    begun: list[str] = []

    def slow(environ: dict[str, Any], _start_response: Any) -> list[bytes]:
        begun.append(environ["PATH_INFO"])
        gevent.sleep(60)
        return []

    server = WebServer(slow, Address("127.0.0.1", 0))
    address = server.start()
    with socket.create_connection(address, timeout=30) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: begun)
        began = time.monotonic()
        server.stop(timeout=0.1)
        assert time.monotonic() - began < 20
        assert b"200" not in read_all(sock)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    server.stop()
    assert errors_in(caplog) == []
    assert capfd.readouterr().err == ""


def test_a_port_that_is_taken_is_a_configuration_error_that_names_the_key(
    address: tuple[str, int],
) -> None:
    with pytest.raises(ConfigError) as caught:
        WebServer(echo, Address(*address)).start()
    assert str(caught.value).startswith(f"web.bind: 127.0.0.1:{address[1]} is in use")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("host", ["203.0.113.9", "no-such-host.invalid", "x" * 70])
def test_an_address_that_is_not_ours_is_a_configuration_error(host: str) -> None:
    with pytest.raises(ConfigError, match=r"^web\.bind: "):
        WebServer(echo, Address(host, 0)).start()


def test_no_descriptor_is_left_behind() -> None:
    def descriptors() -> int:
        return len([*Path("/proc/self/fd").iterdir()])

    def once() -> None:
        server = WebServer(echo, Address("127.0.0.1", 0))
        ask(server.start(), b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        server.stop()

    once()
    before = descriptors()
    for _ in range(10):
        once()
    wait_until(lambda: descriptors() <= before)
