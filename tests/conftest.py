"""Fixtures of the whole suite: private RabbitMQ nodes, a vhost per test, a fault proxy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.rabbitmq_node import RabbitNode, find_server
from tests.support.proxy import Proxy
from tests.support.vhost import Vhost

PLUGINS = ("rabbitmq_management",)
SOAK = os.environ.get("LIMEHUB_SOAK") == "1"
ROOT_VARIABLE = "LIMEHUB_RABBITMQ4_ROOT"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"rabbitmq4: needs RabbitMQ 4 in the chroot that {ROOT_VARIABLE} names"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip_soak = pytest.mark.skip(reason="the long form; runs under `make soak`")
    skip_four = pytest.mark.skip(reason=f"{ROOT_VARIABLE} is not set; see scripts/rabbitmq4")
    for item in items:
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
    """The suite's shared node. It must stay up: use `killable_node` to hurt one.

    With LIMEHUB_TEST_ON=rabbitmq4 it is RabbitMQ 4, so that every broker test runs on both.
    """
    if os.environ.get("LIMEHUB_TEST_ON") == "rabbitmq4":
        yield from _running(_four("limehub-tests-shared"))
    else:
        yield from _running(RabbitNode(tmp_path_factory.mktemp("rabbit"), plugins=PLUGINS))


@pytest.fixture
def vhost(rabbit_node: RabbitNode) -> Iterator[Vhost]:
    """A vhost of the shared node, for this test only."""
    with Vhost.create(rabbit_node) as vhost:
        yield vhost


@pytest.fixture
def broker_url(vhost: Vhost) -> str:
    """The AMQP URL of this test's vhost."""
    return vhost.url


@pytest.fixture(scope="session")
def _second_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitNode]:
    yield from _running(RabbitNode(tmp_path_factory.mktemp("killable"), plugins=PLUGINS))


@pytest.fixture
def killable_node(_second_node: RabbitNode) -> Iterator[RabbitNode]:
    """A node to kill, pause and restart; up again for the next test."""
    yield _second_node
    if _second_node.running:
        _second_node.resume()
    _second_node.start()


@pytest.fixture
def killable_vhost(killable_node: RabbitNode) -> Iterator[Vhost]:
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
    yield from _running(_four("limehub-tests"))


@pytest.fixture
def rabbitmq4_vhost(rabbitmq4_node: RabbitNode) -> Iterator[Vhost]:
    """A vhost of the RabbitMQ 4 node, for this test only."""
    with Vhost.create(rabbitmq4_node) as vhost:
        yield vhost


def _four(name: str) -> RabbitNode:
    root = Path(os.environ[ROOT_VARIABLE])
    folder = root / "tmp" / name
    shutil.rmtree(folder, ignore_errors=True)
    return RabbitNode(folder, plugins=PLUGINS, root=root)


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
