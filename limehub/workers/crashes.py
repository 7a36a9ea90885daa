"""The crash ledger: which events were being handled when a server died.

A poison event that kills the process (an exception under the policy crash, a segfault, kill -9)
would fell every restart. What runs is written to a journal, a memory-mapped file that outlives the
process; the next start finds it unlocked and counts one crash for each event in it. A counted event
waits 1, 2, 4 ... 60 s and runs alone; at the limit it is dead-lettered. Losing these files costs
nothing but the count.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import mmap
import os
import struct
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

__all__ = ["CrashLedger", "crash_delay", "identity_of", "journal_key"]

log = logging.getLogger(__name__)

KEY_BYTES = 16
_key = struct.Struct(">8sII").pack
SLOTS = 16_384
KEPT_SECONDS = 86_400.0
KEPT_ENTRIES = 1_000
_FREE = bytes(KEY_BYTES)


class Identified(Protocol):
    """What tells one event from another after a restart."""

    body: bytes
    queue: str

    @property
    def wire_exchange(self) -> str: ...
    @property
    def wire_routing_key(self) -> str: ...
    @property
    def message_id(self) -> str | None: ...


@lru_cache(maxsize=4096)
def _code_of(queue: str) -> bytes:
    return hashlib.blake2b(queue.encode(), digest_size=8).digest()


def journal_key(queue: str, body: bytes) -> bytes:
    """Return 16 bytes for an event that runs: its queue and body, cheap enough for every run.

    Events of equal bodies share a key: a poison event's twin is a suspect, too.
    """
    return _key(_code_of(queue), crc32(body), len(body) & 0xFFFFFFFF)


def identity_of(delivery: Identified) -> bytes:
    """Return 16 bytes for the event in its queue: by message id, else by exchange, key, body."""
    digest = hashlib.blake2b(delivery.queue.encode(), digest_size=KEY_BYTES)
    if delivery.message_id:
        digest.update(b"\0id\0" + delivery.message_id.encode())
    else:
        digest.update(f"\0{delivery.wire_exchange}\0{delivery.wire_routing_key}\0".encode())
        digest.update(delivery.body)
    return digest.digest()


def crash_delay(crashes: int) -> float:
    """Return the seconds that an event waits after *crashes* crashes: 1, 2, 4 ... 60."""
    return float(min(60, 2 ** (min(max(crashes, 1), 7) - 1)))


class CrashLedger:
    """Counts crashes in *folder*. Without a writable folder it counts nothing and says so.

    `suspects`: key of an event that has seen a crash -> (how many, when the last); mostly empty.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "crashes.json"
        self._lock_file = folder / "crashes.lock"
        self._journal_file = folder / f"inflight-{os.getpid()}-{os.urandom(4).hex()}.journal"
        self.suspects: dict[bytes, tuple[int, float]] = {}
        self._journal: mmap.mmap | bytearray = bytearray()
        self._descriptor = -1
        self._free: list[int] = []
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():  # our journal too: a neighbour must not see it before its lock
                self._collect(folder)
                self._open_journal()
        except OSError as error:
            log.warning(
                "no crash ledger: poison events will not be recognised after a restart",
                extra={"folder": str(folder), "cause": str(error)},
            )

    def count_of(self, key: bytes) -> int:
        """Return how many crashes the event has seen."""
        return self.suspects[key][0] if self.suspects and key in self.suspects else 0

    @property
    def counts(self) -> dict[str, int]:
        """All counted events, for status pages."""
        return {key.hex(): count for key, (count, _) in self.suspects.items()}

    def begin(self, key: bytes) -> int:
        """Note that the event runs now. Returns the slot for `end`, -1 if none is free."""
        if not self._free:
            return -1
        slot = self._free.pop()
        self._journal[slot : slot + KEY_BYTES] = key
        return slot

    def end(self, slot: int) -> None:
        """Note that the run has ended."""
        if slot >= 0 and self._journal:
            self._journal[slot : slot + KEY_BYTES] = _FREE
            self._free.append(slot)

    def crashed(self, key: bytes) -> int:
        """Count a crash of a known culprit. Returns its count."""
        with contextlib.suppress(OSError), self._locked():
            self._count(key)
            self._save()
        return self.count_of(key)

    def settled(self, key: bytes) -> None:
        """Forget the event: it came to an end."""
        if self.suspects and key in self.suspects:
            with contextlib.suppress(OSError), self._locked():
                self.suspects.pop(key, None)
                self._save()

    def close(self) -> None:
        """Give the journal up; nothing of it counts as a crash."""
        if isinstance(self._journal, mmap.mmap):
            self._journal.close()
            self._journal, self._free = bytearray(), []
            self._journal_file.unlink(missing_ok=True)
            os.close(self._descriptor)

    def _count(self, key: bytes) -> None:
        self.suspects[key] = (self.count_of(key) + 1, time.time())

    def _open_journal(self) -> None:
        self._descriptor = os.open(self._journal_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        # Reserved, not only sized: a write to a mapped page that a full disk cannot back is SIGBUS.
        os.posix_fallocate(self._descriptor, 0, SLOTS * KEY_BYTES)
        self._journal = mmap.mmap(self._descriptor, SLOTS * KEY_BYTES)
        self._free = list(range(0, SLOTS * KEY_BYTES, KEY_BYTES))[::-1]

    def _collect(self, folder: Path) -> None:
        """Take over the journals of servers that died."""
        for journal in folder.glob("inflight-*.journal"):
            for key in _abandoned(journal):
                self._count(key)
        self._save()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the ledger against other servers of the same folder, with their counts read."""
        descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._load()
            yield
        finally:
            os.close(descriptor)

    def _load(self) -> None:
        try:
            stored: dict[str, Any] = json.loads(self._file.read_bytes())
            self.suspects = {
                bytes.fromhex(key): (int(entry["count"]), float(entry["at"]))
                for key, entry in stored.items()
            }
        except FileNotFoundError:
            self.suspects = {}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            log.warning("crash ledger is damaged; starting anew", extra={"file": str(self._file)})
            self.suspects = {}

    def _save(self) -> None:
        oldest = time.time() - KEPT_SECONDS
        fresh = [(key, entry) for key, entry in self.suspects.items() if entry[1] > oldest]
        fresh.sort(key=lambda item: item[1][1])
        self.suspects = dict(fresh[-KEPT_ENTRIES:])
        stored = {key.hex(): {"count": n, "at": at} for key, (n, at) in self.suspects.items()}
        draft = self._file.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(stored, indent=1))
        draft.replace(self._file)


def _abandoned(journal: Path) -> list[bytes]:
    """Return what ran in a dead server and remove its journal; nothing of one that lives."""
    try:
        descriptor = os.open(journal, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # its server has just closed it, or it is none of ours
        return []
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return []
    content = os.read(descriptor, SLOTS * KEY_BYTES)
    journal.unlink(missing_ok=True)
    os.close(descriptor)
    keys = (content[at : at + KEY_BYTES] for at in range(0, len(content), KEY_BYTES))
    return [key for key in dict.fromkeys(keys) if any(key)]
