"""The instruments: what the recorder and the network tell must be what was on the wire."""

from __future__ import annotations

import contextlib
import itertools
import ssl
import subprocess
import time
from pathlib import Path

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.frames import CORRUPT, Frame, FrameScanner
from tests.support.network import NamespacesUnavailable, Network
from tests.support.recorder import Recorder
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

HEARTBEAT = pika.frame.Heartbeat().marshal()
ACK = pika.frame.Method(3, pika.spec.Basic.Ack(7, True)).marshal()
HEADER = pika.frame.Header(3, 5, pika.BasicProperties(message_id="x")).marshal()
BODY = pika.frame.Body(3, b"AMQP\xce").marshal()
STREAM = b"AMQP\x00\x00\x09\x01" + ACK + HEADER + BODY + HEARTBEAT
PUBLISHED = b"".join(
    [
        pika.frame.Method(1, pika.spec.Basic.Publish(exchange="", routing_key="q")).marshal(),
        pika.frame.Header(1, 8_000_000, pika.BasicProperties()).marshal(),
        *[pika.frame.Body(1, bytes(100_000)).marshal() for _ in range(80)],
    ]
)
NAMES = ["protocol-header", "Basic.Ack", "header", "body", "heartbeat"]


def names(frames: list[Frame]) -> list[str]:
    return [frame.what for frame in frames]


@given(st.lists(st.integers(1, len(STREAM)), max_size=12))
def test_frames_are_found_however_the_stream_is_cut(cuts: list[int]) -> None:
    scanner, edges = FrameScanner(), [0, *sorted(cuts), len(STREAM)]
    found: list[Frame] = []
    for begin, end in itertools.pairwise(edges):
        found += scanner.feed(STREAM[begin:end])
    assert names(found) == NAMES
    assert (found[1].channel, found[1].tag, found[1].multiple) == (3, 7, True)
    assert scanner.rest == 0


@pytest.mark.parametrize("at", [8, 8 + len(ACK) - 1, len(STREAM) - 1], ids=["type", "end", "last"])
def test_a_byte_in_the_wrong_place_is_corrupt_and_ends_the_reading(at: int) -> None:
    damaged = STREAM[:at] + b"\x77" + STREAM[at + 1 :]
    assert names(list(FrameScanner().feed(damaged + HEARTBEAT)))[-1] == CORRUPT


def test_an_unfinished_frame_shows_as_rest() -> None:
    scanner = FrameScanner()
    assert list(scanner.feed(HEARTBEAT + ACK[:5])) != []
    assert scanner.rest == 5


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_the_recorder_tells_each_frame_with_its_time(
    vhost: Vhost, tmp_path: Path, tls: bool
) -> None:
    with Recorder(target=vhost.url, folder=tmp_path, tls=tls) as recorder:
        begun = time.monotonic()
        connection = pika.BlockingConnection(parameters(recorder))
        channel = connection.channel()
        channel.queue_declare("q")
        channel.basic_publish("", "q", b"x" * 200_000)
        wait_until(lambda: vhost.depth("q"))
        method, _, body = channel.basic_get("q")
        before = time.monotonic()
        channel.basic_ack(method.delivery_tag)
        connection.process_data_events(0)
        ack = recorder.wait_for("Basic.Ack", "up")
        after = time.monotonic()
        connection.close()
        end = recorder.wait_for("end", "up")
        assert body == b"x" * 200_000
        assert begun < recorder.sightings("begin")[0].at < before <= ack.at <= after <= end.at
        assert (ack.tag, ack.link, end.error, end.size) == (1, 1, None, 0)
        assert recorder.sightings("Basic.GetOk", "down")[0].key == "q"
        assert recorder.sightings(CORRUPT) == []


def test_a_paused_recorder_fills_the_clients_buffer_and_loses_nothing(
    vhost: Vhost, tmp_path: Path
) -> None:
    with Recorder(target=vhost.url, folder=tmp_path, small=True) as recorder:
        connection = pika.BlockingConnection(pika.URLParameters(recorder.url))
        channel = connection.channel()
        channel.queue_declare("q")
        recorder.pause("up")
        sock = connection._impl._transport._sock
        sock.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < len(PUBLISHED):
                sent += sock.send(PUBLISHED[sent:])
        assert 0 < sent < len(PUBLISHED), "the buffer did not fill"
        sock.settimeout(60)
        recorder.resume("up")
        sock.sendall(PUBLISHED[sent:])
        wait_until(lambda: vhost.depth("q") == 1)
        assert len(recorder.sightings("body", "up")) == 80
        assert recorder.sightings(CORRUPT) == []


def test_cutting_resets_both_ends(vhost: Vhost, tmp_path: Path) -> None:
    with Recorder(target=vhost.url, folder=tmp_path) as recorder:
        connection = pika.BlockingConnection(pika.URLParameters(recorder.url))
        assert recorder.cut() == 1
        with pytest.raises(pika.exceptions.AMQPConnectionError):
            connection.process_data_events(30)
        wait_until(lambda: vhost.connections() == [])


def test_on_the_cable_of_a_namespace_packets_vanish_and_come_again() -> None:
    try:
        with Network() as network:
            wait_until(lambda: pings(network))
            network.vanish()
            assert not pings(network)
            network.return_()
            wait_until(lambda: pings(network))
    except NamespacesUnavailable as error:
        pytest.skip(f"network namespaces: {error}")


def pings(network: Network) -> bool:
    """Whether the namespace can open a TCP connection here: refused counts, silence does not."""
    code = (
        "import socket, sys\n"
        "sock = socket.socket(); sock.settimeout(1.5)\n"
        f"sys.exit(sock.connect_ex(({network.here!r}, 9)))"
    )
    done = subprocess.run([*network.prefix, "python3", "-c", code], check=False, timeout=30)
    return done.returncode == 111  # ECONNREFUSED


def parameters(recorder: Recorder) -> pika.URLParameters:
    given = pika.URLParameters(recorder.url)
    if recorder.tls:
        context = ssl.create_default_context(cafile=recorder.ca_file)
        given.ssl_options = pika.SSLOptions(context, recorder.host)
    return given
