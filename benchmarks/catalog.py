"""Who takes part: how each peer is started and what its messages look like."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import field, frozen

from benchmarks.meter import Job
from benchmarks.peers.event import BODY, EVENT, HEADERS

__all__ = ["APP", "PEERS", "REPOSITORY", "Message", "Peer", "Tools"]

REPOSITORY = Path(__file__).parents[1]
SCRIPTS = Path(__file__).parent / "peers"
TASK_ID = "5f0b8f3e-4d7b-4a08-9d0b-1f9a2f6c2a11"
APP = "benchmark"
WINDOW = 1000  # messages that the C publisher sends before their confirms


@frozen(kw_only=True)
class Message:
    """What lies in a peer's queue. *properties*: AMQP's, headers among them."""

    body: bytes = BODY
    properties: Mapping[str, Any] = field(
        factory=lambda: {
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "headers": HEADERS,
        }
    )


@frozen(kw_only=True)
class Tools:
    """Where the peers live; `scripts/bench-setup` fills *folder*."""

    folder: Path

    @property
    def limehub(self) -> Path:
        """The command of limehub, with the benchmark's plugins installed."""
        return self.folder / "limehub" / "bin" / "limehub"

    def python(self, environment: str) -> Path:
        """The interpreter of the environment `limehub` or `peers`."""
        return self.folder / environment / "bin" / "python"

    def program(self, name: str) -> Path:
        """A compiled C program."""
        return self.folder / "c" / name

    @property
    def node_modules(self) -> Path:
        """Where npm installed."""
        return self.folder / "node" / "node_modules"


Command = Callable[[Tools, Job, Path], Sequence[str | Path]]
"""(tools, job, folder of the run) -> what to execute."""


@frozen(kw_only=True)
class Peer:
    """One contestant. *pace*: the share of a section's messages that it is given, so that slow
    ones take about as long as fast ones; *each_queue*: one process a queue; *needs*: the file
    without which it cannot run.
    """

    name: str
    command: Command
    needs: Callable[[Tools], Path]
    pace: float = 1.0
    message: Callable[[str], Message] = lambda _queue: Message()
    queue_arguments: Callable[[str], Mapping[str, Any]] = lambda _queue: {}
    each_queue: bool = False

    def available(self, tools: Tools) -> bool:
        """Whether it is installed here."""
        return self.needs(tools).exists()


def _limehub() -> Peer:
    def command(tools: Tools, job: Job, folder: Path) -> Sequence[str | Path]:
        file = folder / "limehub.toml"
        file.write_text(_limehub_toml(job))
        return [tools.limehub, "serve", "-c", file]

    return Peer(name="limehub", command=command, needs=lambda tools: tools.limehub)


def _looked_at(name: str, lookers: int) -> Peer:
    """limehub with its pages on, and so many browsers from its start on."""

    def command(tools: Tools, job: Job, folder: Path) -> Sequence[str | Path]:
        file = folder / "limehub.toml"
        file.write_text(_limehub_toml(job, web="127.0.0.1:0"))
        serve: list[str | Path] = [tools.limehub, "serve", "-c", file]
        if not lookers:
            return serve
        python = tools.python("limehub")
        look = [python, "-m", "benchmarks.browsers", folder, APP, str(lookers)]
        both = (shlex.join(map(str, command)) for command in (look, serve))
        return ["sh", "-c", " >/dev/null & exec ".join(both)]

    return Peer(name=name, command=command, needs=lambda tools: tools.limehub)


def _limehub_toml(job: Job, web: str = "none") -> str:
    """The configuration for *job*: several queues have a worker group each. *web*: its address."""
    several = len(job.queues) > 1
    names = [f"group{n}" for n in range(len(job.queues))] if several else ["default"]
    lines = [
        "[events]",
        f'connection_string = "{job.url}"',
        *([f'tls.ca_file = "{job.ca_file}"'] if job.ca_file else []),
        "[web]",
        f'bind = "{web}"',
        "[event_handler]",
        f'queue_type = "{job.queue_type}"',
    ]
    for number, name in enumerate(names):
        lines += [
            f"[event_handler.workers.{name}]",
            *([f'queue_prefix = "benchmark.handle_{number}"'] if several else []),
            f"prefetch_count = {job.prefetch}",
            f"concurrency = {job.concurrency}",
        ]
    return "\n".join(lines)


