"""`/metrics`, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flask import Blueprint, Response, request

from limehub.deadletters.office import Office
from limehub.observe.depths import Depths
from limehub.observe.metrics import Reading, exposition
from limehub.web.shown import Shown

__all__ = ["metrics_page"]


def metrics_page(server: Shown, office: Office) -> Blueprint:
    """Return the route. It asks the broker through the desk's connection, now and then."""
    page = Blueprint("metrics", __name__)
    depths = Depths(office.publisher.call)

    @page.get("/metrics")
    def metrics() -> Response:
        status = server.status()
        reading = Reading(status=status, depths=depths.of(_queues(status)))
        content, content_type = exposition(reading, request.headers.get("Accept", ""))
        return Response(content, content_type=content_type)

    return page


def _queues(status: Mapping[str, Any]) -> Iterator[str]:
    for group in status["groups"]:
        yield from (queue["queue"] for queue in group["queues"])
    yield from status["dead_letters"]["queues"].values()
