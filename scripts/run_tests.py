"""Run the test files in several pytest sessions side by side, each with a broker of its own.

    python -m scripts.run_tests [--shards N] [--beside COMMAND] [paths] [pytest's options]

Most tests wait for processes and brokers, so several share a core well. Files are handed out one by
one to whoever is free (`tests.support.shard` is the other end). `QUIET` measures time, so it comes
last, when nothing else runs. One line a file, failures in full at the end, one exit code.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scripts.rabbitmq_node import dies_with_parent

REPOSITORY = Path(__file__).parents[1]
# Long files first: short ones fill the gaps at the end.
FOLDERS = ("tests/process/", "tests/broker/", "tests/conformance/", "tests/", "plugins/")
QUIET = "tests/faults"  # one piece, since its experiments all run at once
SHARDS = 3
PATIENCE = 30.0  # seconds to end in order
FINE = (0, 1, 2, 5)  # pytest's exit codes for what we have heard of, and for nothing to do
INTERRUPTED = 130
LOG_TAIL = 4000  # characters


class Job:
    """A process whose output goes to a file until somebody wants to see it."""

    def __init__(self, command: Sequence[str], *descriptors: int) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(
            dies_with_parent(command),
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            pass_fds=descriptors,
            start_new_session=True,  # it hears of Ctrl-C from us, once
        )

    def interrupt(self) -> None:
        """Pass Ctrl-C on."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGINT)

    def end(self, timeout: float | None = None) -> tuple[int, str]:
        """Wait *timeout* seconds for its end, then kill it. Returns exit code and output."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        code = self.process.wait()
        with self._output:
            self._output.seek(0)
            return code, self._output.read().decode(errors="replace")


class Shard(Job):
    """A pytest session that asks for files."""

    def __init__(self, options: Sequence[str]) -> None:
        self._line, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            plugin = ("-p", "tests.support.shard", f"--shard={number}")
            super().__init__([sys.executable, "-m", "pytest", *plugin, *options], number)

    def told(self) -> Iterator[dict[str, Any]]:
        """Yield what it tells, until it ends."""
        with self._line, self._line.makefile("r", encoding="utf-8", newline="\n") as lines:
            yield from map(json.loads, lines)

    def give(self, path: str | None) -> None:
        """Have it run *path*; None: there is nothing more."""
        if path is None:
            self._line.shutdown(socket.SHUT_WR)
        else:
            self._line.sendall(json.dumps({"run": path}).encode() + b"\n")


class Work:
    """The files that nobody has taken yet. *takers*: how many threads come for them."""

    def __init__(self, paths: Sequence[str], takers: int) -> None:
        self._waiting = deque(path for path in paths if not path.startswith(QUIET))
        self._quiet = deque(path for path in paths if path.startswith(QUIET))
        self._coming = self._present = takers
        self._changed = threading.Condition()

    def left(self) -> list[str]:
        """What is still to be taken."""
        return [*self._waiting, *self._quiet]

    def take(self) -> str | None:
        """Return the next file or None; the last who asks waits until it is alone."""
        with self._changed:
            if self._waiting:
                return self._waiting.popleft()
            self._coming -= 1
            if self._coming == 0:
                self._changed.wait_for(lambda: self._present == 1 or not self._quiet)
            return self._quiet.popleft() if self._quiet and self._coming == 0 else None

    def leave(self, *, unasked: bool) -> None:
        """Say that a taker is gone; *unasked*: it was never told that nothing is left."""
        with self._changed:
            self._present -= 1
            self._coming -= unasked
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait until all takers are gone."""
        with self._changed:
            self._changed.wait_for(lambda: self._present == 0)

    def drop(self) -> None:
        """Have nothing more done."""
        with self._changed:
            self._waiting.clear()
            self._quiet.clear()
            self._changed.notify_all()


class Results:
    """What came of it; prints one line a file."""

    def __init__(self) -> None:
        self.failures: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._skips: Counter[str] = Counter()
        self._slow: dict[str, float] = {}

    @property
    def exit_code(self) -> int:
        """0 all passed, 1 failures, 5 nothing ran: as pytest's."""
        return 1 if self.failures else 0 if self._counts else 5

    def file(self, told: dict[str, Any]) -> None:
        """A file has been run."""
        self._counts.update(told["counts"])
        self._skips.update(told["skips"])
        self._slow.update(told["slow"])
        if told["counts"]:  # not if nothing in it is selected
            text = f"{told['done']}  {_in_words(told['counts'])}"
            self.line(text, told["seconds"], ok="failed" not in told["counts"])

    def line(self, text: str, seconds: float, *, ok: bool) -> None:
        """Say that something has ended."""
        print(f"{'ok' if ok else 'FAILED':6} {seconds:6.1f} s  {text}", flush=True)

    def summary(self, seconds: float) -> None:
        """Print what a person must know at the end."""
        for name, text in self.failures.items():
            print(f"\n{f' {name} ':=^99}\n{text}")
        for reason, count in self._skips.most_common():
            print(f"skipped {count}: {reason}")
        for test, spent in sorted(self._slow.items(), key=lambda item: -item[1]):
            print(f"slow   {spent:6.1f} s  {test}")
        for name in self.failures:
            print(f"FAILED {name}")
        print(f"{_in_words(self._counts) or 'nothing ran'} in {seconds:.0f} s")


