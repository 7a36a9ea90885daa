"""Commands that talk to the broker, on a real one, with and without a running server."""

from __future__ import annotations

import json

from tests.process.conftest import connected
from tests.support.process import Workplace
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

QUEUE = "lime.event_handler.solution-x.deal"
DLQ = "lime.event_handler.solution-x.dlq"
KEY = "core.limeobject.deal.new.v1"

PLUGIN = """
def deal(event):
    print(f"handled {event.id} {event.body} {dict(event.headers)} {event.application}", flush=True)

def register_event_handlers(worker, config):
    worker.register_event_handler(deal, "core.limeobject.deal.*.v1")
"""


def checked(place: Workplace, *args: str) -> tuple[int, dict[str, set[str]]]:
    """Run `check`; its exit code, and subject -> levels of what it found on the broker."""
    done = place.run("check", "--json", *args)
    found: dict[str, set[str]] = {}
    for one in json.loads(done.stdout):
        if one["kind"] == "topology":
            found.setdefault(one["subject"], set()).add(one["level"])
    return done.returncode, found


def management_url(vhost: Vhost) -> str:
    return f"http://guest:guest@127.0.0.1:{vhost.node.ports.management}"


def test_publish_and_check_create_nothing_on_the_broker(workplace: Workplace, vhost: Vhost) -> None:
    workplace.install("solution-x", PLUGIN)
    missing = {
        "exchange lime.default": {"info"},
        f"queue {QUEUE}": {"info"},
        f"queue {DLQ}": {"info"},
    }
    assert checked(workplace) == (0, missing)
    done = workplace.run("publish", KEY)
    assert done.returncode == 1
    assert "there is no exchange lime.default" in done.stderr
    assert (vhost.queues(), vhost.exchanges()) == ({}, {})


def test_a_published_event_reaches_the_handler_and_publish_names_it(workplace: Workplace) -> None:
    workplace.install("solution-x", PLUGIN)
    server = workplace.serve()
    done = workplace.run(
        "publish", KEY, "-", "--header", "source=a=b", "--message-id", "no-1", "--json",
        text='{"id": 1}',
    )  # fmt: skip
    assert json.loads(done.stdout) == {
        "message_id": "no-1",
        "application": "default",
        "exchange": "lime.default",
        "routing_key": KEY,
        "handlers": ["solution-x.deal"],
    }
    server.wait_for_line("handled no-1 {'id': 1} {'source': 'a=b'} default")


def test_an_event_that_no_queue_takes_is_exit_code_one_with_a_hint(workplace: Workplace) -> None:
    workplace.install("solution-x", PLUGIN)
    workplace.serve()
    done = workplace.run("publish", "nobody.asks.for.this")
    assert (done.returncode, done.stdout) == (1, "")
    assert "limehub explain nobody.asks.for.this" in done.stderr


def test_commands_find_the_broker_of_the_running_server(workplace: Workplace) -> None:
    workplace.install("solution-x", PLUGIN)
    server = workplace.serve()
    workplace.environ["LIMEHUB_EVENTS__CONNECTION_STRING"] = "amqp://guest@127.0.0.1:1//"
    assert workplace.run("publish", KEY).returncode == 0
    done = workplace.run("check", "--json")
    assert f"pid {server.pid}" in done.stdout
    assert server.stop() == 0
    assert workplace.run("publish", KEY).returncode == 4


def test_check_after_a_start_finds_everything_as_wanted(workplace: Workplace, vhost: Vhost) -> None:
    workplace.install("solution-x", PLUGIN)
    workplace.environ["LIMEHUB_EVENTS__MANAGEMENT_URL"] = management_url(vhost)
    workplace.serve()
    as_wanted = {
        "exchange lime.default": {"ok"},
        f"queue {QUEUE}": {"ok"},
        f"queue {DLQ}": {"ok"},
    }
    # A busy management API may once not answer in time, which is a warning.
    wait_until(lambda: checked(workplace, "--strict") == (0, as_wanted), 60, "all as wanted")


def test_check_tells_differences_without_touching_the_queues(
    workplace: Workplace, vhost: Vhost
) -> None:
    workplace.install("solution-x", PLUGIN)
    connection = vhost.connect()
    channel = connection.channel()
    channel.exchange_declare("lime.default", "fanout", durable=True)
    channel.queue_declare(QUEUE, durable=True, arguments={"x-message-ttl": 3_600_000})
    channel.queue_declare(DLQ, durable=True, arguments={"x-dead-letter-exchange": "x"})
    channel.basic_publish("", QUEUE, b"{}")
    connection.close()
    wait_until(lambda: vhost.depth(QUEUE) == 1)
    before = vhost.queues()
    differing = {
        "exchange lime.default": {"warning"},
        f"queue {QUEUE}": {"error"},
        f"queue {DLQ}": {"warning"},
    }
    assert checked(workplace) == (5, differing)
    workplace.environ["LIMEHUB_EVENTS__ACCEPT_FOREIGN_QUEUES"] = "true"
    code, accepted = checked(workplace, "--strict")
    assert (code, accepted[f"queue {QUEUE}"]) == (1, {"warning"})
    assert vhost.queues() == before


def test_check_sees_left_overs_and_policies_through_the_management_api(
    workplace: Workplace, vhost: Vhost
) -> None:
    workplace.install("solution-x", PLUGIN)
    connection = vhost.connect()
    channel = connection.channel()
    channel.exchange_declare("lime.default", "topic", durable=True)
    for queue in (QUEUE, "lime.event_handler.gone.deal"):
        channel.queue_declare(queue, durable=True)
        channel.queue_bind(queue, "lime.default", "old.key")
    connection.close()
    vhost.set_policy("small", "deal$", {"max-length": 5})
    workplace.environ["LIMEHUB_EVENTS__MANAGEMENT_URL"] = management_url(vhost)

    wanted = (
        "policy small sets max-length=5",
        "which no handler asks for any more",
        "lime.event_handler.gone.deal",
    )

    def unsaid() -> list[str]:
        said = workplace.run("check").stdout
        return [text for text in wanted if text not in said]

    # What the management API tells is up to 5 s old.
    wait_until(lambda: not unsaid(), 60, "all of it said")


def test_check_with_a_management_api_that_refuses_us_says_what_it_could_not_see(
    workplace: Workplace, vhost: Vhost
) -> None:
    url = management_url(vhost).replace("guest:guest", "guest:wrong")
    workplace.environ["LIMEHUB_EVENTS__MANAGEMENT_URL"] = url

    def refused() -> bool:
        done = workplace.run("check")
        assert done.returncode == 0
        assert "cannot be seen: " in done.stdout
        assert "wrong" not in done.stdout
        return "401" in done.stdout

    wait_until(refused, 60, "more than that it does not answer in time")


def test_wrong_credentials_are_the_brokers_refusal_and_never_shown(
    bare_workplace: Workplace, vhost: Vhost
) -> None:
    place = connected(bare_workplace, vhost.url.replace("guest:guest", "guest:hunter2"))
    for command in ("check", "publish a.b"):
        done = place.run(*command.split())
        assert done.returncode == 4
        assert "403" in done.stdout + done.stderr
        assert "hunter2" not in done.stdout + done.stderr
