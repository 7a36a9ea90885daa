"""Fifty browsers look at the pages and at dead letters; the handlers go on."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.process import LimehubProcess, Workplace
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

APP = "solution-crowd"
SOURCE = """
def crowd(event):
    if event.body["bad"]:
        raise ValueError("bad")
def register_event_handlers(worker, config):
    worker.register_event_handler(crowd, "crowd")
"""
TOML = 'applications = ["acme"]\n[event_handler]\ncatch_handler_exceptions = true\n'
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def server(workplace: Workplace) -> LimehubProcess:
    workplace.configure(TOML)
    workplace.install(APP, SOURCE)
    return workplace.serve()


@pytest.fixture
def browsers(server: LimehubProcess, workplace: Workplace) -> Iterator[Path]:
    command = [sys.executable, "-m", "benchmarks.browsers", str(workplace.folder), APP, "50"]
    process = subprocess.Popen(command, cwd=REPOSITORY)
    yield workplace.folder / "browsers.json"
    process.kill()
    process.wait()


def publish(vhost: Vhost, count: int, *, bad: bool) -> None:
    with vhost.connect() as connection:
        channel = connection.channel()
        for _ in range(count):
            channel.basic_publish("lime.acme", "crowd", json.dumps({"bad": bad}))


def outcomes(server: LimehubProcess) -> dict[str, int]:
    url = server.records("ready")[0]["web"]
    with urllib.request.urlopen(f"{url}/api/v1/status", timeout=30) as answer:
        found: dict[str, int] = json.load(answer)["handlers"][0]["outcomes"]
        return found


def seen(browsers: Path) -> dict[str, Any]:
    nothing: dict[str, Any] = {"answers": {}, "messages": 0}
    return nothing | json.loads(browsers.read_text()) if browsers.exists() else nothing


@pytest.mark.timeout(700)
def test_fifty_browsers_get_their_pages_and_the_handlers_go_on(
    server: LimehubProcess, browsers: Path, vhost: Vhost
) -> None:
    publish(vhost, 500, bad=True)
    wait_until(lambda: outcomes(server).get("dead-letter") == 500, 120, "500 dead letters")
    before = seen(browsers)["answers"].get("200", 0)
    publish(vhost, 3000, bad=False)
    wait_until(lambda: outcomes(server).get("ack") == 3000, 120, "3000 events")
    wait_until(lambda: seen(browsers)["answers"].get("200", 0) > before + 200, 120, "200 pages")
    wait_until(lambda: seen(browsers)["messages"] > 20, 120, "numbers that move")
    # After some minutes each of them has to come again.
    wait_until(lambda: seen(browsers)["answers"]["live 200"] >= 20, 120, "20 live pages")
    # Somebody may wait for another's look in vain; nothing else goes wrong.
    assert set(seen(browsers)["answers"]) - {"200", "live 200", "409"} == set()
