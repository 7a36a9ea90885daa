"""A private RabbitMQ node: own folder, name, ports, cookie and epmd; loopback only.

    with RabbitNode(Path(".limehub/rabbitmq")) as node:
        print(node.url)

Shared by `make run` and the tests, so it needs nothing but the standard library. Children die with
the process that started them (Linux's parent death signal), even when that is killed with -9.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

__all__ = ["NodeError", "Ports", "RabbitNode", "answers_amqp", "dies_with_parent", "find_server"]

NODE_NAME = "limehub@localhost"  # a fixed name keeps the data; an own epmd keeps it from clashing
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
METHOD_FRAME = b"\x01"
SERVER_FOLDERS = ("usr/lib/rabbitmq/bin", "usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin")
EPMD_FILES = ("usr/bin/epmd", "usr/lib/erlang/erts-*/bin/epmd", "usr/lib/erlang/bin/epmd")
LOWEST_PORT = 16384  # below are many that have a meaning
LOG_TAIL = 2000  # characters of the node's log that an error shows


class NodeError(Exception):
    """The node cannot be started or asked; the text ends with what the node logged."""


class Ports(NamedTuple):
    """TCP ports of one node, all on 127.0.0.1."""

    amqp: int
    management: int
    distribution: int
    epmd: int


class RabbitNode:
    """A RabbitMQ server that lives in *folder* and belongs to this process.

    *plugins*: names to enable, e.g. `rabbitmq_management`. *settings*: keys of the `rabbit`
    application with Erlang terms as text, e.g. `{"consumer_timeout": "20000"}`. *root*: a chroot
    that holds RabbitMQ (*folder* is then inside it; needs root). Not started by the constructor;
    the ports are fixed from the first look on, so that a client can be told before the start.
    """

    def __init__(
        self,
        folder: Path,
        *,
        plugins: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
        root: Path | None = None,
    ) -> None:
        self.folder = folder.resolve()
        self.plugins = tuple(plugins)
        self.settings = dict(settings or {})
        self.root = root.resolve() if root else None
        self._server: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        self._places: list[socket.socket] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # What a client needs

    @cached_property
    def ports(self) -> Ports:
        """The ports of the last run if nobody took them since, else free ones, held for it."""
        remembered = self._remembered()
        with contextlib.suppress(KeyError, TypeError):
            ports = Ports(*remembered["ports"])
            if all(_is_free(port) for port in ports):
                return ports
        self._places = _free_places(len(Ports._fields))
        return Ports(*(place.getsockname()[1] for place in self._places))

    @property
    def url(self) -> str:
        """The AMQP URL of vhost `/`."""
        return self.url_of("/")

    def url_of(self, vhost: str) -> str:
        """The AMQP URL of *vhost*."""
        quoted = urllib.parse.quote(vhost, safe="")
        return f"amqp://guest:guest@127.0.0.1:{self.ports.amqp}/{quoted}"

    @property
    def management_url(self) -> str:
        """The base URL of the management API, with credentials; needs rabbitmq_management."""
        return f"http://guest:guest@127.0.0.1:{self.ports.management}"

    @property
    def log(self) -> Path:
        """The node's log file."""
        return self.folder / "node.log"

    # Life cycle

    @property
    def pid(self) -> int:
        """Process id of the Erlang VM. Raises NodeError when it does not run."""
        if self._server is None:
            raise NodeError("the node is not running")
        return self._server.pid

    @property
    def running(self) -> bool:
        """Whether the Erlang VM lives (paused counts as alive)."""
        return self._server is not None and self._server.poll() is None

    def start(self, timeout: float = 120.0) -> None:
        """Start it and wait until it speaks AMQP. *timeout*: seconds, then NodeError."""
        if self.running:
            return
        self._end_leftovers()
        self._write_files()
        self._epmd = self._spawn(self._epmd_command())
        self._server = self._spawn([f"{self._bin}/rabbitmq-server"])
        self._remember()
        try:
            self._wait_until_ready(timeout)
        except BaseException:
            self.kill()
            raise

    def stop(self, timeout: float = 30.0) -> None:
        """Stop it in order; what does not end within *timeout* seconds is killed."""
        if self._server is not None and self.running:
            self.resume()
            self._server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL), epmd too. Data folder and ports stay."""
        for process in (self._server, self._epmd):
            if process is not None and process.poll() is None:
                process.kill()
            if process is not None:
                process.wait()
        self._server = self._epmd = None

    def settle(self) -> None:
        """Have all that was declared on disk, for a `kill` that is not about that.

        RabbitMQ confirms a queue or a binding up to two seconds before (measured: of 34 kills
        within a second three lost a binding that was confirmed).
        """
        self.eval("mnesia:sync_log()")

    def restart(self) -> None:
        """Kill it and start it again on the same ports with the same data."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Freeze it: connections stay open and nobody answers (a half-open peer)."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run again after `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    # Asking it

    def ctl(self, *args: str) -> str:
        """Run `rabbitmqctl` (one to two seconds); returns its output. Raises NodeError."""
        return self._ask([f"{self._bin}/rabbitmqctl", "--quiet", "-n", NODE_NAME, *args])

    def eval(self, expression: str) -> str:
        """Evaluate an Erlang *expression* (milliseconds); returns the printed term."""
        call = self._file(("usr/bin/erl_call", "usr/lib/erlang/bin/erl_call"))
        if call is None:
            return self.ctl("eval", f"{expression}.")
        try:
            printed = self._erl_call(call, expression, 20.0)
        except subprocess.TimeoutExpired:  # it may hang while the node answers others (seen once)
            printed = self._erl_call(call, expression, 60.0)
        if not printed.startswith("{ok, "):
            raise NodeError(f"{expression}: {printed}")
        return printed.removeprefix("{ok, ").removesuffix("}")

    def _erl_call(self, call: str, expression: str, timeout: float) -> str:
        address = f"127.0.0.1:{self.ports.distribution}"
        me = f"c{secrets.token_hex(4)}"  # two of one name at a time: the node refuses the second
        command = [call, "-h", me, "-address", address, "-c", self._cookie, "-e"]
        return self._ask(command, f"{expression}.\n", timeout)

    def eval_json(self, expression: str) -> Any:
        """Evaluate an Erlang *expression* that gives maps, lists, numbers, binaries."""
        encoded = f"rabbit_json:encode({expression})"
        printed = self.eval(f"base64:encode_to_string(iolist_to_binary({encoded}))")
        # The term may be printed as several adjacent strings, one a line.
        return json.loads(base64.b64decode("".join(re.findall(r'"([^"]*)"', printed))))

    # Files, commands, processes

    def _write_files(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        names = ", ".join(self.plugins)
        (self.folder / "enabled_plugins").write_text(f"[{names}].\n")
        (self.folder / "advanced.config").write_text(self._configuration())
        self.log.touch()
        assert self._cookie  # noqa: S101 - written before the VM looks for it

    def _configuration(self) -> str:
        # Erlang terms, since reading a rabbitmq.conf takes the node about a second longer.
        rabbit = ", ".join(f"{{{key}, {value}}}" for key, value in self.settings.items())
        listener = f'{{tcp_config, [{{ip, "127.0.0.1"}}, {{port, {self.ports.management}}}]}}'
        return f"[{{rabbit, [{rabbit}]}}, {{rabbitmq_management, [{listener}]}}].\n"

    @cached_property
    def _cookie(self) -> str:
        path = self.folder / ".erlang.cookie"
        if not path.exists():
            path.write_text(secrets.token_hex(16))
            path.chmod(0o400)  # Erlang refuses a cookie that others can read
        return path.read_text()

    @cached_property
    def _bin(self) -> str:
        folder = find_server(self.root)
        if folder is None:
            raise NodeError("no rabbitmq-server here; install the package `rabbitmq-server`")
        return self._inside(folder)

    def _file(self, patterns: Sequence[str]) -> str | None:
        found = _first_match(self.root or Path("/"), patterns)
        return self._inside(found) if found else None

    def _inside(self, path: Path) -> str:
        """*path* as the node sees it."""
        return f"/{path.relative_to(self.root)}" if self.root else str(path)

    @property
    def _environment(self) -> dict[str, str]:
        home = self._inside(self.folder)
        return {
            "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin",
            "HOME": home,
            "LANG": "C.UTF-8",
            "ERL_CRASH_DUMP_BYTES": "0",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self.ports.epmd),
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{home}/advanced.config",
            # The machine's own /etc/rabbitmq must not leak in: point at files that do not exist.
            "RABBITMQ_CONF_ENV_FILE": f"{home}/rabbitmq-env.conf",
            "RABBITMQ_CONFIG_FILE": f"{home}/rabbitmq",
            "RABBITMQ_CONFIG_FILES": f"{home}/conf.d",
            "RABBITMQ_DIST_PORT": str(self.ports.distribution),
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{home}/enabled_plugins",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_LOG_BASE": f"{home}/log",
            "RABBITMQ_MNESIA_BASE": f"{home}/data",
            "RABBITMQ_NODENAME": NODE_NAME,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.ports.amqp),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ("-kernel inet_dist_use_interface {127,0,0,1}"),
            # The start script then becomes the VM instead of staying as its parent: one pid.
            "detached": "true",
        }

    def _epmd_command(self) -> list[str]:
        epmd = self._file(EPMD_FILES) or "epmd"
        return [epmd, "-port", str(self.ports.epmd), "-address", "127.0.0.1"]

    def _in_place(self, command: Sequence[str]) -> list[str]:
        return ["chroot", str(self.root), *command] if self.root else list(command)

    def _spawn(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                dies_with_parent(self._in_place(command)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C in the terminal is not for the node
            )

    def _ask(self, command: Sequence[str], text: str = "", timeout: float = 60.0) -> str:
        done = subprocess.run(
            self._in_place(command),
            input=text,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            raise NodeError(f"{Path(command[0]).name} {command[-1]}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def _wait_until_ready(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not answers_amqp("127.0.0.1", self.ports.amqp):
            if not self.running:
                raise NodeError(f"the node ended while starting:\n{self._log_tail()}")
            if time.monotonic() > deadline:
                raise NodeError(f"the node is not up after {timeout} s:\n{self._log_tail()}")
            time.sleep(0.05)

    def _log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-LOG_TAIL:]

    # What an earlier run left behind

    @property
    def _state_file(self) -> Path:
        return self.folder / "node.json"

    def _remember(self) -> None:
        pids = [process.pid for process in (self._server, self._epmd) if process]
        self._state_file.write_text(json.dumps({"ports": self.ports, "pids": pids}))

    def _remembered(self) -> dict[str, Any]:
        try:
            state = json.loads(self._state_file.read_text())
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def _end_leftovers(self) -> None:
        """Kill a node of this folder whose owner is gone; a reused pid is not ours."""
        for pid in self._remembered().get("pids", []):
            if self._is_ours(pid):
                os.kill(pid, signal.SIGKILL)
                _wait_for_end(pid)

    def _is_ours(self, pid: int) -> bool:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False
        return f"HOME={self._inside(self.folder)}".encode() in environment.split(b"\0")


def find_server(root: Path | None = None) -> Path | None:
    """Return the folder of RabbitMQ's real start scripts (not Debian's root-only wrapper)."""
    found = _first_match(root or Path("/"), [f"{name}/rabbitmq-server" for name in SERVER_FOLDERS])
    if found is None and root is None and (wrapper := shutil.which("rabbitmq-server")):
        found = Path(wrapper).resolve()
    if found is None or not (found.parent / "rabbitmq-env").exists():
        return None
    return found.parent


def dies_with_parent(command: Sequence[str], name: str = "KILL") -> list[str]:
    """*command* so that it gets signal *name* when the thread that starts it ends."""
    if shutil.which("setpriv") is None:  # util-linux: on every Debian and Ubuntu
        return list(command)
    return ["setpriv", "--pdeathsig", name, "--", *command]


def answers_amqp(host: str, port: int, timeout: float = 2.0) -> bool:
    """Whether a broker at *host*:*port* answers the protocol header with `connection.start`."""
    try:
        with socket.create_connection((host, port), timeout=timeout) as connection:
            connection.sendall(PROTOCOL_HEADER)
            return connection.recv(1) == METHOD_FRAME
    except OSError:
        return False


def _first_match(root: Path, patterns: Sequence[str]) -> Path | None:
    matches = (path for pattern in patterns for path in sorted(root.glob(pattern)))
    return next(matches, None)


def _wait_for_end(pid: int, timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while _state_of(pid) not in ("", "Z") and time.monotonic() < deadline:
        time.sleep(0.02)


def _state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As Erlang listens: a port in TIME_WAIT after a kill is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _free_places(count: int) -> list[socket.socket]:
    """Sockets on ports that nobody else can take before, or between, our runs.

    No connection is given one, and while its socket is open no other node finds it free. The
    sockets do not listen, so the node can.
    """
    ports = range(LOWEST_PORT, max(_first_ephemeral_port(), LOWEST_PORT + 4096))
    shuffled = random.SystemRandom().sample(ports, len(ports))
    return list(itertools.islice(filter(None, map(_place_on, shuffled)), count))


def _place_on(port: int) -> socket.socket | None:
    place = socket.socket()
    try:
        place.bind(("127.0.0.1", port))
    except OSError:
        place.close()
        return None
    # Said before, it would have shared the place of another node.
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return place


def _first_ephemeral_port() -> int:
    """The lowest port that the system gives to outgoing connections and to listeners on port 0."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        return 32768
