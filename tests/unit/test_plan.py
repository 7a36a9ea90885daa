"""From configuration and registry to what each group consumes."""

from __future__ import annotations

import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import gevent
import pytest

from limehub.config import load
from limehub.errors import PluginError
from limehub.plugins.registry import load_registry
from limehub.testing import Outbox, make_event
from limehub.workers.consumer import QueuePlan
from limehub.workers.lanes.lanes import Lanes
from limehub.workers.plan import plans_of, policy_of, prefetch_of

Plans = dict[str, list[QueuePlan]]
Plan = Callable[..., Plans]


@pytest.fixture
def plan(tmp_path: Path) -> Iterator[Plan]:
    """`plan(toml, {app: [(queue_name, keys, options)]})`: the plans of these handlers."""
    modules: list[str] = []

    def entry_point(name: str, handlers: list[tuple[str, Any, dict[str, Any]]]) -> EntryPoint:
        def register(worker: Any, _config: Any) -> None:
            for queue_name, keys, options in handlers:
                given = dict(options)
                handler = given.pop("handler", None) or (lambda body: None)
                worker.register_event_handler(handler, keys, queue_name, **given)

        module = ModuleType(f"plugin_{uuid.uuid4().hex}")
        module.register_event_handlers = register  # type: ignore[attr-defined]
        sys.modules[module.__name__] = module
        modules.append(module.__name__)
        return EntryPoint(name=name, value=module.__name__, group="limehub")

    def make(toml: str, apps: dict[str, list[tuple[str, Any, dict[str, Any]]]]) -> Plans:
        file = tmp_path / "limehub.toml"
        file.write_text(textwrap.dedent(toml))
        config = load(file, {}).config
        registry = load_registry(config, entry_points=[entry_point(*app) for app in apps.items()])
        registry.raise_if_broken()
        return plans_of(registry.config, registry, Lanes(registry, Outbox()))

    yield make
    for name in modules:
        sys.modules.pop(name, None)


def only(plans: Plans) -> QueuePlan:
    """The one plan that there is."""
    ((one,),) = plans.values()
    return one


def test_a_queue_is_bound_to_every_application_with_every_key(plan: Plan) -> None:
    plans = plan('applications = ["acme", "globex"]', {"app": [("deals", ["a.b", "a.*"], {})]})
    one = only(plans)
    queue = "lime.event_handler.app.deals"
    assert list(plans) == ["default"]
    assert (one.spec.name, one.handler.name) == (queue, "app.deals")
    assert one.handler.dlq == "lime.event_handler.app.dlq"
    assert one.applications == {"lime.acme": "acme", "lime.globex": "globex"}
    assert sorted(one.bindings) == [
        (queue, "lime.acme", "a.*"),
        (queue, "lime.acme", "a.b"),
        (queue, "lime.globex", "a.*"),
        (queue, "lime.globex", "a.b"),
    ]
    assert (one.unbindings, one.excluded) == ((), frozenset())


def test_an_explicit_exchange_and_a_template_shape_the_bindings(plan: Plan) -> None:
    toml = """
        [events]
        exchange = "crm"
        routing_key_template = "{exchange}_{routing_key}"
    """
    one = only(plan(toml, {"app": [("q", "a.b", {})]}))
    assert one.bindings == (("lime.event_handler.app.q", "crm", "crm_a.b"),)
    assert one.applications == {"crm": "default"}


def test_a_limited_package_excludes_the_other_tenants_and_takes_their_bindings_away(
    plan: Plan,
) -> None:
    toml = """
        applications = ["acme", "globex"]
        [packages.app]
        applications = ["acme"]
    """
    one = only(plan(toml, {"app": [("q", "a.b", {})]}))
    queue = "lime.event_handler.app.q"
    assert one.applications == {"lime.acme": "acme"}
    assert one.bindings == ((queue, "lime.acme", "a.b"),)
    assert one.excluded == {"lime.globex"}
    assert one.unbindings == ((queue, "lime.globex", "a.b"),)


