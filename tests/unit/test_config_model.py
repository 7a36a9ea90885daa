from __future__ import annotations

import pickle

import pytest

from limehub.config import (
    Address,
    Broker,
    Config,
    EventHandler,
    Events,
    Package,
    Web,
    WorkerSettings,
    plugin_settings,
)
from limehub.errors import ConfigError, InvalidName


def test_each_application_has_its_own_exchange():
    config = Config(applications=("north", "south"))
    assert config.exchange_of("north") == "lime.north"
    assert config.application_of("lime.south") == "south"
    assert config.application_of("lime.east") is None
    assert config.application_of("north") is None


def test_an_explicit_exchange_carries_the_only_application():
    config = Config(applications=("north",), events=Events(exchange="shop_production"))
    assert config.exchange_of("north") == "shop_production"
    assert config.application_of("shop_production") == "north"
    assert config.application_of("lime.north") is None


def test_an_unknown_application_has_no_exchange():
    with pytest.raises(ConfigError, match=r"'nort' is not in `applications`; did you mean north\?"):
        Config(applications=("north",)).exchange_of("nort")


def test_the_routing_key_template_is_applied():
    assert Config().routing_key("lime.x", "core.#") == "core.#"
    config = Config(events=Events(routing_key_template="{exchange}_{routing_key}"))
    assert config.routing_key("shop", "core.{deal}.*") == "shop_core.{deal}.*"


def test_a_wildcard_that_a_template_glues_to_text_is_noticed():
    glued = Config(events=Events(routing_key_template="{exchange}_{routing_key}"))
    dotted = Config(events=Events(routing_key_template="{exchange}.{routing_key}"))
    assert glued.loses_wildcard("#") and glued.loses_wildcard("*.deal")
    assert not glued.loses_wildcard("core.#")
    assert not dotted.loses_wildcard("#") and not Config().loses_wildcard("#")


def test_a_group_inherits_what_it_does_not_set():
    handler = EventHandler(
        prefetch_count=3,
        workers={"a": WorkerSettings(queue_prefix="a", prefetch_count=9, lane="process")},
    )
    assert [handler.prefetch_of(group) for group in ("a", "default")] == [9, 3]
    assert [handler.lane_of(group) for group in ("a", "default")] == ["process", "greenlet"]
    assert handler.timeout_of("a") is None


def test_concurrency_is_the_sum_of_prefetches_up_to_a_hundred():
    handler = EventHandler(workers={"a": WorkerSettings(queue_prefix="a", concurrency=500)})
    assert handler.concurrency_of("default", [1, 2, 3]) == 6
    assert handler.concurrency_of("default", [1000]) == 100
    assert handler.concurrency_of("default", []) == 1
    assert handler.concurrency_of("a", [1]) == 500


@pytest.mark.parametrize(
    ("app", "queue", "group"),
    [
        ("lime-webhooks", "deals", "hooks"),
        ("lime_webhooks", "deals", "hooks"),
        ("lime_webclient", "x", "client"),
        ("solution-cool", "x", "solution"),
        ("solution-cool", "slow", "slow"),
        ("other", "x", "default"),
        ("lime", "webhooks", "default"),
    ],
)
def test_the_longest_prefix_claims_a_queue(app, queue, group):
    prefixes = {
        "hooks": "lime-webhooks",
        "client": "lime_webclient",
        "solution": "solution",
        "slow": "lime.event_handler.solution_cool.slow",
    }
    workers = {name: WorkerSettings(queue_prefix=prefix) for name, prefix in prefixes.items()}
    workers["default"] = WorkerSettings(prefetch_count=100)
    assert EventHandler(workers=workers).group_of(app, queue) == group


def test_the_full_name_is_matched_only_by_a_prefix_that_begins_like_it():
    workers = {
        "all": WorkerSettings(queue_prefix="lime.event_handler."),
        "lime": WorkerSettings(queue_prefix="lime"),
    }
    handler = EventHandler(workers=workers)
    assert handler.group_of("other", "x") == "all"
    assert handler.group_of("lime-x", "x") == "lime"
    assert EventHandler(workers={"lime": workers["lime"]}).group_of("other", "x") == "default"


