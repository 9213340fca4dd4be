"""Captions as the numbers that a text encoder reads."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def token_ids(tokenizer: Any, captions: list[str]) -> Tensor:
    """(B, L) int64: the tokens of B captions, cut and padded to the tokenizer's length L."""
    length = tokenizer.model_max_length
    return tokenizer(
        captions, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    ).input_ids


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """SHA-256 over a tokenizer's words and its length: two that agree in it cut captions at one place."""
    known = [sorted(tokenizer.get_vocab().items()), tokenizer.model_max_length]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


@dataclass(frozen=True)
class LongCaptions:
    """What a text encoder's length leaves of some captions. Those of several shards are put together by
    `merged`.
    """

    tokens: int
    """The text encoder's length."""
    captions: int
    """All of them."""
    cut: int
    """Those with more tokens than that."""
    long: dict[str, tuple[str, bool]]
    """Digest of each different caption that fills the text encoder's length -> the digest of the tokens that
    are left of it, and whether more than those were there.
    """

    @property
    def counts(self) -> dict[str, int]:
        """As the index of latents has them. `different` is how many captions are cut, each counted once;
        `equal` is how many different captions are the same as another one to the text encoder.
        """
        left = Counter(tokens for tokens, _ in self.long.values())
        return {
            "tokens": self.tokens,
            "captions": self.captions,
            "cut": self.cut,
            "different": sum(cut for _, cut in self.long.values()),
            "equal": sum(count for count in left.values() if count > 1),
        }


def long_captions(tokenizer: Any, captions: list[str]) -> LongCaptions:
    """Tokenizes the captions whole, and compares with what `token_ids` leaves of them."""
    length, samples = tokenizer.model_max_length, Counter(captions)
    whole = tokenizer([*samples], truncation=False, verbose=False)["input_ids"] if samples else []
    counts = {caption: len(ids) for caption, ids in zip(samples, whole, strict=True)}
    full = [caption for caption, count in counts.items() if count >= length]
    left = token_ids(tokenizer, full).tolist() if full else []
    long = {
        _digest(caption): (_digest(str(ids)), counts[caption] > length)
        for caption, ids in zip(full, left, strict=True)
    }
    cut = sum(samples[caption] for caption, count in counts.items() if count > length)
    return LongCaptions(length, len(captions), cut, long)


def merged(parts: Iterable[LongCaptions]) -> LongCaptions:
    """Of all parts together."""
    tokens, captions, cut, long = 0, 0, 0, {}
    for part in parts:
        tokens, captions, cut = part.tokens, captions + part.captions, cut + part.cut
        long.update(part.long)
    return LongCaptions(tokens, captions, cut, long)


def cut_in_words(counts: dict[str, int]) -> str:
    """What the user is told of `LongCaptions.counts`; '' where no caption is cut, or it is not known."""
    if not counts.get("cut"):
        return ""
    same = f"; {counts['equal']} different captions are the same without it" if counts["equal"] else ""
    return (
        f"{counts['cut']} of {counts['captions']} captions ({counts['different']} different ones) are longer "
        f"than the text encoder's {counts['tokens']} tokens; what is beyond them is not used{same}"
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