def test_a_queue_per_application_has_its_own_tenant_only_and_one_handler_for_all(
    plan: Plan,
) -> None:
    toml = """
        applications = ["acme", "globex"]
        [packages.app]
        queue_per = "application"
    """
    plans = plan(toml, {"app": [("q", "a.b", {})]})["default"]
    assert {one.spec.name: one.applications for one in plans} == {
        "lime.event_handler.app.q.acme": {"lime.acme": "acme"},
        "lime.event_handler.app.q.globex": {"lime.globex": "globex"},
    }
    assert all(len(one.bindings) == 1 for one in plans)
    assert len({one.handler for one in plans}) == 1, "one handler: its numbers are counted together"


def test_a_package_that_is_switched_off_has_no_plan_and_its_group_disappears(plan: Plan) -> None:
    toml = """
        [packages.off]
        enabled = false
        [event_handler.workers.of_off]
        queue_prefix = "off"
    """
    plans = plan(toml, {"off": [("q", "a.b", {})], "on": [("q", "a.b", {})]})
    assert {group: [p.handler.app for p in each] for group, each in plans.items()} == {
        "default": ["on"]
    }


def test_the_longest_prefix_claims_a_queue_and_the_rest_is_default(plan: Plan) -> None:
    toml = """
        [event_handler.workers.all_of_lime]
        queue_prefix = "lime"
        [event_handler.workers.webhooks]
        queue_prefix = "lime-webhooks.call"
        [event_handler.workers.by_full_name]
        queue_prefix = "lime.event_handler.solution-y"
    """
    apps = {
        "lime-webhooks": [("call", "a", {}), ("other", "a", {})],
        "lime_webclient": [("q", "a", {})],
        "solution-y": [("q", "a", {})],
        "solution-x": [("q", "a", {})],
    }
    plans = plan(toml, apps)
    assert {group: sorted(p.handler.name for p in each) for group, each in plans.items()} == {
        "webhooks": ["lime-webhooks.call"],
        "all_of_lime": ["lime-webhooks.other", "lime_webclient.q"],
        "by_full_name": ["solution-y.q"],
        "default": ["solution-x.q"],
    }


@pytest.mark.parametrize(
    ("toml", "options", "prefetch"),
    [
        ("", {}, 1),
        ("event_handler.prefetch_count = 7", {}, 7),
        (
            "event_handler.prefetch_count = 7\nevent_handler.workers.default.prefetch_count = 3",
            {},
            3,
        ),
        ("event_handler.workers.default.prefetch_count = 3", {"prefetch_count": 9}, 9),
    ],
    ids=["default", "event_handler", "group", "handler"],
)
def test_the_closest_prefetch_wins(
    plan: Plan, toml: str, options: dict[str, Any], prefetch: int
) -> None:
    assert only(plan(toml, {"app": [("q", "a.b", options)]})).prefetch == prefetch


def test_prefetch_follows_a_new_configuration(plan: Plan, tmp_path: Path) -> None:
    plans = plan("", {"app": [("plain", "a", {}), ("own", "a", {"prefetch_count": 5})]})
    (tmp_path / "limehub.toml").write_text("event_handler.workers.default.prefetch_count = 40")
    config = load(tmp_path / "limehub.toml", {}).config
    handlers = [one.handler.handler for one in plans["default"]]
    assert [prefetch_of(config, handler, "default") for handler in handlers] == [40, 5]


@pytest.mark.parametrize(
    ("caught", "options", "policy"),
    [
        (False, {}, "crash"),
        (True, {}, "dead-letter"),
        (True, {"on_error": "crash"}, "crash"),
        (False, {"on_error": "discard"}, "discard"),
        (False, {"on_error": "dead-letter"}, "dead-letter"),
        (False, {"retry": [1]}, "retry"),
        (True, {"retry": [1], "on_error": "dead-letter"}, "dead-letter"),
    ],
)
def test_the_handlers_own_on_error_wins_over_the_setting(
    plan: Plan, caught: bool, options: dict[str, Any], policy: str, tmp_path: Path
) -> None:
    toml = f"event_handler.catch_handler_exceptions = {str(caught).lower()}"
    handler = only(plan(toml, {"app": [("q", "a.b", options)]})).handler
    assert handler.rules.policy == policy
    assert policy_of(load(tmp_path / "limehub.toml", {}).config, handler.handler) == policy


