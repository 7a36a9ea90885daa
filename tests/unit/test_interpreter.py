"""A child interpreter finds the modules that its parent finds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from limehub.interpreter import interpreter


@pytest.fixture
def strange_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory; a file in it has the name of a module that limehub needs."""
    (tmp_path / "argparse.py").write_text("raise SystemExit('a stranger')\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ends_well() -> bool:
    command = [*interpreter(), "-m", "limehub.broker", "--help"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_file_in_the_working_directory_is_not_taken_for_a_module(
    strange_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one != str(strange_folder)])
    assert ends_well()


def test_whoever_imports_from_the_working_directory_has_children_that_do(
    strange_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(strange_folder), *sys.path])
    assert not ends_well()


def test_a_working_directory_that_is_gone_is_no_obstacle(strange_folder: Path) -> None:
    (strange_folder / "argparse.py").unlink()
    strange_folder.rmdir()
    assert ends_well()
