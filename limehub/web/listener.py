"""The HTTP server: gevent's pywsgi with the limits that it lacks.

pywsgi waits for ever for half a request and takes a body of any size. Here a request must be whole
within READ_SECONDS, head and body each, before the application sees it.
"""

from __future__ import annotations

import io
import logging
import re
import socket
from typing import Any

import gevent
import gevent.socket
from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler, WSGIServer

from limehub.config.address import Address
from limehub.web.app import MAX_BODY
from limehub.web.binding import listening
from limehub.web.problems import CONTENT_TYPE, problem_body

__all__ = ["WebServer"]

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 100
MAX_HEAD = 32_768
"""Bytes of all header lines together; the request line may have 8192."""
READ_SECONDS = 10.0
WRITE_SECONDS = 30.0

_REQUEST_LINE = re.compile(r"[A-Z]{1,20} [\x21-\x7e]+ HTTP/1\.[01]\r?\n?")
_HEADER_LINE = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*)?\r?\n")


class WebServer:
    """Serves a WSGI *app* on *address*. Whoever started it stops it."""

    def __init__(self, app: Any, address: Address) -> None:
        self._app = app
        self._address = address
        self._server: WSGIServer | None = None

    def start(self) -> tuple[str, int]:
        """Listen. Returns host and port, the real one for port 0. Raises ConfigError."""
        listener = listening(gevent.socket.socket, self._address, "web.bind")
        host, port = listener.getsockname()[:2]
        self._server = WSGIServer(
            listener,
            self._app,
            spawn=Pool(MAX_CONNECTIONS),
            handler_class=_Handler,
            log=None,
            error_log=log,
            # Otherwise pywsgi asks the DNS for it.
            environ={"SERVER_NAME": self._address.host},
        )
        self._server.start()
        return host, port

    def stop(self, timeout: float = 1.0) -> None:
        """Stop listening; requests have *timeout* seconds to end."""
        if self._server is not None:
            self._server.stop(timeout)
            self._server = None


class _Refused(Exception):
    """The request is answered by the listener itself, and the connection closed."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class _Handler(WSGIHandler):
    """One connection. Overrides what gevent documents for subclasses, and its error reports."""

    def __init__(self, sock: Any, address: Any, server: Any) -> None:
        sock.settimeout(WRITE_SECONDS)
        # Head and body are two sends: the second must not wait 40 ms for the client's ack.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().__init__(sock, address, server)
        self._head_timer = gevent.Timeout(READ_SECONDS)

    def handle_one_request(self) -> Any:
        self._head_timer = gevent.Timeout.start_new(READ_SECONDS)
        try:
            return super().handle_one_request()
        except _Refused as refused:
            return _refusal(refused)
        except gevent.Timeout as timeout:
            if timeout is not self._head_timer:
                raise
            return None
        finally:
            self._head_timer.close()

    def MessageClass(self, rfile: Any, *arguments: Any) -> Any:  # noqa: N802 - pywsgi's name
        head: Any = _Head(rfile)
        message = super().MessageClass(head, *arguments)
        lengths = message.get_all("content-length", [])
        encodings = [each.lower() for each in message.get_all("transfer-encoding", [])]
        # Where two programs disagree on the length of a body, one can smuggle a request in it.
        if not all(map(_is_number, lengths)) or encodings not in ([], ["chunked"]):
            raise _Refused(400, "The length of the body is not clear.")
        if len(lengths) + len(encodings) > 1:
            raise _Refused(400, "The length of the body is said twice.")
        return message

    def read_request(self, raw_requestline: str) -> Any:
        if _REQUEST_LINE.fullmatch(raw_requestline) is None:
            raise _Refused(400, "This is no HTTP request.")
        whole = super().read_request(raw_requestline)
        if (self.content_length or 0) > MAX_BODY:
            raise _Refused(413, f"A body may have {MAX_BODY} bytes.")
        return whole

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        self._head_timer.close()
        body = self._body(self.wsgi_input)
        environ["wsgi.input"] = io.BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        return environ

    def _body(self, source: Any) -> bytes:
        try:
            with gevent.Timeout(READ_SECONDS, _Refused(408, "The body did not come in time.")):
                body = bytes(source.read(MAX_BODY + 1))
        except OSError as error:
            raise _Refused(400, "The body was cut short.") from error
        if len(body) > MAX_BODY:
            raise _Refused(413, f"A body may have {MAX_BODY} bytes.")
        return body

    def log_request(self) -> None:
        extra = {
            "client": self.client_address[0],
            "method": self.command,
            # Not the query: it may hold what is nobody's business.
            "path": (self.path or "").partition("?")[0],
            "status": _code_of(self.status),
            "bytes": self.response_length,
            "seconds": round(max(0.0, self.time_finish - self.time_start), 6),
        }
        log.debug("request", extra=extra)

    def handle_error(self, t: Any, v: Any, tb: Any) -> None:
        client = {"client": self.client_address[0]}
        if isinstance(v, TimeoutError):
            log.debug("client does not read", extra=client)
            self.close_connection = True
            return
        if not issubclass(t, gevent.GreenletExit):
            log.error("request failed", extra=client, exc_info=(t, v, tb))
        self._send_error_response_if_possible(500)  # type: ignore[attr-defined]  # not in the stub

    def _handle_client_error(self, ex: BaseException) -> tuple[str, bytes]:
        # pywsgi prints some of these to stderr, with traceback.
        log.debug("bad request", extra={"client": self.client_address[0], "cause": str(ex)})
        refused = ex if isinstance(ex, _Refused) else _Refused(400, "This is no HTTP request.")
        return _refusal(refused)


class _Head:
    """The header lines of a request, at most MAX_HEAD bytes of them.

    The parser behind it takes a lone CR for the end of a line, and goes on after a line without
    colon. Who sends such wants to be understood in two ways.
    """

    def __init__(self, rfile: Any) -> None:
        self._rfile = rfile
        self._left = MAX_HEAD

    def readline(self, limit: int = -1) -> bytes:
        line = bytes(self._rfile.readline(limit))
        self._left -= len(line)
        if self._left < 0:
            raise _Refused(431, f"Header lines may have {MAX_HEAD} bytes.")
        if line.endswith(b"\n") and _HEADER_LINE.fullmatch(line) is None:
            raise _Refused(400, "A header line is malformed.")
        return line


def _code_of(status: str | bytes | None) -> int | None:
    """Return the number of pywsgi's `b"200 OK"`, or of what `_refusal` gave it."""
    text = status.decode("latin-1") if isinstance(status, bytes) else status or ""
    return int(text[:3]) if _is_number(text[:3]) else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _refusal(refused: _Refused) -> tuple[str, bytes]:
    """Return status and the whole response, as pywsgi wants them."""
    body = problem_body(refused.status, refused.detail)
    head = (
        f"HTTP/1.1 {refused.status} Refused\r\nContent-Type: {CONTENT_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\nCache-Control: no-store\r\n\r\n"
    )
    return str(refused.status), head.encode() + body
