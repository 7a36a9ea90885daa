"""The beginning of a connection: protocol header, credentials, limits, virtual host."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

import gevent

from limehub.broker.refusals import ConnectionRefusal
from limehub.broker.session.frames import PROTOCOL_HEADER
from limehub.broker.session.methods import Arguments
from limehub.broker.tables import Field, Table, longstr, read_table, text_of

if TYPE_CHECKING:
    from limehub.broker.session.connection import Connection

__all__ = ["Handshake"]

SMALLEST_FRAME_MAX = 4096
_REFUSAL_DELAY = 1.0
"""Seconds that a wrong password waits for its answer, against guessing."""
CAPABILITIES = (
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "consumer_priorities",
    "authentication_failure_close",
    "per_consumer_qos",
)
_MECHANISMS = b"AMQPLAIN PLAIN"


class Handshake:
    """Goes from step to step; what comes out of turn is refused."""

    def __init__(self, connection: Connection) -> None:
        self.header_seen = False
        self._connection = connection
        self._expected = "connection.start-ok"

    def header(self, data: bytes) -> bytes:
        """Read the protocol header; returns what follows it."""
        if not PROTOCOL_HEADER.startswith(data[:8]):
            self._connection.stream.write(PROTOCOL_HEADER)
            self._connection.stream.close_when_sent()
            self._connection.stream.pause_reading()
            return b""
        if len(data) < 8:
            return data
        self.header_seen = True
        self._connection.send(
            0,
            "connection.start",
            version_major=0,
            version_minor=9,
            properties=_server_properties(self._connection.node.version),
            mechanisms=_MECHANISMS,
            locales=b"en_US",
        )
        return data[8:]

    def take(self, name: str, arguments: Arguments) -> None:
        """Take the client's next step."""
        if name != self._expected:
            raise ConnectionRefusal(503, f"{name} when {self._expected} was expected")
        if name == "connection.start-ok":
            self._start(arguments)
        elif name == "connection.tune-ok":
            self._tune(arguments)
        else:
            self._open(arguments["vhost"])

    def _start(self, arguments: Arguments) -> None:
        connection, mechanism = self._connection, arguments["mechanism"]
        connection.client_properties = arguments["properties"]
        connection.capabilities = _capabilities(arguments["properties"])
        user, password = _credentials(mechanism, arguments["response"])
        if not connection.node.may_log_in(user, password, connection.address):
            self._expected = ""
            gevent.spawn_later(_REFUSAL_DELAY, self._refuse_login, mechanism)
            return
        connection.user = user
        self._expected = "connection.tune-ok"
        limits = connection.node.limits
        connection.send(
            0,
            "connection.tune",
            channel_max=limits.channel_max,
            frame_max=limits.frame_max,
            heartbeat=limits.heartbeat,
        )

    def _refuse_login(self, mechanism: str) -> None:
        text = f"Login was refused using authentication mechanism {mechanism}. For details see"
        if "authentication_failure_close" in self._connection.capabilities:
            refusal = ConnectionRefusal(403, f"{text} the broker logfile.")
            self._connection.refuse(refusal, "connection.start-ok")
        else:
            self._connection.stream.abort()

    def _tune(self, arguments: Arguments) -> None:
        limits = self._connection.node.limits
        for name, ours, least in (
            ("frame_max", limits.frame_max, SMALLEST_FRAME_MAX),
            ("channel_max", limits.channel_max, 1),
        ):
            given = arguments[name]
            if given and given < least:
                text = f"negotiated {name} = {given} is lower than the minimum allowed value"
                raise ConnectionRefusal(530, f"{text} ({least})")
            if given > ours:
                text = f"negotiated {name} = {given} is higher than the maximum allowed value"
                raise ConnectionRefusal(530, f"{text} ({ours})")
        self._connection.tuned(arguments)
        self._expected = "connection.open"

    def _open(self, name: str) -> None:
        vhost = self._connection.node.vhosts.get(name)
        if vhost is None:
            raise ConnectionRefusal(530, f"vhost {name} not found")
        self._connection.opened(vhost)
        self._connection.send(0, "connection.open-ok")
        self._connection.flow()


def _server_properties(version: str) -> Table:
    capabilities = {name: Field(b"t", True) for name in CAPABILITIES}
    return {
        "capabilities": Field(b"F", capabilities),
        "product": longstr("limehub"),
        "version": longstr(version),
        "platform": longstr("Python"),
        "information": longstr("The embedded broker of limehub"),
    }


def _capabilities(properties: Table) -> set[str]:
    field = properties.get("capabilities")
    if field is None or field.kind != b"F":
        return set()
    return {name for name, value in field.value.items() if value.value is True}


def _credentials(mechanism: str, response: bytes) -> tuple[str, str]:
    """Return name and password. Raises ConnectionRefusal for what is neither mechanism."""
    if mechanism == "PLAIN":
        parts = response.split(b"\0")
        if len(parts) == 3:
            return text_of(parts[1]), text_of(parts[2])
    elif mechanism == "AMQPLAIN":
        table, _ = read_table(len(response).to_bytes(4, "big") + response, 0)
        login, password = table.get("LOGIN"), table.get("PASSWORD")
        if login and password and login.kind == password.kind == b"S":
            return text_of(login.value), text_of(password.value)
    else:
        raise ConnectionRefusal(504, f"{mechanism} is not a mechanism that the broker offers")
    raise ConnectionRefusal(502, f"malformed {mechanism} response")


def same_secret(given: str, wanted: str) -> bool:
    """Compare in constant time."""
    one, two = (text.encode(errors="surrogateescape") for text in (given, wanted))
    return hmac.compare_digest(one, two)
