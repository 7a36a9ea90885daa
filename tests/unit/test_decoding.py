"""Which bytes are an event: the strict table, and that nothing else comes out than a refusal."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limehub import decoding
from limehub.decoding import UndecodableBody, decode_body

DEAL = {"id": 7, "limetype": "deal", "values": {"name": "Å € 😀"}}
JSON = json.dumps(DEAL, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "application/json",
        "APPLICATION/JSON",
        " application/json ; charset=utf-8",
        "text/json",
        "application/octet-stream",
        "application/vnd.acme+json",
        "application/cloudevents+json; charset=utf-8",
    ],
)
def test_these_content_types_are_json(content_type: str | None) -> None:
    assert decode_body(JSON, content_type, None) == DEAL


@pytest.mark.parametrize("content_type", ["text/plain", "text/html; charset=utf-8", "text/csv"])
def test_other_text_is_a_string_and_may_be_empty(content_type: str) -> None:
    assert decode_body(JSON, content_type, "utf-8") == JSON.decode()
    assert decode_body(b"", content_type, None) == ""


@pytest.mark.parametrize(
    "content_type",
    ["application/xml", "application/x-python-serialize", "image/png", "json", "+json", "a/b+json"],
)
def test_any_other_content_type_is_refused_by_name(content_type: str) -> None:
    with pytest.raises(UndecodableBody, match="neither JSON nor text"):
        decode_body(JSON, content_type, None)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"null", "null"),
        (b" null ", "null"),
        (b"NaN", "NaN"),
        (b'{"a": NaN}', "NaN"),
        (b"[Infinity]", "Infinity"),
        (b"[-Infinity]", "Infinity"),
        (b'{"a": 1, "a": 1}', "duplicate key 'a'"),
        (b'{"o": {"b": 1, "c": 2, "b": 3}}', "duplicate key 'b'"),
        (b"{'a': 1}", "not JSON"),
        (b'{"a": 1} x', "not JSON"),
        (b'{"a": 1', "not JSON"),
        (b"9" * 5_000, "not JSON"),
        (b"[" * 100_000, "deep"),
        (b'{"a":' * 100_000, "deep"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"\xff\xfe", "not utf-8"),
        (b'"\xed\xa0\x80"', "not utf-8"),
    ],
    ids=range(19),
)
def test_what_is_no_event_is_refused_with_the_reason(body: bytes, reason: str) -> None:
    with pytest.raises(UndecodableBody, match=reason):
        decode_body(body, "application/json", "utf-8")


@pytest.mark.parametrize("body", [b"0", b"false", b'""', b"[]", b"{}", b'{"a": null}'])
def test_an_empty_value_other_than_null_is_an_event(body: bytes) -> None:
    assert decode_body(body, None, None) == json.loads(body)


@pytest.mark.timeout(30)
def test_a_duplicate_among_many_keys_is_found_in_no_time() -> None:
    """Not by comparing each with each: that would be five thousand million times."""
    keys = ",".join(f'"{number}":0' for number in range(100_000))
    with pytest.raises(UndecodableBody, match="duplicate key 'z'"):
        decode_body(f'{{{keys},"z":0,"z":0}}'.encode(), None, None)


@pytest.mark.parametrize("charset", ["utf-8", "UTF8", "utf-16", "latin-1", "cp1252", " UTF-8 "])
def test_a_body_is_read_in_its_charset(charset: str) -> None:
    body = '{"name": "Åsa"}'.encode(charset.strip())
    assert decode_body(body, "application/json", charset) == {"name": "Åsa"}


def test_kombus_binary_encoding_means_utf_8() -> None:
    assert decode_body(JSON, "application/json", "binary") == DEAL


@pytest.mark.parametrize(
    "charset",
    ["utf-99", "rot13", "base64", "hex", "zlib", "bz2", "a\0b", "é", "../x", "x" * 255, "br"],
)
def test_an_unknown_charset_is_refused_by_name(charset: str) -> None:
    with pytest.raises(UndecodableBody):
        decode_body(JSON, "application/json", charset)


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress)],
)
def test_a_compressed_body_is_inflated(encoding: str, pack: Any) -> None:
    assert decode_body(pack(JSON), "application/json", encoding) == DEAL
    assert decode_body(pack(JSON), "application/json", encoding.upper()) == DEAL


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_damaged_or_short_compressed_body_is_refused(encoding: str) -> None:
    packed = gzip.compress(JSON) if encoding == "gzip" else zlib.compress(JSON)
    for body in (b"", packed[:-1], packed[:5], b"x" + packed, JSON):
        with pytest.raises(UndecodableBody, match="compressed body"):
            decode_body(body, None, encoding)


def test_bytes_after_the_end_of_the_compressed_body_are_not_dropped_in_silence() -> None:
    with pytest.raises(UndecodableBody, match="after its end"):
        decode_body(gzip.compress(b"[1]") + gzip.compress(b"[2]"), None, "gzip")


def test_a_gzip_bomb_stops_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_INFLATED_BYTES", 1_000)
    bomb = gzip.compress(b"0" * 1_000_000)
    with pytest.raises(UndecodableBody, match="more than 1000 bytes"):
        decode_body(bomb, None, "gzip")
    assert decode_body(gzip.compress(b"1" + b" " * 900), None, "gzip") == 1


@given(st.binary(max_size=200), st.text(max_size=30), st.text(max_size=30))
def test_any_bytes_give_a_value_or_a_refusal(body: bytes, media: str, encoding: str) -> None:
    try:
        decode_body(body, media, encoding)
    except UndecodableBody as refusal:
        assert str(refusal)


json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(),
    ),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values.filter(lambda value: value is not None))
def test_json_that_python_writes_comes_back_as_it_was(value: Any) -> None:
    assert decode_body(json.dumps(value).encode(), "application/json", "utf-8") == value
