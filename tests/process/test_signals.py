"""Stopping: the first signal ends the server in order, the second at once."""

from __future__ import annotations

import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from scripts.rabbitmq_node import RabbitNode
from tests.process.conftest import connected
from tests.support.probe import Probe
from tests.support.process import LimehubProcess, Workplace
from tests.support.proxy import Proxy
from tests.support.recorder import Recorder
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

TERM, INT = signal.SIGTERM, signal.SIGINT
IMMEDIATE = 10.0  # seconds, on any machine; what must not be waited for takes 20 at least

PARALLEL = """
[event_handler]
prefetch_count = 10
[event_handler.workers.default]
concurrency = 3
"""
UNGUARDED = """
[event_handler]
guard = "none"  # it would kill a server that is asked twice while the machine stands still
"""
TAKES = """
import logging, signal

def handle():
    signal.set_wakeup_fd(-1)
    logging.getLogger("takes").warning("taken")

def register_event_handlers(worker, config):
    worker.register_event_handler(handle, "t.#")
"""
NOBODY = "amqp://guest@127.0.0.1:1//"


def stop_timed(process: LimehubProcess, number: signal.Signals = TERM) -> tuple[int, float]:
    """Send a signal; returns exit code and seconds."""
    started = time.monotonic()
    code = process.stop(number)
    return code, time.monotonic() - started


def hold(*numbers: int) -> list[dict[str, object]]:
    return [{"n": n, "do": "hold", "value": "release"} for n in numbers]


@pytest.mark.parametrize("number", [TERM, INT])
def test_running_handlers_finish_the_rest_goes_back_and_nothing_runs_twice(
    workplace: Workplace, vhost: Vhost, number: signal.Signals
) -> None:
    probe = Probe.install(workplace, vhost, PARALLEL)
    process = workplace.serve()
    probe.publish(hold(*range(12)))
    wait_until(lambda: len(probe.started) == 3)
    probe.wait_depth(ready=2, unacked=10)

    process.send(number)
    # The consumer is gone and what has not started is back while the handlers still run.
    probe.wait_depth(ready=9, unacked=3)
    assert vhost.queues()[probe.queue]["consumers"] == 0
    assert len(probe.started) == 3
    assert not probe.ended

    probe.release()
    assert process.wait() == 0
    assert len(probe.ended) == 3
    probe.wait_depth(ready=9)
    assert process.records()[-1]["limehub.returned"] == 7

    again = workplace.serve()
    probe.wait_depth(ready=0)
    assert again.stop() == 0
    assert probe.started == probe.ended == Counter(range(12))


def test_a_plugin_that_takes_the_wakeup_descriptor_delays_no_stop(
    workplace: Workplace, vhost: Vhost
) -> None:
    workplace.install("solution-takes", TAKES)
    process = workplace.serve()
    with vhost.connect() as connection:
        connection.channel().basic_publish("lime.default", "t.a", b"{}")
    process.wait_for_line("taken")
    code, seconds = stop_timed(process)
    assert code == 0
    assert seconds < IMMEDIATE


def test_a_signal_that_a_handler_takes_over_stops_the_server_again(
    workplace: Workplace, vhost: Vhost
) -> None:
    probe = Probe.install(workplace, vhost)
    process = workplace.serve()
    probe.publish([{"n": 1, "do": "deaf"}])
    process.wait_for_line("a package took over signals")
    assert process.stop() == 0


def test_a_stop_under_load_runs_every_event_exactly_once(
    workplace: Workplace, vhost: Vhost
) -> None:
    total = 1500
    toml = PARALLEL.replace("= 10", "= 50").replace("= 3", "= 20")
    probe = Probe.install(workplace, vhost, toml)
    assert workplace.serve().stop() == 0  # there is a queue
    probe.publish({"n": n, "do": "sleep", "value": 0.01} for n in range(total))
    for goal in (1, 400, 800):
        process = workplace.serve()
        wait_until(lambda: len(probe.ended) >= goal)  # noqa: B023 - called in this round only
        assert process.stop() == 0
        probe.wait_depth(ready=total - sum(probe.ended.values()))
    last = workplace.serve()
    probe.wait_depth(ready=0)
    assert last.stop() == 0
    assert probe.started == probe.ended == Counter(range(total))


