"""What `limehub check` finds, decided without a broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from limehub.amqp.topology import Mismatch, QueueSpec
from limehub.cli.findings import (
    EXIT_CODES,
    Finding,
    Kind,
    Level,
    exit_code_of,
    group_findings,
    plugin_findings,
)
from limehub.cli.inspection import (
    ExchangeState,
    QueueState,
    Topology,
    WantedQueue,
    exchange_findings,
    queue_findings,
    wanted_topology,
)
from limehub.cli.management import BrokerLists, management_findings
from limehub.cli.placement import placements
from limehub.config import Config, EventHandler, WorkerSettings
from tests.unit.plugin_site import Site

QUEUE = "lime.event_handler.solution-x.deal"
DLQ = "lime.event_handler.solution-x.dlq"

HANDLERS = """
    def deal(event): pass
    def register_event_handlers(worker, config):
        worker.register_event_handler(deal, "core.limeobject.deal.*.v1")
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.syspath_prepend(str(tmp_path))
    site = Site(tmp_path)
    yield site
    site.forget()


@pytest.fixture
def topology(site: Site) -> Topology:
    site.install("solution-x", HANDLERS)
    registry = site.load()
    return wanted_topology(registry.config, placements(registry))


def finding(kind: Kind, level: Level) -> Finding:
    return Finding(kind=kind, level=level, subject="x", text="y")


def levels(findings: Iterator[Finding]) -> list[tuple[str, str]]:
    return [(str(each.level), each.subject) for each in findings]


@pytest.mark.parametrize(("kind", "code"), EXIT_CODES.items())
def test_an_error_has_the_exit_code_of_its_kind(kind: Kind, code: int) -> None:
    assert exit_code_of([finding(kind, Level.ERROR)], strict=False) == code


def test_the_error_that_stops_a_start_first_decides() -> None:
    kinds: list[Kind] = ["topology", "broker", "plugin"]
    found = [finding(kind, Level.ERROR) for kind in kinds]
    assert exit_code_of(found, strict=True) == 3


def test_warnings_are_an_exit_code_only_when_strict() -> None:
    found = [finding("topology", Level.WARNING), finding("plugin", Level.OK)]
    assert exit_code_of(found, strict=False) == 0
    assert exit_code_of(found, strict=True) == 1
    assert exit_code_of([finding("broker", Level.INFO)], strict=True) == 0


def test_a_broken_plugin_is_an_error_and_the_others_are_looked_at(site: Site) -> None:
    site.install("solution-broken", "import nothing_like_it")
    site.install("solution-x", HANDLERS)
    found = levels(plugin_findings(site.load()))
    assert found == [("error", "solution-broken"), ("ok", "solution-x")]


def test_a_misprinted_key_is_a_warning_that_names_the_handler(site: Site) -> None:
    site.install("solution-x", HANDLERS.replace("core.limeobject", "core.lime"))
    found = [each for each in plugin_findings(site.load()) if each.level is Level.WARNING]
    assert [each.subject for each in found] == ["solution-x.deal"]
    assert "core.limeobject.deal.*.v1" in found[0].text


def test_a_group_that_matches_nothing_is_a_warning(site: Site) -> None:
    site.install("solution-x", HANDLERS)
    workers = {
        "deals": WorkerSettings(queue_prefix="solution_x"),
        "slow": WorkerSettings(queue_prefix="lime-webhooks"),
    }
    registry = site.load(Config(event_handler=EventHandler(workers=workers)))
    found = levels(group_findings(registry.config, placements(registry)))
    assert found == [("warning", "slow"), ("ok", "deals")]


def test_a_server_without_any_handler_is_a_warning() -> None:
    assert levels(group_findings(Config(), [])) == [("warning", "default")]


def test_the_wanted_topology_has_handler_queue_dlq_exchange_and_bindings(
    topology: Topology,
) -> None:
    assert topology.exchanges == ("lime.default",)
    assert [(each.spec.name, each.is_dlq) for each in topology.queues] == [
        (QUEUE, False),
        (DLQ, True),
    ]
    assert topology.bindings == {(QUEUE, "lime.default", "core.limeobject.deal.*.v1")}


def state_of(mismatch: Mismatch, *, is_dlq: bool = False) -> QueueState:
    spec = QueueSpec(name=mismatch.queue, arguments={"x-queue-type": "classic"})
    return QueueState(
        wanted=WantedQueue(spec=spec, is_dlq=is_dlq), state="differs", mismatches=(mismatch,)
    )


