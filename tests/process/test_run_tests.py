"""The runner of `make test`: what it says when tests fail, sessions die, somebody stops it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from scripts.run_tests import QUIET, Work
from tests.support.waiting import wait_until

REPOSITORY = Path(__file__).parents[2]
KEYS, ACKS = "tests/unit/test_keys.py", "tests/unit/test_acks.py"  # quick ones, without a broker

# What happens before a test of tests/unit/test_acks.py runs.
MISHAPS = """
import os, time
import pytest

def pytest_runtest_call(item):
    if "test_acks" in item.nodeid:
        mishap(os.environ["MISHAP"])

def mishap(what):
    print("mishap", what)
    if what == "fail":
        raise ValueError("planned")
    if what == "die":
        os._exit(9)
    if what == "hang":
        open(os.environ["HANGS"], "w").close()
        time.sleep(100)
"""


def begin(folder: Path, mishap: str, *arguments: str) -> subprocess.Popen[str]:
    (folder / "mishaps.py").write_text(MISHAPS)
    search = f"{folder}{os.pathsep}{REPOSITORY}"
    told = {"PYTHONPATH": search, "MISHAP": mishap, "HANGS": str(folder / "hangs")}
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.run_tests", "-p", "mishaps", *arguments, KEYS, ACKS],
        cwd=REPOSITORY,
        env=os.environ | told,
        stdout=subprocess.PIPE,
        text=True,
    )


def ended(run: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = run.communicate(timeout=60)
    return run.returncode, output


def test_a_run_without_failures_names_each_file_and_the_total(tmp_path: Path) -> None:
    code, output = ended(begin(tmp_path, "none", "--beside", "true"))
    assert code == 0
    for name in (KEYS, ACKS, "true"):
        assert [line.split()[0] for line in output.splitlines() if name in line] == ["ok"]
    assert " passed in " in output.splitlines()[-1]


def test_failures_are_shown_whole_and_decide_the_exit_code(tmp_path: Path) -> None:
    beside = ("--beside", "sh -c 'echo no good; exit 3'", "--shards", "1")
    code, output = ended(begin(tmp_path, "fail", *beside))
    assert code == 1
    assert "ValueError: planned" in output
    assert "mishap fail" in output, "what the test wrote"
    assert "no good" in output, "what the command beside wrote"
    assert [line.split()[0] for line in output.splitlines() if KEYS in line] == ["ok"]
    assert [line.split()[0] for line in output.splitlines() if line.endswith(" failed")] == [
        "FAILED"
    ]


def test_an_option_such_as_x_ends_the_whole_run(tmp_path: Path) -> None:
    code, output = ended(begin(tmp_path, "fail", "-x", "--shards", "1"))
    assert code == 1
    assert output.count("ValueError: planned\n") == 1
    assert KEYS not in output, "it would have come after"


def test_a_session_that_dies_is_a_failure_and_the_other_files_run(tmp_path: Path) -> None:
    code, output = ended(begin(tmp_path, "die", "--shards", "1"))
    assert code == 1
    assert f"FAILED pytest ended with 9 at {ACKS}" in output
    assert [line.split()[0] for line in output.splitlines() if KEYS in line] == ["ok"]


def test_nothing_selected_is_no_success(tmp_path: Path) -> None:
    assert ended(begin(tmp_path, "none", "-k", "nosuchtest", "--shards", "1"))[0] == 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_sessions(tmp_path: Path, number: signal.Signals) -> None:
    run = begin(tmp_path, "hang", "--shards", "1")
    wait_until((tmp_path / "hangs").exists, 30)
    sessions = psutil.Process(run.pid).children(recursive=True)
    assert sessions
    run.send_signal(number)
    assert ended(run)[0] == 130
    assert [s for s in sessions if s.is_running() and s.status() != psutil.STATUS_ZOMBIE] == []


def test_the_quiet_folder_is_for_the_last_and_only_when_the_others_have_gone() -> None:
    work = Work(["a", QUIET], takers=2)
    assert work.take() == "a"
    assert work.take() is None
    work.leave(unasked=False)
    assert work.take() == QUIET
    assert work.left() == []
