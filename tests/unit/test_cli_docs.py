"""docs/commands.md and the command line say the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from limehub import errors
from limehub.cli import cli
from limehub.cli.lazy import LazyGroup

DOCUMENT = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Yield (full name, command) of all that can be run, and of limehub itself."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    if name == "limehub":
        yield name, command
    context = click.Context(command)
    names = list(command.lazy) if isinstance(command, LazyGroup) else list(command.commands)
    for inner in names:
        found = command.get_command(context, inner)
        assert found is not None, f"{name} {inner}"
        yield from commands(found, f"{name} {inner}")


def options(command: click.Command) -> set[str]:
    return {
        text
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for text in (*parameter.opts, *parameter.secondary_opts)
    }


def section(name: str) -> str:
    match = re.search(
        rf"^## {re.escape(name)}\n(.*?)(?=^## |\Z)", DOCUMENT, re.DOTALL | re.MULTILINE
    )
    assert match, f"docs/commands.md has no section {name}"
    return match[1]


def documented_options(name: str) -> set[str]:
    cells = re.findall(r"^\| (`-.*?) \|", section(name), re.MULTILINE)
    return {option for cell in cells for option in re.findall(r"`(-[^`]*)`", cell)}


TREE = dict(commands(cli, "limehub"))


@pytest.mark.parametrize("name", TREE)
def test_the_document_has_exactly_the_options_of_each_command(name: str) -> None:
    assert documented_options(name) == options(TREE[name])


def test_the_document_has_no_command_that_does_not_exist() -> None:
    assert set(re.findall(r"^## (limehub.*)$", DOCUMENT, re.MULTILINE)) == set(TREE)


@pytest.mark.parametrize("name", TREE)
def test_every_command_has_a_help_text_for_itself_and_each_option(name: str) -> None:
    assert TREE[name].help
    assert [p.name for p in TREE[name].params if isinstance(p, click.Option) and not p.help] == []


def test_every_exit_code_of_an_error_is_documented() -> None:
    codes = {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.LimehubError)
    }
    table = section("Exit codes")
    assert [code for code in codes if not re.search(rf"^\| {code} ", table, re.MULTILINE)] == []
