"""The probes and the status of the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from attrs import frozen

from limehub.web.api.endpoints import Endpoint
from limehub.web.probes import Answer, health_answer, ready_answer
from limehub.web.shown import Shown

__all__ = ["ServerApi"]


@frozen(kw_only=True)
class ServerApi:
    """The views; `endpoints` is their table. *may_see_detail*: of the current request."""

    server: Shown
    may_see_detail: Callable[[], bool]

    def endpoints(self) -> Iterator[Endpoint]:
        """Yield all of them."""
        for path, name, summary, view, answers, fails in (
            ("/healthz", "healthz", "Whether it works", self.healthz, {200: dict, 503: dict}, ()),
            ("/readyz", "readyz", "Whether it consumes", self.readyz, {200: dict, 503: dict}, ()),
            ("/api/v1/status", "status", "All about it", self.status, {200: dict}, (400,)),
        ):
            yield Endpoint(
                method="GET",
                path=path,
                name=name,
                summary=summary,
                view=view,
                answers=answers,
                fails=fails,
                takes_any_query=not fails,
            )

    def healthz(self) -> Any:
        """Answer GET /healthz."""
        server, detail = self.server, self.may_see_detail()
        return _answered(health_answer(server.stalled_for(), server.max_stall, detail=detail))

    def readyz(self) -> Any:
        """Answer GET /readyz."""
        return _answered(ready_answer(self.server.missing(), detail=self.may_see_detail()))

    def status(self) -> Any:
        """Answer GET /api/v1/status."""
        return self.server.status()


def _answered(answer: Answer) -> tuple[dict[str, Any], int]:
    status, body = answer
    return body, status
