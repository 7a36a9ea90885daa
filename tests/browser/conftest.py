"""Fixtures of the tests that look at the pages as people do: Chromium, and a real server."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from attrs import define, field, frozen
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from scripts.rabbitmq_node import RabbitNode
from tests.support.process import LimehubProcess, Workplace, make_interpreter
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = 30_000
"""Milliseconds that a page may take for anything; a busy machine is no bug."""
APPS = ("solution-road", "solution-evil", "solution-keys", "solution-bin", "solution-shots")
TOKENS = "watch read reader-token\nanna operate anna-token\n"
HANDLER = """
import pathlib
class NoPrice(Exception):
    pass
def totals(event):
    if not pathlib.Path("{app}.fixed").exists() and not event.body.get("price"):
        raise NoPrice(event.body.get("say", "the deal has no price"))
def register_event_handlers(worker, config):
    worker.register_event_handler(totals, "{app}.#")
"""


@frozen(kw_only=True)
class Site:
    """A running server whose handlers fail until they are mended."""

    process: LimehubProcess
    vhost: Vhost
    folder: Path
    url: str

    def fail(self, app: str, count: int = 1, *, key: str = "deal", **message: Any) -> None:
        """Publish *count* events that the handler of *app* fails on; wait for the dead letters."""
        before = self.dead(app)
        headers, body = message.pop("headers", {}), {"id": 1, **message}
        properties = pika.BasicProperties(headers=headers, content_type="application/json")
        with self.vhost.connect() as connection:
            channel = connection.channel()
            for _ in range(count):
                channel.basic_publish("lime.acme", f"{app}.{key}", json.dumps(body), properties)
        self.wait_dead(app, before + count)

    def mend(self, app: str) -> None:
        """From now on the handler of *app* works."""
        (self.folder / f"{app}.fixed").touch()

    def dead(self, app: str) -> int:
        """How many dead letters *app* has."""
        return self.vhost.depth(f"lime.event_handler.{app}.dlq")

    def wait_dead(self, app: str, count: int) -> None:
        """Wait until *app* has *count* dead letters."""
        wait_until(lambda: self.dead(app) == count, message=f"{count} dead letters of {app}")


@define(eq=False)
class Visit:
    """A page, and what went wrong on it."""

    page: Page
    complaints: list[str] = field(factory=list)

    def watch(self) -> None:
        """Note dialogs, errors of scripts, and what the console says."""
        self.page.on("dialog", lambda dialog: self._dialog(dialog))
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("console", lambda message: self._console(message))

    def _dialog(self, dialog: Any) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"console: {message.text} at {self.page.url}")


def _chromium() -> str:
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        reason = "no chromium here; `make test` installs it when root"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium, with a new and empty profile."""
    executable = _chromium()
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=[*OPTIONS], timeout=2 * PATIENCE
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open a page: `visit(url, width=390)`; none may complain, unless *complains* is True."""
    contexts: list[BrowserContext] = []
    visits: list[Visit] = []

    def open_page(url: str, *, complains: bool = False, **options: Any) -> Page:
        width, height = options.pop("width", 1280), options.pop("height", 900)
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        visit = Visit(context.new_page())
        visit.watch()
        if not complains:
            visits.append(visit)
        visit.page.goto(url)
        return visit.page

    yield open_page
    for context in contexts:
        context.close()
    assert [complaint for each in visits for complaint in each.complaints] == []


@pytest.fixture(scope="session")
def browser_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A python that has limehub, but no plugins."""
    return make_interpreter(tmp_path_factory.mktemp("browser-venv"))


@pytest.fixture(scope="session")
def serve_pages(
    rabbit_node: RabbitNode, browser_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Site]]:
    """Start a server with the packages APPS: `serve_pages(web_toml)`."""
    places: list[tuple[Workplace, Vhost]] = []

    def begin(web: str = "", apps: tuple[str, ...] = APPS) -> Site:
        vhost = Vhost.create(rabbit_node)
        folder = tmp_path_factory.mktemp("pages")
        workplace = Workplace(folder=folder, python=browser_python)
        places.append((workplace, vhost))
        (folder / "tokens").write_text(TOKENS)
        workplace.configure(
            'applications = ["acme"]\n[event_handler]\ncatch_handler_exceptions = true\n'
            f'[web]\nbind = "127.0.0.1:0"\nedit_dead_letters = true\n{web}\n'
        )
        workplace.environ.update(
            LIMEHUB_EVENTS__CONNECTION_STRING=vhost.url, LIMEHUB_LOG__FORMAT="json"
        )
        for app in apps:
            workplace.install(app, HANDLER.format(app=app))
        process = workplace.serve()
        url = process.records("ready")[0]["web"]
        return Site(process=process, vhost=vhost, folder=folder, url=url)

    yield begin
    for workplace, vhost in places:
        workplace.close()
        vhost.delete()


@pytest.fixture(scope="session")
def site(serve_pages: Callable[..., Site]) -> Site:
    """The server that most tests look at, each with a package of its own."""
    return serve_pages()