def test_queue_type_and_single_active_consumer_reach_the_queue(plan: Plan) -> None:
    toml = """
        [event_handler]
        queue_type = "quorum"
        single_active_consumer = true
    """
    arguments = only(plan(toml, {"app": [("q", "a.b", {})]})).spec.arguments
    assert arguments == {
        "x-queue-type": "quorum",
        "x-delivery-limit": -1,
        "x-single-active-consumer": True,
    }


def test_order_and_ack_of_each_form_reach_the_handler(plan: Plan) -> None:
    def of_lime(worker: Any, body: Any, message: Any) -> None:
        message.ack()

    apps = {
        "app": [
            ("lime", "a", {"handler": of_lime}),
            ("plain", "a", {}),
            ("early", "a", {"ack": "early", "order": "object"}),
        ]
    }
    found = {one.handler.name: one.handler for one in plan("", apps)["default"]}
    described = {
        name: (each.order, each.rules.manual, each.early_ack) for name, each in found.items()
    }
    assert described == {
        "app.lime": ("queue", True, False),
        "app.plain": ("none", False, False),
        "app.early": ("object", False, True),
    }


@pytest.mark.parametrize(
    ("toml", "options", "lane", "timeout"),
    [
        ("", {}, "greenlet", None),
        ('event_handler.workers.default.lane = "thread"', {}, "thread", None),
        ("", {"lane": "thread", "timeout": 5}, "thread", 5),
        ('event_handler.workers.default.lane = "process"', {"lane": "thread"}, "thread", None),
        ("event_handler.workers.default.timeout = 9", {"timeout": 5}, "greenlet", 5),
        ("event_handler.workers.default.timeout = 9", {}, "greenlet", 9),
    ],
)
def test_the_closest_lane_and_timeout_win(
    plan: Plan, toml: str, options: dict[str, Any], lane: str, timeout: float | None
) -> None:
    handler = only(plan(toml, {"app": [("q", "a.b", options)]})).handler
    assert (handler.lane, handler.timeout) == (lane, timeout)


def test_a_handler_that_cannot_cross_into_its_lane_is_refused_by_name(plan: Plan) -> None:
    with pytest.raises(PluginError, match=r"app\.q .*lane 'process': it is a lambda"):
        plan("", {"app": [("q", "a.b", {"lane": "process"})]})


@pytest.mark.parametrize(
    ("toml", "options"),
    [
        ("event_handler.workers.default.timeout = 0.01", {}),
        ("", {"timeout": 0.01}),
        ("event_handler.workers.default.timeout = 60", {"timeout": "10ms"}),
    ],
    ids=["group", "handler", "handler-over-group"],
)
def test_a_timeout_ends_a_run_with_an_error_that_says_how_long_it_was(
    plan: Plan, toml: str, options: dict[str, Any]
) -> None:
    def endless() -> None:
        gevent.sleep(30)

    handler = only(plan(toml, {"app": [("q", "a.b", {**options, "handler": endless})]})).handler
    with pytest.raises(TimeoutError, match=r"0\.01 s"):
        handler.call(*make_event({}))


def test_a_run_that_ends_in_time_is_left_alone_by_its_timeout(plan: Plan) -> None:
    ran: list[bool] = []

    def quick() -> None:
        ran.append(True)

    options = {"timeout": 30, "handler": quick}
    handler = only(plan("", {"app": [("q", "a.b", options)]})).handler
    handler.call(*make_event({}))
    assert ran == [True]
