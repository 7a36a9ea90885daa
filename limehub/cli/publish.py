"""`limehub publish`: one event, confirmed, and who will get it; or a stream for demonstrations."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from attrs import frozen

from limehub.cli.explanation import receivers_of
from limehub.cli.loading import broker_of, load_config, load_plugins, open_publisher
from limehub.cli.options import config_option, json_option
from limehub.cli.output import print_json, print_table, say, warn
from limehub.cli.placement import placements
from limehub.config import Config, require_name
from limehub.decoding import UndecodableBody, decode_body
from limehub.errors import ExchangeMissing, NothingMatched, Unroutable
from limehub.routing_keys import unusable

if TYPE_CHECKING:
    from limehub.amqp.publisher import Publisher
    from limehub.cli.explanation import Receiver
    from limehub.plugins.registry import Registry

__all__ = ["publish"]

JSON = "application/json"


@frozen(kw_only=True)
class Publication:
    """What to publish and where. *application*: None if the exchange is none of ours."""

    key: str
    body: bytes
    application: str | None
    exchange: str
    headers: dict[str, str]
    message_id: str | None
    content_type: str


@click.command()
@click.argument("key", required=False)
@click.argument("body", required=False, default="{}", metavar="[BODY|-]")
@config_option
@click.option("--application", metavar="NAME", help="Whose event; needed if there are several.")
@click.option("--exchange", metavar="NAME", help="Publish here instead of lime.<application>.")
@click.option(
    "--header", "headers", metavar="NAME=VALUE", multiple=True, help="May be given several times."
)
@click.option("--message-id", metavar="ID", help="The event's id.  [default: a new UUID]")
@click.option(
    "--content-type", metavar="TYPE", default=JSON, show_default=True, help="Of the body."
)
@click.option("--raw", is_flag=True, help="Publish BODY whatever it is.")
@click.option("--demo", is_flag=True, help="Publish invented events of companies, persons, deals.")
@click.option(
    "--rate",
    type=click.FloatRange(0, 10_000, min_open=True),
    metavar="N",
    help="With --demo: events a second.  [default: 10]",
)
@click.option(
    "--count",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --demo: stop after so many.  [default: go on until Ctrl-C]",
)
@click.option(
    "--fail-rate",
    type=click.FloatRange(0, 1),
    metavar="F",
    help="With --demo: share of events, 0 to 1, that the example packages refuse.  [default: 0]",
)
@click.option(
    "--seed", type=int, metavar="S", help="With --demo: another seed, another story.  [default: 1]"
)
@json_option
def publish(
    key: str | None,
    body: str,
    config: Path | None,
    application: str | None,
    exchange: str | None,
    headers: tuple[str, ...],
    message_id: str | None,
    content_type: str,
    raw: bool,
    demo: bool,
    rate: float | None,
    count: int | None,
    fail_rate: float | None,
    seed: int | None,
    as_json: bool,
) -> None:
    """Publish an event with the routing key KEY and return when the broker has stored it.

    BODY is JSON, `{}` if it is left out, standard input if it is `-`. Exit code 1: it reached no
    queue.

    With --demo there is neither KEY nor BODY: invented companies, persons and deals are created,
    updated, deleted and restored, in all applications or that of --application.
    """
    loaded = load_config(config)
    if demo:
        _refuse_with_demo(key, exchange, headers, message_id, raw=raw)
        from limehub.cli.demo import Demo, play

        story = Demo(
            rate=10.0 if rate is None else rate,
            count=count,
            fail_rate=fail_rate or 0.0,
            seed=1 if seed is None else seed,
        )
        play(loaded, story, application=application, as_json=as_json)
        return
    if key is None:
        raise click.UsageError("Missing argument 'KEY'.")
    if (rate, count, fail_rate, seed) != (None, None, None, None):
        raise click.UsageError("--rate, --count, --fail-rate and --seed need --demo")
    publication = Publication(
        key=_key(key),
        body=_body(body, content_type, raw=raw),
        application=_application(loaded.config, application, exchange),
        exchange=_exchange(loaded.config, application, exchange),
        headers=dict(map(_header, headers)),
        message_id=message_id,
        content_type=content_type,
    )
    registry = load_plugins(loaded)
    publisher = open_publisher(loaded.config, broker_of(loaded))
    try:
        identity = _publish(publisher, publication)
    finally:
        publisher.close()
    _report(publication, identity, registry, as_json=as_json)


def _refuse_with_demo(
    key: str | None,
    exchange: str | None,
    headers: tuple[str, ...],
    message_id: str | None,
    *,
    raw: bool,
) -> None:
    if key is not None or exchange or headers or message_id or raw:
        raise click.UsageError("--demo goes with --application only; the events are its own")


def _publish(publisher: Publisher, publication: Publication) -> str:
    try:
        return publisher.publish(
            publication.key,
            publication.body,
            exchange=publication.exchange,
            headers=publication.headers,
            message_id=publication.message_id,
            content_type=publication.content_type,
        )
    except Unroutable as error:
        raise NothingMatched(
            f"{error}\nno queue is bound for it: is the server running, and does a handler ask "
            f"for the key? see `limehub explain {publication.key}`"
        ) from None
    except ExchangeMissing:
        raise NothingMatched(
            f"there is no exchange {publication.exchange}; the server creates its own at its first "
            "start: `limehub serve`"
        ) from None


def _report(publication: Publication, identity: str, registry: Registry, *, as_json: bool) -> None:
    receivers = _receivers(publication, registry)
    if as_json:
        print_json(
            {
                "message_id": identity,
                "application": publication.application,
                "exchange": publication.exchange,
                "routing_key": publication.key,
                "handlers": [one.placement.handler.name for one in receivers],
            }
        )
        return
    say(f"published {publication.key} to {publication.exchange}, message id {identity}")
    rows = [
        (one.placement.handler.name, queue, one.placement.group)
        for one in receivers
        for queue in one.queues
    ]
    print_table(("handler", "queue", "group"), rows)
    if not receivers:
        warn("no handler installed here asks for it; a queue of somebody else took it")


def _receivers(publication: Publication, registry: Registry) -> Sequence[Receiver]:
    if publication.application is None:
        return ()
    return receivers_of(
        placements(registry), registry.config, publication.key, [publication.application]
    )


def _key(key: str) -> str:
    problem = unusable(key)
    if problem:
        raise click.BadParameter(problem, param_hint="KEY")
    return key


def _body(text: str, content_type: str, *, raw: bool) -> bytes:
    body = sys.stdin.buffer.read() if text == "-" else text.encode()
    if not raw:
        try:
            decode_body(body, content_type, None)
        except UndecodableBody as error:
            hint = "handlers would never see it; --raw publishes it nevertheless"
            raise click.BadParameter(f"{error}; {hint}", param_hint="BODY") from None
    return body


def _application(config: Config, name: str | None, exchange: str | None) -> str | None:
    """Return whose event it is. Raises UsageError if nobody says so, ConfigError if unknown."""
    if exchange is not None:
        return config.application_of(exchange)
    if name is None and len(config.applications) > 1:
        known = ", ".join(config.applications)
        raise click.UsageError(f"name the application by --application; configured are {known}")
    return name or config.applications[0]


def _exchange(config: Config, name: str | None, exchange: str | None) -> str:
    if exchange is None:
        return config.exchange_of(name or config.applications[0])
    if name is not None:
        raise click.UsageError("--exchange and --application exclude each other")
    return require_name("--exchange", exchange)


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or len(name.encode()) > 255:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--header")
    return name, value
