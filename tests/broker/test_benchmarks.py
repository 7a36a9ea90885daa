"""`make bench` in small: the server, peers and the C limit really run and really are measured."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from attrs import evolve

from benchmarks.catalog import PEERS, REPOSITORY, Tools
from benchmarks.meter import Job
from benchmarks.runs import Bench, RunFailed
from benchmarks.sections import SECTIONS
from scripts.rabbitmq_node import RabbitNode
from tests.support.process import make_interpreter

ENTRY_POINTS = """[limehub]
benchmark = limehub_benchmark.counting
benchmark-second = limehub_benchmark.second
"""
FEW = 300


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    """What `scripts/bench-setup` makes, from this environment instead of from the net."""
    folder = tmp_path_factory.mktemp("bench")
    make_interpreter(folder / "peers")
    python = make_interpreter(folder / "limehub")
    tools = Tools(folder=folder)
    tools.limehub.write_text(f"#!{python}\nfrom limehub.__main__ import main\nmain()\n")
    tools.limehub.chmod(0o755)
    _install_plugin(next(folder.glob("limehub/lib/python*/site-packages")))
    if shutil.which("gcc"):
        source = REPOSITORY / "benchmarks" / "c" / "consume_raw.c"
        tools.program("x").parent.mkdir()
        subprocess.run(["gcc", "-O1", "-o", tools.program("consume_raw"), source], check=True)
    return tools


def _install_plugin(site: Path) -> None:
    plugin = REPOSITORY / "benchmarks" / "plugin" / "src" / "limehub_benchmark"
    shutil.copytree(plugin, site / "limehub_benchmark")
    info = site / "limehub_benchmark-1.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: limehub-benchmark\n"
                                         "Version: 1\n")  # fmt: skip
    info.joinpath("entry_points.txt").write_text(ENTRY_POINTS)


@pytest.fixture
def bench(rabbit_node: RabbitNode, tools: Tools, tmp_path: Path) -> Bench:
    return Bench(node=rabbit_node, tools=tools, folder=tmp_path)


def job_of(bench: Bench, section: str, peer: str, count: int = FEW) -> Job:
    small = evolve(SECTIONS[section], count=count, least=count)
    job = small.job(PEERS[peer], bench.node.url, None)
    return job._replace(messages=count)


@pytest.mark.parametrize("peer", ["limehub", "pika_select", "pika_gevent", "c_raw_multi"])
def test_a_consumer_empties_the_queue_and_is_measured(bench: Bench, peer: str) -> None:
    if not PEERS[peer].available(bench.tools):
        pytest.skip("no gcc here")
    report = bench.consume(PEERS[peer], job_of(bench, "p100", peer))
    assert report.count == FEW
    assert report.rate > 0
    assert 0 < report.cpu_us < 50_000
    assert report.rss_mb > 0.5
    assert report.start_seconds > 0


def test_several_queues_are_one_report_of_one_process(bench: Bench) -> None:
    report = bench.consume(PEERS["limehub"], job_of(bench, "three", "limehub"))
    assert report.count == 3 * FEW


def test_latencies_are_those_of_every_message(bench: Bench) -> None:
    report = bench.latency(PEERS["limehub"], job_of(bench, "latency", "limehub"), rate=500.0)
    assert len(report.latencies_ms) == FEW
    assert 0 < report.latency_ms(0.5) <= report.latency_ms(0.99) < 60_000
    waited = max(report.latencies_ms) / 1000  # the first may have come late
    assert report.ended - report.began + waited > 0.9 * FEW / 500


def test_memory_is_looked_at_before_and_after_the_work(bench: Bench) -> None:
    peer = PEERS["pika_gevent_pool"]
    report = bench.memory(peer, job_of(bench, "memory", peer.name))
    assert 10 < report.idle_rss_mb <= report.rss_mb + 5


def test_each_publish_of_limehub_is_confirmed_and_counted(bench: Bench) -> None:
    peer = PEERS["publish_limehub"]
    report = bench.publish(peer, job_of(bench, "publish", peer.name, 2000))
    assert report.count == 2000
    assert report.rate > 0


def test_a_peer_that_ends_is_a_failure_with_its_own_words(bench: Bench) -> None:
    peer = evolve(
        PEERS["limehub"],
        command=lambda tools, _job, _folder: [
            tools.python("peers"), "-c", "raise SystemExit('no licence')"
        ],
    )  # fmt: skip
    with pytest.raises(RunFailed, match="ended: no licence"):
        bench.consume(peer, job_of(bench, "p1", "limehub", 5))
