from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limehub.config import Config, Loaded, load
from limehub.config.schema import key_types
from limehub.errors import ConfigError


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """Load a text with an environment and command line."""
    monkeypatch.chdir(tmp_path)

    def loaded(text="", overrides=None, /, **environ: str) -> Loaded:
        path = Path("limehub.toml")
        path.write_text(text, encoding="utf-8")
        return load(path, environ, overrides)

    return loaded


def config_of(loaded: Loaded) -> Config:
    return loaded.config


def test_a_variable_sets_a_key_as_toml_or_as_text(loaded):
    config = loaded(
        LIMEHUB_EVENTS__CONSUMER_HEARTBEAT="30",
        LIMEHUB_EVENTS__CONNECTION_STRING="amqp://bob:s3@mq",
        LIMEHUB_APPLICATIONS='["north", "south"]',
        LIMEHUB_EVENT_HANDLER__CATCH_HANDLER_EXCEPTIONS="true",
        LIMEHUB_EVENT_HANDLER__SHUTDOWN_GRACE="2.5",
        LIMEHUB_LOG__LEVEL='"debug"',
    ).config
    assert config.events.consumer_heartbeat == 30
    assert config.events.url.username == "bob"
    assert config.applications == ("north", "south")
    assert config.event_handler.catch_handler_exceptions is True
    assert config.event_handler.shutdown_grace == 2.5
    assert config.log.level == "debug"


def test_a_key_for_text_takes_text_that_looks_like_something_else(loaded):
    assert loaded(LIMEHUB_EVENTS__EXCHANGE="2024").config.events.exchange == "2024"
    assert loaded(LIMEHUB_EVENTS__EXCHANGE="true").config.events.exchange == "true"


def test_names_are_found_whatever_their_case_and_dashes(loaded):
    text = (
        '[event_handler.workers.Web-Hooks]\nqueue_prefix = "x"\n[plugins.Lime-Webhooks]\nmyKey = 1'
    )
    config = loaded(
        text,
        LIMEHUB_EVENT_HANDLER__WORKERS__WEB_HOOKS__PREFETCH_COUNT="5",
        limehub_plugins__lime_webhooks__mykey="2",
        LIMEHUB_PACKAGES__SOLUTION_COOL__ENABLED="false",
    ).config
    assert config.event_handler.workers["Web-Hooks"].prefetch_count == 5
    assert list(config.event_handler.workers) == ["Web-Hooks"]
    assert config.plugins == {"Lime-Webhooks": {"myKey": 2}}
    assert not config.package_of("solution-cool").enabled


def test_a_group_can_come_from_the_environment_alone(loaded):
    config = loaded(LIMEHUB_EVENT_HANDLER__WORKERS__HOOKS__QUEUE_PREFIX="lime-webhooks").config
    assert config.event_handler.group_of("lime_webhooks", "deals") == "hooks"


def test_a_table_can_be_one_variable_and_a_deeper_variable_wins(loaded):
    config = loaded(
        "plugins.x = {a = 1, b = 1, c = 1}",
        LIMEHUB_PLUGINS__X="{a = 2, b = 2}",
        LIMEHUB_PLUGINS__X__A="3",
    ).config
    assert config.plugins["x"] == {"a": 3, "b": 2, "c": 1}


def test_the_strongest_source_wins_and_is_named(loaded):
    text = '[events]\nexchange = "file"\n'
    key = "events.exchange"
    assert config_of(loaded("")).events.exchange is None
    steps = [
        (loaded(text), "file", "limehub.toml:2"),
        (loaded(text, RABBIT_EXCHANGE_NAME="rabbit"), "rabbit", "env RABBIT_EXCHANGE_NAME"),
        (
            loaded(text, RABBIT_EXCHANGE_NAME="rabbit", LIMEHUB_EVENTS__EXCHANGE="lime"),
            "lime",
            "env LIMEHUB_EVENTS__EXCHANGE",
        ),
        (loaded(text, {key: "line"}, LIMEHUB_EVENTS__EXCHANGE="lime"), "line", "command line"),
    ]
    for result, value, origin in steps:
        assert result.config.events.exchange == value
        assert result.origins[key] == origin


def test_rabbit_url_sets_the_broker(loaded):
    result = loaded(RABBIT_URL="amqp://bob:s3@mq:5673/crm", RABBIT_EXCHANGE_NAME="shop_production")
    assert result.config.events.url.vhost == "crm"
    assert result.config.exchange_of("default") == "shop_production"
    assert result.origins["events.connection_string"] == "env RABBIT_URL"


