"""RabbitMQ's management API, read only: what AMQP does not tell.

https://www.rabbitmq.com/docs/http-api-reference
"""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from attrs import field, frozen

from limehub.config import BrokerUrl
from limehub.errors import BrokerError

__all__ = ["ManagementApi", "queue_names"]

TIMEOUT = 5.0
MAX_BYTES = 64 * 1024 * 1024


def queue_names(management_url: str, broker: BrokerUrl) -> tuple[str, ...]:
    """Return the names of all queues in *broker*'s vhost. Raises BrokerError."""
    api = ManagementApi.of(management_url, broker)
    queues = api.get(f"queues/{quote(broker.vhost, safe='')}?columns=name")
    return tuple(str(queue.get("name", "")) for queue in queues)


@frozen(kw_only=True)
class ManagementApi:
    """The API of one broker; made by `of`."""

    address: str
    authorization: str = field(repr=False)
    is_loopback: bool

    @classmethod
    def of(cls, management_url: str, broker: BrokerUrl) -> ManagementApi:
        """Return the API at *management_url*, with its credentials, else those of *broker*."""
        parts = urlsplit(management_url)
        user = broker.username if parts.username is None else unquote(parts.username)
        password = broker.password if parts.username is None else unquote(parts.password or "")
        place = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        return cls(
            address=place.geturl().rstrip("/").removesuffix("/api"),
            authorization=f"Basic {token}",
            is_loopback=parts.hostname in ("localhost", "127.0.0.1", "::1"),
        )

    def get(self, path: str) -> list[dict[str, Any]]:
        """Return the list at *path* below `/api/`. Raises BrokerError."""
        request = urllib.request.Request(  # noqa: S310 - the configuration allows http, https
            f"{self.address}/api/{path}", headers={"Authorization": self.authorization}
        )
        proxies: dict[str, str] | None = {} if self.is_loopback else None
        opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _NoRedirect)
        try:
            with opener.open(request, timeout=TIMEOUT) as answer:
                found = json.loads(answer.read(MAX_BYTES))
        except urllib.error.HTTPError as error:
            error.close()
            raise BrokerError(f"{self.address}: {error.code} {error.reason}") from None
        except (OSError, ValueError) as error:
            raise BrokerError(f"{self.address}: {getattr(error, 'reason', error)}") from None
        if not isinstance(found, list):
            raise BrokerError(f"{self.address}: is no management API")
        return found


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would send the credentials along to wherever it is sent."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None
