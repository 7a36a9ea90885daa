from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest

from limehub.config import Config, Package, WorkerSettings, load
from limehub.config.reload import LIVE_KEYS
from limehub.config.schema import FREE, bare, key_types
from limehub.config.show import toml_value
from limehub.errors import ConfigError

DOCS = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([a-z_.<>*]+)` \| [^|]+ \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


def documented() -> dict[tuple[str, ...], str]:
    """The default as the page shows it, by key."""
    return {_path(key): default.strip("` ") for key, default, _ in ROW.findall(DOCS)}


def _path(key: str) -> tuple[str, ...]:
    return tuple(FREE if part.startswith("<") else part for part in key.split("."))


def default_of(path: tuple[str, ...]) -> object:
    if path[:2] == ("event_handler", "workers"):
        return getattr(WorkerSettings(), path[-1])
    if path[0] == "packages":
        return getattr(Package(), path[-1])
    value: object = Config()
    for part in path:
        value = getattr(value, part)
    return list(value) if isinstance(value, tuple) else value


def test_the_documented_keys_are_the_keys_of_the_model():
    assert set(documented()) == set(key_types())


@pytest.mark.parametrize("path", sorted(key_types()), ids=".".join)
def test_the_documented_default_is_the_default(path):
    if path[0] == "plugins":
        assert "default_config()" in documented()[path]
        return
    default = default_of(path)
    assert documented()[path] == ("none" if default is None else toml_value(default))


def test_the_documented_live_keys_are_those_that_change_live():
    live = set(re.findall(r"^\* `([a-z_.<>]+)`", DOCS, re.MULTILINE))
    assert {_path(key) for key in live} == LIVE_KEYS


def test_the_ranges_on_the_page_are_those_that_are_checked():
    ranges = dict(re.findall(r"^\| `([a-z_.<>]+)` \| ([0-9.]+ to [0-9]+) \|", DOCS, re.MULTILINE))
    numbers = [path for path, kind in key_types().items() if bare(kind) in (int, float)]
    assert {_path(key) for key in ranges} == set(numbers)
    for key, text in ranges.items():
        low, high = map(float, text.split(" to "))
        field = attrs.fields_dict(_section(key))[key.rpartition(".")[2]]
        assert field.validator is not None
        for sound in (low, high):
            field.validator(None, field, sound)
        for wrong in (low - 0.001, high + 1):
            with pytest.raises(ValueError, match="must be"):
                field.validator(None, field, wrong)


def _section(key: str) -> type:
    if "workers" in key:
        return WorkerSettings
    return type(getattr(Config(), key.partition(".")[0]))


EXAMPLES = [
    re.sub(r"^    ", "", text, flags=re.MULTILINE)
    for text in re.findall(r"((?:^    .*\n|^\n(?=    ))+)", DOCS, re.MULTILINE)
]
TOML_EXAMPLES = [text for text in EXAMPLES if text.strip().startswith(("[", "applications"))]


@pytest.mark.parametrize("text", TOML_EXAMPLES, ids=lambda text: text.split()[0])
def test_every_example_on_the_page_runs(text, tmp_path):
    text = text.strip()
    path = tmp_path / "limehub.toml"
    # Those that speak of a tenant need it; TOML allows the key once.
    tenants = "" if text.startswith("applications") else 'applications = ["north"]\n'
    path.write_text(tenants + text, encoding="utf-8")
    assert load(path, {}).warnings == ()


def test_the_page_has_an_example_for_the_main_tables():
    assert len(TOML_EXAMPLES) >= 5


def test_the_messages_on_the_page_are_those_that_people_get(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("limehub.toml").write_text(
        "\n[events]\nconsumer_heartbeet = 5\n\n\n[event_handler]\nprefetch_count = '15'",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError) as error:
        load(None, {"LIMEHUB_LOG__LEVEL": "INFO"})
    assert len(error.value.problems) == 3
    assert "\n".join(sorted(error.value.problems)) in "\n".join(
        "\n".join(sorted(text.strip().splitlines())) for text in EXAMPLES
    )
