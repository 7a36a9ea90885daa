"""Discovery, hooks and the registry, with plugins that are really installed into a folder."""

from __future__ import annotations

import importlib
import itertools
import logging
import re
import textwrap
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import attrs
import click
import flask
import pytest

from limehub.config import Config, EventHandler, Events, Package
from limehub.errors import ConfigError, PluginError
from limehub.plugins import hookspecs
from limehub.plugins.forms import INJECTABLE
from limehub.plugins.hooks import SPECS
from limehub.plugins.options import HandlerOptions, RetryPolicy
from limehub.plugins.registry import load_registry
from limehub.testing import Outbox, make_event
from tests.unit.plugin_site import Site

LIME_HANDLER = textwrap.dedent("""
    def on_deal(worker, body, message):
        message.ack()

    def register_event_handlers(worker, config):
        worker.register_event_handler(
            handler_func=on_deal, key="core.limeobject.deal.update.v1", queue_name="deal"
        )
""")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    site = Site(folder)
    yield site
    site.forget()


# --- discovery


def test_a_plugin_of_either_group_is_loaded_with_its_distribution(site: Site) -> None:
    site.install("solution-x", LIME_HANDLER, group="lime_plugins", version="2.1")
    site.install("solution-y", LIME_HANDLER)
    registry = site.load()
    plugin = registry.plugins["solution-x"]
    assert list(registry.plugins) == ["solution-x", "solution-y"]
    assert (plugin.distribution, plugin.version, plugin.module) == (
        "solution-x",
        "2.1",
        "solution_x",
    )
    assert plugin.groups == ("lime_plugins",)
    assert plugin.hooks == ("register_event_handlers",)
    assert registry.broken == ()
    assert registry.warnings == ()


def test_the_same_name_and_value_in_both_groups_is_one_plugin(site: Site) -> None:
    site.install("solution-x", LIME_HANDLER)
    both = {"limehub": {"solution-x": "solution_x"}, "lime_plugins": {"solution-x": "solution_x"}}
    site.metadata("solution-x", both)
    registry = site.load()
    assert set(registry.plugins["solution-x"].groups) == {"limehub", "lime_plugins"}
    assert len(registry.handlers) == 1


def test_the_same_name_with_another_value_is_an_error_that_names_both(site: Site) -> None:
    site.install("solution-x", LIME_HANDLER)
    site.metadata("intruder", {"lime_plugins": {"solution-x": "intruder"}}, version="0.3")
    registry = site.load()
    assert registry.plugins == {}
    assert len(registry.broken) == 2
    with pytest.raises(PluginError) as caught:
        registry.raise_if_broken()
    assert "solution-x = intruder (intruder 0.3)" in str(caught.value)
    assert "solution-x = solution_x (solution-x 1.0)" in str(caught.value)
    assert caught.value.exit_code == 3


def test_names_that_differ_by_dash_and_underscore_are_an_error(site: Site) -> None:
    site.install("solution-x", LIME_HANDLER)
    site.install("solution_x", LIME_HANDLER, module="other", distribution="other")
    site.install("solution-y", LIME_HANDLER)
    registry = site.load()
    assert list(registry.plugins) == ["solution-y"]
    assert {one.name for one in registry.broken} == {"solution-x", "solution_x"}


def test_a_name_that_no_broker_should_see_is_broken(site: Site) -> None:
    site.install("solution x", LIME_HANDLER, module="solution_x")
    (broken,) = site.load().broken
    assert "may only hold letters, digits" in broken.error_text
    assert broken.file.endswith("entry_points.txt")
    assert broken.line == 2


def test_a_package_switched_off_is_not_even_imported(site: Site) -> None:
    site.install("solution-x", "raise RuntimeError('imported')")
    registry = site.load(Config(packages={"solution_x": Package(enabled=False)}))
    assert registry.disabled == ("solution-x",)
    assert registry.broken == ()


# --- broken plugins


