"""The token file: what is wrong with it is said by line, and no token is ever shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from limehub.errors import ConfigError
from limehub.web.tokens import Tokens, read_tokens

SECRET = "s3cret-token"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


def test_a_token_file_has_names_roles_tokens_comments_and_empty_lines(file: Path) -> None:
    file.write_text(f"\ufeff# who may look\n\nmonitor\tread  {SECRET}\r\n  bob operate other\n")
    tokens = Tokens(str(file))
    identity = tokens.identify(f"bearer {SECRET}")
    assert identity is not None
    assert (identity.name, identity.role) == ("monitor", "read")
    assert SECRET not in repr(identity)
    assert tokens.required


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (f"monitor {SECRET}", "has 2 words, not three"),
        (f"a read {SECRET} {SECRET}", "has 4 words, not three"),
        (f"a write {SECRET}", "the second word is the role, `read` or `operate`"),
        (f"ä read {SECRET}", "the name may have letters"),
        (f"a read {SECRET}ä", "the token may have printable ASCII"),
        (f"first read {SECRET}", "the name first is taken by line 1"),
        ("second read the-first-token", "the token is that of line 1 again"),
    ],
)
def test_each_bad_line_is_named_without_its_token(file: Path, line: str, problem: str) -> None:
    file.write_text(f"first read the-first-token\n# fine\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        read_tokens(str(file))
    (message,) = caught.value.problems
    assert message.startswith(f"{file}:3: {problem}")
    assert "token" not in message.removeprefix(str(file)).replace("the token", "").replace(
        "role token", ""
    )


def test_all_bad_lines_are_named_at_once(file: Path) -> None:
    file.write_bytes(b"a\nb read \xff\nc read fine\nd\n")
    with pytest.raises(ConfigError) as caught:
        read_tokens(str(file))
    assert [problem.split(":")[1] for problem in caught.value.problems] == ["1", "2", "4"]


@pytest.mark.parametrize("content", ["", "# nobody\n\n"])
def test_a_file_without_tokens_is_an_error_and_never_an_open_door(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(ConfigError, match="holds no token"):
        Tokens(str(file))


def test_a_missing_file_is_an_error_that_names_the_key(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"web\.token_file: cannot read .*No such file"):
        Tokens(str(file))


def test_reloading_takes_new_tokens_and_keeps_the_old_ones_if_the_file_is_broken(
    file: Path,
) -> None:
    file.write_text("a read old\n")
    tokens = Tokens(str(file))
    file.write_text("a read new\n")
    tokens.reload(str(file))
    assert tokens.identify("Bearer old") is None
    assert tokens.identify("Bearer new") is not None
    file.write_text("broken\n")
    with pytest.raises(ConfigError):
        tokens.reload(str(file))
    assert tokens.identify("Bearer new") is not None
    tokens.reload(None)
    assert not tokens.required
