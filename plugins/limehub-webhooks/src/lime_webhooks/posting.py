"""The handler: one POST per event and target; what failed is tried again, then dead-lettered."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import Mapping

from attrs import field, frozen
from urllib3 import PoolManager, Timeout
from urllib3.exceptions import HTTPError

from lime_webhooks.targets import Target
from limehub import LimeObjectEvent, Reject, Retry

__all__ = ["WebhookPoster", "signature"]

log = logging.getLogger(__name__)

_WORTH_ANOTHER_TRY = (408, 425, 429)


@frozen(kw_only=True)
class WebhookPoster:
    """Posts to *targets* through a pool of kept-alive connections."""

    targets: tuple[Target, ...]
    _pool: PoolManager = field(repr=False)

    @classmethod
    def of(cls, targets: tuple[Target, ...], *, timeout: float, connections: int) -> WebhookPoster:
        """Return a poster. *timeout*: seconds to connect, and again to answer."""
        pool = PoolManager(
            maxsize=connections,
            block=True,
            timeout=Timeout(connect=timeout, read=timeout),
            retries=False,  # limehub retries, without holding a connection meanwhile
        )
        return cls(targets=targets, pool=pool)

    def post(self, event: LimeObjectEvent) -> None:
        """Post *event* to every target that wants it.

        Raises Retry if a target did not answer or is in trouble, else Reject if one refused.
        """
        name = f"{event.limetype}.{event.verb}"
        wanting = [one for one in self.targets if one.wants(name, event.application)]
        content = json.dumps({"event": name, "body": event.body}).encode()
        failures = [
            failure
            for target in wanting
            if (failure := self._try(target, content, event.id or event.fingerprint))
        ]
        if failures:
            raise max(failures, key=lambda failure: isinstance(failure, Retry))
        log.info("webhooks posted", extra={"webhook_event": name, "targets": len(wanting)})

    def _try(self, target: Target, content: bytes, delivery_id: str) -> Retry | Reject | None:
        try:
            status = self._send(target, content, delivery_id)
        except HTTPError as error:
            return Retry(reason=f"{target.host}: {type(error).__name__}")
        if 200 <= status < 300:
            return None
        text = f"{target.host} answered {status}"
        if status >= 500 or status in _WORTH_ANOTHER_TRY:
            return Retry(reason=text)
        return Reject(text)

    def _send(self, target: Target, content: bytes, delivery_id: str) -> int:
        headers = {"Content-Type": "application/json", "X-Lime-Delivery-Id": delivery_id}
        if target.secret:
            headers |= signature(content, target.secret)
        # A redirect could lead an event anywhere; it counts as an answer that is not 2xx.
        response = self._pool.request(
            "POST", target.url, body=content, headers=headers, redirect=False
        )
        return response.status


def signature(content: bytes, secret: str) -> Mapping[str, str]:
    """Return the header that proves who posted *content*: HMAC-SHA256 of the raw body."""
    digest = hmac.new(secret.encode(), content, hashlib.sha256).hexdigest()
    return {"X-Lime-Signature": f"sha256={digest}"}
