"""Topic matching against an oracle that is too simple to be wrong; the key lint by examples."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from limehub.routing_keys import lint, matches, unusable

WORD = st.sampled_from(["a", "b", "ab", "", "new"])
PATTERN = st.lists(st.one_of(WORD, st.sampled_from(["*", "#"])), max_size=6).map(".".join)
KEY = st.lists(WORD, max_size=6).map(".".join)


def oracle(pattern: str, key: str) -> bool:
    """Each word gets a closing dot, so that a pattern is a plain regular expression."""
    parts = {"*": r"[^.]*\.", "#": r"(?:[^.]*\.)*"}
    words = pattern.split(".") if pattern else []
    regex = "".join(parts.get(word, re.escape(word) + r"\.") for word in words)
    return re.fullmatch(regex, key + "." if key else "") is not None


@given(PATTERN, KEY)
@example("#", "")
@example("*", "")
@example("#.#", "a")
@example("a.#.b", "a.b")
@example("a.*.#", "a")
def test_matching_agrees_with_a_regular_expression(pattern: str, key: str) -> None:
    assert matches(pattern, key) is oracle(pattern, key)


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [
        ("core.limeobject.#", "core.limeobject.deal.update.v1", True),
        ("core.limeobject.*.new.v1", "core.limeobject.person.new.v1", True),
        ("core.limeobject.*.new.v1", "core.limeobject.person.update.v1", False),
        ("core.limeobject.person.#", "core.limeobject.person", True),
        ("core.limeobject.person.#", "core.limeobject.personal.new.v1", False),
        ("core.lime.deal.update.v1", "core.limeobject.deal.update.v1", False),
        ("#", "anything.at.all", True),
        ("*", "two.words", False),
    ],
)
def test_the_examples_of_the_documentation_match_as_documented(
    pattern: str, key: str, expected: bool
) -> None:
    assert matches(pattern, key) is expected


def test_matching_a_hostile_pattern_takes_no_exponential_time() -> None:
    assert not matches(".".join(["#", "a"] * 100), ".".join(["a"] * 99 + ["b"]))


@pytest.mark.parametrize(
    "key",
    [
        "core.limeobject.deal.update.v1",
        "core.limeobject.*.new.v1",
        "core.limeobject.#",
        "core.limeobject.deal.*.*",
        "core.limeobject.deal.#",
        "#",
        "solution.deal-totals.updated.v1",
        "hello-world.deal.created",
    ],
)
def test_a_good_key_has_no_warnings(key: str) -> None:
    assert lint(key) == []


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("core.lime.deal.update.v1", "did you mean 'core.limeobject.deal.update.v1'"),
        ("core.limeobject.deal.updated.v1", "'updated' is none of new, update"),
        ("core.limeobject.deal.update", "has no version"),
        ("core.limeobject.deal.update.1", "'1' is no version"),
        ("core.limeobject.deal.update.v1.x", "more than the five words"),
        ("core..deal", "empty word"),
        ("core.deal.", "empty word"),
        ("core.dea*.x", "letter by letter"),
        ("core.de al", "characters other than"),
        ("core.kläder", "characters other than"),
        ("x" * 256, "256 bytes long"),
        ("ä" * 200, "400 bytes long"),
        ("a\r\nb", "control characters"),
        ("", "empty"),
    ],
)
def test_a_doubtful_key_gets_a_warning_that_names_it(key: str, words: str) -> None:
    assert any(words in warning for warning in lint(key)), lint(key)


@given(st.text(max_size=300))
def test_the_lint_of_any_text_is_a_list_of_single_lines(key: str) -> None:
    for warning in lint(key):
        assert warning
        assert "\n" not in warning


def test_a_key_that_is_no_string_is_unusable() -> None:
    assert unusable(None) == "a key is a string, not NoneType"
    assert unusable(3) == "a key is a string, not int"
    assert unusable("fine") is None