@pytest.mark.parametrize("kind", ["hold", "stubborn"])
def test_a_handler_that_outlasts_the_grace_is_killed_and_its_event_goes_back(
    workplace: Workplace, vhost: Vhost, kind: str
) -> None:
    probe = Probe.install(workplace, vhost, "[event_handler]\nshutdown_grace = 1\n")
    process = workplace.serve()
    probe.publish([{"n": 1, "do": kind, "value": "release"}])
    probe.wait_started(1)
    code, seconds = stop_timed(process)
    assert code == 0
    assert 1 <= seconds < 1 + IMMEDIATE
    (line,) = process.lines_with("handlers did not end in time")
    assert '"warning"' in line
    probe.wait_depth(ready=1)
    assert not probe.ended

    probe.release()
    again = workplace.serve()
    wait_until(lambda: probe.ended == Counter([1]))
    assert again.stop() == 0
    assert [r["redelivered"] for r in probe.runs if r["what"] == "start"] == [False, True]
    probe.wait_depth(ready=0)


@pytest.mark.parametrize(("first", "second"), [(TERM, TERM), (TERM, INT), (INT, INT)])
def test_the_second_signal_ends_the_process_at_once(
    workplace: Workplace, vhost: Vhost, first: signal.Signals, second: signal.Signals
) -> None:
    toml = PARALLEL.replace("[event_handler]", UNGUARDED)
    probe = Probe.install(workplace, vhost, toml)
    process = workplace.serve()
    probe.publish(hold(*range(4)))
    wait_until(lambda: len(probe.started) == 3)
    process.send(first)
    process.wait_for_line('"stopping"')
    code, seconds = stop_timed(process, second)
    assert code == 128 + second
    assert seconds < IMMEDIATE
    probe.wait_depth(ready=4)


def test_a_broker_that_was_never_up_does_not_delay_the_stop(
    bare_workplace: Workplace, vhost: Vhost
) -> None:
    Probe.install(connected(bare_workplace, NOBODY), vhost)
    process = bare_workplace.serve(ready=False)
    process.wait_for_line("broker not available")
    code, seconds = stop_timed(process)
    assert code == 0
    assert seconds < IMMEDIATE


def test_a_broker_that_accepts_and_stays_silent_does_not_delay_the_stop(
    bare_workplace: Workplace, vhost: Vhost, proxy: Proxy
) -> None:
    proxy.swallow()
    url = f"{proxy.url}?connection_timeout=60"
    Probe.install(connected(bare_workplace, url), vhost)
    process = bare_workplace.serve(ready=False)
    wait_until(lambda: proxy.accepted)
    code, seconds = stop_timed(process)
    assert code == 0
    assert seconds < IMMEDIATE


def test_with_the_broker_killed_the_running_handler_still_finishes(
    bare_workplace: Workplace, killable_node: RabbitNode, killable_vhost: Vhost
) -> None:
    workplace = connected(bare_workplace, killable_vhost.url)
    probe = Probe.install(workplace, killable_vhost, PARALLEL)
    process = workplace.serve()
    probe.publish(hold(1))
    probe.wait_started(1)
    killable_node.kill()
    process.wait_for_line("connection lost")

    process.send(TERM)
    process.wait_for_line('"stopping"')
    probe.release()
    started = time.monotonic()
    assert process.wait() == 0
    assert time.monotonic() - started < IMMEDIATE
    assert probe.ended == Counter([1])


def test_a_handler_that_publishes_into_a_dead_broker_is_ended_by_the_grace(
    bare_workplace: Workplace, killable_node: RabbitNode, killable_vhost: Vhost
) -> None:
    workplace = connected(bare_workplace, killable_vhost.url)
    probe = Probe.install(workplace, killable_vhost, "[event_handler]\nshutdown_grace = 1\n")
    process = workplace.serve()
    probe.publish([{"n": 1, "do": "publish-later", "value": 2}])
    probe.wait_started(1)
    killable_node.kill()
    process.wait_for_line("connection lost")
    probe.release()
    wait_until(lambda: probe.count("publishing") == Counter([1]))
    code, seconds = stop_timed(process)
    assert code == 0
    assert 1 <= seconds < 1 + IMMEDIATE


def test_a_frozen_broker_does_not_keep_the_server_beyond_the_grace(
    bare_workplace: Workplace, killable_node: RabbitNode, killable_vhost: Vhost, tmp_path: Path
) -> None:
    with Recorder(target=killable_vhost.url, folder=tmp_path / "wire") as wire:
        workplace = connected(bare_workplace, wire.url)
        probe = Probe.install(workplace, killable_vhost, "[event_handler]\nshutdown_grace = 2\n")
        process = workplace.serve()
        probe.publish(hold(1))
        probe.wait_started(1)
        killable_node.pause()
        try:
            probe.release()
            wait_until(lambda: probe.ended == Counter([1]))
            code, seconds = stop_timed(process)
        finally:
            killable_node.resume()
        assert code == 0
        assert seconds < 2 + 2 * IMMEDIATE
        # The ack left before the connection was closed. More cannot be promised: RabbitMQ reads it
        # together with the end of the connection, which now and then (1 in 300) overtakes it there.
        wire.wait_for("Basic.Ack", "up")


