"""What is printed: harmless, aligned, and JSON that every program reads."""

from __future__ import annotations

import contextlib
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limehub.cli.output import print_json, print_pairs, print_table, say, visible


@given(st.text())
def test_visible_text_is_one_printable_line(text: str) -> None:
    assert visible(text).isprintable()


def test_control_characters_are_shown_and_not_obeyed() -> None:
    assert visible("red \x1b[31m\r\nforged") == "red \\x1b[31m\\r\\nforged"
    assert visible("Åsa \u202e") == "Åsa \\u202e"
    assert visible("\udcff") == "\\udcff"


def test_nothing_is_shown_as_a_dash_but_zero_is_zero() -> None:
    assert [visible(value) for value in (None, "", 0, False)] == ["-", "-", "0", "False"]


def test_a_table_without_a_terminal_is_aligned_and_one_row_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table(("name", "n"), [("a", 1), ("long\nname", 22)])
    assert capsys.readouterr().out == "NAME        N\na           1\nlong\\nname  22\n"


NAME = "lime.event_handler.solution-cool-solution.deal"


def drawn(width: int, rows: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of a table on a terminal of *width* columns."""
    monkeypatch.setattr("limehub.cli.output.on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    with contextlib.redirect_stdout(io.StringIO()) as stream:
        print_table(("handler", "queue", "group"), rows)
    return [line.rstrip() for line in stream.getvalue().splitlines() if line.strip()]


def test_a_table_that_fits_its_terminal_is_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = drawn(80, [("deal", NAME, "default")], monkeypatch)
    assert lines[0].split() == ["handler", "queue", "group"]
    assert lines[-1].split() == ["deal", NAME, "default"]


def test_the_widest_column_alone_may_be_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = drawn(60, [("deal", NAME, "default")], monkeypatch)
    assert lines[0].split() == ["handler", "queue", "group"]
    assert lines[-2].split()[::2] == ["deal", "default"]
    assert lines[-2].split()[1] + lines[-1].strip() == NAME


def test_a_table_too_wide_for_its_terminal_becomes_blocks_of_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [("deal", NAME, "default"), ("person", NAME, "a")]
    assert drawn(40, rows, monkeypatch) == [
        "handler  deal",
        f"queue    {NAME}",
        "group    default",
        "handler  person",
        f"queue    {NAME}",
        "group    a",
    ]


def test_an_empty_table_says_so_in_words_or_not_at_all(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table(("name",), [], empty="nothing here")
    print_table(("name",), [])
    assert capsys.readouterr().out == "nothing here\n"


def test_pairs_are_aligned_and_lines_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    print_pairs([("a", 1), ("long", "x\ty")])
    say("one\n\ntwo\x07")
    assert capsys.readouterr().out == "a     1\nlong  x\\ty\none\n\ntwo\\x07\n"


ANY_TEXT = st.text(st.characters())


@given(ANY_TEXT)
def test_json_keeps_every_text_and_holds_no_control_character(text: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as stream:
        print_json({"text": text})
    written = stream.getvalue()
    assert json.loads(written) == {"text": text}
    assert all(letter.isprintable() or letter == "\n" for letter in written)
