"""`limehub check`: everything that would keep the server from working, before it starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from limehub.cli.findings import (
    Finding,
    Kind,
    Level,
    configuration_findings,
    exit_code_of,
    group_findings,
    plugin_findings,
)
from limehub.cli.loading import BrokerPlace, broker_of, config_file, load_config, load_plugins
from limehub.cli.options import config_option, json_option
from limehub.cli.output import print_json, print_table, say
from limehub.config import Config, Loaded
from limehub.errors import BrokerError, ConfigError

if TYPE_CHECKING:
    from limehub.cli.inspection import Topology

__all__ = ["check"]

SHOWN_INFOS = 30


@click.command()
@config_option
@click.option("--strict", is_flag=True, help="Exit 1 if there is a warning.")
@click.option("--offline", is_flag=True, help="Do not connect to the broker.")
@json_option
@click.pass_context
def check(
    context: click.Context, config: Path | None, strict: bool, offline: bool, as_json: bool
) -> None:
    """Check configuration, plugins, keys, groups, and the broker, changing nothing.

    The exit code is that of the worst finding: 2 configuration, 3 plugin, 4 broker, 5 topology.
    """
    findings = list(_findings(config, offline=offline))
    if as_json:
        print_json([attrs.asdict(finding) for finding in findings])
    else:
        _print(findings)
    context.exit(exit_code_of(findings, strict=strict))


def _findings(path: Path | None, *, offline: bool) -> Iterator[Finding]:
    try:
        loaded = load_config(path)
        yield from configuration_findings(loaded)
        yield from _unreadable_files(loaded.config)
        yield from _beyond_configuration(loaded, offline=offline)
    except ConfigError as error:
        subject = str(config_file(path))
        for problem in error.problems:
            yield _error("configuration", subject, problem.removeprefix(f"{subject}:"))


def _beyond_configuration(loaded: Loaded, *, offline: bool) -> Iterator[Finding]:
    from limehub.cli.placement import placements

    registry = load_plugins(loaded)
    found = placements(registry)
    yield from plugin_findings(registry)
    yield from group_findings(registry.config, found)
    if offline:
        yield _info("broker", "was not asked (--offline)")
        return
    from limehub.cli.inspection import wanted_topology

    place = _place(loaded)
    if place is None:
        yield _info("embedded broker", "lives in the server and none runs here: nothing to check")
    else:
        yield from _broker_findings(registry.config, place, wanted_topology(registry.config, found))


def _place(loaded: Loaded) -> BrokerPlace | None:
    try:
        return broker_of(loaded)
    except ConfigError:
        return None


def _broker_findings(config: Config, place: BrokerPlace, topology: Topology) -> Iterator[Finding]:
    try:
        findings = _asked(config, place, topology)
    except BrokerError as error:
        yield _error("broker", str(place), str(error))
        return
    yield from findings
    yield from _listed(config, place, topology)


def _asked(config: Config, place: BrokerPlace, topology: Topology) -> list[Finding]:
    from limehub.amqp.connection import BrokerConnection
    from limehub.cli.inspection import exchange_findings, inspect, queue_findings

    connection = BrokerConnection.open(place.settings(config), "limehub check")
    try:
        queues, exchanges = inspect(connection, topology)
        server = connection.server
    finally:
        connection.close()
    return [
        Finding(kind="broker", level=Level.OK, subject=str(place), text=f"is {server}"),
        *exchange_findings(exchanges),
        *queue_findings(queues, accept_foreign=config.events.accept_foreign_queues),
    ]


def _listed(config: Config, place: BrokerPlace, topology: Topology) -> Iterator[Finding]:
    from limehub.cli.management import management_findings, read_lists

    url = config.events.management_url
    if url is None:
        text = "left-over queues, bindings and policies cannot be seen: it is not set"
        yield _info("events.management_url", text)
        return
    try:
        lists = read_lists(url, place.url)
    except BrokerError as error:
        text = f"left-over queues, bindings and policies cannot be seen: {error}"
        yield Finding(
            kind="broker", level=Level.WARNING, subject="events.management_url", text=text
        )
        return
    yield from management_findings(lists, topology)


def _unreadable_files(config: Config) -> Iterator[Finding]:
    """Files that the server reads at start; what it writes is not among them."""
    tls = config.events.tls
    files = {
        "events.tls.ca_file": tls.ca_file,
        "events.tls.cert_file": tls.cert_file,
        "events.tls.key_file": tls.key_file,
        "web.token_file": config.web.token_file,
    }
    for key, name in files.items():
        if name:
            try:
                Path(name).open("rb").close()
            except OSError as error:
                yield _error("configuration", key, f"{name} cannot be read: {error.strerror}")


def _error(kind: Kind, subject: str, text: str) -> Finding:
    return Finding(kind=kind, level=Level.ERROR, subject=subject, text=text)


def _info(subject: str, text: str) -> Finding:
    return Finding(kind="broker", level=Level.INFO, subject=subject, text=text)


def _print(findings: Sequence[Finding]) -> None:
    """Print what is not as it should be, the worst last, where the eye is; count the rest."""
    infos = _of(findings, Level.INFO)
    shown = [
        *infos[:SHOWN_INFOS],
        *_of(findings, Level.WARNING),
        *_of(findings, Level.ERROR),
    ]
    print_table(("level", "about", "which", "finding"), map(_row, shown), style=_style)
    if len(infos) > SHOWN_INFOS:
        say(f"and {len(infos) - SHOWN_INFOS} more of level info; --json lists all")
    counts = ((len(_of(findings, level)), words) for level, words in _SUMMARY.items())
    say(", ".join(f"{words}: {count}" for count, words in counts))


_SUMMARY = {
    Level.OK: "as they should be",
    Level.WARNING: "warnings",
    Level.ERROR: "errors",
}


def _of(findings: Iterable[Finding], level: Level) -> list[Finding]:
    return [finding for finding in findings if finding.level is level]


def _row(finding: Finding) -> tuple[str, ...]:
    return (str(finding.level), finding.kind, finding.subject, finding.text)


def _style(row: Sequence[object]) -> str | None:
    return {"error": "red", "warning": "yellow"}.get(str(row[0]))
