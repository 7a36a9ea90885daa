from __future__ import annotations

import json
from pathlib import Path

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from limehub.config import Config, Loaded, load, mask_text, mask_tree
from limehub.config.mask import is_secret
from limehub.config.show import as_json, render, rows


def shown(config: Config, **origins: str) -> Loaded:
    return Loaded(config=config, origins=origins, warnings=(), path=Path("limehub.toml"))


@pytest.mark.parametrize(
    "key",
    [
        *("secret", "client_secret", "API-TOKEN", "password", "db_passwords", "key", "apiKey"),
        *("sentry_dsn", "tokens"),
    ],
)
def test_keys_of_secrets_are_known(key):
    assert is_secret(key)


@pytest.mark.parametrize(
    "key",
    [
        *(
            "routing_key_template",
            "routing_key",
            "token_file",
            "key_file",
            "secret_path",
            "ca-file",
        ),
        *("connection_string", "prefetch_count", "tcp_keepalive_timeout"),
    ],
)
def test_paths_and_patterns_are_no_secrets(key):
    assert not is_secret(key)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("amqp://bob:hunter2@mq:5672//", "amqp://bob:***@mq:5672//"),
        ("amqp://guest@mq", "amqp://guest@mq"),
        ("https://hunter2@sentry.io/1", "https://***@sentry.io/1"),
        ("amqp://bob:hun@ter2/x@mq", "amqp://bob:***@mq"),
        ("https://x.io/a?api_key=hunter2&page=2", "https://x.io/a?api_key=***&page=2"),
        (
            "from amqp://a:hunter2@h and http://b:hunter2@i",
            "from amqp://a:***@h and http://b:***@i",
        ),
        ("no url: a:b@c", "no url: a:b@c"),
        ("'postgresql://u:hunter2@db/x'", "'postgresql://u:***@db/x'"),
    ],
)
def test_credentials_in_urls_are_hidden(text, masked):
    assert mask_text(text) == masked


def test_secrets_are_hidden_at_any_depth():
    tree = {
        "password": "hunter2",
        "pins": {"token": 12345, "tokens": ["hunter2", {"a": "hunter2"}], "use_token": True},
        "urls": ["amqp://a:hunter2@h"],
        "n": 5,
    }
    assert mask_tree(tree) == {
        "password": "***",
        "pins": {"token": "***", "tokens": ["***", {"a": "***"}], "use_token": True},
        "urls": ["amqp://a:***@h"],
        "n": 5,
    }


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_no_password_survives_masking(password):
    secret = f"Q{password}Q".replace(" ", "")
    if any(letter.isspace() for letter in secret):
        return
    assert secret not in mask_text(f"see amqp://bob:{secret}@mq/x for more")


def test_rows_hold_every_key_its_value_and_its_origin(tmp_path):
    path = tmp_path / "limehub.toml"
    path.write_text(
        '[events]\nconnection_string = "amqp://bob:hunter2@mq"\n'
        '[plugins.key-figures]\nunit = "EUR"\napi_key = "hunter2"\n'
        "[event_handler.workers.default]\nconcurrency = 5\n",
        encoding="utf-8",
    )
    loaded = load(path, {"LIMEHUB_LOG__LEVEL": "debug"})
    by_path = {row.path: row for row in rows(loaded)}
    assert by_path["events.connection_string"].value == "amqp://bob:***@mq"
    assert by_path["events.connection_string"].origin == f"{path}:2"
    assert by_path["log.level"][1:] == ("debug", "env LIMEHUB_LOG__LEVEL")
    assert by_path["plugins.key-figures.unit"].value == "EUR", "a plugin's name hides nothing"
    assert by_path["plugins.key-figures.api_key"].value == "***"
    assert by_path["event_handler.workers.default.concurrency"].value == 5
    assert by_path["event_handler.crash_limit"][1:] == (3, "default")
    assert by_path["events.exchange"].value is None
    assert "hunter2" not in render(rows(loaded), origins=True) + json.dumps(as_json(rows(loaded)))


def test_the_shown_text_is_toml_that_gives_the_same_configuration(tmp_path):
    loaded = load(Path(__file__).parents[2] / "limehub.toml", {})
    text = render(rows(loaded), origins=True)
    path = tmp_path / "limehub.toml"
    path.write_text(text, encoding="utf-8")
    assert load(path, {}).config == loaded.config
    assert "# default" in text
    assert "# exchange is not set" in text


_keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6).filter(
    lambda key: not is_secret(key)
)
_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=15).filter(
    lambda text: "://" not in text
)
_values = st.recursive(
    st.one_of(
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False),
        st.booleans(),
        _texts,
        st.datetimes(),
        st.dates(),
        st.times(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(_keys, inner, min_size=1, max_size=3)
    ),
    max_leaves=10,
)


@given(table=st.dictionaries(_keys, _values, min_size=1, max_size=5))
def test_any_settings_of_plugins_are_shown_as_valid_toml_and_json(table):
    shown_rows = rows(shown(Config(plugins={"x": table})))
    assert tomli.loads(render(shown_rows))["plugins"]["x"] == table
    json.loads(json.dumps(as_json(shown_rows), allow_nan=False))
