"""Fixtures of the whole suite: private brokers, a vhost per test, a fault proxy."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck, settings

from scripts.rabbitmq_node import RabbitNode, find_server
from tests.support.embedded_node import EmbeddedNode
from tests.support.proxy import Proxy
from tests.support.vhost import Vhost

Node = RabbitNode | EmbeddedNode
PLUGINS = ("rabbitmq_management",)
FAULTS = Path(__file__).parent / "faults"
SOAK = os.environ.get("LIMEHUB_SOAK") == "1"
ROOT_VARIABLE = "LIMEHUB_RABBITMQ4_ROOT"
TEST_ON = os.environ.get("LIMEHUB_TEST_ON", "rabbitmq")
"""The broker of tests that work on any: `rabbitmq`, `rabbitmq4` or `embedded`."""

settings.register_profile(
    "limehub",
    derandomize=not SOAK,  # the same examples each time; the long form looks for new ones
    deadline=None,  # a busy machine is no bug
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("limehub")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"rabbitmq4: needs RabbitMQ 4 in the chroot that {ROOT_VARIABLE} names"
    )
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As a shell starts what runs in the background; what a test starts would ignore it, too.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip_soak = pytest.mark.skip(reason="the long form; runs under `make soak`")
    skip_four = pytest.mark.skip(reason=f"{ROOT_VARIABLE} is not set; see scripts/rabbitmq4")
    for item in items:
        if FAULTS in item.path.parents:
            item.add_marker(pytest.mark.alone)
        if not SOAK and item.get_closest_marker("soak"):
            item.add_marker(skip_soak)
        if ROOT_VARIABLE not in os.environ and item.get_closest_marker("rabbitmq4"):
            item.add_marker(skip_four)


@pytest.fixture(scope="session")
def soak() -> bool:
    """Whether this is `make soak`: full durations, more rounds."""
    return SOAK


@pytest.fixture(scope="session")
def rabbit_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitNode]:
    """A RabbitMQ node that tests share. It must stay up: use `killable_node` to hurt one.

    With LIMEHUB_TEST_ON=rabbitmq4 it is RabbitMQ 4, so that every broker test runs on both.
    """
    if TEST_ON == "rabbitmq4":
        with _four() as node:
            yield from _running(node)
    else:
        yield from _running(RabbitNode(tmp_path_factory.mktemp("rabbit"), plugins=PLUGINS))


@pytest.fixture(scope="session")
def embedded_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedNode]:
    """An embedded broker that tests share, on a file."""
    yield from _embedded(tmp_path_factory.mktemp("embedded"))


@pytest.fixture
def broker_kind() -> str:
    """What `vhost` and `killable_vhost` are on: `rabbitmq` (of either version) or `embedded`."""
    return "embedded" if TEST_ON == "embedded" else "rabbitmq"


@pytest.fixture(scope="session")
def shared_node(request: pytest.FixtureRequest) -> Node:
    """The shared node of the broker that LIMEHUB_TEST_ON names."""
    name = "embedded_node" if TEST_ON == "embedded" else "rabbit_node"
    return cast("Node", request.getfixturevalue(name))


@pytest.fixture
def vhost(request: pytest.FixtureRequest, broker_kind: str) -> Iterator[Vhost]:
    """A vhost of a shared node, for this test only."""
    name = "embedded_node" if broker_kind == "embedded" else "rabbit_node"
    with Vhost.create(request.getfixturevalue(name)) as vhost:
        yield vhost


@pytest.fixture
def broker_url(vhost: Vhost) -> str:
    """The AMQP URL of this test's vhost."""
    return vhost.url


@pytest.fixture(scope="session")
def _second_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitNode]:
    yield from _running(RabbitNode(tmp_path_factory.mktemp("killable"), plugins=PLUGINS))


@pytest.fixture(scope="session")
def _second_embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedNode]:
    yield from _embedded(tmp_path_factory.mktemp("killable-embedded"))


@pytest.fixture
def killable_node(request: pytest.FixtureRequest, broker_kind: str) -> Iterator[Node]:
    """A node to kill, pause and restart; up again for the next test."""
    name = "_second_embedded" if broker_kind == "embedded" else "_second_node"
    node: Node = request.getfixturevalue(name)
    yield node
    if node.running:
        node.resume()
    node.start()


@pytest.fixture
def killable_vhost(killable_node: Node) -> Iterator[Vhost]:
    """A vhost of the killable node, for this test only."""
    with Vhost.create(killable_node) as vhost:
        yield vhost


@pytest.fixture
def proxy(vhost: Vhost) -> Iterator[Proxy]:
    """A fault proxy before this test's vhost; `proxy.url` goes through it."""
    with Proxy(vhost.url) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def rabbitmq4_node() -> Iterator[RabbitNode]:
    """A RabbitMQ 4 node; for tests marked `rabbitmq4`."""
    with _four() as node:
        yield from _running(node)


@pytest.fixture
def rabbitmq4_vhost(rabbitmq4_node: RabbitNode) -> Iterator[Vhost]:
    """A vhost of the RabbitMQ 4 node, for this test only."""
    with Vhost.create(rabbitmq4_node) as vhost:
        yield vhost


def _embedded(folder: Path) -> Iterator[EmbeddedNode]:
    node = EmbeddedNode(folder)
    try:
        node.start()
        yield node
    finally:
        node.kill()


@contextlib.contextmanager
def _four() -> Iterator[RabbitNode]:
    root = Path(os.environ[ROOT_VARIABLE])
    with tempfile.TemporaryDirectory(
        prefix="limehub-tests-", dir=root / "tmp", ignore_cleanup_errors=True
    ) as folder:
        yield RabbitNode(Path(folder), plugins=PLUGINS, root=root)


def _running(node: RabbitNode) -> Iterator[RabbitNode]:
    if find_server(node.root) is None:
        reason = "no rabbitmq-server here; `make test` installs it when root"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    try:
        node.start()
        yield node
    finally:
        node.kill()  # its data is thrown away, so there is no reason to wait for an orderly stop