def test_an_empty_variable_is_not_set(loaded):
    result = loaded(RABBIT_URL="", LIMEHUB_EVENTS__EXCHANGE="", LIMEHUB_NONSENSE="")
    assert result.origins == {}


def test_a_command_line_value_of_none_is_not_given(loaded):
    assert loaded("", {"web.bind": None}).config.web.bind == "127.0.0.1:8080"
    assert loaded("", {"web.bind": "none"}).config.web.address is None
    assert loaded("", {"applications": ("a", "b")}).config.applications == ("a", "b")


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"LIMEHUB_EVENTS__CONSUMER_HEARTBEET": "1"},
            "did you mean LIMEHUB_EVENTS__CONSUMER_HEARTBEAT?",
        ),
        (
            {"LIMEHUB_EVENT_HANDLER__WORKERS__A__PREFETCHCOUNT": "1"},
            "did you mean LIMEHUB_EVENT_HANDLER__WORKERS__A__PREFETCH_COUNT?",
        ),
        ({"LIMEHUB_ZZZ": "1"}, "LIMEHUB_ZZZ: no such key; see `limehub config show`"),
        ({"LIMEHUB_": "1"}, "LIMEHUB_: no such key"),
        ({"LIMEHUB_EVENTS__": "1"}, "LIMEHUB_EVENTS__: no such key"),
        ({"LIMEHUB_EVENTS__EXCHANGE__X": "1"}, "no such key"),
        (
            {"LIMEHUB_EVENTS__CONSUMER_HEARTBEAT": "abc"},
            "LIMEHUB_EVENTS__CONSUMER_HEARTBEAT: events.consumer_heartbeat: must be a whole number",
        ),
        (
            {"LIMEHUB_APPLICATIONS": "['a', 1]"},
            "LIMEHUB_APPLICATIONS: applications[1]: must be a string",
        ),
        (
            {"LIMEHUB_APPLICATIONS": "north"},
            'applications: must be an array of strings, is "north"; write ["north"]',
        ),
        ({"LIMEHUB_EVENTS": "5"}, "LIMEHUB_EVENTS: events: must be a table, is 5"),
        ({"LIMEHUB_EVENTS": "{x = 1}"}, "LIMEHUB_EVENTS: events.x: unknown key"),
        ({"RABBIT_URL": "http://bob:hunter2@mq"}, "RABBIT_URL: events.connection_string: must"),
        ({"LIMEHUB_WEB__BIND": "0.0.0.0:80"}, "LIMEHUB_WEB__BIND: web.bind: 0.0.0.0:80 can be"),
        (
            {"LIMEHUB_EVENT_HANDLER__WORKERS__A__LANE": "thread"},
            "LIMEHUB_EVENT_HANDLER__WORKERS__A__LANE: event_handler.workers.a.queue_prefix: is req",
        ),
        (
            {"LIMEHUB_LOG__LEVEL": "info", "limehub_log__level": "info"},
            "limehub_log__level: sets what LIMEHUB_LOG__LEVEL sets already",
        ),
        (
            {"LIMEHUB_EVENTS__EXCHANGE_FILE": "/nowhere/x"},
            "LIMEHUB_EVENTS__EXCHANGE_FILE: cannot read /nowhere/x: No such file or directory",
        ),
        ({"LIMEHUB_EVENTS__CONSUMER_HEARTBEAT_FILE": "x"}, "no such key"),
    ],
)
def test_a_wrong_variable_is_named(loaded, environ, message):
    with pytest.raises(ConfigError) as error:
        loaded("", **environ)
    assert len(error.value.problems) == 1
    assert message in error.value.problems[0]
    assert "hunter2" not in str(error.value)


def test_a_replaced_value_of_the_file_is_not_blamed(loaded):
    with pytest.raises(ConfigError) as error:
        loaded('applications = ["a", "b"]', LIMEHUB_APPLICATIONS="['a', 1]")
    assert error.value.problems[0].startswith("LIMEHUB_APPLICATIONS: applications[1]")
    assert loaded("applications = 5", LIMEHUB_APPLICATIONS="['a']").config.applications == ("a",)


def test_problems_of_all_sources_come_together(loaded):
    with pytest.raises(ConfigError) as error:
        loaded("x = 1", {"web.bind": "x"}, LIMEHUB_Y="1", LIMEHUB_LOG__LEVEL="loud")
    places = {problem.split(": ")[0] for problem in error.value.problems}
    assert places == {"limehub.toml:1:1", "command line", "LIMEHUB_Y", "LIMEHUB_LOG__LEVEL"}


