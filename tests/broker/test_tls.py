"""TLS: the same server over amqps://, and certificates that must be refused.

RabbitMQ's plain port is put behind a TLS terminator, so one node serves all the cases.
"""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gevent
import pytest
from attrs import frozen
from gevent import socket
from gevent.server import StreamServer

from limehub.amqp.connection import BrokerConnection, ConnectionSettings
from limehub.config import BrokerUrl
from limehub.errors import BrokerUnreachable
from tests.support.hub import Hub
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until


@frozen
class Authority:
    """A certificate authority in *folder*."""

    folder: Path

    def openssl(self, *args: str) -> None:
        subprocess.run(["openssl", *args], cwd=self.folder, check=True, capture_output=True)

    def make(self) -> None:
        self.openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30",
            "-subj", "/CN=limehub test authority", "-keyout", "ca.key", "-out", "ca.pem",
        )  # fmt: skip

    def issue(self, name: str, *, days: int = 30) -> tuple[Path, Path]:
        """Return (certificate, key) for *name*; with *days* below 0 it has expired."""
        extensions = self.folder / "extensions"
        kind = "IP" if name[0].isdigit() else "DNS"
        extensions.write_text(f"subjectAltName={kind}:{name}\n")
        self.openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
                     "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
        self.openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
                     "-CAcreateserial", "-days", str(days), "-extfile", "extensions",
                     "-out", f"{name}.pem")  # fmt: skip
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("ca"))
    authority.make()
    return authority


class Terminator:
    """Takes TLS off connections and passes them on to *target* (host, port)."""

    def __init__(self, target: tuple[str, int], certificate: Path, key: Path) -> None:
        self._target = target
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.server = StreamServer(("127.0.0.1", 0), self._serve, ssl_context=context)
        self.server.start()

    @property
    def port(self) -> int:
        return int(self.server.server_port)

    def _serve(self, client: Any, _address: Any) -> None:
        upstream = socket.create_connection(self._target)
        pumps = [gevent.spawn(_pump, client, upstream), gevent.spawn(_pump, upstream, client)]
        gevent.joinall(pumps, count=1)
        gevent.killall(pumps)
        upstream.close()
        client.close()


def _pump(source: Any, sink: Any) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        return


@pytest.fixture
def terminated(vhost: Vhost, authority: Authority) -> Iterator[Any]:
    """Return a function: certificate name, days -> amqps:// URL."""
    running: list[Terminator] = []
    parts = urlsplit(vhost.url)

    def begin(name: str = "127.0.0.1", days: int = 30) -> str:
        certificate, key = authority.issue(name, days=days)
        target = (parts.hostname or "", parts.port or 0)
        running.append(Terminator(target, certificate, key))
        return f"amqps://guest:guest@127.0.0.1:{running[-1].port}{parts.path}"

    yield begin
    for terminator in running:
        terminator.server.stop()


def settings(url: str, authority: Authority | None, **more: Any) -> ConnectionSettings:
    ca_file = str(authority.folder / "ca.pem") if authority else None
    return ConnectionSettings(url=BrokerUrl.parse(url), ca_file=ca_file, timeout=30, **more)


def test_the_whole_server_works_over_tls_also_with_large_bodies(
    terminated: Any, vhost: Vhost, authority: Authority, tmp_path: Path
) -> None:
    sizes: list[int] = []

    def register(worker: Any, _config: Any) -> None:
        worker.register_event_handler(lambda event: sizes.append(len(event.raw_body)), "t.#", "h")

    toml = f'[events.tls]\nca_file = "{authority.folder / "ca.pem"}"\n'
    with Hub(terminated(), tmp_path, plugins={"x": register}, toml=toml) as hub:
        connections = [group.status()["connected"] for group in hub.server.groups]
        assert connections == [True]
        plain = Hub(vhost.url, tmp_path, plugins={})
        plain.build()
        for size in (1, 20_000, 300_000, 5_000_000):
            plain.publish("t.a", "x" * size)
        wait_until(lambda: len(sizes) == 4)
        plain.publisher.close()
    assert sizes == [3, 20_002, 300_002, 5_000_002]


@pytest.mark.parametrize(
    ("name", "days", "known", "word"),
    [
        ("127.0.0.1", 30, False, "certificate refused"),
        ("127.0.0.1", -1, True, "expired"),
        ("elsewhere.example", 30, True, "mismatch"),
    ],
    ids=["unknown-authority", "expired", "other-host"],
)
def test_a_certificate_that_cannot_be_trusted_is_refused_with_the_reason(
    terminated: Any, authority: Authority, name: str, days: int, known: bool, word: str
) -> None:
    url = terminated(name, days)
    with pytest.raises(BrokerUnreachable, match=word):
        BrokerConnection.open(settings(url, authority if known else None), "test")


def test_a_server_name_other_than_the_address_can_be_verified(
    terminated: Any, authority: Authority
) -> None:
    given = settings(terminated("rabbit.example"), authority, server_name="rabbit.example")
    connection = BrokerConnection.open(given, "test")
    assert connection.is_open
    connection.close()


def test_tls_to_a_plain_port_and_plain_to_a_tls_port_fail_soon_and_clearly(
    terminated: Any, vhost: Vhost, authority: Authority
) -> None:
    with pytest.raises(BrokerUnreachable, match="TLS handshake failed"):
        url = vhost.url.replace("amqp://", "amqps://")
        BrokerConnection.open(settings(url, authority), "test")
    with pytest.raises(BrokerUnreachable):
        url = terminated().replace("amqps://", "amqp://")
        BrokerConnection.open(settings(url, None), "test")