def test_a_busy_hub_ends_after_the_handler_and_its_ack_arrives(
    workplace: Workplace, vhost: Vhost
) -> None:
    probe = Probe.install(workplace, vhost)
    process = workplace.serve()
    probe.publish([{"n": 1, "do": "burn", "value": 2}])
    probe.wait_started(1)
    assert process.stop() == 0
    assert probe.ended == Counter([1])
    probe.wait_depth(ready=0)


def test_a_second_signal_ends_a_busy_hub_at_once(workplace: Workplace, vhost: Vhost) -> None:
    probe = Probe.install(workplace, vhost, UNGUARDED)
    process = workplace.serve()
    probe.publish([{"n": 1, "do": "burn", "value": 60}])
    probe.wait_started(1)
    # Two of a kind that come together are one; of two kinds Python takes the lower number first.
    process.send(INT)
    code, seconds = stop_timed(process, TERM)
    assert code == 128 + TERM
    assert seconds < IMMEDIATE
    probe.wait_depth(ready=1)


@pytest.mark.parametrize("number", [TERM, INT])
def test_a_signal_while_plugins_load_ends_the_process(
    workplace: Workplace, number: signal.Signals
) -> None:
    workplace.install("slow", "import time\nprint('loading', flush=True)\ntime.sleep(300)\n")
    process = workplace.serve("--skip-broken-plugins", ready=False)
    process.wait_for_line("loading")
    code, seconds = stop_timed(process, number)
    assert code == -number
    assert seconds < IMMEDIATE
    assert not (workplace.folder / ".limehub" / "run.json").exists()


def test_a_hangup_while_plugins_load_is_ignored(workplace: Workplace, vhost: Vhost) -> None:
    source = (
        "import os, time\nprint('loading', flush=True)\n"
        "while not os.path.exists('go'):\n    time.sleep(0.01)\n"
    )
    workplace.install("slow", source)
    process = workplace.serve(ready=False)
    process.wait_for_line("loading")
    process.send(signal.SIGHUP)
    (workplace.folder / "go").touch()
    process.wait_ready()
    assert process.stop() == 0


def test_a_signal_between_start_and_ready_ends_it_in_order(
    workplace: Workplace, vhost: Vhost
) -> None:
    probe = Probe.install(workplace, vhost)
    source = (
        "import os, signal\n"
        "def server_started(server):\n    os.kill(os.getpid(), signal.SIGTERM)\n"
        "def server_stopping(server):\n    print('told', flush=True)\n"
    )
    workplace.install("signals", source)
    process = workplace.serve(ready=False)
    assert process.wait() == 0
    assert process.lines_with("told")
    assert not process.records("ready")
    assert not (probe.state_folder / "run.json").exists()


def test_an_event_that_waits_here_for_its_retry_goes_back_at_once(
    workplace: Workplace, vhost: Vhost
) -> None:
    probe = Probe.install(workplace, vhost, options='retry={"attempts": 3}')
    process = workplace.serve()
    probe.publish([{"n": 1, "do": "retry", "value": 9}])
    process.wait_for_line('"retry"')
    code, seconds = stop_timed(process)
    assert code == 0
    assert seconds < 8
    probe.wait_depth(ready=1)
    assert probe.started == Counter([1])

    again = workplace.serve()
    probe.wait_started(1, times=2)
    assert again.stop() == 0
    probe.wait_depth(ready=1)


def test_a_dead_letter_that_cannot_be_stored_goes_back_when_the_grace_is_over(
    workplace: Workplace, vhost: Vhost
) -> None:
    toml = "[event_handler]\nshutdown_grace = 1\ncatch_handler_exceptions = true\n"
    probe = Probe.install(workplace, vhost, toml)
    process = workplace.serve()
    # A queue that is full refuses; 0 would take everything in some versions.
    vhost.set_policy("full", "dlq$", {"max-length": 1, "overflow": "reject-publish"})
    probe.publish({"n": n, "do": "raise", "value": "boom"} for n in range(3))
    process.wait_for_line("cannot store in queue")
    code, seconds = stop_timed(process)
    assert code == 0
    assert seconds < 1 + IMMEDIATE
    wait_until(lambda: sum(probe.depths()[name][0] for name in ("handle", "dlq")) == 3)
    kept = probe.depths()["handle"][0]
    assert kept >= 1

    vhost.clear_policy("full")
    again = workplace.serve()
    probe.wait_depth(ready=3, short="dlq")
    assert again.stop() == 0
    assert sorted(letter["n"] for letter in probe.dead_letters()) == [0, 1, 2]
