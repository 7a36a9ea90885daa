"""The crash ledger across real processes: kills, exits, damage, neighbours, limits."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limehub.workers import crashes
from limehub.workers.crashes import (
    KEPT_ENTRIES,
    KEPT_SECONDS,
    KEY_BYTES,
    SLOTS,
    CrashLedger,
    crash_delay,
    identity_of,
)
from tests.support.deliveries import delivered
from tests.support.waiting import wait_until

ONE, TWO, THREE = (bytes([n]) * KEY_BYTES for n in (1, 2, 3))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[CrashLedger]:
    ledger = CrashLedger(tmp_path)
    yield ledger
    ledger.close()


def child(folder: Path, code: str) -> subprocess.Popen[bytes]:
    """Run *code* in a process that has a `ledger` of *folder* and the keys; say "ready" at last."""
    prologue = f"""
        import os, signal, sys
        from pathlib import Path
        from limehub.workers.crashes import CrashLedger
        ledger = CrashLedger(Path({str(folder)!r}))
        ONE, TWO, THREE = (bytes([n]) * 16 for n in (1, 2, 3))
        """
    source = textwrap.dedent(prologue) + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE)


def ended(process: subprocess.Popen[bytes]) -> int:
    process.communicate(timeout=60)
    return process.returncode


def killed_while_running(folder: Path) -> None:
    process = child(
        folder,
        """
        ledger.begin(ONE); ledger.begin(TWO); ledger.end(ledger.begin(THREE))
        print("ready", flush=True)
        signal.pause()
        """,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    assert ended(process) == -signal.SIGKILL


def test_what_ran_in_a_killed_server_is_counted_once_and_what_had_ended_is_not(
    tmp_path: Path,
) -> None:
    killed_while_running(tmp_path)
    ledger = CrashLedger(tmp_path)
    assert [ledger.count_of(key) for key in (ONE, TWO, THREE)] == [1, 1, 0]
    ledger.close()
    again = CrashLedger(tmp_path)
    assert [again.count_of(key) for key in (ONE, TWO, THREE)] == [1, 1, 0]
    again.close()


def test_each_kill_counts_one_more(tmp_path: Path) -> None:
    for _ in range(3):
        killed_while_running(tmp_path)
    ledger = CrashLedger(tmp_path)
    assert ledger.count_of(ONE) == 3
    assert ledger.counts == {ONE.hex(): 3, TWO.hex(): 3}
    ledger.close()


@pytest.mark.parametrize(
    ("end", "status"),
    [("os._exit(70)", 70), ("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV)],
)
def test_a_process_that_ends_without_saying_goodbye_is_a_crash(
    tmp_path: Path, end: str, status: int
) -> None:
    assert ended(child(tmp_path, f"ledger.begin(ONE); {end}")) == status
    ledger = CrashLedger(tmp_path)
    assert ledger.count_of(ONE) == 1
    ledger.close()


def test_an_orderly_end_counts_nothing_and_leaves_no_journal(tmp_path: Path) -> None:
    assert ended(child(tmp_path, "ledger.begin(ONE); ledger.close()")) == 0
    ledger = CrashLedger(tmp_path)
    assert ledger.counts == {}
    ledger.close()
    assert list(tmp_path.glob("*.journal")) == []


def test_a_culprit_that_is_known_is_counted_though_the_end_is_orderly(tmp_path: Path) -> None:
    code = "slot = ledger.begin(ONE); ledger.end(slot); ledger.crashed(ONE); ledger.close()"
    assert ended(child(tmp_path, code)) == 0
    ledger = CrashLedger(tmp_path)
    assert ledger.count_of(ONE) == 1
    ledger.close()


def test_a_server_that_lives_in_the_same_folder_is_no_crash(
    tmp_path: Path, ledger: CrashLedger
) -> None:
    ledger.begin(ONE)
    assert ended(child(tmp_path, "sys.exit(len(ledger.counts))")) == 0
    assert len(list(tmp_path.glob("*.journal"))) == 2  # the child's stays for the next start


def test_neighbours_see_each_others_counts(tmp_path: Path, ledger: CrashLedger) -> None:
    neighbour = CrashLedger(tmp_path)
    assert neighbour.crashed(ONE) == 1
    assert ledger.crashed(TWO) == 1
    assert ledger.crashed(ONE) == 2
    neighbour.settled(ONE)
    neighbour.close()
    third = CrashLedger(tmp_path)
    assert third.counts == {TWO.hex(): 1}
    third.close()


def test_a_journal_is_born_under_the_lock_so_that_no_neighbour_takes_it_for_an_orphan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    lock = fcntl.flock

    def noting(descriptor: int, operation: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().suffix == ".journal":
            with (tmp_path / "crashes.lock").open() as other:
                try:
                    lock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    seen.append(False)
                except BlockingIOError:
                    seen.append(True)
        lock(descriptor, operation)

    monkeypatch.setattr(crashes.fcntl, "flock", noting)
    CrashLedger(tmp_path).close()
    assert seen == [True]


def test_a_journal_that_vanishes_or_cannot_be_read_spoils_nothing(tmp_path: Path) -> None:
    (tmp_path / "inflight-1-gone.journal").symlink_to(tmp_path / "nowhere")
    (tmp_path / "inflight-2-folder.journal").mkdir()
    ledger = CrashLedger(tmp_path)
    assert ledger.begin(ONE) >= 0
    assert ledger.crashed(ONE) == 1
    ledger.close()


def test_the_space_of_a_journal_is_reserved_for_a_full_disk_must_not_kill_by_sigbus(
    tmp_path: Path, ledger: CrashLedger
) -> None:
    (journal,) = tmp_path.glob("*.journal")
    assert journal.stat().st_blocks * 512 >= SLOTS * KEY_BYTES


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\x00",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'{"zz": {"count": 1, "at": 1}}',
        b'{"aa": 7}',
        b'{"aa": {"count": "x", "at": 1}}',
        b'{"aa": {"count": 1e999, "at": 1}}',
        b'{"aa": {"at": 1}}',
        b"[" * 100_000,
    ],
    ids=range(12),
)
def test_a_damaged_ledger_starts_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "crashes.json").write_bytes(content)
    ledger = CrashLedger(tmp_path)
    assert ledger.counts == {}
    assert ledger.crashed(ONE) == 1
    ledger.close()
    assert json.loads((tmp_path / "crashes.json").read_bytes())[ONE.hex()]["count"] == 1


def test_a_short_journal_counts_what_is_whole_in_it(tmp_path: Path) -> None:
    (tmp_path / "inflight-1-x.journal").write_bytes(bytes(KEY_BYTES) + ONE + ONE)
    ledger = CrashLedger(tmp_path)
    assert ledger.counts == {ONE.hex(): 1}
    ledger.close()


def test_without_a_folder_that_can_be_written_nothing_is_counted_and_nothing_breaks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    ledger = CrashLedger(tmp_path / "file" / "state")
    assert "no crash ledger" in caplog.text
    slot = ledger.begin(ONE)
    assert slot == -1
    ledger.end(slot)
    assert ledger.crashed(ONE) == 0
    ledger.settled(ONE)
    ledger.close()


def test_the_folder_is_made_if_it_is_not_there(tmp_path: Path) -> None:
    ledger = CrashLedger(tmp_path / "a" / "b")
    assert ledger.begin(ONE) >= 0
    ledger.close()


def test_a_settled_event_is_forgotten_for_good(tmp_path: Path, ledger: CrashLedger) -> None:
    ledger.crashed(ONE)
    ledger.settled(ONE)
    ledger.settled(ONE)
    assert ledger.count_of(ONE) == 0
    assert json.loads((tmp_path / "crashes.json").read_bytes()) == {}


def test_old_entries_and_all_but_the_newest_thousand_are_forgotten(
    tmp_path: Path,
) -> None:
    now = time.time()
    entries = {
        number.to_bytes(KEY_BYTES, "big").hex(): {"count": 1, "at": now - number}
        for number in range(1, KEPT_ENTRIES + 100)
    }
    entries[THREE.hex()] = {"count": 9, "at": now - KEPT_SECONDS - 1}
    (tmp_path / "crashes.json").write_text(json.dumps(entries))
    ledger = CrashLedger(tmp_path)
    ledger.crashed(ONE)
    assert len(ledger.counts) == KEPT_ENTRIES
    assert ledger.count_of(ONE) == 1
    assert ledger.count_of(THREE) == 0
    assert ledger.count_of((1).to_bytes(KEY_BYTES, "big")) == 1
    ledger.close()


def test_when_all_slots_are_taken_events_run_unnoted_and_slots_come_back(
    ledger: CrashLedger,
) -> None:
    slots = [ledger.begin(ONE) for _ in range(SLOTS)]
    assert len(set(slots)) == SLOTS
    assert ledger.begin(TWO) == -1
    ledger.end(-1)
    assert ledger.begin(TWO) == -1
    ledger.end(slots[7])
    assert ledger.begin(TWO) == slots[7]


def test_a_run_that_ends_after_the_ledger_was_closed_is_harmless(tmp_path: Path) -> None:
    ledger = CrashLedger(tmp_path)
    slot = ledger.begin(ONE)
    ledger.close()
    ledger.close()
    ledger.end(slot)
    assert ledger.begin(ONE) == -1


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_five_hundred_ledgers_leave_no_descriptor_behind(tmp_path: Path) -> None:
    before = open_descriptors()
    for _ in range(500):
        CrashLedger(tmp_path).close()
    wait_until(lambda: open_descriptors() <= before)


def test_an_event_is_known_by_its_queue_and_message_id_else_by_all_that_it_is() -> None:
    same = identity_of(delivered(b"1", message_id="a"))
    assert len(same) == KEY_BYTES
    assert same == identity_of(delivered(b"2", message_id="a", tag=9, redelivered=True))
    assert same != identity_of(delivered(b"1", message_id="a", queue="lime.event_handler.x.y"))
    plain = identity_of(delivered(b"1"))
    assert plain == identity_of(delivered(b"1", tag=2, headers={"h": 1}))
    others = [
        delivered(b"2"),
        delivered(b"1", exchange="lime.globex"),
        delivered(b"1", routing_key="k"),
        delivered(b"1", message_id="1"),
    ]
    assert plain not in [identity_of(each) for each in others]


def test_a_message_id_that_is_not_utf_8_is_an_identity_too() -> None:
    assert len(identity_of(delivered(message_id=b"\xff", routing_key=b"\xfe"))) == KEY_BYTES


@pytest.mark.parametrize(
    ("count", "delay"), [(0, 1), (1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (8, 60), (10**6, 60)]
)
def test_a_suspect_waits_longer_after_each_crash_up_to_a_minute(count: int, delay: float) -> None:
    assert crash_delay(count) == delay


@given(st.integers(-(2**40), 2**40))
def test_the_wait_is_always_between_one_second_and_sixty(count: int) -> None:
    assert 1.0 <= crash_delay(count) <= 60.0
