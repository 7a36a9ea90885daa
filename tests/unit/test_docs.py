"""README and docs/: links lead somewhere; commands, log lines and exit codes are the code's own."""

from __future__ import annotations

import ast
import functools
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from limehub import errors
from limehub.cli import cli
from limehub.config import load

REPOSITORY = Path(__file__).parents[2]
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CHANGELOG.md",
    *sorted(REPOSITORY.glob("docs/*.md")),
    *sorted(REPOSITORY.glob("plugins/*/README.md")),
]
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


# -- links ----------------------------------------------------------------------------------------


def links(page: Path) -> list[str]:
    """Targets within the repository."""
    found: list[str] = LINK.findall(FENCE.sub("", page.read_text()))
    return [target for target in found if not target.startswith(("http:", "https:"))]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = HEADING.findall(FENCE.sub("", page.read_text()))
    bare = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {text.strip().replace(" ", "-") for text in bare}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(page: Path) -> None:
    for target in links(page):
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


def test_the_index_leads_to_every_page() -> None:
    index = REPOSITORY / "docs" / "README.md"
    listed = {target.partition("#")[0] for target in links(index)}
    assert {path.name for path in (REPOSITORY / "docs").glob("*.md")} - {index.name} <= listed


# -- commands -------------------------------------------------------------------------------------

COMMAND = re.compile(r"^(?:[A-Z_]+=\S+ )*(?:\$ )?(?:\S+/bin/)?limehub (?P<rest>.*)$")


def code_lines(page: Path) -> list[str]:
    """The lines of a page's indented and fenced blocks."""
    text = page.read_text()
    fenced = [line for block in FENCE.findall(text) for line in block.splitlines()[1:-1]]
    return fenced + re.findall(r"^ {4}(\S.*)$", FENCE.sub("", text), re.MULTILINE)


def shown_commands(page: Path) -> Iterator[str]:
    """What stands behind `limehub` in the code of a page, without comments."""
    for line in code_lines(page):
        for part in re.split(r" && | \| (?=limehub )", line):
            found = COMMAND.match(part)
            if found and " | " not in part:  # such a line lists alternatives
                yield re.split(r"\s{2,}|\s#\s", found["rest"])[0]


SHOWN = sorted({(name_of(page), command) for page in PAGES for command in shown_commands(page)})


def parse(arguments: list[str]) -> None:
    """Let click take *arguments* as the command line would, and call nothing."""
    command: click.Command = cli
    context = click.Context(cli, info_name="limehub")
    while isinstance(command, click.Group):
        context = command.make_context(context.info_name, arguments, parent=context.parent)
        name, found, arguments = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        assert found is not None, name
        command, context = found, click.Context(found, info_name=name, parent=context)
    command.make_context(context.info_name, arguments, parent=context.parent)


@pytest.mark.parametrize(("page", "command"), SHOWN)
def test_every_command_that_is_shown_is_one_that_limehub_takes(
    page: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for password in re.findall(r"--user \w+:(\S+)", command):  # click looks whether it is there
        (tmp_path / password).touch()
    parse(shlex.split(command))


def test_commands_are_found_in_the_pages() -> None:
    assert len(SHOWN) > 40
    assert ("README.md", "init") in SHOWN


# -- configuration --------------------------------------------------------------------------------

TOML = [
    (name_of(page), text)
    for page in PAGES
    for text in re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
]


@pytest.mark.parametrize(("page", "text"), TOML)
def test_every_piece_of_toml_is_one_that_limehub_or_pip_takes(
    page: str, text: str, tmp_path: Path
) -> None:
    if "[project]" in text:
        assert tomllib.loads(text)["project"]["entry-points"]["limehub"]
        return
    file = tmp_path / "limehub.toml"
    file.write_text(text)
    assert load(file, {}).warnings == (), page


# -- what the server says -------------------------------------------------------------------------

OPERATIONS = (REPOSITORY / "docs" / "operations.md").read_text()


@functools.cache
def texts_of_the_code() -> str:
    """Every piece of text in limehub's code, f-strings in their parts, one a line."""
    pieces = [
        node.value
        for path in sorted((REPOSITORY / "limehub").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return "\n".join(pieces)


def logged_lines() -> list[str]:
    """The messages of log lines in the guide, without time, level, logger and context."""
    line = re.compile(r"^    (?:\d\d:\d\d:\d\d )?(?:ERROR|WARNING|INFO) +[\w.]+ ([^=\n]*?)(?:  |$)")
    return [found[1] for text in OPERATIONS.splitlines() if (found := line.match(text))]


def quoted_in_faults() -> list[str]:
    """What the first column of the table of faults quotes of limehub itself, in plain words."""
    table = OPERATIONS.partition("\n## Faults")[2].partition("\n### ")[0]
    rows = re.findall(r"^\| (`.*?) \| ", table, re.MULTILINE)
    quoted = [text for row in rows for text in re.findall(r"`([^`]+)`", row)]
    brokers = r"^\d{3} |^low on |_|CONNECTION|[A-Z]{4}|Connection (?:refused|reset)|^[a-z]+$"
    return [text for text in quoted if not re.search(brokers, text)]


@pytest.mark.parametrize("message", sorted({*logged_lines(), *quoted_in_faults()}))
def test_every_message_in_the_guide_for_operators_is_one_of_the_code(message: str) -> None:
    code = texts_of_the_code()
    # What varies stands in capitals, in quotes, as dots or as a number.
    fixed = re.split(r"'[^']*'|\.\.\.|\b[A-Z]\b|\b[xyX]\b|\d+|; \.\.\.|\bHOST:PORT\b", message)
    for part in (piece.strip(" :;=,") for piece in fixed):
        assert part in code, part


def test_the_exit_codes_of_serve_are_those_of_the_errors() -> None:
    table = OPERATIONS.partition("| exit code |")[2].partition("\n\n")[0]
    told = {int(code) for codes in re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE)
            for code in codes.split(",")}  # fmt: skip
    of_errors = {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.LimehubError)
    }
    assert of_errors - {1} <= told  # 1 is never the end of a server


def test_the_guide_for_developers_lists_the_folders_of_tests() -> None:
    table = (REPOSITORY / "docs" / "development.md").read_text()
    listed = set(re.findall(r"^\| `tests/(\w+)/` \|", table, re.MULTILINE))
    assert listed == {path.parent.name for path in REPOSITORY.glob("tests/*/*.py")}
