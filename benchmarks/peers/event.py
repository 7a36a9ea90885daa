"""The message that everybody publishes and consumes. Standard library only."""

from __future__ import annotations

import json

__all__ = ["BODY", "EVENT", "HEADERS"]

EVENT = {
    "event": "update",
    "limetype": "deal",
    "id": 104233,
    "application": "solution-cool",
    "database": "lime_crm_prod",
    "user": {"id": 1007, "name": "Anna Andersson"},
    "timestamp": "2026-11-21T08:46:12.123456Z",
    "transaction": "6f0b8f3e-4d7b-4a08-9d0b-1f9a2f6c2a11",
    "changed": {
        "probability": [0.25, 0.5],
        "dealstatus": ["contact", "tender"],
        "value": [120000, 135000],
    },
}
BODY = b'{"ts": 1000000000000000000, ' + json.dumps(EVENT).encode()[1:]
"""A Lime-like event of some 390 bytes; `ts` has a fixed width, so that it can be stamped."""

HEADERS = {"application": "solution-cool", "origin": "webserver"}
