"""How many images, prompts, patients and captions the figures are from."""

from __future__ import annotations

from typing import Any

from medsd_ray.evaluation.estimates import Missing, put
from medsd_ray.evaluation.figures.sets import NO_BASE, NO_TRAIN, Sets


def count_section(sets: Sets) -> dict:
    """Images of each set; patients and captions of the real ones."""
    counts: dict[str, Any] = {
        "generated": len(sets.generated),
        "prompts": len(set(sets.generated.captions) - {""}),
    }
    put(counts, "base", len(sets.base) if sets.base else NO_BASE)
    put(counts, "real_train", len(sets.train) if sets.train else NO_TRAIN)
    put(
        counts,
        "real_validation",
        len(sets.validation) if sets.validation else Missing("there is no validation split"),
    )
    counts["real_held_out"] = len(sets.held_out)
    # Keys tell an image that is in two sets (validation can also be held out) from two images.
    real = {
        key: group
        for s in (sets.train, sets.validation, sets.held_out)
        if s
        for key, group in zip(s.keys, s.groups, strict=True)
    }
    captions = {c for s in (sets.train, sets.validation, sets.held_out) if s for c in s.captions} - {""}
    counts["real"], counts["patients"] = len(real), len(set(real.values()))
    put(counts, "captions", len(captions) or Missing("the real images carry no captions"))
    return counts