class Run:
    """Threads that run a session each; the last one runs *beside* before, if there is one."""

    def __init__(self, paths: Sequence[str], options: Sequence[str], shards: int) -> None:
        self.results = Results()
        self.interrupted = False
        self._options = options
        self._takers = max(1, min(shards, len(paths)))
        self._work = Work(paths, self._takers)
        self._jobs: list[Job] = []

    def run(self, beside: str) -> None:
        """Run it all; returns when it has ended, also after Ctrl-C."""
        commands = [""] * (self._takers - 1) + [beside]
        for command in commands:
            threading.Thread(target=self._taker, args=(command,)).start()
        while True:
            try:  # not by join: an interrupted join takes the thread for ended before Python 3.13
                self._work.wait()
                break
            except KeyboardInterrupt:
                self._stop()
        for path in self._work.left():
            self.results.failures[path] = "not run: no session was left for it"

    def _stop(self) -> None:
        self.interrupted = True
        self._work.drop()
        for job in self._jobs:
            job.interrupt()

    def _taker(self, beside: str) -> None:
        unasked = True
        try:
            if beside:
                self._run_beside(beside)
            while unasked and self._work.left():
                unasked = self._run_shard()
        finally:
            self._work.leave(unasked=unasked)

    def _run_beside(self, command: str) -> None:
        began = time.monotonic()
        job = Job(shlex.split(command))
        self._jobs.append(job)
        code, text = job.end()
        if code and not self.interrupted:
            self.results.failures[command] = text
        self.results.line(command, time.monotonic() - began, ok=not code)

    def _run_shard(self) -> bool:
        """Run files until none is left. Returns False then; True if the session broke at a file."""
        shard = Shard(self._options)
        self._jobs.append(shard)
        path: str | None = ""
        for told in shard.told():
            if "ask" in told:
                path = self._work.take()
                shard.give(path)
            elif "done" in told:
                self.results.file(told)
            elif "failed" in told:
                self.results.failures[told["failed"]] = told["text"]
            elif "stopped" in told:
                path = None
                self._work.drop()
        code, text = shard.end(PATIENCE)
        if (path is not None or code not in FINE) and not self.interrupted:
            name = f"pytest ended with {code} at {path or 'its start or end'}"
            self.results.failures[name] = text[-LOG_TAIL:]
        return bool(path)


def _in_words(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items())


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return (paths and test ids, pytest's options)."""
    paths = [each for each in arguments if "/" in each and Path(each.split("::")[0]).exists()]
    return paths, [each for each in arguments if each not in paths]


def _files(paths: Sequence[str]) -> list[str]:
    """Return what to hand out of *paths*, in the order in which to run it."""
    found = {file for path in paths for file in _inside(Path(path.split("::")[0]))}
    return sorted(found, key=lambda path: (_place(path), path))


def _inside(path: Path) -> set[str]:
    files = map(str, path.rglob("test_*.py") if path.is_dir() else [path])
    return {QUIET if file.startswith(f"{QUIET}/") else file for file in files}


def _place(path: str) -> int:
    return next(n for n, folder in enumerate((*FOLDERS, "")) if path.startswith(folder))


def main(arguments: Sequence[str]) -> int:
    """Run what *arguments* say; returns the exit code."""
    parser = argparse.ArgumentParser(allow_abbrev=False, usage=__doc__)
    parser.add_argument("--shards", type=int, default=SHARDS)
    parser.add_argument("--beside", default="")
    own, rest = parser.parse_known_args(arguments)
    os.chdir(REPOSITORY)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    paths, options = _split(rest)
    paths = paths or ["tests", *map(str, Path().glob("plugins/*/tests"))]
    began = time.monotonic()
    run = Run(_files(paths), [*options, *paths], own.shards)
    run.run(own.beside)
    run.results.summary(time.monotonic() - began)
    interrupted = run.interrupted and not run.results.failures
    return INTERRUPTED if interrupted else run.results.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