@pytest.mark.parametrize(
    ("source", "line", "words"),
    [
        ("\nimport nowhere_to_be_found\n", 2, "ModuleNotFoundError: No module named 'nowhere"),
        ("\n\ndef broken(:\n", 3, "SyntaxError: invalid syntax"),
        ("x = 1\nx / 0\n", 2, "ZeroDivisionError: division by zero"),
        ("import sys\n\nsys.exit('bye')\n", 3, "SystemExit: bye"),
        ("raise KeyboardInterrupt\n", 1, "KeyboardInterrupt"),
        ("import gevent\nraise gevent.Timeout(1)\n", 2, "Timeout"),
        ("import json\n\njson.loads('nope')\n", 3, "JSONDecodeError"),
        ("\nregister_event_handlers = 3\n", 0, "register_event_handlers is int, not a function"),
        ("def register_event_handlers(w, c, more): ...\n", 1, "must take (worker, config)"),
        ("def register_event_handlers(one): ...\n", 1, "must take (worker, config)"),
        ("async def server_started(server): ...\n", 1, "is async or a generator"),
        ("def default_config():\n    return []\n", 0, "returned [], not a dict"),
        ("def default_config():\n    return {}['a']\n", 2, "KeyError: 'a'"),
        ("def register_event_handlers(worker, config):\n    config.nope\n", 2, "AttributeError"),
        (
            "from limehub import hookimpl\n\n@hookimpl\ndef server_startd(server): ...\n",
            3,
            "'server_startd' is unknown; did you mean 'server_started'?",
        ),
        (
            (
                "from limehub import hookimpl\n\n"
                "@hookimpl(wrapper=True)\ndef server_started(server):\n    yield\n"
            ),
            3,
            "no wrapper hooks",
        ),
    ],
)
def test_a_broken_plugin_is_named_with_file_and_line_and_stops_no_other(
    site: Site, source: str, line: int, words: str
) -> None:
    file = site.install("solution-broken", source, version="1.2", distribution="broken-dist")
    site.install("solution-fine", LIME_HANDLER)
    registry = site.load()
    (broken,) = registry.broken
    assert list(registry.plugins) == ["solution-fine"]
    assert words in broken.error_text
    assert "\n" not in str(broken)
    assert "distribution broken-dist 1.2" in str(broken)
    assert "entry point limehub: solution-broken = solution_broken" in str(broken)
    if line:
        assert (broken.file, broken.line) == (str(file), line)


def test_an_entry_point_whose_module_is_missing_is_named_with_its_own_line(site: Site) -> None:
    site.metadata("ghost", {"limehub": {"ghost": "ghost_module"}})
    (broken,) = site.load().broken
    assert broken.error_text == "ModuleNotFoundError: No module named 'ghost_module'"
    assert Path(broken.file).name == "entry_points.txt"
    assert broken.line == 2


@pytest.mark.parametrize("value", ["not a module", "", "1x", ":attribute"])
def test_an_entry_point_that_names_no_module_is_broken(site: Site, value: str) -> None:
    site.install("solution-fine", LIME_HANDLER)
    points = [EntryPoint(name="solution-x", value=value, group="limehub"), *site.entry_points()]
    registry = load_registry(Config(), entry_points=points)
    assert [one.name for one in registry.broken] == ["solution-x"]
    assert list(registry.plugins) == ["solution-fine"]


def test_every_broken_plugin_is_reported_not_only_the_first(site: Site) -> None:
    for name in "abc":
        site.install(f"solution-{name}", f"raise ValueError('{name}')")
    assert [one.error_text for one in site.load().broken] == [
        "ValueError: a",
        "ValueError: b",
        "ValueError: c",
    ]


def test_a_plugin_that_fails_late_brings_no_hooks(site: Site) -> None:
    site.install(
        "solution-x",
        """
        def delivery_settled(event, handler, outcome, seconds, error): ...

        def register_event_handlers(worker, config):
            worker.register_event_handler(print, "a.b")
            raise ValueError("late")
        """,
    )
    registry = site.load()
    assert registry.settled_hooks == ()
    assert registry.handlers == {}
    assert "ValueError: late" in registry.broken[0].error_text
    assert 'raise ValueError("late")' in registry.broken[0].traceback