@pytest.mark.parametrize(
    "variable",
    [
        *("LIMEHUB_CONFIG", "LIMEHUB_SERVICE_HOST", "LIMEHUB_SERVICE_PORT", "LIMEHUB_PORT"),
        *("LIMEHUB_SERVICE_PORT_HTTP", "LIMEHUB_PORT_8080_TCP", "LIMEHUB_PORT_8080_TCP_ADDR"),
        *("LIMEHUB_WEB_SERVICE_HOST", "LIMEHUB_WEB_PORT_53_UDP_PROTO", "HOME", "LIMEHUBX"),
    ],
)
def test_variables_of_kubernetes_and_of_others_are_left_alone(loaded, variable):
    assert loaded(**{variable: "tcp://10.0.0.1:8080"}).origins == {}


@pytest.mark.parametrize(
    ("content", "password"),
    [(b"s3\n", "s3"), (b"s3\r\n", "s3"), (b"s3", "s3"), (b"s3\n\n", "s3\n"), (b"12345\n", "12345")],
)
def test_a_secret_is_read_from_a_file_without_its_last_line_end(
    loaded, tmp_path, content, password
):
    (tmp_path / "secret").write_bytes(content)
    result = loaded(LIMEHUB_PLUGINS__X__API_TOKEN_FILE=str(tmp_path / "secret"))
    assert result.config.plugins == {"x": {"api_token": password}}
    assert result.origins["plugins.x.api_token"] == "env LIMEHUB_PLUGINS__X__API_TOKEN_FILE"


def test_a_key_whose_own_name_ends_in_file_is_a_key(loaded, tmp_path):
    (tmp_path / "url").write_text("amqp://bob:s3@mq\n", encoding="utf-8")
    config = loaded(
        '[plugins.x]\nca_file = "old"',
        LIMEHUB_WEB__TOKEN_FILE="/etc/tokens",
        LIMEHUB_EVENTS__TLS__CA_FILE="/etc/ca.pem",
        LIMEHUB_EVENTS__CONNECTION_STRING_FILE=str(tmp_path / "url"),
        LIMEHUB_PLUGINS__X__CA_FILE="new",
    ).config
    assert config.web.token_file == "/etc/tokens"
    assert config.events.tls.ca_file == "/etc/ca.pem"
    assert config.events.url.password == "s3"
    assert config.plugins["x"] == {"ca_file": "new"}


def test_a_value_and_a_file_for_one_key_are_an_error(loaded, tmp_path):
    (tmp_path / "url").write_text("amqp://mq", encoding="utf-8")
    with pytest.raises(ConfigError, match="sets what LIMEHUB_EVENTS__CONNECTION_STRING sets"):
        loaded(
            LIMEHUB_EVENTS__CONNECTION_STRING="amqp://mq",
            LIMEHUB_EVENTS__CONNECTION_STRING_FILE=str(tmp_path / "url"),
        )


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * 70_000])
def test_a_file_that_holds_no_secret_is_refused(loaded, tmp_path, content):
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(ConfigError, match=r"is not UTF-8|is larger than 65536 bytes"):
        loaded(LIMEHUB_EVENTS__EXCHANGE_FILE=str(tmp_path / "secret"))


def test_text_that_would_smuggle_in_another_key_is_only_text(loaded):
    smuggled = "1\n[events]\nexchange = 'x'"
    config = loaded(LIMEHUB_PLUGINS__X__A=smuggled).config
    assert config.plugins["x"]["a"] == smuggled
    assert config.events.exchange is None


@pytest.mark.parametrize("key", sorted(key_types()), ids=".".join)
def test_every_key_has_a_variable(loaded, key):
    name = "LIMEHUB_" + "__".join(part.replace("*", "default") for part in key).upper()
    try:
        result = loaded(**{name: "wrong \n value"})
    except ConfigError as error:
        assert all("no such key" not in problem for problem in error.problems)
    else:
        assert set(result.origins.values()) == {f"env {name}"}


@settings(max_examples=200)
@given(
    name=st.one_of(
        st.sampled_from(sorted("__".join(key).upper() for key in key_types())),
        st.text("ABELPRSTVENUGINX_*-.é", max_size=30),
    ),
    value=st.text(max_size=30),
)
def test_any_variable_is_a_setting_or_a_problem(loaded, name, value):
    try:
        assert isinstance(loaded(**{f"LIMEHUB_{name}": value}), Loaded)
    except ConfigError as error:
        assert error.problems
