"""`limehub bench`: how fast limehub is on this broker, measured with queues of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from limehub.cli.loading import BrokerPlace, broker_of, config_file, load_config
from limehub.cli.options import config_option, json_option
from limehub.cli.output import print_json, print_table, warn
from limehub.config import Loaded

if TYPE_CHECKING:
    from limehub.bench.places import Places
    from limehub.bench.result import Result

__all__ = ["bench"]


@click.command()
@config_option
@click.option("--url", metavar="URL", help="This broker instead of the configured one.")
@click.option(
    "--count",
    metavar="N",
    type=click.IntRange(100, 10_000_000),
    default=20_000,
    show_default=True,
    help="How many events.",
)
@click.option(
    "--prefetch",
    metavar="N",
    type=click.IntRange(1, 65_535),
    default=1000,
    show_default=True,
    help="Unacked events at once.",
)
@json_option
@click.pass_context
def bench(
    context: click.Context,
    config: Path | None,
    url: str | None,
    count: int,
    prefetch: int,
    as_json: bool,
) -> None:
    """Measure publishing, handling and latency on the broker, with no-op handlers.

    It makes an exchange and three queues of its own, whose names it says, and removes them at the
    end, also on Ctrl-C. Nothing that exists is touched.
    """
    from limehub.bench.places import Places
    from limehub.cli.benching import Benching, until_stopped

    with tempfile.TemporaryDirectory(prefix="limehub-bench-") as folder:
        loaded = _loaded(config, url, Path(folder))
        place = BrokerPlace(url=loaded.config.events.url, server=None) if url else broker_of(loaded)
        places = Places.unique()
        _announce(places, place)
        benching = Benching(
            config=loaded.config,
            place=place,
            places=places,
            folder=Path(folder),
            count=count,
            prefetch=prefetch,
        )
        stopped, result = until_stopped(benching)
    if result is None:
        context.exit(128 + stopped)
    print_json(result.as_json()) if as_json else _print(result)


def _loaded(config: Path | None, url: str | None, folder: Path) -> Loaded:
    """The configuration; with a URL a missing limehub.toml is as good as an empty one."""
    if url and config is None and not config_file(None).exists():
        config = folder / "limehub.toml"
        config.touch()
    return load_config(config, {"events.connection_string": url})


def _announce(places: Places, place: BrokerPlace) -> None:
    warn(f"on {place} this makes, and removes at the end:")
    warn(f"  exchange  {places.exchange}")
    for queue in places.queues:
        warn(f"  queue     {queue}")


def _print(result: Result) -> None:
    columns = ("measure", "events", "per second", "CPU us each", "p50 ms", "p99 ms")
    phases = (("publish, confirmed", result.published), ("handle and ack", result.handled))
    rows: list[tuple[object, ...]] = [
        (name, f"{phase.count:,}", f"{phase.rate:,.0f}", f"{phase.cpu_us:.1f}", "", "")
        for name, phase in phases
    ]
    latencies = (f"{result.latency_ms(50):.3f}", f"{result.latency_ms(99):.3f}")
    rows.append(("publish to handler", f"{len(result.latencies):,}", "", "", *latencies))
    print_table(columns, rows)