def test_a_registration_error_is_not_lost_in_the_plugins_own_try_except(site: Site) -> None:
    file = site.install(
        "solution-x",
        """
        def on_deal(event, setings): ...

        def register_event_handlers(worker, config):
            for function, options in ((on_deal, {}), (print, {"lane": "fast"})):
                try:
                    worker.register_event_handler(function, "a.b", **options)
                except Exception:
                    pass
        """,
    )
    (broken,) = site.load().broken
    assert "solution-x.on_deal: parameter 'setings' is unknown" in broken.error_text
    assert "solution-x.print: option lane: 'fast' is unknown" in broken.error_text
    assert (broken.file, broken.line) == (str(file), 2)


# --- the package that Lime's generator writes


LIME_INIT = """
    import logging

    try:
        from .event_handlers import register_event_handlers
    except ImportError:
        logging.getLogger(__name__).info("doesn't implement event handlers")
"""
LIME_WALKER = """
    import importlib
    import pkgutil

    def register_event_handlers(worker, config):
        for info in pkgutil.walk_packages(__path__, __name__ + "."):
            if info.name.endswith("_test"):
                continue
            module = importlib.import_module(info.name)
            if hasattr(module, "register_event_handlers"):
                module.register_event_handlers(worker, config)
"""


def lime_package(site: Site, handler: str, walker: str = LIME_WALKER) -> None:
    site.install("solution-x", LIME_INIT, group="lime_plugins")
    site.write("solution_x/event_handlers/__init__.py", walker)
    site.write("solution_x/event_handlers/deal.py", handler)
    site.write("solution_x/event_handlers/deal_test.py", "raise RuntimeError('a test ran')")


def test_a_package_as_limes_generator_writes_it_runs_unmodified(site: Site) -> None:
    lime_package(site, LIME_HANDLER)
    registry = site.load()
    registry.raise_if_broken()
    handler = registry.handlers["lime.event_handler.solution-x.deal"]
    event, message = make_event({"id": 1})
    handler.form.bind(registry.services_for(handler, Outbox()))(event, message)
    assert message.acknowledged
    assert handler.form.manual
    assert handler.options.order == "queue"


def test_a_typing_error_in_a_lime_handler_is_an_error_with_file_and_line(site: Site) -> None:
    lime_package(site, "\nimport reqests\n" + LIME_HANDLER)
    (broken,) = site.load().broken
    assert broken.error_text == "ModuleNotFoundError: No module named 'reqests'"
    assert broken.file.endswith("event_handlers/deal.py")
    assert broken.line == 2


def test_handlers_that_vanish_in_limes_try_except_are_an_error_with_file_and_line(
    site: Site,
) -> None:
    lime_package(site, LIME_HANDLER, walker="from . import deal, nothing_of_this_name\n")
    (broken,) = site.load().broken
    assert "ImportError: cannot import name 'nothing_of_this_name'" in broken.error_text
    assert broken.file.endswith("event_handlers/__init__.py")
    assert broken.line == 1


def test_handlers_that_are_not_exposed_are_an_error_that_says_what_to_add(site: Site) -> None:
    site.install("solution-x", "# nothing\n", group="lime_plugins")
    site.write("solution_x/event_handlers/__init__.py", LIME_WALKER)
    (broken,) = site.load().broken
    assert "add `from .event_handlers import register_event_handlers`" in broken.error_text


def test_an_event_handlers_folder_with_a_misspelt_hook_is_an_error_with_a_hint(
    site: Site,
) -> None:
    lime_package(site, "", walker="def register_event_handler(worker, config): ...\n")
    (broken,) = site.load().broken
    assert "did you mean register_event_handlers?" in broken.error_text


