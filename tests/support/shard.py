"""A pytest plugin: run test files as `scripts.run_tests` hands them out, and tell it what came.

One pytest session for many files, so that its broker is started once. They speak JSON lines over
the socket with the descriptor `--shard`: the shard tells `failed` (and `text`) of a test, `done`
(and numbers) of a file, `stopped` when an option such as -x ends it, and `ask`, which is answered
with `run` (a file or folder) or with the end of the connection.
"""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from typing import Any, TextIO, cast

import pytest
from attrs import define, field

SLOW = 8.0  # seconds of one test that are worth telling


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shard", type=int, help="a socket to scripts.run_tests")


def pytest_configure(config: pytest.Config) -> None:
    if (number := config.getoption("--shard")) is not None:
        line = socket.socket(fileno=number).makefile("rw", encoding="utf-8", newline="\n")
        config.pluginmanager.register(Shard(line=line), "shard")


@define(eq=False)
class Tally:
    """What came of one file: `counts` by outcome, why tests were skipped, seconds by test."""

    counts: Counter[str] = field(factory=Counter)
    skips: Counter[str] = field(factory=Counter)
    seconds: Counter[str] = field(factory=Counter)
    began: float = field(factory=time.monotonic)

    def add(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration  # type: ignore[assignment] # a float
        if report.skipped:
            why = report.longrepr
            self.skips[why[2] if isinstance(why, tuple) else str(why or "expected")] += 1
        if report.when == "call" or not report.passed:
            self.counts[report.outcome] += 1

    def told(self) -> dict[str, Any]:
        slow = {test: seconds for test, seconds in self.seconds.items() if seconds >= SLOW}
        seconds = time.monotonic() - self.began
        return {"seconds": seconds, "counts": self.counts, "skips": self.skips, "slow": slow}


@define(eq=False, kw_only=True)
class Shard:
    """Runs files one after the other. Fixtures of the session live until the last one is done."""

    line: TextIO
    _tally: Tally = field(factory=Tally)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        while path := self._next():
            self._tally = Tally()
            for item in session.items:
                if item.nodeid.startswith(path):
                    self._run(session, item)
            self._tell(done=path, **self._tally.told())
        return True

    def _run(self, session: pytest.Session, item: pytest.Item) -> None:
        # The session as what follows: so its own fixtures stay, and the file's are torn down.
        following = cast("pytest.Item", session)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if reason := session.shouldfail or session.shouldstop:
            self._tell(stopped=str(reason))
            raise session.Interrupted(str(reason))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._tally.add(report)
        if report.failed:
            self._tell(failed=f"{report.nodeid} ({report.when})", text=_whole(report))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._tally.counts["failed"] += 1
            self._tell(failed=f"{report.nodeid} (collection)", text=_whole(report))

    def _next(self) -> str | None:
        self._tell(ask=True)
        line = self.line.readline()
        return json.loads(line)["run"] if line else None

    def _tell(self, **what: Any) -> None:
        self.line.write(json.dumps(what) + "\n")
        self.line.flush()


def _whole(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The traceback and all that was captured, as pytest shows them."""
    sections = [f"--- {title}\n{text}" for title, text in report.sections]
    return "\n".join([report.longreprtext, *sections])
