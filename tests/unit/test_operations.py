"""Long work: progress, what it answers or raises, limits, and the end of the server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event

from limehub.deadletters.audit import Audit
from limehub.deadletters.operations import (
    MOST_REMEMBERED,
    MOST_RUNNING,
    Operation,
    Operations,
    TooManyOperations,
    UnknownOperation,
)
from limehub.deadletters.results import Moved
from limehub.errors import BrokerError
from tests.support.waiting import wait_until


def moved(operation: Operation, count: int = 3) -> Moved:
    operation.progress.done = count
    return Moved.of("requeued", count, (), operation=operation.id, remaining=0)


def test_an_operation_shows_how_far_it_is_and_then_its_answer() -> None:
    operations, go_on = Operations(), Event()

    def work(operation: Operation) -> Moved:
        operation.progress.total, operation.progress.seen = 10, 4
        go_on.wait()
        return moved(operation)

    operation = operations.start("requeue", "app", "anna", work)
    assert not operation.wait(0.01)
    shown = operations.get(operation.id).snapshot()
    assert (shown.state, shown.total, shown.seen, shown.result) == ("running", 10, 4, None)
    go_on.set()
    assert operation.wait(30)
    shown = operation.snapshot()
    assert (shown.state, shown.succeeded, shown.actor) == ("done", 3, "anna")
    assert operation.take().requeued == 3


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BrokerError("no route"), "no route"),
        (RuntimeError("secret"), "internal error; see the server's log"),
    ],
)
def test_a_failed_one_raises_what_it_raised_and_tells_no_secrets(
    error: Exception, said: str
) -> None:
    def work(_operation: Operation) -> Any:
        raise error

    operation = Operations().start("delete", "app", "anna", work)
    assert operation.wait(30)
    assert (operation.snapshot().state, operation.snapshot().error) == ("failed", said)
    with pytest.raises(type(error)):
        operation.take()


def test_only_so_many_run_and_so_many_are_remembered() -> None:
    operations, go_on = Operations(), Event()
    for _ in range(MOST_RUNNING):
        operations.start("requeue", "app", "anna", lambda _each: go_on.wait())
    with pytest.raises(TooManyOperations):
        operations.start("requeue", "app", "anna", moved)
    go_on.set()
    wait_until(lambda: not any(each.is_running for each in operations.all()))
    for _ in range(MOST_REMEMBERED):
        last = operations.start("requeue", "app", "anna", moved)
        assert last.wait(30)
    assert len(operations.all()) == MOST_REMEMBERED
    assert operations.all()[0] is last
    with pytest.raises(UnknownOperation):
        operations.get("none")


def test_stopping_asks_first_and_ends_what_does_not_listen() -> None:
    operations, begun, ended = Operations(), [], []

    def listens(operation: Operation) -> None:
        begun.append(1)
        while not operation.progress.stop:
            gevent.sleep(0.01)
        ended.append("in order")

    def hangs(_operation: Operation) -> None:
        begun.append(1)
        try:
            Event().wait()
        finally:
            ended.append("killed")

    operations.start("requeue", "app", "anna", listens)
    operations.start("requeue", "app", "anna", hangs)
    wait_until(lambda: len(begun) == 2)
    operations.stop()
    assert sorted(ended) == ["in order", "killed"]
    assert not any(each.is_running for each in operations.all())


def test_the_audit_notes_success_and_failure_one_line_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "limehub.audit")
    audit = Audit(str(tmp_path / "audit"))
    operation = Operation("o-1", "delete", "app\r\nx", "anna")
    audit.noting({"ids": frozenset(["b", "a"]), "text": None}, moved)(operation)

    def breaks(_operation: Operation) -> Moved:
        raise BrokerError("gone")

    with pytest.raises(BrokerError):
        audit.noting({}, breaks)(operation)
    first, second = map(json.loads, (tmp_path / "audit").read_text().splitlines())
    assert (first["what"], first["count"], first["result"]) == (
        {"ids": ["a", "b"]},
        3,
        "requeued, 0 failed",
    )
    assert (second["app"], second["result"], second["operation"]) == (
        "app\r\nx",
        "failed: gone",
        "o-1",
    )
    logged = [each for each in caplog.records if each.name == "limehub.audit"]
    assert [each.__dict__["actor"] for each in logged] == ["anna", "anna"]


def test_an_audit_file_that_cannot_be_written_is_logged_and_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    audit = Audit(str(tmp_path / "no" / "folder"))
    assert audit.noting({}, moved)(Operation("o", "requeue", "app", "anna")).count == 3
    assert "cannot write web.audit_file" in caplog.text
