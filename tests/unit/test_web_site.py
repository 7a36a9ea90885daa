"""The site: both listeners of a server, its tokens and its pulse."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from limehub.config import Config, Web
from limehub.errors import ConfigError
from limehub.web import health
from limehub.web.site import Site
from tests.support.waiting import wait_until
from tests.unit.web_server import ShownServer


@pytest.fixture(autouse=True)
def _has_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The health thread does not give up a `fetch` that comes to a halt on a busy machine."""
    monkeypatch.setattr(health, "CONNECTION_SECONDS", 60.0)


def fetch(url: str | None, token: str = "") -> tuple[int, Any]:
    assert url is not None
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def is_silent(url: str | None) -> bool:
    """Whether nobody answers at *url*, in whatever way."""
    try:
        fetch(url)
    except OSError:
        return True
    return False


def server_with(**web: Any) -> ShownServer:
    settings: dict[str, Any] = {"bind": "127.0.0.1:0", "health_bind": "127.0.0.1:0"}
    return ShownServer(config=Config(web=Web(**(settings | web))))


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    file.write_text("monitor read old\n")
    return file


@pytest.fixture
def guarded(token_file: Path) -> Iterator[Site]:
    site = Site(server_with(token_file=str(token_file)))
    site.start()
    yield site
    site.stop()


def test_a_site_serves_both_listeners_until_it_is_stopped() -> None:
    site = Site(server_with())
    site.start()
    assert fetch(f"{site.web_url}/api/v1/status") == (200, {"ready": True, "groups": []})
    assert fetch(f"{site.health_url}/readyz") == (503, {"ready": False, "missing": ["starting"]})
    site.note(())
    assert fetch(f"{site.health_url}/readyz") == (200, {"ready": True})
    wait_until(lambda: site.stalled_for() == 0.0, message="the pulse")
    site.stop()
    wait_until(lambda: is_silent(site.web_url))
    wait_until(lambda: is_silent(site.health_url))  # its thread ends on its own time


def test_none_switches_a_listener_off() -> None:
    site = Site(server_with(bind="none", health_bind="none"))
    site.start()
    assert (site.web_url, site.health_url) == (None, None)
    site.stop()


def test_a_site_that_could_not_start_can_be_stopped(guarded: Site) -> None:
    taken = str(guarded.web_url).removeprefix("http://")
    site = Site(server_with(bind=taken))
    with pytest.raises(ConfigError, match=r"^web\.bind"):
        site.start()
    site.stop()


def test_broken_tokens_are_found_before_anything_starts(token_file: Path) -> None:
    token_file.write_text("monitor\n")
    with pytest.raises(ConfigError, match="tokens:1: has 1 words"):
        Site(server_with(token_file=str(token_file)))


def test_reloading_takes_new_tokens_and_keeps_the_old_ones_when_they_are_broken(
    guarded: Site, token_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = Config(web=Web(token_file=str(token_file)))
    status = f"{guarded.web_url}/api/v1/status"
    assert (fetch(status)[0], fetch(status, "old")[0]) == (401, 200)
    token_file.write_text("monitor read new\n")
    guarded.reload(config)
    assert (fetch(status, "old")[0], fetch(status, "new")[0]) == (401, 200)
    token_file.write_text("monitor\n")
    guarded.reload(config)
    assert fetch(status, "new")[0] == 200
    assert "the old ones stay" in caplog.text


def test_the_health_port_tells_no_detail_once_there_are_tokens(guarded: Site) -> None:
    assert fetch(f"{guarded.health_url}/readyz") == (503, {"ready": False})
    assert fetch(f"{guarded.health_url}/healthz") == (200, {"status": "ok"})
    guarded.reload(Config())
    assert fetch(f"{guarded.health_url}/readyz")[1]["missing"] == ["starting"]


def test_a_public_health_port_tells_no_detail() -> None:
    site = Site(server_with(bind="none", health_bind="0.0.0.0:0"))
    site.start()
    port = str(site.health_url).rpartition(":")[2]
    assert fetch(f"http://127.0.0.1:{port}/readyz") == (503, {"ready": False})
    site.stop()
