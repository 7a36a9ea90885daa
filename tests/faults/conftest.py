"""Fixtures of the experiments: what a connection must survive, seen from the wire."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.rabbitmq_node import RabbitNode
from tests.support.embedded_node import EmbeddedNode
from tests.support.lab import Lab
from tests.support.process import make_interpreter


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "experiment(of): a function that runs beside the others; see `finding`"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("experiment"):  # whose turn comes after others'
            item.add_marker(pytest.mark.timeout(1200))


@pytest.fixture(scope="session")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A python that has limehub and what it needs, but no plugins."""
    return make_interpreter(tmp_path_factory.mktemp("venv"))


@pytest.fixture(scope="session")
def lab(
    request: pytest.FixtureRequest,
    shared_node: RabbitNode | EmbeddedNode,
    interpreter: Path,
    tmp_path_factory: pytest.TempPathFactory,
    soak: bool,
) -> Iterator[Lab]:
    """All experiments of the selected tests, begun: side by side they take a minute."""
    folder = tmp_path_factory.mktemp("lab")
    lab = Lab(node=shared_node, folder=folder, python=interpreter, soak=soak)
    for item in request.session.items:
        marker = item.get_closest_marker("experiment")
        if marker and not item.get_closest_marker("skip"):
            lab.begin(marker.kwargs["of"])
    yield lab
    lab.close()


@pytest.fixture
def finding(request: pytest.FixtureRequest, lab: Lab) -> Any:
    """What the experiment of this test's marker found."""
    marker = request.node.get_closest_marker("experiment")
    assert marker is not None, "mark the test with @pytest.mark.experiment(of=function)"
    return lab.finding(marker.kwargs["of"])
