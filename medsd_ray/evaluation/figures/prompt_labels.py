"""What a prompt asks for, by the captions of real images. It needs no torch."""

from __future__ import annotations

from collections import Counter, defaultdict


def prompt_labels(captions: list[str], labels: list[str | None], classes: list[str]) -> dict[str, str]:
    """What a prompt asks for: the commonest label among real training images with exactly that caption."""
    votes: dict[str, Counter] = defaultdict(Counter)
    for caption, label in zip(captions, labels, strict=True):
        if caption and label in classes:
            votes[caption][label] += 1
    return {
        caption: min(counts, key=lambda label: (-counts[label], label)) for caption, counts in votes.items()
    }
