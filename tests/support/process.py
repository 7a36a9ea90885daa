"""`limehub` as people run it: a process in a folder, with packages that are really installed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any, TypeVar

from attrs import define, field

from scripts.rabbitmq_node import dies_with_parent
from tests.support.waiting import wait_until

__all__ = [
    "REPOSITORY",
    "LimehubProcess",
    "Workplace",
    "alive",
    "install_plugin",
    "make_interpreter",
    "whole_lines",
]

REPOSITORY = Path(__file__).parents[2]
ENTRY_POINT_GROUPS = frozenset({"limehub", "lime_plugins"})
T = TypeVar("T")

PATIENCE = 100.0  # seconds; what goes well never needs them
LOG_TAIL = 4000  # characters of a process's log in an error


def install_plugin(
    folder: Path,
    name: str,
    source: str,
    *,
    entry_point_group: str = "limehub",
    module: str | None = None,
    version: str = "1.0",
) -> str:
    """Install a one-module package into *folder*, which belongs on PYTHONPATH.

    *name*: distribution and entry point; *source*: the module's text. Returns the module's name.
    Its dist-info is real, so the entry point is found as pip's would be.
    """
    module = module or name.replace("-", "_")
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (folder / f"{module}.py").write_text(source)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[{entry_point_group}]\n{name} = {module}\n")
    (info / "RECORD").write_text(f"{module}.py,,\n{info.name}/METADATA,,\n")
    (info / "INSTALLER").write_text("tests\n")
    return module


def make_interpreter(folder: Path) -> Path:
    """Make a virtual environment in *folder* like this one, but without any limehub plugin.

    `.venv` may hold the packages of `plugins/`; a test must see those that it installs itself, and
    no others. Returns the path of its python, which imports limehub from this repository.
    """
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    packages = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    packages.mkdir(parents=True)
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.symlink_to(base)
    (folder / "pyvenv.cfg").write_text(f"home = {base.parent}\n")
    (packages / "repository.pth").write_text(f"{REPOSITORY}\n")
    for installed in Path(sysconfig.get_path("purelib")).iterdir():
        if installed.suffix != ".pth" and not _is_plugin(installed):
            (packages / installed.name).symlink_to(installed)
    return python


def _is_plugin(path: Path) -> bool:
    if path.suffix != ".dist-info":
        return False
    return any(e.group in ENTRY_POINT_GROUPS for e in Distribution.at(path).entry_points)


def alive(pid: int) -> bool:
    """Whether the process runs; not if it has ended and its parent has not asked how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def whole_lines(file: Path) -> list[str]:
    """The lines of *file* without the end of one that is being written; none of a missing file."""
    if not file.exists():
        return []
    return file.read_text(errors="replace").rpartition("\n")[0].splitlines()


@define(eq=False, kw_only=True)
class LimehubProcess:
    """A running `limehub` command. Its output goes to files: no pipe can fill up and block it."""

    folder: Path
    child: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.child.pid

    @property
    def text(self) -> str:
        """All that it wrote so far, standard output and error together."""
        return self.log.read_text(errors="replace")

    def records(self, event: str | None = None) -> list[dict[str, Any]]:
        """The JSON lines that it wrote; with *event* only those with that `event`."""
        lines = [line for line in whole_lines(self.log) if line.startswith("{")]
        found = [record for line in lines if (record := _parsed(line)) is not None]
        return [r for r in found if event is None or r.get("event") == event]

    def lines_with(self, part: str) -> list[str]:
        """The lines that contain *part*."""
        return [line for line in whole_lines(self.log) if part in line]

    def wait_for_line(self, part: str, timeout: float = PATIENCE) -> str:
        """Wait for a line that contains *part*; returns the first."""
        return self._wait_for(lambda: self.lines_with(part), timeout, f"a line with {part!r}")

    def wait_ready(self, timeout: float = PATIENCE) -> dict[str, Any]:
        """Wait for the `ready` line; returns it. AssertionError if the process ends before."""
        return self._wait_for(lambda: self.records("ready"), timeout, "the ready line")

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.child.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait until it ends; returns its exit code, negative if a signal ended it."""
        try:
            return self.child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s:\n{self._tail()}") from None

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = PATIENCE) -> int:
        """Send *number* and wait; returns the exit code."""
        self.send(number)
        return self.wait(timeout)

    def kill(self) -> None:
        """End it with SIGKILL; harmless if it has ended."""
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()

    def _wait_for(self, look: Callable[[], list[T]], timeout: float, what: str) -> T:
        def found() -> list[T]:
            code = self.child.poll()  # before the look: it may write its last line and end
            lines = look()
            if not lines and code is not None:
                raise AssertionError(f"limehub ended with {code} before {what}")
            return lines

        try:
            return wait_until(found, timeout, what)[0]
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._tail()}") from None

    def _tail(self) -> str:
        return self.text[-LOG_TAIL:]


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


@define(eq=False, kw_only=True)
class Workplace:
    """A folder with a limehub.toml and installed packages, where `limehub` commands run.

    *environ* is added to a clean environment (no LIMEHUB_* of the person who runs the tests).
    *prefix*: a command that runs each of the started commands, such as `ip netns exec NAME`.
    """

    folder: Path
    python: Path
    environ: dict[str, str] = field(factory=dict)
    prefix: tuple[str, ...] = ()
    _started: list[LimehubProcess] = field(factory=list)

    @property
    def config_file(self) -> Path:
        """Its limehub.toml."""
        return self.folder / "limehub.toml"

    @property
    def site(self) -> Path:
        """The folder of the packages that the test installs."""
        return self.folder / "site"

    def configure(self, toml: str) -> None:
        """Write limehub.toml."""
        self.config_file.write_text(toml)

    def install(self, name: str, source: str, **options: Any) -> str:
        """Install a package; see `install_plugin`. Returns the module's name."""
        return install_plugin(self.site, name, source, **options)

    def serve(self, *args: str, ready: bool = True) -> LimehubProcess:
        """Start `limehub serve`, and wait for its ready line unless *ready* is False."""
        process = self.start(["-m", "limehub", "serve", "-c", str(self.config_file), *args])
        if ready:
            process.wait_ready()
        return process

    def start(self, arguments: Sequence[str]) -> LimehubProcess:
        """Start python with *arguments* here; it is killed when the workplace closes."""
        log = self.folder / f"output-{len(self._started)}.log"
        with log.open("wb") as output:
            child = subprocess.Popen(
                dies_with_parent([*self.prefix, str(self.python), *arguments]),
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process = LimehubProcess(folder=self.folder, child=child, log=log)
        self._started.append(process)
        return process

    def run(
        self, *args: str, text: str = "", timeout: float = PATIENCE
    ) -> subprocess.CompletedProcess[str]:
        """Run a `limehub` command to its end; *text* is its standard input."""
        return subprocess.run(
            [str(self.python), "-m", "limehub", *args],
            cwd=self.folder,
            env=self._environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def close(self) -> None:
        """Kill what still runs, and show the logs (pytest prints them for a failed test)."""
        for process in self._started:
            process.kill()
            print(f"--- {process.log.name}\n{process.text[-LOG_TAIL:]}")

    @property
    def _environment(self) -> Mapping[str, str]:
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(self.site),
            "PYTHONUNBUFFERED": "1",
            **self.environ,
        }
