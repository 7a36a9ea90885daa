"""The start of the embedded broker: a large file takes long to read, and the port is kept."""

from __future__ import annotations

import _socket
import errno
import os
import signal
from contextlib import closing
from pathlib import Path

import pytest

from limehub import embedded
from limehub.config import load
from limehub.embedded import EmbeddedBroker
from limehub.errors import BrokerError
from tests.support.process import alive


def broker_on(folder: Path) -> EmbeddedBroker:
    environ = {"LIMEHUB_EVENTS__CONNECTION_STRING": f"embedded://{folder}/broker.db"}
    return EmbeddedBroker(load(None, environ=environ).config)


def test_a_start_that_takes_long_is_told_and_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(embedded, "PATIENCE", 0.01)  # Python alone takes longer than that
    broker = broker_on(tmp_path)
    broker.start()
    broker.stop()
    told = next(each for each in caplog.records if each.name == embedded.__name__)
    assert told.getMessage() == "embedded broker is still reading its file"
    assert told.__dict__["file"] == f"{tmp_path}/broker.db"


def test_a_broker_that_ends_before_it_is_ready_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "broker.db").write_bytes(b"something else\n" * 1000)
    with pytest.raises(BrokerError, match=r"did not start: exit code 4"):
        broker_on(tmp_path).start()


def refuses(port: int | None) -> bool:
    with closing(_socket.socket()) as stranger:  # gevent's would let the hub turn
        return stranger.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


def test_while_the_broker_is_down_nobody_else_gets_its_port(tmp_path: Path) -> None:
    broker = broker_on(tmp_path)
    broker.start()
    try:
        port = broker.url.port
        os.kill(broker._process.pid, signal.SIGKILL)
        # It dies thread by thread. The hub does not turn, so none is started meanwhile.
        while alive(broker._process.pid) or not refuses(port):
            continue
        with closing(_socket.socket()) as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", port))
    finally:
        broker.stop()
