"""Fixtures of the tests that run `limehub` as a process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.process import Workplace, make_interpreter
from tests.support.vhost import Vhost


@pytest.fixture(scope="session")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A python that has limehub and what it needs, but no plugins."""
    return make_interpreter(tmp_path_factory.mktemp("venv"))


@pytest.fixture
def bare_workplace(tmp_path: Path, interpreter: Path) -> Iterator[Workplace]:
    """A folder to run `limehub` in, without limehub.toml and without a broker."""
    workplace = Workplace(folder=tmp_path, python=interpreter)
    yield workplace
    workplace.close()


@pytest.fixture
def workplace(bare_workplace: Workplace, vhost: Vhost) -> Workplace:
    """A folder with an empty limehub.toml; broker, any free web port, JSON logs by environment."""
    return connected(bare_workplace, vhost.url)


def connected(workplace: Workplace, url: str) -> Workplace:
    """Point *workplace* at the broker *url*."""
    workplace.configure("")
    workplace.environ.update(
        LIMEHUB_EVENTS__CONNECTION_STRING=url,
        LIMEHUB_WEB__BIND="127.0.0.1:0",
        LIMEHUB_LOG__FORMAT="json",
    )
    return workplace
