"""`make bench SECTIONS="p1000 p10" ROUNDS=3 PEERS="limehub c_raw_multi"`: prints the tables."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import frozen

from benchmarks import embedded
from benchmarks.catalog import PEERS, REPOSITORY, Peer, Tools
from benchmarks.goals import print_goals
from benchmarks.report import Results, print_section
from benchmarks.runs import Bench, Report, RunFailed
from benchmarks.sections import LATENCY, LOOKS, MEMORY, PUBLISH, SECTIONS, Section
from benchmarks.tls import Certificates
from scripts.rabbitmq_node import RabbitNode


@frozen(kw_only=True)
class Measuring:
    """What all sections share. *tls_url*: None unless a section asks for TLS."""

    bench: Bench
    rounds: int
    peers: Sequence[str]
    tls_url: str | None
    ca_file: str

    def section(self, section: Section) -> Results:
        """Run all rounds, interleaved: A B C A B C. What disturbs, disturbs all."""
        results: dict[str, list[Report]] = {}
        for number in range(self.rounds):
            for peer in self._peers(section):
                say(f"{section.name} {number + 1}/{self.rounds} {peer.name}")
                for _ in range(section.repeat):
                    with _tolerated(section, peer):
                        results.setdefault(peer.name, []).append(self._run(section, peer))
        return {name: reports for name, reports in results.items() if reports}

    def embedded(self) -> Results:
        """Run and print the section of the embedded broker."""
        results = embedded.measure(self.bench.node, self.bench.folder, self.rounds, say)
        embedded.print_embedded(results)
        return results

    def _peers(self, section: Section) -> Iterator[Peer]:
        for name in section.peers:
            wanted = {name, name.removeprefix("publish_")} & set(self.peers or section.peers)
            if wanted and PEERS[name].available(self.bench.tools):
                yield PEERS[name]

    def _run(self, section: Section, peer: Peer) -> Report:
        url = self.tls_url if section.tls else self.bench.node.url
        job = section.job(peer, url or "", self.ca_file if section.tls else None)
        if section.kind == LATENCY:
            return self.bench.latency(peer, job, section.rate)
        runs = {PUBLISH: self.bench.publish, MEMORY: self.bench.memory, LOOKS: self.bench.looks}
        return runs.get(section.kind, self.bench.consume)(peer, job)


def main() -> int:
    """Print a table a section, then the goals. Returns 0, or 1 with --strict and one missed."""
    arguments = _arguments()
    sections = [SECTIONS[name] for name in arguments.sections if name in SECTIONS]
    everything = {}
    with (
        tempfile.TemporaryDirectory(prefix="limehub-bench-") as folder,
        _measuring(Path(folder), sections, arguments) as measuring,
    ):
        _print_machine()
        for section in sections:
            results = everything[section.name] = measuring.section(section)
            if results:
                print_section(section, results)
        if embedded.NAME in arguments.sections:
            everything[embedded.NAME] = measuring.embedded()
    met = print_goals(everything)
    return 1 if arguments.strict and not met else 0


@contextlib.contextmanager
def _measuring(
    folder: Path, sections: Sequence[Section], arguments: argparse.Namespace
) -> Iterator[Measuring]:
    settings, tls_url = {}, None
    certificates = Certificates(folder=folder / "tls")
    if any(section.tls for section in sections):
        port = _free_port()
        certificates.make()
        settings = certificates.node_settings(port)
        tls_url = f"amqps://guest:guest@localhost:{port}/%2F"
    say("starting a private RabbitMQ")
    with RabbitNode(folder / "node", settings=settings) as node:
        tools = Tools(folder=REPOSITORY / ".limehub" / "bench")
        yield Measuring(
            bench=Bench(node=node, tools=tools, folder=folder / "runs"),
            rounds=arguments.rounds,
            peers=arguments.peers,
            tls_url=tls_url,
            ca_file=str(certificates.ca_file),
        )


@contextlib.contextmanager
def _tolerated(section: Section, peer: Peer) -> Iterator[None]:
    """A peer that fails is missing in the table; the others go on."""
    try:
        yield
    except RunFailed as error:
        say(f"{section.name} {peer.name} failed: {error}")


def _print_machine() -> None:
    model = "unknown processor"
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    print(f"# {os.cpu_count()} x {model}, {platform.system()} {platform.release()}, "
          f"Python {platform.python_version()}, load average {os.getloadavg()[0]:.1f}")  # fmt: skip


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    names = [*SECTIONS, embedded.NAME]
    parser.add_argument("--sections", nargs="+", choices=names, default=names)
    parser.add_argument("--peers", nargs="+", metavar="PEER", default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--strict", action="store_true", help="exit 1 if a goal is missed")
    return parser.parse_args()


def say(text: str) -> None:
    """One line for the person at the terminal."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
