"""The figures of `limehub bench`: what is computed from moments and latencies."""

from __future__ import annotations

import pytest

from limehub.bench.counting import Counting, Moment, Phase
from limehub.bench.places import Places
from limehub.bench.result import Result
from limehub.config import BrokerUrl, Config, EventHandler, Events
from limehub.config.names import require_name
from limehub.plugins.registry import load_registry

PHASE = Phase(count=100, began=Moment(wall=10.0, cpu=1.0), ended=Moment(wall=12.0, cpu=1.05))


def result(latencies: list[float]) -> Result:
    return Result(
        broker="amqp://x", prefetch=5, published=PHASE, handled=PHASE, latencies=latencies
    )


def test_a_phase_knows_its_rate_and_what_a_message_costs() -> None:
    assert (PHASE.seconds, PHASE.rate) == (2.0, 50.0)
    assert PHASE.cpu_us == pytest.approx(500)


def test_percentiles_are_in_milliseconds() -> None:
    one = result([number / 1000 for number in range(101)])
    assert one.latency_ms(50) == pytest.approx(50)
    assert one.latency_ms(99) == pytest.approx(99)


def test_the_json_form_has_every_figure() -> None:
    found = result([0.001, 0.002, 0.003]).as_json()
    assert found["publish"] == {"count": 100, "seconds": 2.0, "rate": 50, "cpu_us": 500.0}
    assert found["latency"] == {"count": 3, "p50_ms": 2.0, "p99_ms": 2.98, "max_ms": 3.0}


def test_names_are_unique_and_fit_for_the_broker() -> None:
    one, other = Places.unique(), Places.unique()
    assert not {one.exchange, *one.queues} & {other.exchange, *other.queues}
    for name in (one.exchange, *one.queues):
        assert require_name("name", name) == name


def test_its_configuration_keeps_how_to_connect_and_forgets_whose_events_there_are() -> None:
    theirs = Config(
        applications=("acme",),
        events=Events(exchange="project", consumer_heartbeat=7),
        event_handler=EventHandler(queue_type="quorum", prefetch_count=3),
    )
    places = Places(app="limehub-bench-1")
    config = places.config(theirs, BrokerUrl.parse("amqp://a:b@host/v"), 77)
    assert config.exchange_of("limehub-bench-1") == "lime.limehub-bench-1" == places.exchange
    assert config.events.consumer_heartbeat == 7
    assert config.events.url.host == "host"
    assert config.event_handler.queue_type == "quorum"
    assert config.event_handler.prefetch_count == 77
    assert config.web.address is None


def test_the_counting_package_is_loaded_as_installed_ones_are() -> None:
    places = Places(app="limehub-bench-1")
    config = places.config(Config(), BrokerUrl.parse("amqp://guest@localhost//"), 10)
    counting = Counting(places=places, wanted=2)
    registry = load_registry(config, entry_points=[counting.entry_point()])
    registry.raise_if_broken()
    assert {*registry.handlers, f"lime.event_handler.{places.app}.dlq"} == {*places.queues}
    assert [one.queue for one in registry.handlers_matching(places.key("latency"))] == [
        places.queue("latency")
    ]
