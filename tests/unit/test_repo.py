"""The repository keeps its own rules: layers, names, and nothing of anybody's machine."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "limehub"
NOT_OURS = {".git", ".venv", ".limehub", "build", "dist"}

# What each part may import of ours besides itself; parts that are not named may import anything
# below `server`. "amqp" and the bottom are strict: they must stay usable alone.
MAY_IMPORT = {
    "errors": set[str](),
    "forks": set[str](),
    "decoding": {"errors"},
    "events": {"errors", "decoding"},
    "config": {"errors"},
    "amqp": {"config", "events", "errors", "decoding", "forks"},
}
MUST_NOT_IMPORT = {
    "plugins": {"workers", "web"},
    "workers": {"web"},
    "deadletters": {"web", "plugins"},
    "broker": {"amqp"},
}
TOP = {"server", "cli", "__main__"}

MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:work|root|home|Users)/")
REGISTRIES = re.compile(
    r"index-url|find-links|trusted-host|pythonhosted|deb\.debian|https?://mirror"
)
UNFINISHED = re.compile(r"\bTO" + r"DO\b|\bFIX" + r"ME\b|NotImplemented" + r"Error")


def our_files() -> list[Path]:
    """Every file of the repository that is not made by a tool."""
    found = []
    for folder, folders, names in os.walk(REPOSITORY):
        folders[:] = [name for name in folders if not _made_by_a_tool(name)]
        found += [Path(folder, name) for name in names]
    return sorted(found)


def _made_by_a_tool(name: str) -> bool:
    return name in NOT_OURS or name.endswith(("_cache", "__pycache__", ".egg-info", ".hypothesis"))


def texts() -> Iterator[tuple[Path, str]]:
    """Path (from the top) and text of each text file."""
    for path in our_files():
        try:
            yield path.relative_to(REPOSITORY), path.read_text()
        except UnicodeDecodeError:
            continue


def lines_matching(pattern: re.Pattern[str]) -> list[str]:
    """`path:line: text` of each matching line, outside this file."""
    here = Path(__file__).relative_to(REPOSITORY)
    return [
        f"{path}:{number}: {line.strip()}"
        for path, text in texts()
        if path != here
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def part_of(path: Path) -> str:
    """The part of limehub that a module belongs to, e.g. `amqp`, `events`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Dotted names of all modules that *path* imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def parts_imported(path: Path) -> set[str]:
    """The parts of limehub that *path* imports, without its own."""
    parts = {name.split(".")[1] for name in imported(path) if name.startswith("limehub.")}
    return {part for part in parts if _is_part(part)} - {part_of(path)}


def _is_part(name: str) -> bool:
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()


MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = [*REPOSITORY.glob("tests/**/test_*.py"), *REPOSITORY.glob("plugins/*/tests/**/test_*.py")]


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    part, parts = part_of(path), parts_imported(path)
    if part in MAY_IMPORT:
        assert parts <= MAY_IMPORT[part]
    assert not parts & MUST_NOT_IMPORT.get(part, set())
    if part not in TOP:
        assert not parts & TOP


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_are_absolute_and_pika_stays_in_its_home(path: Path) -> None:
    tree = ast.walk(ast.parse(path.read_text()))
    assert not [node for node in tree if isinstance(node, ast.ImportFrom) and node.level]
    if part_of(path) != "amqp":
        assert not {name for name in imported(path) if name.split(".")[0] == "pika"}


def test_only_the_command_line_imports_the_server() -> None:
    importers = {part_of(path) for path in MODULES if "server" in parts_imported(path)}
    assert importers <= {"cli"}


def test_limehub_itself_imports_nothing_heavy_and_does_nothing() -> None:
    heavy = {"gevent", "pika", "flask", "cattrs", "click", "rich", "pluggy"}
    code = f"import limehub, sys; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def foreign(paths: list[Path]) -> set[str]:
    """The installed distributions that modules import, by pip's names, limehub left out."""
    tops = {name.split(".")[0] for path in paths for name in imported(path)} - {"limehub"}
    owners = packages_distributions()
    return {_normal(owners[top][0]) for top in tops - sys.stdlib_module_names if top in owners}


def _normal(name: str) -> str:
    return re.split(r"[^\w.-]", name)[0].lower().replace("_", "-")


def test_every_package_that_is_imported_is_declared() -> None:
    project: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = {_normal(name) for name in project["dependencies"]}
    optional = {_normal(name) for names in extras.values() for name in names}
    harness = [*REPOSITORY.glob("tests/**/*.py"), *REPOSITORY.glob("scripts/*.py")]

    assert foreign(MODULES) - needed <= optional - {_normal(name) for name in extras["dev"]}
    assert foreign(harness) <= needed | optional


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_names_of_tests_are_sentences(path: Path) -> None:
    names = [
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert names, "a test file without tests"
    assert [name for name in names if len(name.removeprefix("test_").split("_")) < 3] == []
    assert sorted(names) == sorted(set(names)), "a second test of one name hides the first"


def test_no_file_names_a_path_of_a_machine() -> None:
    assert lines_matching(MACHINE_PATHS) == []


def test_no_file_names_a_package_registry() -> None:
    assert lines_matching(REGISTRIES) == []


def test_nothing_is_left_to_be_done_later() -> None:
    assert lines_matching(UNFINISHED) == []


def test_scripts_can_be_run_as_they_are() -> None:
    scripts = [path for path in our_files() if path.read_bytes()[:2] == b"#!"]
    assert {path.name for path in scripts} >= {"run", "setup", "install-rabbitmq"}
    assert [name_of(path) for path in scripts if not os.access(path, os.X_OK)] == []


def test_ci_runs_what_a_developer_runs() -> None:
    commands = (REPOSITORY / ".ci" / "run").read_text().splitlines()
    assert commands[-1] == "exec make test"