def _python(name: str, environment: str = "peers", **options: Any) -> Peer:
    def command(tools: Tools, _job: Job, _folder: Path) -> Sequence[str | Path]:
        return [tools.python(environment), "-m", f"benchmarks.peers.{name}"]

    return Peer(
        name=name, command=command, needs=lambda tools: tools.python(environment), **options
    )


def _imports() -> Peer:
    def command(tools: Tools, _job: Job, _folder: Path) -> Sequence[str | Path]:
        return [tools.python("limehub"), SCRIPTS / "imports.py"]

    return Peer(name="imports", command=command, needs=lambda tools: tools.python("limehub"))


def _node() -> Peer:
    def command(_tools: Tools, _job: Job, _folder: Path) -> Sequence[str | Path]:
        return ["node", SCRIPTS / "node_amqplib.js"]

    return Peer(
        name="node_amqplib", command=command, needs=lambda tools: tools.node_modules / "amqplib"
    )


def _c_raw(name: str, *, multiple: bool) -> Peer:
    def command(tools: Tools, job: Job, _folder: Path) -> Sequence[str | Path]:
        last = "1" if multiple else "0"
        return [tools.program("consume_raw"), *_c_arguments(job), last]

    return Peer(
        name=name,
        command=command,
        needs=lambda tools: tools.program("consume_raw"),
        each_queue=True,
    )


def _c_librabbitmq() -> Peer:
    def command(tools: Tools, job: Job, _folder: Path) -> Sequence[str | Path]:
        return [tools.program("consume_librabbitmq"), *_c_arguments(job), job.ca_file or ""]

    return Peer(
        name="c_librabbitmq",
        command=command,
        needs=lambda tools: tools.program("consume_librabbitmq"),
        each_queue=True,
    )


def _c_arguments(job: Job) -> Sequence[str]:
    host, port = job.address
    return [host, str(port), job.queues[0], str(job.prefetch), str(job.messages)]


def _c_publisher() -> Peer:
    def command(tools: Tools, job: Job, folder: Path) -> Sequence[str | Path]:
        body = folder / "body.json"
        body.write_bytes(BODY)
        host, port = job.address
        what = [job.exchange, job.keys[0], str(body), str(job.messages), str(WINDOW)]
        return [tools.program("publish_confirmed"), host, str(port), *what]

    return Peer(
        name="publish_c",
        command=command,
        needs=lambda tools: tools.program("publish_confirmed"),
    )


def _celery_message(_queue: str) -> Message:
    return Message(
        body=json.dumps([[EVENT], {}, {"callbacks": None, "errbacks": None}]).encode(),
        properties={
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "correlation_id": TASK_ID,
            "headers": {
                "lang": "py",
                "task": "bench.handle",
                "id": TASK_ID,
                "root_id": TASK_ID,
                "argsrepr": "()",
                "kwargsrepr": "{}",
                "origin": "bench",
            },
        },
    )


def _dramatiq_message(queue: str) -> Message:
    content = {
        "queue_name": queue,
        "actor_name": "bench.handle",
        "args": [EVENT],
        "kwargs": {},
        "options": {},
        "message_id": TASK_ID,
        "message_timestamp": 1_700_000_000_000,
    }
    return Message(body=json.dumps(content).encode())


def _dramatiq_arguments(queue: str) -> Mapping[str, Any]:
    return {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{queue}.XQ"}


ALL = (
    _limehub(),
    _looked_at("limehub_alone", 0),
    _looked_at("limehub_looked_at", 50),
    _c_raw("c_raw_multi", multiple=True),
    _c_raw("c_raw_each", multiple=False),
    _c_librabbitmq(),
    _python("pika_select", pace=0.5),
    _python("pika_gevent", pace=0.5),
    _python("pika_gevent_pool", pace=0.3),
    _python("pika_blocking", pace=0.3),
    _python("yapw", pace=0.25),
    _python("aiopika_uvloop", pace=0.2),
    _python("dramatiq_gevent", pace=0.25, message=_dramatiq_message,
            queue_arguments=_dramatiq_arguments),
    _python("faststream_uvloop", pace=0.15),
    _python("celery_gevent", pace=0.12, message=_celery_message),
    _node(),
    _imports(),
    _python("publish_limehub", environment="limehub"),
    _c_publisher(),
    _python("publish_pika_gevent"),
    _python("publish_aiopika", pace=0.5),
    _python("publish_pika_blocking", pace=0.2),
)  # fmt: skip
PEERS: Mapping[str, Peer] = {peer.name: peer for peer in ALL}
