"""What is refused, and with which words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.conformance.wire import publish, queue, refusal

Step = Callable[[BlockingChannel, str], Any]
EXPECTED = (pika.exceptions.ChannelClosedByBroker, pika.exceptions.ConnectionClosedByBroker)
LOCKED = (
    "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{q}' in vhost '/'. "
    "It could be originally declared on another connection or the exclusive property value does "
    "not match that of the original declaration."
)


def refused(step: Step, channel: BlockingChannel, name: str) -> tuple[int, str]:
    """Do *step*; returns the code and the text that the broker answered with."""
    try:
        step(channel, name)
    except EXPECTED as error:
        return error.reply_code, error.reply_text
    return refusal(channel)


def declared(arguments: dict[str, Any], **options: Any) -> Step:
    return lambda channel, name: channel.queue_declare(
        name, durable=True, arguments=arguments, **options
    )


ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"x-message-ttl": -1}, "{{value_negative,-1}}"),
    ({"x-message-ttl": "a"}, '"expected integer, got longstr"'),
    ({"x-message-ttl": True}, '"expected integer, got bool"'),
    ({"x-message-ttl": 2**40}, "{{value_too_large,1099511627776}}"),
    ({"x-expires": 0}, "{{value_zero,0}}"),
    ({"x-expires": -5}, "{{value_negative,-5}}"),
    ({"x-max-length": -1}, "{{value_negative,-1}}"),
    ({"x-max-length-bytes": "x"}, '"expected integer, got longstr"'),
    ({"x-overflow": "foo"}, "invalid_overflow"),
    ({"x-overflow": 1}, "{{unacceptable_type,signedint}}"),
    ({"x-dead-letter-routing-key": "a"}, "routing_key_but_no_dlx_defined"),
    ({"x-max-priority": -1}, "{{value_negative,-1}}"),
    ({"x-max-priority": 256}, "{{max_value_exceeded,256}}"),
    ({"x-single-active-consumer": 1}, "{{unacceptable_type,signedint}}"),
    ({"x-queue-type": "foo"}, "\"unsupported queue type 'foo'\""),
    ({"x-queue-mode": "foo"}, "\"unsupported queue mode 'foo'\""),
]


@pytest.mark.parametrize(("arguments", "complaint"), ARGUMENTS, ids=str)
def test_an_invalid_queue_argument_is_named(
    channel: BlockingChannel, name: str, arguments: dict[str, Any], complaint: str
) -> None:
    (argument,) = arguments
    wanted = f"PRECONDITION_FAILED - invalid arg '{argument}' for queue '{name}' in vhost '/': "
    told = refused(declared(arguments), channel, name)
    assert told == (406, wanted + complaint.format())


def test_arguments_of_the_other_queue_type_are_refused(channel: BlockingChannel, name: str) -> None:
    assert refused(declared({"x-delivery-limit": 5}), channel, name) == (
        406,
        (
            f"PRECONDITION_FAILED - invalid arg 'x-delivery-limit' for queue '{name}' in vhost '/' "
            "of queue type rabbit_classic_queue"
        ),
    )


DIFFERENCES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (
        {},
        {"x-message-ttl": 1000},
        (
            "arg 'x-message-ttl' for queue '{q}' in vhost '/': received the value '1000' "
            "of type 'signedint' but current is none"
        ),
    ),
    (
        {"x-message-ttl": 1000},
        {},
        (
            "arg 'x-message-ttl' for queue '{q}' in vhost '/': received none but current is the "
            "value '1000' of type 'signedint'"
        ),
    ),
    (
        {"x-message-ttl": 1000},
        {"x-message-ttl": 2**33},
        (
            "arg 'x-message-ttl' for queue '{q}' in vhost '/': received '8589934592' but current "
            "is '1000'"
        ),
    ),
    (
        {"x-dead-letter-exchange": "a"},
        {"x-dead-letter-exchange": "b"},
        (
            "arg 'x-dead-letter-exchange' for queue '{q}' in vhost '/': received 'b' but current "
            "is 'a'"
        ),
    ),
    pytest.param(
        {},
        {"x-queue-type": "quorum"},
        (
            "arg 'x-queue-type' for queue '{q}' in vhost '/': received the value 'quorum' "
            "of type 'longstr' but current is none"
        ),
        marks=pytest.mark.differs_on_4,
    ),
    (
        {},
        {"x-single-active-consumer": True},
        (
            "arg 'x-single-active-consumer' for queue '{q}' in vhost '/': received the value "
            "'true' of type 'bool' but current is none"
        ),
    ),
]


@pytest.mark.parametrize(("first", "second", "text"), DIFFERENCES, ids=str)
def test_a_queue_that_differs_is_refused_with_the_difference(
    channel: BlockingChannel,
    connect: Callable[[], pika.BlockingConnection],
    name: str,
    first: dict[str, Any],
    second: dict[str, Any],
    text: str,
) -> None:
    channel.queue_declare(name, durable=True, arguments=first)
    told = refused(declared(second), channel, name)
    connect().channel().queue_delete(name)
    assert told == (406, "PRECONDITION_FAILED - inequivalent " + text.format(q=name))


def test_an_argument_that_nobody_knows_is_no_difference(
    channel: BlockingChannel, name: str
) -> None:
    queue(channel, name)
    queue(channel, name, arguments={"x-of-mine": 1})
    assert channel.is_open


def test_an_exclusive_queue_is_locked_for_others(
    channel: BlockingChannel, connect: Callable[[], pika.BlockingConnection], name: str
) -> None:
    queue(channel, name)
    told = refused(lambda ch, q: ch.basic_get(q), connect().channel(), name)
    assert told == (405, LOCKED.format(q=name))


STEPS: dict[str, tuple[Step, int, str]] = {
    "publish to no exchange": (
        lambda ch, q: publish(ch, "a", "x", exchange=q),
        404,
        "NOT_FOUND - no exchange '{q}' in vhost '/'",
    ),
    "publish to an internal exchange": (
        lambda ch, q: (
            ch.exchange_declare(q, internal=True, auto_delete=True),
            publish(ch, "a", "x", exchange=q),
        ),
        403,
        "ACCESS_REFUSED - cannot publish to internal exchange '{q}' in vhost '/'",
    ),
    "another user's id": (
        lambda ch, _: publish(ch, "a", "x", user_id="foo"),
        406,
        "PRECONDITION_FAILED - user_id property set to 'foo' but authenticated user was 'guest'",
    ),
    "CC is no list": (
        lambda ch, _: publish(ch, "a", "x", headers={"CC": "a"}),
        406,
        'PRECONDITION_FAILED - invalid message: {{unacceptable_type_in_header,"CC",longstr}}',
    ),
    "no consumer for a direct reply": (
        lambda ch, _: publish(ch, "a", "x", reply_to="amq.rabbitmq.reply-to"),
        406,
        "PRECONDITION_FAILED - fast reply consumer does not exist",
    ),
    "expiration that is no number": (
        lambda ch, _: publish(ch, "a", "x", expiration="abc"),
        406,
        "PRECONDITION_FAILED - invalid expiration 'abc': no_integer",
    ),
    "expiration with a fraction": (
        lambda ch, _: publish(ch, "a", "x", expiration="1.5"),
        406,
        "PRECONDITION_FAILED - invalid expiration '1.5': {{leftover_string,\".5\"}}",
    ),
    "negative expiration": (
        lambda ch, _: publish(ch, "a", "x", expiration="-1"),
        406,
        "PRECONDITION_FAILED - invalid expiration '-1': {{value_negative,-1}}",
    ),
    "expiration after 11 years": (
        lambda ch, _: publish(ch, "a", "x", expiration="315360000001"),
        406,
        "PRECONDITION_FAILED - invalid expiration '315360000001': {{value_too_large,315360000001}}",
    ),
    "unknown tag": (
        lambda ch, _: ch.basic_ack(5),
        406,
        "PRECONDITION_FAILED - unknown delivery tag 5",
    ),
    "unknown tag with multiple": (
        lambda ch, _: ch.basic_nack(5, multiple=True),
        406,
        "PRECONDITION_FAILED - unknown delivery tag 5",
    ),
    "tag 0": (
        lambda ch, _: ch.basic_reject(0),
        406,
        "PRECONDITION_FAILED - unknown delivery tag 0",
    ),
    "prefetch size": (
        lambda ch, _: ch.basic_qos(prefetch_size=10),
        540,
        "NOT_IMPLEMENTED - prefetch_size!=0 (10)",
    ),
    "recover without requeue": (
        lambda ch, _: ch.basic_recover(requeue=False),
        540,
        "NOT_IMPLEMENTED - requeue=false",
    ),
    "get from no queue": (
        lambda ch, q: ch.basic_get(q),
        404,
        "NOT_FOUND - no queue '{q}' in vhost '/'",
    ),
    "consume from no queue": (
        lambda ch, q: ch.basic_consume(q, print),
        404,
        "NOT_FOUND - no queue '{q}' in vhost '/'",
    ),
    "no queue was declared": (
        lambda ch, _: ch.basic_get(""),
        404,
        "NOT_FOUND - no previously declared queue",
    ),
    "commit without a transaction": (
        lambda ch, _: ch.tx_commit(),
        406,
        "PRECONDITION_FAILED - channel is not transactional",
    ),
    "confirms in a transaction": (
        lambda ch, _: (ch.tx_select(), ch.confirm_delivery()),
        406,
        "PRECONDITION_FAILED - cannot switch from tx to confirm mode",
    ),
    "a transaction with confirms": (
        lambda ch, _: (ch.confirm_delivery(), ch.tx_select()),
        406,
        "PRECONDITION_FAILED - cannot switch from confirm to tx mode",
    ),
    "reserved queue name": (
        lambda ch, _: ch.queue_declare("amq.foo"),
        403,
        "ACCESS_REFUSED - queue name 'amq.foo' contains reserved prefix 'amq.*'",
    ),
    "reserved exchange name": (
        lambda ch, _: ch.exchange_declare("amq.foo"),
        403,
        "ACCESS_REFUSED - exchange name 'amq.foo' contains reserved prefix 'amq.*'",
    ),
    "the default exchange": (
        lambda ch, _: ch.exchange_delete(""),
        403,
        "ACCESS_REFUSED - operation not permitted on the default exchange",
    ),
    "binding to the default exchange": (
        lambda ch, q: (queue(ch, q), ch.queue_bind(q, "", "a")),
        403,
        "ACCESS_REFUSED - operation not permitted on the default exchange",
    ),
    "a system exchange": (
        lambda ch, _: ch.exchange_delete("amq.direct"),
        403,
        "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed",
    ),
    "exchange of another type": (
        lambda ch, q: (
            ch.exchange_declare(q, auto_delete=True),
            ch.exchange_declare(q, "topic", auto_delete=True),
        ),
        406,
        (
            "PRECONDITION_FAILED - inequivalent arg 'type' for exchange '{q}' in vhost '/': "
            "received 'topic' but current is 'direct'"
        ),
    ),
    "unknown exchange type": (
        lambda ch, q: ch.exchange_declare(q, "foo"),
        503,
        "COMMAND_INVALID - invalid exchange type 'foo'",
    ),
    "passive exchange": (
        lambda ch, q: ch.exchange_declare(q, passive=True),
        404,
        "NOT_FOUND - no exchange '{q}' in vhost '/'",
    ),
    "passive queue": (
        lambda ch, q: ch.queue_declare(q, passive=True),
        404,
        "NOT_FOUND - no queue '{q}' in vhost '/'",
    ),
    "bind to no exchange": (
        lambda ch, q: (queue(ch, q), ch.queue_bind(q, "none-of-these", "a")),
        404,
        "NOT_FOUND - no exchange 'none-of-these' in vhost '/'",
    ),
    "bind no exchange": (
        lambda ch, q: ch.exchange_bind(q, "amq.direct", "a"),
        404,
        "NOT_FOUND - no exchange '{q}' in vhost '/'",
    ),
    "x-match": (
        lambda ch, q: (
            queue(ch, q),
            ch.queue_bind(q, "amq.headers", "", arguments={"x-match": "foo"}),
        ),
        406,
        (
            'PRECONDITION_FAILED - Invalid x-match field value <<"foo">>; expected all, any, '
            "all-with-x, or any-with-x"
        ),
    ),
    "delete a queue in use": (
        lambda ch, q: (
            queue(ch, q),
            ch.basic_consume(q, print),
            ch.queue_delete(q, if_unused=True),
        ),
        406,
        "PRECONDITION_FAILED - queue '{q}' in vhost '/' in use",
    ),
    "delete a queue that is not empty": (
        lambda ch, q: (queue(ch, q), publish(ch, q, "x"), ch.queue_delete(q, if_empty=True)),
        406,
        "PRECONDITION_FAILED - queue '{q}' in vhost '/' not empty",
    ),
    "delete an exchange in use": (
        lambda ch, q: (
            ch.exchange_declare(q, auto_delete=True),
            queue(ch, q),
            ch.queue_bind(q, q, ""),
            ch.exchange_delete(q, if_unused=True),
        ),
        406,
        "PRECONDITION_FAILED - exchange '{q}' in vhost '/' in use",
    ),
    "exclusive consumer": (
        lambda ch, q: (
            queue(ch, q),
            ch.basic_consume(q, print, exclusive=True),
            ch.basic_consume(q, print),
        ),
        403,
        "ACCESS_REFUSED - queue '{q}' in vhost '/' in exclusive use",
    ),
    "consumer priority": (
        lambda ch, q: (queue(ch, q), ch.basic_consume(q, print, arguments={"x-priority": "a"})),
        406,
        (
            "PRECONDITION_FAILED - invalid arg 'x-priority' for queue '{q}' in vhost '/': "
            '"expected integer, got longstr"'
        ),
    ),
    "transient quorum queue": (
        lambda ch, q: ch.queue_declare(q, arguments={"x-queue-type": "quorum"}),
        406,
        "PRECONDITION_FAILED - invalid property 'non-durable' for queue '{q}' in vhost '/'",
    ),
}
DIFFER_ON_4 = {"unknown exchange type"}


@pytest.mark.parametrize(
    "label",
    [
        pytest.param(label, marks=pytest.mark.differs_on_4 if label in DIFFER_ON_4 else ())
        for label in STEPS
    ],
)
def test_what_may_not_be_done_is_refused_in_the_same_words(
    channel: BlockingChannel, name: str, label: str
) -> None:
    step, code, text = STEPS[label]
    assert refused(step, channel, name) == (code, text.format(q=name))


HARMLESS: dict[str, Step] = {
    "delete no exchange": lambda ch, q: ch.exchange_delete(q),
    "delete no queue": lambda ch, q: ch.queue_delete(q),
    "unbind from no exchange": lambda ch, q: (queue(ch, q), ch.queue_unbind(q, "none-of-these")),
    "unbind no queue": lambda ch, q: ch.queue_unbind(q, "amq.direct", "a"),
    "ack all of nothing": lambda ch, _: ch.basic_ack(0, multiple=True),
    "own user id": lambda ch, _: publish(ch, "a", "x", user_id="guest"),
    "declare a built-in exchange": lambda ch, _: ch.exchange_declare(
        "amq.direct", "direct", durable=True
    ),
}


@pytest.mark.parametrize("label", HARMLESS)
def test_what_does_no_harm_is_answered(channel: BlockingChannel, name: str, label: str) -> None:
    HARMLESS[label](channel, name)
    channel.basic_qos(prefetch_count=1)
    assert channel.is_open


def test_a_refusal_closes_its_channel_and_no_other(channel: BlockingChannel, name: str) -> None:
    other = channel.connection.channel()
    queue(other, name)
    publish(channel, "a", "x", exchange="none-of-these")
    assert refusal(channel)[0] == 404
    publish(other, name, "still here")
    assert other.basic_get(name)[2] == b"still here"
