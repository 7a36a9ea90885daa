from __future__ import annotations

import pytest
from attrs import evolve

from limehub.config import (
    Config,
    EventHandler,
    Events,
    Log,
    Package,
    Web,
    WorkerSettings,
    difference,
    with_live_changes,
)

GROUP = WorkerSettings(queue_prefix="a", prefetch_count=1)
OLD = Config(event_handler=EventHandler(workers={"a": GROUP}), web=Web(token_file="/t"))


def with_group(**changes) -> Config:
    return evolve(OLD, event_handler=EventHandler(workers={"a": evolve(GROUP, **changes)}))


def test_the_same_configuration_has_no_difference():
    found = difference(OLD, with_group())
    assert (found.live, found.restart) == ((), ())
    assert with_live_changes(OLD, OLD) == OLD


@pytest.mark.parametrize(
    ("new", "path"),
    [
        (evolve(OLD, log=Log(level="debug")), "log.level"),
        (evolve(OLD, web=Web(token_file="/u")), "web.token_file"),
        (with_group(prefetch_count=5), "event_handler.workers.a.prefetch_count"),
        (with_group(prefetch_count=None), "event_handler.workers.a.prefetch_count"),
        (with_group(concurrency=5), "event_handler.workers.a.concurrency"),
        (
            evolve(OLD, event_handler=evolve(OLD.event_handler, prefetch_count=9)),
            "event_handler.prefetch_count",
        ),
    ],
)
def test_some_keys_change_while_the_server_runs(new, path):
    found = difference(OLD, new)
    assert (found.live, found.restart) == ((path,), ())
    assert with_live_changes(OLD, new) == new


@pytest.mark.parametrize(
    ("new", "path"),
    [
        (evolve(OLD, log=Log(format="json")), "log.format"),
        (evolve(OLD, applications=("a", "b")), "applications"),
        (evolve(OLD, events=Events(consumer_heartbeat=5)), "events.consumer_heartbeat"),
        (evolve(OLD, web=Web(token_file="/t", bind="none")), "web.bind"),
        (with_group(queue_prefix="b"), "event_handler.workers.a.queue_prefix"),
        (with_group(timeout=5.0), "event_handler.workers.a.timeout"),
        (with_group(lane="thread"), "event_handler.workers.a.lane"),
        (evolve(OLD, plugins={"x": {"a.b": 1}}), 'plugins.x."a.b"'),
    ],
)
def test_all_other_keys_need_a_restart(new, path):
    found = difference(OLD, new)
    assert (found.live, found.restart) == ((), (path,))
    assert with_live_changes(OLD, new) == OLD


def test_a_new_group_and_a_removed_group_need_a_restart():
    workers = {"b": WorkerSettings(queue_prefix="b", prefetch_count=5)}
    new = evolve(OLD, event_handler=EventHandler(workers=workers))
    found = difference(OLD, new)
    assert found.live == ()
    assert "event_handler.workers.b.prefetch_count" in found.restart
    assert "event_handler.workers.a.prefetch_count" in found.restart
    assert with_live_changes(OLD, new) == OLD


def test_live_and_other_changes_are_told_apart():
    new = evolve(with_group(prefetch_count=5), packages={"x": Package(enabled=False)})
    found = difference(OLD, new)
    assert found.live == ("event_handler.workers.a.prefetch_count",)
    assert set(found.restart) == {
        "packages.x.applications",
        "packages.x.enabled",
        "packages.x.queue_per",
    }
    assert with_live_changes(OLD, new) == with_group(prefetch_count=5)


def test_tokens_are_not_taken_from_a_server_that_others_can_reach():
    public = evolve(OLD, web=Web(bind="0.0.0.0:80", token_file="/t"))
    new = evolve(OLD, web=Web(bind="127.0.0.1:80"))
    found = difference(public, new)
    assert found.live == () and "web.token_file" in found.restart
    assert with_live_changes(public, new).web.token_file == "/t"
