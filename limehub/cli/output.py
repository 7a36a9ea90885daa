"""Printing: rich tables on a terminal, aligned text elsewhere, JSON when asked.

What is printed may come from plugins, the broker or messages: control characters are escaped, so
that no text can move the cursor, colour the screen or forge a line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["on_terminal", "print_json", "print_pairs", "print_table", "say", "visible", "warn"]

Row = Sequence[object]
Style = Callable[[Row], str | None]
"""Row -> a rich style such as `red`, or None."""

_GAP = "  "
_NARROWEST = 30
"""Letters that the widest column of a table may be folded to; below that it is no table."""


def visible(value: object) -> str:
    """Return *value* on one line, control characters as `\\n`, `\\x1b`; None and "" as `-`."""
    text = "-" if value is None or value == "" else str(value)
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def on_terminal() -> bool:
    """Whether a person sees the output."""
    return sys.stdout.isatty()


def say(text: str) -> None:
    """Print *text*, a line or several; each is made visible."""
    for line in text.splitlines() or [""]:
        click.echo(visible(line) if line else "")


def warn(text: str) -> None:
    """Print *text* to standard error, each line marked as limehub's."""
    for line in text.splitlines():
        click.echo(f"limehub: {visible(line)}", err=True)


def print_json(value: Any) -> None:
    """Print *value* as JSON, indented; what JSON does not know becomes text."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    click.echo("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))


def print_table(
    columns: Sequence[str], rows: Iterable[Row], *, empty: str = "", style: Style | None = None
) -> None:
    """Print *rows* under *columns*; *empty* is said instead when there is no row.

    On a terminal too narrow for that each row becomes a block of `column  value` lines.
    """
    rows = list(rows)
    if not rows:
        say(empty) if empty else None
    elif on_terminal():
        _for_people(columns, rows, style or _plain_style)
    else:
        _text_table(columns, rows)


def print_pairs(pairs: Iterable[tuple[str, object]]) -> None:
    """Print `name  value` lines, the values aligned."""
    pairs = list(pairs)
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        click.echo(f"{name:<{width}}{_GAP}{visible(value)}")


def _plain_style(_row: Row) -> None:
    return None


def _escaped(letter: str) -> str:
    # A surrogate that came from undecodable bytes would break the output stream.
    return letter.encode("unicode_escape").decode()


def _text_table(columns: Sequence[str], rows: Sequence[Row]) -> None:
    lines = [[column.upper() for column in columns], *([visible(cell) for cell in r] for r in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        cells = (f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
        click.echo(_GAP.join(cells).rstrip())


def _for_people(columns: Sequence[str], rows: Sequence[Row], style: Style) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    draw = _table if _fits(columns, rows, console.width) else _blocks
    draw(console, columns, rows, style)


def _fits(columns: Sequence[str], rows: Sequence[Row], width: int) -> bool:
    """Whether all columns but the widest are shown unfolded in *width*, and that one nearly."""
    cells = zip(columns, *rows, strict=True)
    *others, widest = sorted(max(len(visible(cell)) for cell in column) for column in cells)
    gaps = 3 * len(columns)
    return sum(others) + gaps + min(widest, _NARROWEST) <= width


def _blocks(console: Console, columns: Sequence[str], rows: Sequence[Row], style: Style) -> None:
    from rich.text import Text

    width = max(map(len, columns))
    for number, row in enumerate(rows):
        if number:
            console.print()
        for name, cell in zip(columns, row, strict=True):
            parts = (f"{name:<{width}}{_GAP}", "bold"), (visible(cell), style(row) or "")
            console.print(Text.assemble(*parts), soft_wrap=True)


def _table(console: Console, columns: Sequence[str], rows: Sequence[Row], style: Style) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in table.columns:
        column.overflow = "fold"  # a queue's name is of no use when it is cut
    for row in rows:
        # Text, not str: square brackets in names are no markup.
        table.add_row(*(Text(visible(cell)) for cell in row), style=style(row))
    console.print(table)
