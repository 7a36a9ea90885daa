"""Who gets an event and what follows when it fails, decided without a broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from limehub.cli.explanation import (
    failure_story,
    nearest_keys,
    placement_at,
    receivers_of,
)
from limehub.cli.placement import Placement, placements
from limehub.config import Config, EventHandler, Events, Package, WorkerSettings
from tests.unit.plugin_site import Site

KEY = "core.limeobject.deal.update.v1"

PLUGIN = """
    def deal(event): pass
    def everything(worker, body, message): pass
    def register_event_handlers(worker, config):
        worker.register_event_handler(
            deal, ["core.limeobject.deal.*.v1", "core.limeobject.*.update.v1"],
            retry={"attempts": 4, "delay": 5, "factor": 10, "max_delay": "1h"},
            prefetch_count=7, timeout=30,
        )
        worker.register_event_handler(everything, "#")
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.syspath_prepend(str(tmp_path))
    site = Site(tmp_path)
    site.install("solution-x", PLUGIN)
    yield site
    site.forget()


def found(site: Site, config: Config) -> dict[str, Placement]:
    return {one.handler.queue_name: one for one in placements(site.load(config))}


def receivers(site: Site, config: Config, key: str = KEY) -> dict[str, dict[str, tuple[str, ...]]]:
    registry = site.load(config)
    return {
        one.placement.handler.queue_name: dict(one.queues)
        for one in receivers_of(placements(registry), registry.config, key)
    }


def test_every_handler_with_a_matching_key_gets_the_event_and_its_keys_are_named(
    site: Site,
) -> None:
    registry = site.load()
    deal, everything = receivers_of(placements(registry), registry.config, KEY)
    assert deal.keys == ("core.limeobject.deal.*.v1", "core.limeobject.*.update.v1")
    assert everything.keys == ("#",)


def test_a_handler_without_a_matching_key_gets_nothing(site: Site) -> None:
    assert receivers(site, Config(), "core.limeobject.person.new.v1") == {
        "everything": {"lime.event_handler.solution-x.everything": ("default",)}
    }


def test_each_application_has_its_own_queue_when_asked_for(site: Site) -> None:
    config = Config(applications=("a", "b"), event_handler=EventHandler(queue_per="application"))
    assert receivers(site, config)["deal"] == {
        "lime.event_handler.solution-x.deal.a": ("a",),
        "lime.event_handler.solution-x.deal.b": ("b",),
    }


def test_a_package_that_serves_one_application_gets_no_event_of_the_other(site: Site) -> None:
    config = Config(applications=("a", "b"), packages={"solution_x": Package(applications=("b",))})
    assert receivers(site, config)["deal"] == {"lime.event_handler.solution-x.deal": ("b",)}


def test_asking_for_one_application_leaves_out_the_others(site: Site) -> None:
    registry = site.load(Config(applications=("a", "b")))
    first, _ = receivers_of(placements(registry), registry.config, KEY, ["b"])
    assert dict(first.queues) == {"lime.event_handler.solution-x.deal": ("b",)}


def test_a_template_that_swallows_a_wildcard_makes_it_match_nothing(site: Site) -> None:
    config = Config(events=Events(routing_key_template="{exchange}_{routing_key}"))
    assert list(receivers(site, config)) == ["deal"]  # `#` has become `lime.default_#`


def test_group_prefetch_concurrency_and_policy_are_the_effective_ones(site: Site) -> None:
    workers = {
        "deals": WorkerSettings(queue_prefix="solution_x.deal", concurrency=3),
        "default": WorkerSettings(prefetch_count=4, timeout=2.5),
    }
    settings = EventHandler(workers=workers, catch_handler_exceptions=True)
    all_ = found(site, Config(event_handler=settings))
    deal, everything = all_["deal"], all_["everything"]
    assert (deal.group, deal.prefetch, deal.concurrency) == ("deals", 7, 3)
    assert (deal.timeout, deal.policy) == (30, "retry")
    assert (everything.group, everything.prefetch, everything.concurrency) == ("default", 4, 4)
    assert (everything.timeout, everything.policy) == (2.5, "dead-letter")


def test_a_failing_event_waits_here_for_ten_seconds_and_in_a_retry_queue_for_longer(
    site: Site,
) -> None:
    story = failure_story(found(site, Config())["deal"], Config())
    queue = "lime.event_handler.solution-x.deal"
    assert [(run.attempt, run.delay, run.queue) for run in story.runs] == [
        (2, 5.0, None),
        (3, 60.0, f"{queue}.retry.60"),  # 50 s, rounded up to the next retry queue
        (4, 600.0, f"{queue}.retry.600"),  # 500 s
    ]
    assert (story.attempts, story.by_itself) == (4, True)
    assert (story.dead_letter_queue, story.ttl) == ("lime.event_handler.solution-x.dlq", 2_592_000)


def test_without_a_retry_option_only_a_raised_retry_runs_again(site: Site) -> None:
    story = failure_story(found(site, Config())["everything"], Config())
    assert (story.policy, story.by_itself, story.crash_limit) == ("crash", False, 3)


def test_a_timetable_of_ten_thousand_runs_is_cut_short(site: Site) -> None:
    site.install(
        "solution-y",
        """
        def stubborn(event): pass
        def register_event_handlers(worker, config):
            worker.register_event_handler(stubborn, "a", retry={"attempts": 10000})
        """,
    )
    story = failure_story(found(site, Config())["stubborn"], Config())
    assert (story.attempts, len(story.runs)) == (10_000, 20)


@pytest.mark.parametrize(
    "name", ["solution-x.deal", "lime.event_handler.solution-x.deal", "solution-x.deal.a",
             "lime.event_handler.solution-x.deal.a"]
)  # fmt: skip
def test_a_queue_is_found_by_every_name_it_has(site: Site, name: str) -> None:
    config = Config(applications=("a",), event_handler=EventHandler(queue_per="application"))
    placement = placement_at(placements(site.load(config)), name)
    assert placement is not None
    assert placement.handler.name == "solution-x.deal"


def test_a_routing_key_is_no_queue(site: Site) -> None:
    assert placement_at(placements(site.load()), KEY) is None


def test_the_nearest_keys_of_a_misprint_are_those_that_were_meant(site: Site) -> None:
    near = nearest_keys(placements(site.load()), "core.limeobjekt.deal.update.v1")
    assert near[0] in ("core.limeobject.deal.*.v1", "core.limeobject.*.update.v1")