def test_an_empty_leftover_event_handlers_folder_is_no_problem(site: Site) -> None:
    site.install("solution-x", "def server_started(server): ...\n")
    (site.folder / "solution_x/event_handlers/__pycache__").mkdir(parents=True)
    assert site.load().broken == ()


# --- hooks


@pytest.mark.parametrize(
    "source",
    [
        "def register_event_handlers(w, c): w.register_event_handler(print, 'a.b')\n",
        (
            "def register_event_handlers(config, worker):\n"
            "    worker.register_event_handler(print, 'a.b')\n"
        ),
        "def register_event_handlers(worker): worker.register_event_handler(print, 'a.b')\n",
        "def register_event_handlers(*all): all[0].register_event_handler(print, 'a.b')\n",
        (
            "def register_event_handlers(w, c, debug=False):\n"
            "    assert debug is False\n"
            "    w.register_event_handler(print, 'a.b')\n"
        ),
        (
            "from limehub import hookimpl\n"
            "@hookimpl(specname='register_event_handlers', tryfirst=True)\n"
            "def mine(worker, config): worker.register_event_handler(print, 'a.b')\n"
        ),
        (
            "class Hooks:\n"
            "    def register(self, worker, config): worker.register_event_handler(print, 'a.b')\n"
            "register_event_handlers = Hooks().register\n"
        ),
        (
            "def __getattr__(name):\n"
            "    if name != 'register_event_handlers': raise AttributeError(name)\n"
            "    return lambda w, c: w.register_event_handler(print, 'a.b')\n"
        ),
    ],
)
def test_a_hook_is_called_whatever_its_parameters_are_called(site: Site, source: str) -> None:
    site.install("solution-x", source)
    registry = site.load()
    registry.raise_if_broken()
    assert [handler.name for handler in registry.handlers.values()] == ["solution-x.print"]


def test_misspelt_hooks_are_warned_about_but_limes_other_hooks_are_not(site: Site) -> None:
    site.install(
        "solution-x",
        """
        def register_event_handler(worker, config): ...
        def server_start(server): ...
        def register_blueprint(app, config): ...
        def register_config(): ...
        def register_translations(): ...
        def server_started(server): ...
        """,
    )
    assert site.load().warnings == (
        (
            "plugin solution-x: register_event_handler is no hook of limehub; "
            "did you mean register_event_handlers?"
        ),
        "plugin solution-x: server_start is no hook of limehub; did you mean server_started?",
    )


def test_a_plugin_with_neither_hooks_nor_handlers_is_warned_about(site: Site) -> None:
    site.install("solution-x", "")
    assert site.load().warnings == ("plugin solution-x: it has neither hooks nor handlers",)


