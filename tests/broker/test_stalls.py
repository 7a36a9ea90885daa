"""Handlers that keep the whole server busy: the broker notices nothing, and the server says who."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent import monkey

from tests.support.holding import hold
from tests.support.hub import Hub
from tests.support.waiting import wait_until

pytestmark = pytest.mark.alone  # a stall is what other processes cause, too
Serve = Callable[..., Hub]
KEY = "core.limeobject.deal.update.v1"
SLOW = "solution-slow.work"
HEALTH = '[web]\nhealth_bind = "127.0.0.1:0"\n'

_native_sleep = monkey.get_original("time", "sleep")
_start_native = monkey.get_original("_thread", "start_new_thread")


def burn(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(200))


def burn_until(seen: Callable[[], object]) -> None:
    """However the machine's time is dealt out, it is seen; else this ends after half a minute."""
    end = time.monotonic() + 30
    while not seen() and time.monotonic() < end:
        sum(range(200))


def named(hub: Hub) -> bool:
    """Whether a stall that lasts has its culprit. To make the whole status takes others' code."""
    return hub.server.keeper.status()["current"] is not None


def stalls_of(hub: Hub, handler: str) -> list[dict[str, Any]]:
    """The stalls of *handler* that are over; a busy machine may add some that are nobody's."""
    return [each for each in hub.server.status()["stalls"]["last"] if each["culprit"] == handler]


def plugin(handler: Callable[..., Any]) -> Callable[[Any, Any], None]:
    def register(worker: Any, config: Any) -> None:
        worker.register_event_handler(handler, KEY, "work")

    return register


def test_the_handler_that_stalls_is_named_with_its_stack(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[int] = []

    def slow(body: Any) -> None:
        burn_until(lambda: named(hub))
        done.append(1)

    hub = serve({"solution-slow": plugin(slow)})
    hub.publish(KEY, {})
    (stall,) = wait_until(lambda: stalls_of(hub, SLOW), message="a stall in the status")
    stalls = hub.server.status()["stalls"]
    assert done == [1]
    assert stalls["by_culprit"][SLOW]["count"] == 1
    assert 0.5 <= stall["seconds"] < 10
    assert "in slow" in stall["stack"]
    assert stall["where"].startswith(f"{__file__}:")
    assert json.dumps(stalls)
    told = wait_until(
        lambda: [line for line in caplog.records if vars(line).get("handler") == SLOW]
    )
    assert "stalls" in told[0].getMessage()
    assert told[0].levelno == logging.WARNING


def test_a_greenlet_of_a_plugin_is_named_by_its_function(serve: Serve) -> None:
    def stray() -> None:
        burn_until(lambda: named(hub))

    def quick(body: Any) -> None:
        gevent.spawn(stray)

    hub = serve({"solution-stray": plugin(quick)})
    hub.publish(KEY, {})
    name = f"{__name__}:{stray.__qualname__}"
    wait_until(lambda: stalls_of(hub, name), message=f"a stall by {name} in the status")


def test_a_call_that_holds_the_interpreter_is_named_however_many_threads_wait_for_it(
    serve: Serve,
) -> None:
    """They come to look in any order, and the hub turns before the last of them does."""
    going = [True]

    def other() -> None:
        while going:
            _native_sleep(0.01)
            sum(range(2000))

    def slow(body: Any) -> None:
        hold(0.7)

    hub = serve({"solution-slow": plugin(slow)})
    for _ in range(3):
        _start_native(other, ())
    try:
        for n in range(1, 7):
            hub.publish(KEY, {})
            wait_until(lambda n=n: len(stalls_of(hub, SLOW)) == n, message=f"{n} stalls")
    finally:
        going.clear()
    for stall in stalls_of(hub, SLOW):
        file = stall["where"].rpartition(":")[0]
        assert file in (__file__, hold.__code__.co_filename)  # it looks in the call, or just after
        assert stall["seconds"] >= 0.65


def test_the_health_port_names_the_culprit_while_the_hub_is_busy(serve: Serve) -> None:
    culprits: list[str | None] = []
    seen: list[bool] = []

    def watch(url: str) -> None:
        while SLOW not in culprits:
            _native_sleep(0.1)
            culprits.append(_health(url)["culprit"])

    def slow(body: Any) -> None:
        _start_native(watch, (str(hub.server.site.health_url),))
        burn_until(lambda: SLOW in culprits)
        seen.append(SLOW in culprits)

    hub = serve({"solution-slow": plugin(slow)}, HEALTH)
    hub.publish(KEY, {})
    wait_until(lambda: seen, 60)
    assert seen == [True], culprits
    wait_until(lambda: _health(str(hub.server.site.health_url))["culprit"] is None)


def _health(url: str) -> dict[str, Any]:
    """Ask without gevent: the hub is busy."""
    import _socket

    host, _, port = url.removeprefix("http://").rpartition(":")
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    sock.connect((host, int(port.rstrip("/"))))
    sock.send(b"GET /healthz HTTP/1.0\r\n\r\n")
    data = b""
    while part := sock.recv(4096):
        data += part
    sock.close()
    answer: dict[str, Any] = json.loads(data.partition(b"\r\n\r\n")[2])
    return answer


def test_without_a_guard_nothing_is_watched(serve: Serve) -> None:
    done: list[int] = []

    def slow(body: Any) -> None:
        burn(0.8)
        done.append(1)

    hub = serve({"solution-slow": plugin(slow)}, '[event_handler]\nguard = "none"\n')
    hub.publish(KEY, {})
    wait_until(lambda: done)
    gevent.sleep(0.1)
    assert hub.server.status()["stalls"]["total"] == 0


def test_all_connections_of_the_server_are_kept(serve: Serve) -> None:
    """Also those of the publishers: seven heartbeats long, at 1 s."""
    done: list[int] = []

    def slow(body: Any) -> None:
        hub.server.publisher.publish("a.key", {}, mandatory=False)
        burn(7.0)
        hub.server.publisher.publish("a.key", {}, mandatory=False)
        done.append(1)

    hub = serve({"solution-slow": plugin(slow)}, "[events]\nconsumer_heartbeat = 1\n")
    hub.publish(KEY, {})
    wait_until(lambda: done)
    gevent.sleep(1.0)
    assert [group["reconnects"] for group in hub.server.status()["groups"]] == [0]
    assert done == [1]
    assert hub.server.status()["publishers"]["events"] == "connected"


@pytest.mark.parametrize(("guard", "starts"), [("process", 1), ("thread", 0), ("none", 0)])
def test_the_status_tells_what_guards(serve: Serve, guard: str, starts: int) -> None:
    hub = serve(
        {"solution-idle": plugin(lambda body: None)}, f'[event_handler]\nguard = "{guard}"\n'
    )
    told = hub.server.status()["guard"]
    assert (told["kind"], told["starts"]) == (guard, starts)
    assert (told["pid"] is not None) == bool(starts)