def test_a_package_can_be_limited_to_some_tenants():
    config = Config(
        applications=("north", "south"),
        event_handler=EventHandler(queue_per="application"),
        packages={
            "cool-thing": Package(applications=("south",), queue_per="handler"),
            "off": Package(enabled=False),
        },
    )
    assert config.applications_of("cool_thing") == ("south",)
    assert config.applications_of("off") == ()
    assert config.applications_of("other") == ("north", "south")
    assert config.queue_per_of("cool-thing") == "handler"
    assert config.queue_per_of("other") == "application"


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080, True),
        ("127.9.9.9:0", "127.9.9.9", 0, True),
        ("LocalHost:1", "LocalHost", 1, True),
        ("[::1]:80", "::1", 80, True),
        ("0.0.0.0:80", "0.0.0.0", 80, False),
        ("[::]:80", "::", 80, False),
        ("box.example.com:80", "box.example.com", 80, False),
    ],
)
def test_an_address_knows_who_can_reach_it(text, host, port, loopback):
    address = Address.parse(text)
    assert (address.host, address.port, address.is_loopback) == (host, port, loopback)
    assert Address.parse(str(address)) == address


def test_none_is_an_address_that_is_switched_off():
    assert Web(bind="none").address is None
    assert Broker().address is None
    assert str(Broker(listen="[::1]:5672").address) == "[::1]:5672"


def test_the_url_s_own_heartbeat_wins():
    assert Events().heartbeat == 15
    events = Events(connection_string="amqp://mq?heartbeat=0", consumer_heartbeat=30)
    assert events.heartbeat == 0


def test_values_built_by_hand_are_checked_too():
    with pytest.raises(ValueError, match="must be 1 to 65535"):
        EventHandler(prefetch_count=0)
    with pytest.raises(ValueError, match="only dots"):
        Config(applications=("..",))


def test_a_configuration_is_immutable_and_can_travel_to_another_process():
    config = Config(plugins={"x": {"a": 1}})
    with pytest.raises(AttributeError):
        config.web = Web()  # type: ignore[misc]  # what is tested
    assert pickle.loads(pickle.dumps(config)) == config


def test_no_repr_shows_a_secret():
    config = Config(
        events=Events(
            connection_string="amqp://bob:hunter2@mq", management_url="http://bob:hunter2@mq"
        ),
        plugins={"x": {"api_key": "hunter2", "urls": ["https://a:hunter2@b"]}},
    )
    assert "hunter2" not in repr(config)


# -- plugin settings ---------------------------------------------------------------------------


def settings_of(table, defaults):
    return plugin_settings(Config(plugins={"my-plugin": table}), "my_plugin", defaults)


def test_settings_are_the_defaults_with_the_table_laid_over():
    defaults = {"a": 1, "deep": {"x": 1, "y": [1]}, "none": None}
    settings = settings_of({"a": 2, "deep": {"x": 5}, "none": "any", "new": True}, defaults)
    assert settings == {"a": 2, "deep": {"x": 5, "y": [1]}, "none": "any", "new": True}
    settings["deep"]["y"].append(2)
    assert defaults["deep"] == {"x": 1, "y": [1]}, "the plugin's defaults stay as they are"


def test_settings_keep_the_spelling_of_the_defaults():
    assert settings_of({"time-out": 1, "apikey": "x"}, {"time_out": 5, "apiKey": ""}) == {
        "time_out": 1,
        "apiKey": "x",
    }


def test_settings_of_an_unconfigured_plugin_are_its_defaults():
    defaults = {"deep": {"list": []}}
    settings = plugin_settings(Config(), "x", defaults)
    settings["deep"]["list"].append(1)
    assert defaults == {"deep": {"list": []}}


def test_a_whole_number_is_a_number_and_a_list_fills_a_tuple():
    assert settings_of({"a": 1, "b": [1]}, {"a": 0.5, "b": ()}) == {"a": 1, "b": [1]}


def test_every_setting_of_another_type_is_named_without_its_value():
    table = {"a": "hunter2", "b": True, "deep": {"x": []}, "c": 1.5, "t": 1, "T": 2}
    with pytest.raises(ConfigError) as error:
        settings_of(table, {"a": 1, "b": 1, "deep": {"x": ""}, "c": 1, "t": 0})
    assert error.value.problems == (
        "plugins.my_plugin.a: must be a whole number, is a string",
        "plugins.my_plugin.b: must be a whole number, is true or false",
        "plugins.my_plugin.deep.x: must be a string, is an array",
        "plugins.my_plugin.c: must be a whole number, is a number",
        "plugins.my_plugin.T: is t again",
    )


def test_an_invalid_name_is_a_configuration_error():
    from limehub.config import require_name

    assert require_name("queue", "a.b-c_D9") == "a.b-c_D9"
    with pytest.raises(InvalidName, match=r"queue: 'a\\r\\nb' may only hold"):
        require_name("queue", "a\r\nb")
    with pytest.raises(InvalidName):
        require_name("queue", "a\n")
