"""Which patient is in which split: all images of a patient are in one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

from medsd_ray.data.shards import SPLITS
from medsd_ray.errors import InputError

PUBLISHED = "published"
"""What `--splits` says for the splits that the data set was published in."""


def parse_shares(text: str) -> dict[str, float]:
    """`0.8,0.1,0.1` as shares of train, validation and test; a split of share 0 is left out. Raises
    InputError where the text is no three shares that add up to 1.
    """
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if (
        len(shares) != len(SPLITS)
        or not all(0 <= s <= 1 for s in shares)
        or abs(sum(shares) - 1) > 1e-6
        or not shares[0]
    ):
        raise InputError(
            f"--splits {text!r}: give the shares of train, validation and test, such as 0.8,0.1,0.1, "
            f"that add up to 1, or {PUBLISHED}"
        )
    return {split: share for split, share in zip(SPLITS, shares, strict=True) if share}


def published(samples: Iterable[tuple[str, str | None]]) -> dict[str, str]:
    """The split of each patient, as the data set was published.

    Args:
        samples: (patient, published split) of each sample.

    Raises:
        InputError: A sample has no published split, or a patient is in several.
    """
    of_patient: dict[str, set[str | None]] = {}
    for patient, split in samples:
        of_patient.setdefault(patient, set()).add(split)
    unknown = sum(None in splits for splits in of_patient.values())
    several = sum(len(splits) > 1 for splits in of_patient.values())
    mend = "give the shares of train, validation and test, such as 0.8,0.1,0.1"
    if unknown == len(of_patient):
        raise InputError(
            f"--splits {PUBLISHED}: this source says nothing of splits, as most published sets and "
            f"folders of --kind hf do; {mend}"
        )
    if unknown:
        raise InputError(
            f"--splits {PUBLISHED}: the set says of {unknown} patients not in which split they are; {mend}"
        )
    if several:
        raise InputError(
            f"--splits {PUBLISHED}: the set has {several} patients in more than one split; {mend}"
        )
    return {patient: split for patient, splits in of_patient.items() for split in splits if split}


def assign(patients: Iterable[str], shares: dict[str, float], seed: int) -> dict[str, str]:
    """The split of each patient, a function of the set of patients, the shares and the seed; not of their
    order.

    Patients are ranked by a hash and cut at the shares, so that the shares are met as closely as whole
    patients allow. Raises InputError where there are fewer patients than splits.
    """
    ranked = sorted(set(patients), key=lambda patient: hashlib.sha256(f"{seed}/{patient}".encode()).digest())
    counts = share_out(len(ranked), shares)
    splits = [split for split, count in counts.items() for _ in range(count)]
    return dict(zip(ranked, splits, strict=True))


def share_out(patients: int, shares: dict[str, float]) -> dict[str, int]:
    """Whole patients for each split, at least one, as near to the shares as that allows. Raises InputError
    where there are fewer patients than splits.
    """
    if patients < len(shares):
        raise InputError(
            f"{patients} patient{'s are' if patients != 1 else ' is'} too few for {len(shares)} splits; "
            "give more patients, or --splits 1,0,0 for training alone"
        )
    counts = {split: max(1, math.floor(patients * share)) for split, share in shares.items()}

    def missing(split: str) -> float:
        return patients * shares[split] - counts[split]

    while sum(counts.values()) < patients:
        counts[max(counts, key=missing)] += 1
    while sum(counts.values()) > patients:
        counts[min((split for split in counts if counts[split] > 1), key=missing)] -= 1
    return counts
