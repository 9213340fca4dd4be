"""Splits: no patient in two, the shares met, the same for the same patients in any order."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from medsd_ray.data.splits import assign, parse_shares, published, share_out
from medsd_ray.errors import InputError

SHARES = parse_shares("0.8,0.1,0.1")
PATIENTS = [f"patient{number}" for number in range(559)]


def test_shares_are_met_to_a_patient():
    counts = Counter(assign(PATIENTS, SHARES, seed=0).values())
    assert counts == {"train": 447, "validation": 56, "test": 56}


def test_order_and_repeats_do_not_matter():
    shuffled = PATIENTS + PATIENTS[:100]
    random.Random(1).shuffle(shuffled)
    assert assign(shuffled, SHARES, seed=3) == assign(PATIENTS, SHARES, seed=3)


def test_the_seed_matters():
    one, other = assign(PATIENTS, SHARES, seed=0), assign(PATIENTS, SHARES, seed=1)
    assert sum(one[patient] != other[patient] for patient in PATIENTS) > 50


@pytest.mark.parametrize("patients", [3, 4, 5, 9, 10, 11, 101])
def test_every_split_has_a_patient_and_none_is_left_over(patients: int):
    counts = share_out(patients, SHARES)
    assert sum(counts.values()) == patients and min(counts.values()) >= 1
    assert all(abs(counts[split] - patients * share) < 2 for split, share in SHARES.items())


def test_too_few_patients_are_said():
    with pytest.raises(InputError, match="2 patients are too few for 3 splits"):
        assign(["a", "b"], SHARES, seed=0)
    assert assign(["a"], parse_shares("1,0,0"), seed=0) == {"a": "train"}


@pytest.mark.parametrize(
    "text", ["0.8,0.1", "0.8,0.1,0.2", "a,b,c", "1.2,-0.1,-0.1", "0,0.5,0.5", "nan,0.5,0.5", ""]
)
def test_wrong_shares_are_refused(text: str):
    with pytest.raises(InputError, match="--splits"):
        parse_shares(text)


def test_published_splits_are_of_patients():
    samples = [("a", "train"), ("a", "train"), ("b", "test"), ("c", "validation")]
    assert published(samples) == {"a": "train", "b": "test", "c": "validation"}
    with pytest.raises(InputError, match="1 patients in more than one split; give the shares"):
        published([*samples, ("a", "test")])
    with pytest.raises(InputError, match="this source says nothing of splits"):
        published([("a", None), ("b", None)])
    with pytest.raises(InputError, match="says of 2 patients not in which split"):
        published([*samples, ("b", None), ("d", None)])
