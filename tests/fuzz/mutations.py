"""Strategies that damage what is valid: bytes, and the values of a document."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

NUMBERS = (0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
WORDS = (
    b"", b"\0", b"\n", b"\r\n", b'"', b",", b"'", b";", b"\t", b"\xff", b"\xff\xd8", b"\xef\xbb\xbf",
    b"\xed\xa0\x80", b"-1", b"0", b"1e999", b"nan", b"99999999999999999999", b"-", b"../../etc/passwd", b"<",
    b">", b"&x;", b"{", b"[", b"]", b"}", b"*a", b"&a ", b"!!python/object:os.system", b"%s", b"\\", b"null",
    b"true", "\u202e\u0301é".encode(),
)  # fmt: skip
LONGEST = 2**21
"""Bytes that damage makes of an input, at most."""
ODD_VALUES: SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        [
            None,
            True,
            False,
            0,
            -1,
            1.5,
            10**30,
            1e308,
            float("nan"),
            float("inf"),
            "",
            "x",
            "../x",
            "/etc/passwd",
        ]
    ),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["\0", "a\nb", "\u2028", "1e-4", "=1+1", "s3://b//x", "~", "x" * 5000]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    ),
)


@st.composite
def damaged(draw: DrawFn, seeds: Sequence[bytes], most: int = 5) -> bytes:
    """One of the seeds after 0 to `most` mutations of its bytes."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, most))):
        draw(st.sampled_from(_MUTATIONS))(draw, data, seeds)
        del data[LONGEST:]
    return bytes(data)


def _place(draw: DrawFn, data: bytearray) -> int:
    """A position; half of them among the first bytes, where headers are."""
    last = max(0, len(data) - 1)
    return draw(st.integers(0, min(last, 400)) | st.integers(0, last))


def _span(draw: DrawFn, data: bytearray) -> slice:
    at = _place(draw, data)
    return slice(at, at + draw(st.sampled_from([1, 2, 4, 8, 16, 64, 512, 4096])))


def _set_byte(draw: DrawFn, data: bytearray, _: Sequence[bytes]) -> None:
    if data:
        data[_place(draw, data)] = draw(st.integers(0, 255))


def _flip_bit(draw: DrawFn, data: bytearray, _: Sequence[bytes]) -> None:
    if data:
        data[_place(draw, data)] ^= 1 << draw(st.integers(0, 7))


def _set_number(draw: DrawFn, data: bytearray, _: Sequence[bytes]) -> None:
    at, size = _place(draw, data), draw(st.sampled_from([1, 2, 4, 8]))
    number = draw(st.sampled_from(NUMBERS)) % 256**size
    data[at : at + size] = number.to_bytes(size, draw(st.sampled_from(["little", "big"])))


def _set_digits(draw: DrawFn, data: bytearray, _: Sequence[bytes]) -> None:
    if digits := list(re.finditer(rb"[-+]?\d+", bytes(data[:100_000]))):
        found = draw(st.sampled_from(digits))
        data[found.start() : found.end()] = str(draw(st.sampled_from([*NUMBERS, -1, 10**400]))).encode()


def _insert_word(draw: DrawFn, data: bytearray, _: Sequence[bytes]) -> None:
    at = _place(draw, data)
    data[at:at] = draw(st.sampled_from(WORDS) | st.binary(max_size=8))


def _replace(draw: DrawFn, data: bytearray, _: Sequence[bytes]) -> None:
    data[_span(draw, data)] = draw(st.sampled_from(WORDS) | st.binary(max_size=8))


def _delete(draw: DrawFn, data: bytearray, _: Sequence[bytes]) -> None:
    del data[_span(draw, data)]


def _cut(draw: DrawFn, data: bytearray, _: Sequence[bytes]) -> None:
    del data[draw(st.integers(0, len(data))) :]


def _repeat(draw: DrawFn, data: bytearray, _: Sequence[bytes]) -> None:
    span = _span(draw, data)
    times = draw(st.sampled_from([1, 2, 3, 100, 10_000, 200_000]))
    data[span.start : span.start] = (data[span] * times)[: LONGEST // 2]


def _splice(draw: DrawFn, data: bytearray, seeds: Sequence[bytes]) -> None:
    other = draw(st.sampled_from(seeds))
    data[_place(draw, data) :] = other[draw(st.integers(0, len(other))) :]


_MUTATIONS: list[Callable[[DrawFn, bytearray, Sequence[bytes]], None]] = [
    _set_byte, _set_byte, _flip_bit, _set_number, _set_number, _set_digits, _insert_word, _replace, _delete,
    _cut, _repeat, _splice,
]  # fmt: skip


@st.composite
def cut_short(draw: DrawFn, seed: bytes) -> bytes:
    """A seed without at least its last byte."""
    return seed[: draw(st.integers(0, len(seed) - 1) | st.integers(max(0, len(seed) - 64), len(seed) - 1))]


@st.composite
def odd_document(draw: DrawFn, value: Any, most: int = 2) -> Any:
    """A document's plain values, with 0 to `most` of them replaced, removed, renamed or repeated."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(0, most))):
        value = _odd(draw, value)
    return value


def _odd(draw: DrawFn, value: Any) -> Any:
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 5)) == 0:
        return draw(ODD_VALUES)
    at = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
    change = draw(st.sampled_from(["inside"] * 6 + ["remove", "rename", "repeat"]))
    if change == "inside":
        value[at] = _odd(draw, value[at])
    elif change == "remove":
        del value[at]
    elif isinstance(value, list):
        value += [value[at]] * draw(st.sampled_from([1, 2, 1000]))
    else:
        value[draw(st.text(max_size=8))] = value.pop(at)
    return value


def odd_json(value: Any) -> SearchStrategy[bytes]:
    """A JSON file of odd values, or of damaged bytes."""
    valid = json.dumps(value).encode()
    dumped = odd_document(value).map(lambda one: json.dumps(one).encode())
    return st.one_of(dumped, dumped, damaged([valid]))
