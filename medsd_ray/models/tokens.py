"""Captions as the numbers that a text encoder reads."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def token_ids(tokenizer: Any, captions: list[str]) -> Tensor:
    """(B, L) int64: the tokens of B captions, cut and padded to the tokenizer's length L."""
    length = tokenizer.model_max_length
    return tokenizer(
        captions, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    ).input_ids
