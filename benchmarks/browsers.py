"""Fifty people who look at limehub's pages: `python -m benchmarks.browsers FOLDER APP LOOKERS`.

Waits for FOLDER/.limehub/run.json. Twenty of them keep the live numbers open, as many as the
server admits; all load a page every two seconds: the overview, the dead letters of APP by cause
and one by one, as a page and from the API. Every second FOLDER/browsers.json gets what came back.
"""

from __future__ import annotations

import gevent.monkey

gevent.monkey.patch_all()

import http.client  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections import Counter  # noqa: E402
from pathlib import Path  # noqa: E402
from urllib.parse import urlsplit  # noqa: E402

import gevent  # noqa: E402

EVERY = 2.0  # seconds between two pages of one browser
STREAMS = 20
TIMEOUT = 120.0
PATIENCE = 20.0


class Browsers:
    """*address*: host:port. Counts answers by status; *slowest*: seconds."""

    def __init__(self, address: str, app: str) -> None:
        self._address = address
        self._paths = (
            "/",
            f"/dead-letters/{app}/",
            "/api/v1/status",
            f"/dead-letters/{app}/events/",
            "/",
            f"/api/v1/dead-letters/{app}/?limit=50",
        )
        self.answers: Counter[str] = Counter()
        self.slowest = 0.0
        self.messages = 0

    def browse(self, number: int) -> None:
        """Load one page after the other, for ever."""
        gevent.sleep(EVERY * (number % 10) / 10)
        while True:
            for path in self._paths[number % 6 :] + self._paths[: number % 6]:
                began = time.monotonic()
                self._load(path)
                self.slowest = max(self.slowest, time.monotonic() - began)
                gevent.sleep(max(0.0, began + EVERY - time.monotonic()))

    def watch(self) -> None:
        """Keep the stream open, for ever."""
        while True:
            connection = http.client.HTTPConnection(self._address, timeout=TIMEOUT)
            connection.request("GET", "/live")
            answer = connection.getresponse()
            self.answers[f"live {answer.status}"] += 1
            while line := answer.readline():
                self.messages += line.startswith(b"data: {")
            connection.close()

    def _load(self, path: str) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=TIMEOUT)
        try:
            while True:
                connection.request("GET", path, headers={"Accept": "text/html,*/*;q=0.8"})
                answer = connection.getresponse()
                answer.read()
                if answer.status != http.client.SEE_OTHER:
                    break
                path = answer.headers["Location"]
            self.answers[str(answer.status)] += 1
        except OSError as error:
            self.answers[type(error).__name__] += 1
        finally:
            connection.close()


def main(folder: Path, app: str, lookers: int) -> None:
    """Look until somebody ends this process."""
    browsers = Browsers(_address(folder / ".limehub" / "run.json"), app)
    for number in range(lookers):
        gevent.spawn(browsers.browse, number)
    for _ in range(min(lookers, STREAMS)):
        gevent.spawn(browsers.watch)
    file = folder / "browsers.json"
    while True:
        gevent.sleep(1.0)
        seen = {"answers": browsers.answers, "messages": browsers.messages}
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps(seen | {"slowest": round(browsers.slowest, 3)}))
        fresh.replace(file)


def _address(run_file: Path) -> str:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if run_file.exists() and (url := json.loads(run_file.read_text())["web_url"]):
            return str(urlsplit(url).netloc)
        gevent.sleep(0.05)
    raise SystemExit(f"no web address in {run_file}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
