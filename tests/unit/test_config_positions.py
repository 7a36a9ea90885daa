from __future__ import annotations

import pytest
import tomli
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from limehub.config.paths import dotted, split
from limehub.config.positions import positions


def all_paths(value, path=()):
    """Every path in a parsed document, tables and elements included."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return
    for key, inner in items:
        yield (*path, key)
        yield from all_paths(inner, (*path, key))


HARD = '''
top = 1 # a comment = 2
"quoted key" = 'x = 1'
'literal.key' = """
fake = 1
[fake]
"""
dotted . "in side" .x = 2
escapes = "a \\" b = # ["
multi = """\\""" still \\\\"""
five_quotes = """a"""""
lit = \'\'\'
[no]
\'\'\'\'\'
date = 1979-05-27 07:32:00 # with a space
nested = [ # comment ]
  [1, 2], { deep = [ { er = "}" } ], b.c = 1 },
  "]", # last
]

[a.b]
x = 1
  [ a . "c.d" ]
  y = 2
[[list]]
n = 1
[list.sub]
m = 1
[[list]]
n = 2
[[list.sub2]]
k = 1
[[list.sub2]]
k = {}
"unicode \\u00e9" = []
'''


@pytest.mark.parametrize("text", [HARD, HARD.replace("\n", "\r\n"), "", "a = 1", "[a]", "#"])
def test_every_key_table_and_element_has_a_position(text):
    assert set(positions(text)) == set(all_paths(tomli.loads(text)))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("top",), "top = 1"),
        (("literal.key",), "'literal.key' = "),
        (("dotted", "in side"), '"in side" .x = 2'),
        (("dotted", "in side", "x"), "x = 2"),
        (("nested", 0, 1), "2], { deep"),
        (("nested", 1, "deep", 0, "er"), 'er = "}"'),
        (("nested", 1, "b", "c"), "c = 1 }"),
        (("nested", 2), '"]", # last'),
        (("a", "b"), "b]"),
        (("a", "c.d"), '"c.d" ]'),
        (("a", "c.d", "y"), "y = 2"),
        (("list", 0, "sub", "m"), "m = 1"),
        (("list", 1), "list]]"),
        (("list", 1, "n"), "n = 2"),
        (("list", 1, "sub2", 1, "k"), "k = {}"),
    ],
)
def test_positions_point_at_the_key_itself(path, text):
    line, column = positions(HARD)[path]
    assert HARD.splitlines()[line - 1][column - 1 :].startswith(text)


def test_lines_and_columns_begin_with_one():
    assert positions("a = 1\n\n[b]\n  c = 2") == {
        ("a",): (1, 1),
        ("b",): (3, 2),
        ("b", "c"): (4, 3),
    }


def test_columns_count_characters_and_not_bytes():
    assert positions("a = {'é' = 1, b = 2}")[("a", "b")] == (1, 15)


_keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
_values = st.recursive(
    st.one_of(
        st.integers(-(2**60), 2**60),
        st.floats(),
        st.booleans(),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        st.datetimes(),
        st.times(),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_keys, inner, max_size=4)),
    max_leaves=20,
)


@settings(max_examples=300)
@given(tree=st.dictionaries(_keys, _values, max_size=6))
def test_whatever_a_toml_writer_writes_has_positions(tree):
    text = tomlkit.dumps(tree)
    try:
        document = tomli.loads(text)
    except tomli.TOMLDecodeError:
        return  # the writer's own bug, such as a raw DEL
    assert set(positions(text)) == set(all_paths(document))


_pieces = st.sampled_from(
    [
        *("a", "b.c", '"d"', "'e'", "=", " = ", "\n", "\r\n", ".", ",", "[", "]", "[[", "]]"),
        *("{", "}", '"', "'", '"""', "'''", "#", "\\", "1", "true", "07:32:00", " ", "\t", "é"),
        *("x = 1\n", "[t]\n", "[[u]]\n", "y = [1, 2]\n", "z = {a = 1}\n", '"\\u00e9" = ""\n'),
    ]
)


@settings(max_examples=500)
@given(text=st.one_of(st.text(max_size=80), st.lists(_pieces, max_size=20).map("".join)))
def test_no_text_breaks_the_scanner_and_every_valid_one_is_understood(text):
    found = positions(text)
    try:
        document = tomli.loads(text)
    except tomli.TOMLDecodeError:
        return
    assert set(found) == set(all_paths(document))


@given(path=st.lists(_keys, min_size=1, max_size=4).map(tuple))
def test_a_dotted_path_reads_back_and_is_a_toml_key(path):
    assert split(dotted(path)) == path
    table = tomli.loads(f"{dotted(path)} = 1")
    assert list(all_paths(table))[-1] == path


def test_an_index_in_a_path_is_written_in_brackets():
    assert dotted(("plugins", "a.b", "list", 2, "x")) == 'plugins."a.b".list[2].x'
