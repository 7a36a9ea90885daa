"""Prints the tables: medians with their spread, ratios to C and to the best."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from attrs import frozen

from benchmarks.runs import Report
from benchmarks.sections import CONSUME, LATENCY, LOOKS, MEMORY, PUBLISH, START, Section

__all__ = ["Results", "middle", "print_rows", "print_section"]

Results = Mapping[str, Sequence[Report]]
"""Peer -> its reports, one a run."""

Value = Callable[[Report], float]
LIMITS = ("c_raw_multi", "publish_c", "c_librabbitmq")
"""What "of C" means: the first of these that a section has."""


@frozen
class Column:
    """*value* of a report with *digits* behind the point; *spread*: smallest and largest too."""

    title: str
    value: Value
    digits: int
    spread: bool = False


RATE = Column("msg/s", lambda report: report.rate, 0, spread=True)
CPU = Column("client us", lambda report: report.cpu_us, 1, spread=True)
BROKER = Column("broker us", lambda report: report.broker_us, 0)
MEMORY_AFTER = Column("RSS MB", lambda report: report.rss_mb, 1)
MEMORY_IDLE = Column("idle MB", lambda report: report.idle_rss_mb, 1, spread=True)
MEDIAN = Column("p50 ms", lambda report: report.latency_ms(0.5), 3, spread=True)
TAIL = Column("p99 ms", lambda report: report.latency_ms(0.99), 2, spread=True)
STARTED = Column("ms", lambda report: report.start_seconds * 1000, 0, spread=True)
PAGES = Column("pages/s", lambda report: report.pages / (report.ended - report.began), 1)
SLOWEST = Column("slowest s", lambda report: report.slowest_page, 2)

COLUMNS = {
    CONSUME: (RATE, CPU, BROKER, MEMORY_AFTER),
    PUBLISH: (RATE, CPU, BROKER, MEMORY_AFTER),
    LATENCY: (MEDIAN, TAIL, CPU),
    MEMORY: (MEMORY_IDLE, MEMORY_AFTER),
    START: (STARTED,),
    LOOKS: (RATE, CPU, BROKER, MEMORY_AFTER, PAGES, SLOWEST),
}
"""Kind of section -> its columns; the first decides the order."""


def print_section(section: Section, results: Results) -> None:
    """Print one table, the best first."""
    columns = COLUMNS[section.kind]
    first = columns[0]
    much_is_good = first is RATE
    order = sorted(results, key=lambda name: middle(results[name], first.value))
    names = order[::-1] if much_is_good else order
    limit = next((name for name in LIMITS if name in results), None)
    header = [
        "peer",
        *(column.title for column in columns),
        *(["of C"] if limit else []),
        "of best",
    ]
    rows = [header]
    for name in names:
        ratios = [_ratio(results, name, other, first) for other in (limit, names[0]) if other]
        rows.append([name, *(_cell(column, results[name]) for column in columns), *ratios])
    print(f"\n## {section.name}: {section.title}\n")
    print_rows(rows)


def middle(reports: Sequence[Report], value: Value) -> float:
    """Return the median of *value*."""
    return median(map(value, reports))


def print_rows(rows: Sequence[Sequence[str]]) -> None:
    """Print an aligned Markdown table; the first row is its header."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    rule = ["-" * width for width in widths]
    for row in (rows[0], rule, *rows[1:]):
        cells = " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(f"| {cells} |")
    sys.stdout.flush()


def _ratio(results: Results, name: str, other: str, column: Column) -> str:
    return f"{middle(results[name], column.value) / middle(results[other], column.value):.2f}"


def _cell(column: Column, reports: Sequence[Report]) -> str:
    values = [column.value(report) for report in reports]
    text = f"{median(values):.{column.digits}f}"
    if column.spread and len(values) > 1:
        text += f" ({min(values):.{column.digits}f}-{max(values):.{column.digits}f})"
    return text