def test_an_argument_that_loses_events_is_an_error_unless_foreign_queues_are_accepted() -> None:
    mismatch = Mismatch(queue=QUEUE, argument="x-message-ttl", actual=60000, wanted=None)
    states = [state_of(mismatch)]
    (refused,) = queue_findings(states, accept_foreign=False)
    (accepted,) = queue_findings(states, accept_foreign=True)
    assert (refused.level, accepted.level) == (Level.ERROR, Level.WARNING)
    assert "x-message-ttl 60000" in refused.text
    assert "accept_foreign_queues" in refused.text


def test_a_dead_letter_queue_with_a_ttl_is_a_warning_because_sites_come_from_lime() -> None:
    mismatch = Mismatch(queue=DLQ, argument="x-message-ttl", actual=60000, wanted=None)
    found = queue_findings([state_of(mismatch, is_dlq=True)], accept_foreign=False)
    assert [each.level for each in found] == [Level.WARNING]


def test_a_harmless_difference_is_a_warning() -> None:
    mismatch = Mismatch(queue=QUEUE, argument="x-dead-letter-exchange", actual="dlx", wanted=None)
    found = queue_findings([state_of(mismatch)], accept_foreign=False)
    assert [each.level for each in found] == [Level.WARNING]


def test_what_is_missing_will_be_created_and_is_no_warning() -> None:
    wanted = WantedQueue(spec=QueueSpec(name=QUEUE))
    (queue,) = queue_findings([QueueState(wanted=wanted, state="missing")], accept_foreign=False)
    (exchange,) = exchange_findings([ExchangeState(name="lime.default", state="missing")])
    assert (queue.level, exchange.level) == (Level.INFO, Level.INFO)


def test_an_exchange_of_another_type_is_a_warning_in_the_brokers_words() -> None:
    state = ExchangeState(name="lime.default", state="differs", trouble="arg 'type' for {x}")
    (found,) = exchange_findings([state])
    assert found.level is Level.WARNING
    assert "arg 'type' for {x}" in found.text


def listed(name: str, **more: object) -> dict[str, object]:
    return {"name": name, "messages": 0, "exclusive": False, **more}


def test_a_queue_that_nobody_reads_any_more_is_left_over(topology: Topology) -> None:
    lists = BrokerLists(
        queues=(
            listed(QUEUE),
            listed(f"{QUEUE}.retry.60"),
            listed(DLQ),
            listed("lime.event_handler.gone.deal", messages=7),
            listed("somebody.else"),
        ),
        bindings=topology.bindings,
    )
    (found,) = management_findings(lists, topology)
    assert found.level is Level.WARNING
    assert found.subject == "queue lime.event_handler.gone.deal"
    assert "7 messages" in found.text


def test_an_exclusive_queue_is_a_lock_and_not_left_over(topology: Topology) -> None:
    lock = listed(f"{DLQ}.lock", exclusive=True)
    lists = BrokerLists(queues=(lock,), bindings=topology.bindings)
    assert list(management_findings(lists, topology)) == []


def test_a_binding_that_no_handler_asks_for_is_left_over(topology: Topology) -> None:
    old = (QUEUE, "lime.default", "old.key")
    foreign = (QUEUE, "lime.other", "a.b")
    lists = BrokerLists(queues=(listed(QUEUE),), bindings=topology.bindings | {old, foreign})
    texts = [each.text for each in management_findings(lists, topology)]
    assert len(texts) == 2
    assert "'old.key', which no handler asks for any more" in texts[0]
    assert "none of our exchanges" in texts[1]


def test_a_binding_that_is_missing_on_an_existing_queue_is_named(topology: Topology) -> None:
    lists = BrokerLists(queues=(listed(QUEUE),), bindings=frozenset())
    (found,) = management_findings(lists, topology)
    assert found.level is Level.INFO
    assert "core.limeobject.deal.*.v1" in found.text


def test_a_policy_that_drops_events_is_a_warning_that_names_it(topology: Topology) -> None:
    limited = listed(
        QUEUE, policy="small", effective_policy_definition={"max-length": 5, "ha-mode": "all"}
    )
    lists = BrokerLists(queues=(limited,), bindings=topology.bindings)
    (found,) = management_findings(lists, topology)
    assert found.level is Level.WARNING
    assert "policy small sets max-length=5:" in found.text
