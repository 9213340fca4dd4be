"""Prompts: those that a command line names, and those that real captions give."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from medsd_ray.errors import InputError

MOST_BYTES = 2**26
"""Of a file of prompts: a million of them."""


def read_prompts(prompt: str | None, path: Path | None) -> list[str]:
    """One prompt, or the lines of a UTF-8 text file without the blank ones.

    Raises InputError for neither, both, an unreadable file or one without a line.
    """
    if (prompt is None) == (path is None):
        raise InputError("give either --prompt TEXT or --prompts FILE")
    if prompt is not None:
        return [prompt]
    assert path is not None
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise InputError(
                f"{path}: more than {MOST_BYTES:,} bytes; give a text file with one prompt a line"
            )
        lines = data.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a text file with one prompt a line") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; give a text file with one prompt a line") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise InputError(f"{path}: no prompt in this file; write one a line")
    return prompts


def choose_prompts(captions: list[str], labels: list[str]) -> list[str]:
    """The captions to generate from, so that each label gets an equal share: labels take turns, their
    captions too.
    """
    by_label: dict[str, Counter[str]] = {}
    for caption, label in zip(captions, labels, strict=True):
        by_label.setdefault(label, Counter())[caption] += 1
    # The commonest captions of each label; 16 are enough to show, and a label with fewer repeats its own.
    lists = [[caption for caption, _ in counts.most_common(16)] for _, counts in sorted(by_label.items())]
    turns = max(map(len, lists))
    return [captions[turn % len(captions)] for turn in range(turns) for captions in lists]


def prompts_of_shards(shards: str, label: str) -> list[str]:
    """`choose_prompts` of the training images; where one has no such label, its caption stands for it."""
    from medsd_ray.data.shards import iter_samples

    known = [
        (sample.caption, str(sample.labels.get(label, sample.caption)))
        for sample in iter_samples(shards, "train")
    ]
    return choose_prompts(*map(list, zip(*known, strict=True)))
