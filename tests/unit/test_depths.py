"""Asking the broker for the depths of queues, without asking too much of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event

from limehub.errors import BrokerUnreachable
from limehub.observe import depths
from limehub.observe.depths import Depth, Depths
from tests.support.waiting import wait_until

FOUND = {"q": Depth(ready=3, consumers=1)}


def test_many_scrapes_are_one_question(monkeypatch: Any) -> None:
    monkeypatch.setattr(depths, "PATIENCE", 60.0)
    asked: list[Any] = []

    def ask(work: Callable[..., Any]) -> Any:
        asked.append(work)
        gevent.sleep(0.05)
        return FOUND

    known = Depths(ask)
    jobs = [gevent.spawn(known.of, ["q"]) for _ in range(20)]
    gevent.joinall(jobs, raise_error=True)
    assert [job.value for job in jobs] == [FOUND] * 20
    assert len(asked) == 1


def test_without_a_broker_nothing_is_known(monkeypatch: Any) -> None:
    answers: list[Any] = [FOUND, BrokerUnreachable("gone"), BrokerUnreachable("gone")]

    def ask(_work: Callable[..., Any]) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(depths, "FRESH", 0.0)
    known = Depths(ask)
    assert known.of(["q"]) == FOUND
    assert known.of(["q"]) == FOUND, "for a minute the last answer will do"
    monkeypatch.setattr(depths, "KEPT", 0.0)
    assert known.of(["q"]) == {}


def test_a_broker_that_does_not_answer_holds_no_scrape(monkeypatch: Any) -> None:
    answered = Event()

    def ask(_work: Callable[..., Any]) -> Any:
        answered.wait()
        return FOUND

    monkeypatch.setattr(depths, "PATIENCE", 0.05)
    known = Depths(ask)
    with gevent.Timeout(30):
        assert known.of(["q"]) == {}
        answered.set()
        wait_until(lambda: known.of(["q"]) == FOUND)