def test_server_hooks_run_in_order_and_a_failing_one_is_logged_not_raised(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.install("solution-a", "def server_started(server): server.append('a')\n")
    site.install("solution-b", "def server_started(server): raise ValueError('b failed')\n")
    site.install("solution-c", "def server_started(s): s.append('c')\n")
    site.install(
        "solution-z",
        "from limehub import hookimpl\n"
        "@hookimpl(tryfirst=True)\ndef server_started(server): server.append('z')\n"
        "def server_stopping(server): raise SystemExit(3)\n",
    )
    called: list[str] = []
    registry = site.load()
    registry.call_started(called)
    registry.call_stopping(called)
    assert called == ["z", "a", "c"]
    named = [vars(each)["plugin"] for each in caplog.records if "plugin" in vars(each)]
    assert named == ["solution-b", "solution-z"]
    assert "b failed" in caplog.text


def test_settled_hooks_are_plain_calls_that_never_raise(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.install("solution-a", "def delivery_settled(e, h, o, s, x): e.append((h, o, s, x))\n")
    site.install("solution-b", "def delivery_settled(event, error): event.append(error)\n")
    site.install("solution-c", "def delivery_settled(*args): 1 / 0\n")
    seen: list[object] = []
    for hook in site.load().settled_hooks:
        hook(seen, "handler", "ack", 0.5, None)
    assert seen == [("handler", "ack", 0.5, None), None]
    assert "ZeroDivisionError" in caplog.text


def test_commands_of_plugins_join_the_cli_but_take_no_name_in_use(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.install(
        "solution-x",
        """
        import click

        def register_commands(cli):
            @cli.command("serve")
            def serve(): ...

            @cli.command("deal-report")
            def report():
                click.echo("all is well")
        """,
    )
    cli = click.Group()
    own = click.Command("serve")
    cli.add_command(own)
    site.load().add_commands(cli)
    assert cli.commands["serve"] is own
    assert sorted(cli.commands) == ["deal-report", "serve"]
    assert "name is taken" in caplog.text


def test_blueprints_of_plugins_are_served_under_the_plugins_name(site: Site) -> None:
    source = """
        from flask import Blueprint

        def default_config():
            return {"greeting": "hello"}

        def register_routes(app, settings):
            pages = Blueprint("pages", __name__)

            @pages.get("/greeting")
            def greeting():
                return settings["greeting"]

            return pages
    """
    site.install("solution-x", source)
    site.install("solution-y", source)
    app = flask.Flask("test")
    site.load(Config(plugins={"solution_y": {"greeting": "hej"}})).add_routes(app)
    client = app.test_client()
    assert client.get("/plugins/solution-x/greeting").text == "hello"
    assert client.get("/plugins/solution-y/greeting").text == "hej"


@pytest.mark.parametrize("hook", hookspecs.__all__)
def test_the_example_of_every_hook_is_a_plugin_that_loads(site: Site, hook: str) -> None:
    documentation = getattr(hookspecs, hook).__doc__
    text, _, example = documentation.partition("Example::")
    assert text.strip()
    lines = itertools.dropwhile(lambda line: not line.strip(), example.splitlines())
    site.install("solution-x", "\n".join(line[8:] for line in lines) + "\n")
    registry = site.load()
    registry.raise_if_broken()
    assert hook in registry.plugins["solution-x"].hooks
    assert registry.warnings == ()
    registry.call_started(None)
    registry.call_stopping(None)
    registry.add_commands(click.Group())
    registry.add_routes(flask.Flask("test"))


def test_the_hooks_are_those_of_the_design() -> None:
    assert SPECS == {
        "default_config": (),
        "register_event_handlers": ("worker", "config"),
        "server_started": ("server",),
        "server_stopping": ("server",),
        "delivery_settled": ("event", "handler", "outcome", "seconds", "error"),
        "register_commands": ("cli",),
        "register_routes": ("app", "settings"),
    }


def test_a_configuration_error_in_a_plugins_own_code_is_not_lost(site: Site) -> None:
    site.install(
        "solution-x",
        "def register_event_handlers(worker, config): config.exchange_of('nobody')\n",
    )
    (broken,) = site.load().broken
    assert "application 'nobody' is not in `applications`" in broken.error_text
    assert (Path(broken.file).name, broken.line) == ("__init__.py", 1)


# --- settings


def test_settings_are_the_defaults_under_the_plugins_own_table(site: Site) -> None:
    site.install(
        "solution-x",
        """
        seen = {}

        def default_config():
            return {"limit": 10, "inner": {"a-b": 1, "c": 2}}

        def on_deal(body, settings):
            return settings

        def register_event_handlers(worker, config):
            own = config.plugins["solution-x"]
            seen["item"] = config.plugins["solution-x"]["inner"]["c"]
            seen["attribute"] = config.plugins.solution_x.inner.a_b
            seen["applications"] = worker.applications
            worker.register_event_handler(on_deal, f"deals.{own.limit}")
        """,
    )
    config = Config(plugins={"solution_x": {"limit": 20, "inner": {"c": 3}}})
    registry = site.load(config)
    registry.raise_if_broken()
    (handler,) = registry.handlers.values()
    event, message = make_event({})
    import solution_x

    assert handler.keys == ("deals.20",)
    assert solution_x.seen == {"item": 3, "attribute": 1, "applications": ("default",)}
    assert registry.plugins["solution-x"].settings["limit"] == 20
    call = handler.form.bind(registry.services_for(handler, Outbox()))
    assert call(event, message) == {"limit": 20, "inner": {"a-b": 1, "c": 3}}


def test_a_setting_of_the_wrong_type_is_an_error_of_the_configuration(site: Site) -> None:
    for name in ("solution-x", "solution-y"):
        site.install(name, "def default_config(): return {'limit': 10}\n")
    tables = {"solution-x": {"limit": "10"}, "solution-y": {"limit": []}}
    with pytest.raises(ConfigError) as caught:
        site.load(Config(plugins=tables))
    assert len(caught.value.problems) == 2


def test_tables_of_plugins_that_are_not_installed_are_warned_about(site: Site) -> None:
    site.install("solution-x", LIME_HANDLER)
    config = Config(plugins={"solution-z": {}}, packages={"lime-webhooks": Package()})
    assert site.load(config).warnings == (
        "packages.lime-webhooks is of no installed plugin",
        "plugins.solution-z is of no installed plugin; did you mean solution-x?",
    )


# --- handlers


def test_a_handler_knows_its_queue_its_keys_and_where_it_was_written(site: Site) -> None:
    file = site.install("solution-x", LIME_HANDLER)
    handler = site.load().handlers["lime.event_handler.solution-x.deal"]
    assert handler.name == "solution-x.deal"
    assert handler.queue == "lime.event_handler.solution-x.deal"
    assert handler.dlq == "lime.event_handler.solution-x.dlq"
    assert handler.keys == ("core.limeobject.deal.update.v1",)
    assert handler.origin == f"{file}:2"
    assert handler.plugin.name == "solution-x"


def test_marked_functions_are_registered_without_a_hook(site: Site) -> None:
    site.install(
        "solution-x",
        """
        from limehub import event_handler
        from .more import on_person

        @event_handler("core.limeobject.deal.*.v1", "own.deal.v1", on_error="discard")
        def on_deal(event): ...

        @event_handler("a.v1", queue_name="ab")
        @event_handler(["b.v1", "c.v1"], queue_name="ab")
        def twice(event): ...
        """,
    )
    site.write(
        "solution_x/more.py",
        """
        from limehub import event_handler

        @event_handler("core.limeobject.person.#", queue_name="person")
        def on_person(body): ...
        """,
    )
    registry = site.load()
    registry.raise_if_broken()
    keys = {handler.queue_name: handler.keys for handler in registry.handlers.values()}
    assert keys == {
        "on_deal": ("core.limeobject.deal.*.v1", "own.deal.v1"),
        "ab": ("a.v1", "b.v1", "c.v1"),
        "person": ("core.limeobject.person.#",),
    }
    assert registry.handlers["lime.event_handler.solution-x.on_deal"].options.on_error == "discard"


def test_marked_functions_in_an_event_handlers_folder_need_no_import(site: Site) -> None:
    site.install("solution-x", "")
    site.write("solution_x/event_handlers/__init__.py", "")
    site.write(
        "solution_x/event_handlers/deal.py",
        "from limehub import event_handler\n\n"
        "@event_handler('core.limeobject.deal.new.v1')\ndef on_new(event): ...\n",
    )
    site.write("solution_x/event_handlers/deal_test.py", "raise RuntimeError('a test ran')")
    registry = site.load()
    registry.raise_if_broken()
    assert list(registry.handlers) == ["lime.event_handler.solution-x.on_new"]


def test_a_marked_function_of_another_plugin_is_not_registered_twice(site: Site) -> None:
    site.install(
        "solution-x",
        "from limehub import event_handler\n@event_handler('a.v1')\ndef on_a(event): ...\n",
    )
    site.install("solution-y", "from solution_x import on_a\n" + LIME_HANDLER)
    assert sorted(site.load().handlers) == [
        "lime.event_handler.solution-x.on_a",
        "lime.event_handler.solution-y.deal",
    ]


def register(*calls: str) -> str:
    body = "".join(f"    worker.register_event_handler({call})\n" for call in calls)
    return (
        f"def one(event): ...\ndef two(event): ...\ndef register_event_handlers(worker, c):\n{body}"
    )


def test_the_same_function_for_the_same_queue_adds_keys(site: Site) -> None:
    site.install("solution-x", register("one, 'a'", "one, ['b', 'a']", "one, ('c',), 'other'"))
    registry = site.load()
    keys = {handler.queue_name: handler.keys for handler in registry.handlers.values()}
    assert keys == {"one": ("a", "b"), "other": ("c",)}


@pytest.mark.parametrize(
    ("calls", "words"),
    [
        (("one, 'a', 'q'", "two, 'b', 'q'"), "two functions for one queue, one ("),
        (("one, 'a'", "one, 'b', lane='thread'"), "registered twice with different options"),
        (("one, 'a', 'dlq'",), "'dlq' is a name of limehub's own"),
        (("one, 'a', 'x.dlq'",), "'x.dlq' is a name of limehub's own"),
        (("one, 'a', 'x.retry.5'",), "'x.retry.5' is a name of limehub's own"),
        (("one, 'a', 'x y'",), "may only hold letters"),
        (("one, 'a', 'x\\r\\ny'",), "may only hold letters"),
        (("one, 'a', ''",), "queue_name is empty"),
        (("one, 'a', 5",), "queue_name is 5, not a string"),
        (("lambda event: 1, 'a'",), "give queue_name="),
        (("one, ''",), "the key is empty"),
        (("one, []",), "no key at all"),
        (("one, None",), "a key is a string, not NoneType"),
        (("one, 'x' * 256",), "256 bytes long"),
        (("'one', 'a'",), "handler_func is 'one', not a function"),
        (("lambda body: 1, 'a', 'q', ack='manual'",), "no parameter of (body) can ack"),
        (("one",), "TypeError"),
    ],
)
def test_a_registration_that_cannot_be_is_an_error(
    site: Site, calls: tuple[str, ...], words: str
) -> None:
    file = site.install("solution-x", register(*calls))
    (broken,) = site.load().broken
    assert words in broken.error_text
    assert broken.file in (str(file), "entry_points.txt") or broken.file.endswith(
        "entry_points.txt"
    )


def test_two_functions_for_one_queue_are_both_named_with_their_lines(site: Site) -> None:
    file = site.install("solution-x", register("one, 'a', 'q'", "two, 'b', 'q'"))
    (broken,) = site.load().broken
    assert f"one ({file}:1) and two ({file}:2)" in broken.error_text


def test_two_apps_that_would_share_a_queue_are_refused(site: Site) -> None:
    site.install("a", register("one, 'k', 'b.c'"))
    site.install("a.b", register("one, 'k', 'c'"))
    registry = site.load()
    assert list(registry.plugins) == ["a"]
    assert "would share the queue lime.event_handler.a.b.c" in registry.broken[0].error_text


def test_a_queue_name_that_would_grow_too_long_is_refused(site: Site) -> None:
    site.install("solution-x", register(f"one, 'k', '{'q' * 199}'"))
    site.install("solution-y", register(f"one, 'k', '{'q' * 190}'"))
    per_application = {"solution-y": Package(queue_per="application")}
    assert len(site.load().handlers) == 2
    registry = site.load(Config(applications=("a" * 40,), packages=per_application))
    assert [one.name for one in registry.broken] == ["solution-y"]
    assert "longer than 255 bytes" in registry.broken[0].error_text


def test_queues_are_one_per_handler_or_one_per_application(site: Site) -> None:
    site.install("solution-x", LIME_HANDLER)
    config = Config(
        applications=("acme", "globex", "initech"),
        event_handler=EventHandler(queue_per="application"),
        packages={"solution_x": Package(applications=("acme", "globex"))},
    )
    registry = site.load(config)
    (handler,) = registry.handlers.values()
    assert registry.applications_of(handler) == ("acme", "globex")
    assert registry.queues_of(handler) == {
        "lime.event_handler.solution-x.deal.acme": ("acme",),
        "lime.event_handler.solution-x.deal.globex": ("globex",),
    }
    assert registry.queues_of(handler, Config(applications=("a", "b"))) == {
        "lime.event_handler.solution-x.deal": ("a", "b")
    }


def test_handlers_matching_a_key_are_found_across_plugins(site: Site) -> None:
    site.install("solution-x", LIME_HANDLER)
    site.install("solution-y", register("one, 'core.limeobject.#'", "two, 'other.#'"))
    found = site.load().handlers_matching("core.limeobject.deal.update.v1")
    assert [handler.name for handler in found] == ["solution-x.deal", "solution-y.one"]
    assert site.load().handlers_matching("nothing") == ()


def test_doubtful_keys_are_warnings_that_name_the_handler(site: Site) -> None:
    site.install("solution-x", register("one, 'core.lime.deal.update.v1'"))
    (warning,) = site.load().warnings
    assert warning.startswith("solution-x.one: 'core.lime.deal.update.v1' matches nothing")


def test_a_template_that_glues_text_to_a_wildcard_is_warned_about(site: Site) -> None:
    site.install("solution-x", register("one, '*.deal.v1'"))
    config = Config(events=Events(routing_key_template="{exchange}_{routing_key}"))
    assert any("the wildcard is lost" in warning for warning in site.load(config).warnings)


def test_handlers_cannot_be_registered_after_the_start(site: Site) -> None:
    site.install(
        "solution-x",
        "kept = []\ndef register_event_handlers(worker, config): kept.append(worker)\n",
    )
    site.load().raise_if_broken()
    import solution_x

    with pytest.raises(PluginError, match="at start only"):
        solution_x.kept[0].register_event_handler(print, "a")


def test_the_installed_entry_points_are_read_when_none_are_given(site: Site) -> None:
    site.install("solution-seen-on-the-path", LIME_HANDLER)
    assert "solution-seen-on-the-path" in load_registry(Config()).plugins


def test_a_plugins_logger_is_that_of_its_module(site: Site) -> None:
    site.install("solution-x", LIME_HANDLER)
    registry = site.load()
    (handler,) = registry.handlers.values()
    assert registry.services_for(handler, Outbox()).logger is logging.getLogger("solution_x")


# --- the guide


GUIDE = (Path(__file__).parents[2] / "docs" / "plugin-authors.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


def test_the_first_plugin_of_the_guide_passes_the_guides_own_test(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.write("solution_hello/__init__.py", BLOCKS[0])
    importlib.invalidate_caches()
    namespace: dict[str, Any] = {}
    exec(BLOCKS[-1], namespace)
    namespace["test_the_greeting_is_a_setting"](caplog)


@pytest.mark.parametrize("source", BLOCKS[1:-1])
def test_every_other_example_of_the_guide_is_a_plugin_that_loads(site: Site, source: str) -> None:
    site.install("solution-hello", source)
    registry = site.load()
    registry.raise_if_broken()
    assert registry.warnings == ()


def test_the_guide_names_every_hook_option_and_injectable() -> None:
    hooks = [f"`{name}({', '.join(parameters)})`" for name, parameters in SPECS.items()]
    options = [f"| `{field.name}` |" for field in attrs.fields(HandlerOptions)]
    retries = [f"`{field.name}`" for field in attrs.fields(RetryPolicy) if field.name != "delays"]
    injectable = [f"| `{name}` |" for name in INJECTABLE]
    missing = [text for text in (*hooks, *options, *retries, *injectable) if text not in GUIDE]
    assert missing == []
