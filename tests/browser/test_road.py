"""The whole way of who has never seen the pages: from a failing handler to an empty desk."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Site

Visit = Callable[..., Page]


def test_a_stranger_sees_what_failed_requeues_it_and_sees_it_gone(site: Site, visit: Visit) -> None:
    app = "solution-road"
    site.fail(app, 3)
    page = visit(site.url)
    problem = page.locator(".problem", has_text=f"3 events of {app} failed")
    problem.get_by_role("button", name="See what failed").click()
    expect(page.get_by_role("heading", name="NoPrice")).to_be_visible()
    site.mend(app)
    page.get_by_role("button", name="Requeue…", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Requeue 3 events of {app}?")
    page.get_by_role("button", name="Try the oldest one first").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("1 event requeued")
    page.get_by_role("button", name="See what has failed since").click()
    expect(page.locator(".empty")).to_contain_text("Nothing has failed since.")
    page.get_by_role("link", name="Show all").click()
    expect(page.locator(".bar")).to_contain_text("2 events with 1 cause")
    page.get_by_role("button", name="Requeue all 2…").click()
    page.get_by_role("button", name="Requeue 2").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("2 events requeued")
    page.get_by_role("button", name=f"Go on with {app}").click()
    expect(page.locator(".empty")).to_contain_text("Nothing failed.")
    site.wait_dead(app, 0)


def test_the_overview_moves_without_being_loaded_again(site: Site, visit: Visit) -> None:
    app = "solution-shots"
    page = visit(site.url)
    expect(page.locator("#pulse")).to_be_visible()
    page.evaluate("window.untouched = true")
    site.fail(app, 2)
    expect(page.locator("[data-live='h:solution-shots.totals:failed']")).not_to_have_text("0")
    expect(page.locator(".problem", has_text=f"of {app} failed")).to_be_visible()
    expect(page.locator("[data-chart=done] canvas")).to_be_visible()
    assert page.evaluate("window.untouched")


def test_new_parts_of_the_overview_leave_the_keyboard_where_it_is(site: Site, visit: Visit) -> None:
    site.fail("solution-shots")
    page = visit(site.url)
    button = page.locator("[id='act-dead:solution-shots']")
    button.focus()
    page.evaluate("document.getElementById('verdict').dataset.shape = 'of before'")
    expect(page.locator("#verdict")).not_to_have_attribute("data-shape", "of before")
    expect(button).to_be_focused()
    expect(page.locator("#said")).to_contain_text("attention")


def test_what_moves_can_be_held(site: Site, visit: Visit) -> None:
    page = visit(site.url)
    expect(page.locator("#pulse")).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#pulse")).to_be_hidden()
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("#pulse")).to_be_visible()


def test_a_deleted_event_is_brought_back_by_undo(site: Site, visit: Visit) -> None:
    app = "solution-bin"
    site.fail(app, 2)
    page = visit(f"{site.url}/dead-letters/{app}/events/")
    page.get_by_label("Select all on this page").check()
    page.get_by_role("button", name="Delete selected (2)…").click()
    page.get_by_role("button", name="Delete 2").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("2 events deleted")
    site.wait_dead(app, 0)
    page.get_by_role("button", name="Undo: bring them back").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("2 events brought back")
    site.wait_dead(app, 2)
    page.goto(f"{site.url}/dead-letters/{app}/deleted/")
    expect(page.locator(".empty")).to_contain_text("Nothing to bring back.")


def test_an_edited_event_is_handled_with_its_new_body(site: Site, visit: Visit) -> None:
    app = "solution-bin"
    before = site.dead(app)
    site.fail(app, say="mend me")
    page = visit(f"{site.url}/dead-letters/{app}/events/?text=mend+me", complains=True)
    page.locator(".letters tbody a").click()
    page.get_by_role("button", name="Edit and requeue…").click()
    page.get_by_label("Body").fill('{"id": 1, "price": }')
    page.get_by_role("button", name="Requeue with this body").click()
    expect(page.get_by_role("alert")).to_contain_text("line 1, column 20")
    page.get_by_label("Body").fill('{"id": 1, "price": 5}')
    page.get_by_role("button", name="Requeue with this body").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("1 event requeued")
    site.wait_dead(app, before)


def test_the_keyboard_is_enough(site: Site, visit: Visit) -> None:
    app = "solution-keys"
    site.fail(app)
    site.mend(app)
    page = visit(f"{site.url}/dead-letters/")
    _tab_to(page, f"a.card[href='/dead-letters/{app}/']")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"What failed in {app}")
    _tab_to(page, ".causes a[role=button]:not(.danger)")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Requeue 1 event of {app}?")
    _tab_to(page, ".confirm button")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("1 event requeued")
    site.wait_dead(app, 0)


def test_the_first_tab_skips_to_the_content(site: Site, visit: Visit) -> None:
    page = visit(f"{site.url}/plugins/")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()


@pytest.mark.parametrize("path", ["/", "/dead-letters/", "/plugins/", "/configuration/"])
def test_pages_are_complete_without_javascript(site: Site, visit: Visit, path: str) -> None:
    page = visit(site.url + path, java_script_enabled=False)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.get_by_role("navigation", name="Pages")).to_contain_text("Dead letters")


def test_without_javascript_a_selection_is_requeued_too(site: Site, visit: Visit) -> None:
    app = "solution-bin"
    site.fail(app, say="plain html")
    page = visit(
        f"{site.url}/dead-letters/{app}/events/?text=plain+html", java_script_enabled=False
    )
    page.locator("input[name=ids]").check()
    page.get_by_role("button", name="Requeue selected…").click()
    page.get_by_role("button", name="Requeue 1", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("1 event requeued")


def _tab_to(page: Page, selector: str) -> None:
    page.wait_for_load_state()
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return
    raise AssertionError(f"no number of tabs leads to {selector}")
