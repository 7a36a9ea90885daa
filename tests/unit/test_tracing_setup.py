"""Tracing is there when it is wanted, and costs nothing when it is not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from limehub.config import Config, Tracing
from limehub.errors import ConfigError
from limehub.observe.tracing_setup import tracing_of

ON = Config(tracing=Tracing(enabled=True))


def test_without_the_extra_the_configuration_is_wrong_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "limehub.observe.tracing", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigError, match=r'pip install "limehub\[otel\]"'):
        tracing_of(ON)


def test_switched_off_it_is_not_even_imported() -> None:
    program = (
        "import sys, limehub.server\n"
        "from limehub.config import Config\n"
        "from limehub.observe.tracing_setup import tracing_of\n"
        "assert tracing_of(Config()) is None\n"
        "sys.exit(any(n.startswith(('opentelemetry', 'prometheus')) for n in sys.modules))\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_providers_own_spans_tell_where_the_broker_is() -> None:
    tracing = tracing_of(ON)
    assert tracing is not None
    try:
        assert tracing.broker == {
            "messaging.system": "rabbitmq",
            "server.address": "localhost",
            "server.port": 5672,
        }
    finally:
        tracing.close()
