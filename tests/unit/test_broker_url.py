from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limehub.config import BrokerUrl


@pytest.mark.parametrize(
    ("text", "host", "port", "user", "password", "vhost"),
    [
        ("amqp://guest@localhost//", "localhost", 5672, "guest", "guest", "/"),
        ("amqp://guest@localhost/", "localhost", 5672, "guest", "guest", "/"),
        ("amqp://guest@localhost", "localhost", 5672, "guest", "guest", "/"),
        ("amqp://", "localhost", 5672, "guest", "guest", "/"),
        ("amqp:///crm", "localhost", 5672, "guest", "guest", "crm"),
        ("amqp://mq", "mq", 5672, "guest", "guest", "/"),
        ("AMQP://mq:5673/%2F", "mq", 5673, "guest", "guest", "/"),
        ("amqps://bob:s3@mq.example.com/a%2Fb", "mq.example.com", 5671, "bob", "s3", "a/b"),
        ("amqp://b%40b:p%3A%2F%25@mq/%2f%2f", "mq", 5672, "b@b", "p:/%", "//"),
        ("amqp://bob:a:b@mq", "mq", 5672, "bob", "a:b", "/"),
        ("amqp://bob:s3@[::1]:5673//", "::1", 5673, "bob", "s3", "/"),
        ("amqp://[2001:DB8::1]", "2001:db8::1", 5672, "guest", "guest", "/"),
    ],
)
def test_an_amqp_url_is_read_as_its_writer_meant_it(text, host, port, user, password, vhost):
    url = BrokerUrl.parse(text)
    assert (url.host, url.port, url.username, url.password, url.vhost) == (
        host,
        port,
        user,
        password,
        vhost,
    )


def test_only_amqps_is_encrypted():
    assert BrokerUrl.parse("amqps://mq").tls
    assert not BrokerUrl.parse("amqp://mq:5671").tls


def test_an_embedded_broker_lives_in_memory_or_in_a_file():
    assert BrokerUrl.parse("embedded://").path is None
    assert BrokerUrl.parse("embedded:///").path is None
    url = BrokerUrl.parse("embedded:///var/lib/a%20b.db")
    assert url.embedded and url.path == "/var/lib/a b.db"
    assert BrokerUrl.parse(url.with_password()) == url


def test_options_are_in_seconds_whatever_the_wire_counts_in():
    url = BrokerUrl.parse("amqp://mq?heartbeat=30&connection_timeout=2500")
    assert url.options == {"heartbeat": 30, "connection_timeout": 2.5}
    assert BrokerUrl.parse(url.with_password()) == url


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must begin with amqp://"),
        ("localhost", "must begin with amqp://"),
        ("http://mq", "must begin with amqp://"),
        ("amqp:/mq", "must begin with amqp://"),
        ("amqp://mq\r\n", "space or control character"),
        ("amqp://m q", "space or control character"),
        ("amqp://bob@mq", "user 'bob' has no password; only guest may leave it out"),
        ("amqp://bob:@mq", "write bob:PASSWORD@"),
        ("amqp://:hunter2@mq", "password but no user name"),
        ("amqp://bob:hunter2@mq:0", "port that is no number from 1 to 65535"),
        ("amqp://bob:hunter2@mq:65536", "port that is no number from 1 to 65535"),
        ("amqp://mq:+80", "port that is no number from 1 to 65535"),
        ("amqp://bob:hun/ter2@mq", "write special characters"),
        ("amqp://bob:hun?ter2@mq", "write special characters"),
        ("amqp://bob:hun@ter2@mq", "more than one @"),
        ("amqp://bob:hunter2#x@mq", "write it as %23"),
        ("amqp://bob:hunter2%@mq", "write % as %25"),
        ("amqp://bob:hunter2%FF@mq", "not UTF-8"),
        ("amqp://bob:hunter2%0d@mq", "control character"),
        ("amqp://a,b", "no host name"),
        ("amqp://-mq", "no host name"),
        ("amqp://::1", "no number"),
        ("amqp://[::1", "without closing bracket"),
        ("amqp://[::1]5672", "without closing bracket"),
        ("amqp://[mq]", "no IPv6 address"),
        ("amqp://mq/a/b", "write it as %2F"),
        ("amqp://mq//a", "write it as %2F"),
        ("amqp://mq/" + "v" * 256, "more than 255 bytes"),
        ("amqp://mq?heartbeet=1", "unknown option heartbeet; known are heartbeat"),
        ("amqp://mq?heartbeat=1&heartbeat=2", "option heartbeat twice"),
        ("amqp://mq?heartbeat=-1", "no whole number from 0 to 65535"),
        ("amqp://mq?heartbeat=1.5", "no whole number"),
        ("amqp://mq?connection_timeout=0", "no whole number from 1"),
        ("embedded://file.db", "absolute path"),
        ("embedded:///a?b=c", "takes no options"),
    ],
)
def test_a_wrong_url_is_refused_in_words_that_help(text, complaint):
    with pytest.raises(ValueError) as error:
        BrokerUrl.parse(text)
    assert complaint in str(error.value)
    assert "hun" not in str(error.value), "no part of a password may be quoted"
    assert "ter2" not in str(error.value)


def test_nothing_that_is_printed_holds_the_password():
    url = BrokerUrl.parse("amqp://bob:hunter2@mq:5673/crm")
    assert str(url) == url.masked() == "amqp://bob:***@mq:5673/crm"
    assert "hunter2" not in f"{url} {url!r} {[url]}"
    assert url.with_password() == "amqp://bob:hunter2@mq:5673/crm"


_words = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x7f", min_codepoint=32),
    min_size=1,
    max_size=40,
)


@given(user=_words, password=_words, vhost=_words, port=st.integers(1, 65535))
def test_every_credential_and_vhost_survives_a_round_trip(user, password, vhost, port):
    url = BrokerUrl(
        scheme="amqp", host="mq", port=port, username=user, password=password, vhost=vhost
    )
    assert BrokerUrl.parse(url.with_password()) == url


@given(st.one_of(st.text(max_size=60), st.text("amqps:/@%?[]=&#bedded15 \n", max_size=40)))
def test_any_text_is_a_url_or_a_value_error(text):
    for candidate in (text, f"amqp://{text}", f"embedded://{text}"):
        try:
            url = BrokerUrl.parse(candidate)
        except ValueError:
            continue
        assert BrokerUrl.parse(url.with_password()) == url
