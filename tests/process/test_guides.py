"""What README and the guide for plugin authors show, done as shown, on a real server."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
import urllib.request

import pytest

from limehub.config import runfile
from tests.support.process import REPOSITORY, Workplace
from tests.support.waiting import wait_until

README = (REPOSITORY / "README.md").read_text()
GUIDE = (REPOSITORY / "docs" / "plugin-authors.md").read_text()
KEY = "core.limeobject.{}.v1"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(bare_workplace: Workplace) -> Workplace:
    """What a newcomer has after `limehub init`, but for a port of our own."""
    assert bare_workplace.run("init").returncode == 0
    bare_workplace.environ.update(LIMEHUB_WEB__BIND="127.0.0.1:0", LIMEHUB_LOG__FORMAT="json")
    return bare_workplace


def packaged(place: Workplace, project: str, source: str) -> str:
    """Install *source* under the name and module that *project*, a pyproject.toml, gives it."""
    told = tomllib.loads(project)["project"]
    ((name, module),) = told["entry-points"]["limehub"].items()
    assert told["name"] == name
    assert place.install(name, source, module=module, version=told["version"]) == module
    return str(name)


def publish_as_shown(place: Workplace, page: str, after: str) -> None:
    """Run the first `limehub publish` that *page* shows behind the text *after*."""
    command = re.compile(r"^ +(?:\S*bin/)?limehub (publish .*?)(?: {2,}#.*)?$", re.MULTILINE)
    shown = command.search(page, page.index(after))
    assert shown
    done = place.run(*shlex.split(shown[1]))
    assert done.returncode == 0, done.stderr


def test_the_package_of_the_readme_handles_the_event_of_the_readme(place: Workplace) -> None:
    (project,) = [text for text in blocks(README, "toml") if "[project]" in text]
    (source,) = blocks(README, "python")
    packaged(place, project, source)
    server = place.serve()
    publish_as_shown(place, README, source)
    server.wait_for_line("company 7 of default changed")
    assert server.stop() == 0


def test_the_first_package_of_the_guide_handles_its_event_with_its_setting(
    place: Workplace,
) -> None:
    project, setting = blocks(GUIDE, "toml")[:2]
    source = blocks(GUIDE, "python")[0]
    name = packaged(place, project, source)
    assert f"{name}.greet_deal" in place.run("plugins", "--json").stdout
    with place.config_file.open("a") as file:
        file.write(f"\n{setting}")
    server = place.serve()
    publish_as_shown(place, GUIDE, source)
    server.wait_for_line("hej, deal 1")
    assert server.stop() == 0


DEAL = {"id": 7, "limetype": "deal", "values": {"name": "Ink", "value": 12.5}}
STRANGER = {"id": 8, "limetype": "person", "values": {"email": "nowhere"}}
EXAMPLES: dict[str, tuple[str, object, str]] = {
    # what an example is known by: an event for it, and what the log has of that
    "def on_deal(body, application)": ("deal.new", DEAL, '"limehub.outcome": "ack"'),
    "class Deal:": ("deal.new", DEAL, "Ink is worth 12.5"),
    "def welcome(event)": ("person.new", STRANGER, '"limehub.outcome": "dead-letter"'),
}
HOOKS = "def delivery_settled("
TEST = "def test_the_greeting_is_a_setting"
HANDLER = """

def seen(event):
    time.sleep(1.5)


def register_event_handlers(worker, config):
    worker.register_event_handler(seen, "core.#")
"""


def example(mark: str) -> str:
    (found,) = [text for text in blocks(GUIDE, "python") if mark in text]
    return found


def test_no_example_of_the_guide_is_left_out() -> None:
    """The first is run above, the last, its test, in tests/unit/test_plugins.py."""
    marks = ["def greet_deal", *EXAMPLES, HOOKS, TEST]
    assert blocks(GUIDE, "python") == [example(mark) for mark in marks]


@pytest.mark.parametrize("mark", EXAMPLES)
def test_a_handler_of_the_guide_does_in_a_server_what_the_guide_says(
    place: Workplace, mark: str
) -> None:
    verb, body, logged = EXAMPLES[mark]
    defaults = "\n\ndef default_config():\n    return {}\n"  # example two asks for its settings
    place.install("solution-hello", example(mark) + defaults)
    place.environ["LIMEHUB_LOG__LEVEL"] = "debug"
    server = place.serve()
    published = place.run("publish", KEY.format(verb), json.dumps(body))
    assert published.returncode == 0, published.stderr
    server.wait_for_line(logged)
    assert server.stop() == 0


def test_the_hooks_of_the_guide_show_the_slow_runs_on_a_page(place: Workplace) -> None:
    place.install("solution-hello", "import time\n" + example(HOOKS) + HANDLER)
    server = place.serve()
    assert place.run("publish", KEY.format("deal.new"), json.dumps(DEAL)).returncode == 0
    info = runfile.read(place.config_file)
    assert info is not None

    def slow() -> list[tuple[str, str]]:
        url = f"{info.web_url}/plugins/solution-hello/slow"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return [(name, key) for name, key, _seconds in json.load(answer)["slow"]]

    wait_until(lambda: slow() == [("solution-hello.seen", "core.limeobject.deal.new.v1")])
    assert server.stop() == 0
