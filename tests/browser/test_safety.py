"""What comes from messages is inert, what comes from other sites is refused, roles are kept."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, Request, expect

from tests.browser.conftest import Site

Visit = Callable[..., Page]

EVIL = "\"'><img src=x onerror=alert(1)><script>alert(2)</script>{{7*7}}<svg onload=alert(3)>"
APP = "solution-evil"
PAGES = (
    "/",
    "/dead-letters/",
    f"/dead-letters/{APP}/",
    f"/dead-letters/{APP}/events/",
    f"/dead-letters/{APP}/events/?text={quote(EVIL)}&handler={quote(EVIL)}",
    f"/dead-letters/{APP}/confirm?action=requeue&about=1&text={quote(EVIL)}",
)


@pytest.fixture(scope="session")
def evil(site: Site) -> Site:
    """The site with an event that is an attack wherever a publisher can write."""
    site.fail(APP, key=EVIL, say=EVIL, headers={EVIL: EVIL, "x": [EVIL]}, name=EVIL)
    return site


def test_hostile_events_do_nothing_on_any_page(evil: Site, visit: Visit) -> None:
    page = visit(evil.url)
    for path in PAGES:
        page.goto(evil.url + path)
        expect(page.locator("img[src=x], svg[onload]")).to_have_count(0)
    page.goto(f"{evil.url}/dead-letters/{APP}/events/")
    page.locator(".letters tbody a").first.click()
    page.locator("details summary").first.click()
    expect(page.locator("main")).to_contain_text("<script>alert(2)</script>{{7*7}}")
    expect(page.locator("dl.wide").first).to_contain_text("onerror=alert(1)")
    page.get_by_role("link", name="Show it as it came").click()
    expect(page.locator("pre.body")).to_contain_text("<svg onload=alert(3)>")
    page.get_by_role("button", name="Edit and requeue…").click()
    assert "<script>alert(2)</script>" in page.get_by_label("Body").input_value()


def test_a_hostile_app_name_is_an_unknown_app(evil: Site, visit: Visit) -> None:
    page = visit(f"{evil.url}/dead-letters/{quote(EVIL.replace('/', ''))}/", complains=True)
    expect(page.get_by_role("heading", level=1)).to_have_text("Not Found")
    expect(page.locator("img[src=x]")).to_have_count(0)


def test_a_form_of_another_site_is_refused(evil: Site, visit: Visit) -> None:
    before = evil.dead(APP)
    page = visit("about:blank", complains=True)
    attack = f"<form method=post action='{evil.url}/dead-letters/{APP}/delete'></form>"
    page.route(
        "http://evil.test/", lambda route: route.fulfill(body=attack, content_type="text/html")
    )
    page.goto("http://evil.test/")
    with page.expect_response(lambda answer: answer.url.endswith("/delete")) as caught:
        page.evaluate("document.forms[0].submit()")
    assert caught.value.status == 403
    assert evil.dead(APP) == before


Neighbour = Callable[[str], str]


@pytest.fixture
def neighbour(tmp_path: Path) -> Iterator[Neighbour]:
    """Another site on this machine, a page of which it serves; the browser itself keeps all other
    sites away from loopback."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    server = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    port = re.search(r"port (\d+)", server.stdout.readline())
    assert port is not None

    def serve(html: str) -> str:
        (tmp_path / "trap.html").write_text(html)
        return f"http://localhost:{port[1]}/trap.html"

    yield serve
    server.kill()
    server.wait()
    server.stdout.close()


def test_another_sites_page_cannot_keep_the_server_looking(
    evil: Site, visit: Visit, neighbour: Neighbour
) -> None:
    page = visit("about:blank", complains=True)
    trap = neighbour(f"<iframe src='{evil.url}/dead-letters/{APP}/'></iframe>")
    with page.expect_response(lambda answer: "/dead-letters/" in answer.url) as caught:
        page.goto(trap)
    assert caught.value.status == 403


def test_a_page_may_not_be_framed_or_run_inline_scripts(evil: Site, visit: Visit) -> None:
    page = visit(evil.url, complains=True)
    page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        " document.body.append(s); }"
    )
    assert page.evaluate("window.ran") is None


@pytest.fixture(scope="module")
def guarded(serve_pages: Callable[..., Site]) -> Site:
    """A site that asks for tokens, with a dead letter."""
    site = serve_pages('token_file = "tokens"', ("solution-road",))
    site.fail("solution-road")
    return site


def test_who_logs_in_gets_where_the_link_led(guarded: Site, visit: Visit) -> None:
    page = visit(f"{guarded.url}/dead-letters/solution-road/", complains=True)
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
    _log_in(page, "wrong")
    expect(page.get_by_role("alert")).to_have_text("Nobody has this token.")
    _log_in(page, "anna-token")
    expect(page.get_by_role("heading", level=1)).to_have_text("What failed in solution-road")
    expect(page.locator(".who")).to_contain_text("anna")
    cookie = page.context.cookies()[0]
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
    page.goto(f"{guarded.url}/plugins/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")


def test_who_may_only_look_has_no_buttons_and_is_refused(guarded: Site, visit: Visit) -> None:
    page = visit(f"{guarded.url}/login", complains=True)
    _log_in(page, "reader-token")
    expect(page.locator(".who")).to_be_visible()
    page.goto(f"{guarded.url}/dead-letters/solution-road/events/")
    expect(page.locator("form[action*='confirm'] button")).to_have_count(0)
    page.locator(".letters tbody a").first.click()
    expect(page.get_by_role("heading", name="Traceback")).to_be_visible()
    expect(page.locator(".act")).to_have_count(0)
    answer = page.evaluate(
        "fetch('/dead-letters/solution-road/delete', {method: 'POST'}).then(r => r.status)"
    )
    assert answer == 403
    assert guarded.dead("solution-road") == 1


def test_a_link_from_another_site_opens_for_who_is_logged_in(guarded: Site, visit: Visit) -> None:
    page = visit(f"{guarded.url}/login", complains=True)  # of the 401 before the cookie comes
    _log_in(page, "anna-token")
    expect(page.locator(".who")).to_be_visible()
    link = f"<a href='{guarded.url}/dead-letters/solution-road/'>look</a>"
    page.route("http://chat.test/", lambda route: _chat(route, link))
    page.goto("http://chat.test/")
    page.get_by_role("link", name="look").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("What failed in solution-road")


def test_the_login_leads_to_no_other_site(guarded: Site, visit: Visit) -> None:
    page = visit(f"{guarded.url}/login?next=//evil.test/")
    seen: list[str] = []
    page.on("request", lambda request: seen.append(_host(request)))
    _log_in(page, "anna-token")
    expect(page.locator("#headline")).to_be_visible()
    assert "evil.test" not in seen


def _chat(route: object, link: str) -> None:
    route.fulfill(body=link, content_type="text/html")  # type: ignore[attr-defined]


def _host(request: Request) -> str:
    return request.url.split("/")[2]


def _log_in(page: Page, token: str) -> None:
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Log in").click()
