"""Every page at desk and phone width, light and dark: nothing sticks out, everything has a name.

With LIMEHUB_SCREENSHOTS=folder they are kept there, to be looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Site

APP = "solution-shots"
LOOKS = {
    "desk": {"width": 1280, "color_scheme": "light"},
    "desk-dark": {"width": 1280, "color_scheme": "dark"},
    "phone": {"width": 390, "height": 844, "color_scheme": "light"},
    "phone-dark": {"width": 390, "height": 844, "color_scheme": "dark"},
}
UNNAMED = """() => [...document.querySelectorAll('a, button, input:not([type=hidden]), textarea')]
  .filter(e => !e.hidden && !(e.textContent.trim() || e.getAttribute('aria-label')
    || (e.labels && e.labels.length) || e.querySelector('img[alt]')))
  .map(e => e.outerHTML)"""
CONTRAST = """() => {
  const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] === 1) return c;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const e of document.querySelectorAll('main *, .top *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.offsetParent || e.disabled) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const text = e.textContent.trim().slice(0, 30);
    if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${e.tagName} ${e.className}: ${text}`);
  }
  return poor;
}"""


@pytest.fixture(scope="module")
def paths(site: Site) -> dict[str, str]:
    site.fail(APP, 3, say="deal 4711 of Größe & Söhne has no price", note="x" * 300)
    root = f"/dead-letters/{APP}/"
    return {
        "overview": "/",
        "apps": "/dead-letters/",
        "groups": root,
        "events": f"{root}events/",
        "confirm": f"{root}confirm?action=delete&about=3",
        "deleted": f"{root}deleted/",
        "plugins": "/plugins/",
        "configuration": "/configuration/",
        "event": "",
        "edit": "edit",
    }


@pytest.mark.parametrize("look", LOOKS)
def test_every_page_fits_is_legible_and_names_its_controls(
    site: Site, visit: Callable[..., Page], paths: dict[str, str], look: str, tmp_path: Path
) -> None:
    page = visit(f"{site.url}/dead-letters/{APP}/events/", **LOOKS[look])
    event = page.locator(".letters tbody a").first.get_attribute("href")
    folder = Path(os.environ.get("LIMEHUB_SCREENSHOTS") or tmp_path)
    for name, path in paths.items():
        page.goto(site.url + (path if path.startswith("/") else f"{event}{path}"))
        if name == "overview":
            expect(page.locator("[data-chart=done] canvas")).to_be_visible()
        beyond = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert (name, max(0, beyond)) == (name, 0)
        assert (name, page.locator("h1").count()) == (name, 1)
        assert (name, page.evaluate(UNNAMED)) == (name, [])
        assert (name, page.evaluate(CONTRAST)) == (name, [])
        page.screenshot(path=folder / f"{name}-{look}.png", full_page=True)
