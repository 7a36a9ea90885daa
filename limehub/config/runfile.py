"""`.limehub/run.json` beside limehub.toml: where the running server and its broker are.

Only its owner may read it: the AMQP URL in it has a password.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from attrs import asdict, field, fields, frozen

__all__ = ["RunInfo", "read", "remove", "state_folder", "write"]

_MAX_BYTES = 65_536


@frozen(kw_only=True)
class RunInfo:
    """A running server. *amqp_url* is complete, *started_at* is RFC 3339 in UTC."""

    pid: int
    amqp_url: str = field(repr=False)
    web_url: str | None = None
    health_url: str | None = None
    started_at: str = ""
    # The kernel's start time of the process: pids are reused, this pair is not.
    pid_ticks: int | None = None


def state_folder(config_path: Path) -> Path:
    """Return the folder for what a server remembers; it may not exist yet."""
    return config_path.absolute().parent / ".limehub"


def write(config_path: Path, info: RunInfo) -> Path:
    """Write run.json in one step, mode 0600. Returns its path; raises OSError."""
    path = _path(config_path)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    content = {**asdict(info), "pid_ticks": _ticks(info.pid)}
    temporary = path.with_name(f"run.json.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with open(temporary, "x", encoding="utf-8", opener=_private) as file:
        json.dump(content, file, indent=2)
    temporary.replace(path)
    return path


def read(config_path: Path) -> RunInfo | None:
    """Return what the running server wrote; None if none runs, or the file is broken."""
    try:
        with _path(config_path).open("rb") as file:
            content = json.loads(file.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    info = _info(content)
    return info if info is not None and _is_running(info) else None


def remove(config_path: Path, pid: int | None = None) -> bool:
    """Remove the file if it is that of *pid* (this process). Returns whether it did."""
    info = read(config_path)
    if info is None or info.pid != (os.getpid() if pid is None else pid):
        return False
    _path(config_path).unlink(missing_ok=True)
    return True


def _path(config_path: Path) -> Path:
    return state_folder(config_path) / "run.json"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


_TYPES: dict[str, tuple[type, ...]] = {
    "pid": (int,),
    "amqp_url": (str,),
    "web_url": (str, type(None)),
    "health_url": (str, type(None)),
    "started_at": (str,),
    "pid_ticks": (int, type(None)),
}


def _info(content: object) -> RunInfo | None:
    if not isinstance(content, dict):
        return None
    known = {attribute.name for attribute in fields(RunInfo)}
    values = {key: value for key, value in content.items() if key in known}
    required = {"pid", "amqp_url"} <= values.keys()
    typed = all(type(value) in _TYPES[key] for key, value in values.items())
    return RunInfo(**values) if required and typed else None


def _is_running(info: RunInfo) -> bool:
    if info.pid <= 0:
        return False
    try:
        os.kill(info.pid, 0)
    except PermissionError:
        pass
    except (ProcessLookupError, OverflowError):
        return False
    return info.pid_ticks is None or info.pid_ticks == _ticks(info.pid)


def _ticks(pid: int) -> int | None:
    """Return the process's start in clock ticks since boot (proc_pid_stat(5), field 22)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name in field 2 may hold anything, also spaces and brackets.
    return int(stat.rpartition(")")[2].split()[19])
