"""YAML and JSON from outside: plain values, or one line; whatever a file holds, it is read soon and once."""

from __future__ import annotations

import math
import time

import pytest

from medsd_ray.documents import (
    DEEPEST,
    MOST_YAML_BYTES,
    DocumentError,
    finite,
    json_object,
    parse_json,
    parse_yaml,
    to_yaml,
)
from medsd_ray.errors import InputError

NUMBERS = {
    **{text: 1e-4 for text in ("1e-4", "0.0001", "1.0e-4", "1E-4", "+1e-4", ".1e-3", "1.e-4", "10.0e-05")},
    **{text: 1e4 for text in ("1e4", "1.0e4", "1e+4", "10000.0", "10_000.0")},
    **{"-2e3": -2000.0, "0x10": 16, "1_000": 1000, "0": 0, "-0": 0},
    ".inf": math.inf,
}
TEXTS = ("1e", "e4", "x1e4", "1e4x", "1.2.3", "'1e4'", '"1"', "--1", "1e-4 m")


def bomb(levels: int) -> str:
    """Each list holds nine of the one before: 9 ** levels values."""
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


def merges(levels: int) -> str:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, levels)]
    return "\n".join(lines)


REFUSED = {
    "lists": ("[" * 50_000, f"line 1: more than {DEEPEST} levels deep"),
    "mappings": ("{a: " * 50_000, "levels deep"),
    "blocks": ("- " * 50_000, "levels deep"),
    "keys": ("? " * 50_000, "levels deep"),
    "bomb": (bomb(9), r"line \d: more than 200,000 values"),
    "merges": (merges(9), r"line \d: more than 200,000 values"),
    "itself": ("a: &a [*a]", "line 1: an alias of what it stands in"),
    "long": ("a: " + "x" * MOST_YAML_BYTES, "bytes that are read"),
    "digits": ("a: " + "9" * 5000, "line 1: a number of more than 64 characters"),
    "hexadecimal": ("b: 1\na: 0x" + "f" * 50_000, "line 2: a number"),
    "base 60": ("a: 1" + ":1" * 5000, "a number"),
    "twice": ("a: 1\nb:\n  c: 1\n  'c': 2", "'c' is there twice, on lines 3 and 4"),
    "root": ("training: 1\nb: 2\ntraining: 3", "'training' is there twice, on lines 1 and 3"),
    "flow": ("{a: 1, a: 2}", "'a' is there twice, on line 1"),
    "equal": ("1: a\ntrue: b", "'true' is there twice, on lines 1 and 2"),
    "date": ("a: 2020-99-99", "not YAML"),
    "tag": ("!!int x", "not YAML"),
    "code": ("!!python/object/apply:os.system [x]", "not YAML"),
    "undefined": ("a: *b", "not YAML: found undefined alias 'b' at line 1"),
    "colons": ("a: b: c", "not YAML: .* line 1"),
    "two": ("a: 1\n---\na: 1", "not YAML"),
    "zero": ("\0", "not YAML"),
    "bytes": (b"\xff\xfe\xfa", "UTF-8"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_soon_in_one_line(name: str):
    data, words = REFUSED[name]
    start = time.monotonic()
    with pytest.raises(DocumentError, match=words) as caught:
        parse_yaml(data)
    assert time.monotonic() - start < 2 and "\n" not in str(caught.value) and len(str(caught.value)) < 300
    assert isinstance(caught.value, InputError) and isinstance(caught.value, ValueError)


def test_numbers_in_any_form_of_yaml_are_numbers():
    for text, value in NUMBERS.items():
        assert parse_yaml(f"a: {text}") == {"a": value}, text
        assert type(parse_yaml(text)) is type(value), text
    for text in TEXTS:
        assert isinstance(parse_yaml(text), str), text


def test_aliases_and_merges_are_read():
    text = "a: &a {x: 1, y: 2}\nb: *a\nc: {<<: *a, x: 3}\nd: {<<: [*a, {z: 4}]}"
    assert parse_yaml(text) == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 2},
        "c": {"x": 3, "y": 2},
        "d": {"x": 1, "y": 2, "z": 4},
    }
    assert parse_yaml("[" * DEEPEST + "]" * DEEPEST) and parse_yaml("") is None
    assert parse_yaml(b"\xef\xbb\xbfa: \xc3\xa4") == {"a": "ä"}


def test_what_is_written_is_read_back():
    value = {"b": ["1e-4", 1e-4, 1e22, "010", "yes", None, True, "0x1", "1.5", "ä", "", math.inf], "a": {}}
    assert parse_yaml(to_yaml(value)) == value and list(parse_yaml(to_yaml(value))) == ["b", "a"]


def test_json():
    assert parse_json(b'\xef\xbb\xbf{"a": [1, 1.5, "x", null, true]}') == {"a": [1, 1.5, "x", None, True]}
    assert parse_json("[1e999, -Infinity]") == [math.inf, -math.inf]
    for text in ("[" * 100_000, '{"a":' * 100_000, "9" * 5000, "", "{", b"\xff", "[1] [2]"):
        with pytest.raises(DocumentError, match="not JSON") as caught:
            parse_json(text)
        assert "\n" not in str(caught.value)
    for text in ("[]", "1", '"x"', "null"):
        with pytest.raises(DocumentError, match="not an object"):
            json_object(text)
    assert finite({"a": [math.nan, math.inf, 1.5, {"b": -math.inf}]}) == {"a": [None, None, 1.5, {"b": None}]}
