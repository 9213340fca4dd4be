"""`medsd prepare`: a source of images and reports to image shards, split by patient.

Two passes: names, patients and reports first, then the pixels, a shard at a time. DEST/.progress/plan.json
says what an unfinished DEST is being made of, so that it is gone on with only from the same source and
arguments; DEST/index.json, the last file, says what a finished one was made of.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from medsd_ray.data import splits as patient_splits
from medsd_ray.data.bad_samples import BadSampleLog, OddityLog, note
from medsd_ray.data.index_schema import RootIndex
from medsd_ray.data.pseudonyms import Pseudonyms, load_key
from medsd_ray.data.shards import FORMAT, INDEX, SPLITS
from medsd_ray.data.sources.kinds import KINDS, OPTIONS, open_source
from medsd_ray.data.sources.pixels import Fit
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.sources.source import Source, stamp
from medsd_ray.data.split_writer import PseudonymousRecord, write_splits
from medsd_ray.data.splits import PUBLISHED
from medsd_ray.errors import InputError
from medsd_ray.schemas import first_fault
from medsd_ray.storage import Storage, open_storage
from medsd_ray.storage.outputs import Complete, Foreign, claim

PATHS = ("images", "reports", "boxes")
"""Fields of a request that are paths, which may name a patient."""
NOT_IN_PLAN = (*PATHS, "patient_column")
"""Fields that a plan does not hold: paths, and what it says as `split_by`."""
PROGRESS = ".progress"
PLAN = f"{PROGRESS}/plan.json"
MAX_SIZE = 4096
"""Pixels: more than any model here makes."""
MAX_SHARD = 2**34
"""Bytes: a shard is made in memory."""
_UNITS = {"": 1, "b": 1} | {
    f"{prefix}{unit}": base**power
    for power, prefix in enumerate("kmgt", 1)
    for unit, base in (("b", 1000), ("ib", 1024), ("", 1024))
}


def prepare(
    asked: SourceRequest,
    dest: str,
    *,
    fit: Fit = "crop",
    shard_size: str = "64MiB",
    splits: str = "0.8,0.1,0.1",
    skip_bad: str = "0",
) -> None:
    """Writes every usable sample of a source to shards.

    A finished `dest` of the same source and arguments is left as it is, an unfinished one is gone on with.
    Samples that cannot be used are listed on standard error, and the rest is written all the same.

    Args:
        asked: What is read, and how.
        dest: The address of the shards.
        fit: How images that are not square become so (`pixels.resize`).
        shard_size: Of a shard at most, such as `64MiB`.
        splits: The shares of train, validation and test, or `published` for the set's own.
        skip_bad: How many samples at most may be left out because they cannot be used: a number, or a share
            such as `1%`.

    Raises:
        InputError: At once for arguments or a source that cannot be used at all, or a `dest` that holds other
            shards; at the end where more samples could not be used than `skip_bad` allows.
    """
    size = asked.size
    if not 8 <= size <= MAX_SIZE or size % 8:
        raise InputError(f"--size {size}: give a multiple of 8 from 8 to {MAX_SIZE}")
    allowed = parse_skip_bad(skip_bad)
    max_bytes = parse_bytes(shard_size)
    shares = PUBLISHED if splits == PUBLISHED else patient_splits.parse_shares(splits)
    store = open_storage(dest)
    store.exists(INDEX)  # a wrong address is said before the source is read
    records = open_source(asked)
    pseudonyms = None if records.public else Pseudonyms(load_key())
    plan: dict[str, Any] = {
        "source": asked.kind,
        "size": size if records.kind == "image" else None,
        "shard_size": max_bytes,
        "splits": shares,
        "seed": asked.seed,
        "split_by": records.split_by,
        "pseudonym_key": pseudonyms and pseudonyms.key_name,
        "fingerprint": fingerprint(records, pseudonyms),
    }
    plan |= asked_of_source(asked)
    plan |= {"fit": fit} if fit != "crop" else {}
    plan |= {"chosen": records.chosen} if records.chosen else {}
    if finished := _finished(store, plan):
        if fault := first_fault(RootIndex, finished):
            raise InputError(f"{store.url}/{INDEX}: damaged ({fault}); delete {dest} or choose another DEST")
        held = ", ".join(f"{value['samples']} {split}" for split, value in finished["splits"].items())
        print(f"{dest}: complete already ({held}; {finished['skipped']} skipped); nothing to do")
        return
    bad_samples = BadSampleLog()
    for line in records.notes:
        note(line)
    for line in records.problems:
        bad_samples.add(line)
    if not records.records:
        first = f" ({bad_samples.only()})" if bad_samples.count == 1 else bad_samples.where_listed()
        raise InputError(f"{asked.source}: no sample that can be used{first}; is --kind {asked.kind} right?")
    by_split = _split(records, pseudonyms, shares, asked.seed)
    store.write_json(PLAN, plan)
    indexes = write_splits(
        store,
        by_split,
        kind=records.kind,
        size=plan["size"],
        fit=fit,
        max_bytes=max_bytes,
        bad_samples=bad_samples,
        oddities=OddityLog(),
    )
    root = manifest(records, plan, indexes, asked)
    store.write_json(INDEX, root)
    store.delete_tree(PROGRESS)
    _report(dest, root, bad_samples, allowed)


def parse_bytes(text: str) -> int:
    """`64MiB`, `1GB` or a plain number of bytes; `64M` is 64MiB. Raises InputError for anything else."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([a-z]*)", text.strip().lower())
    count = int(float(match[1]) * _UNITS[match[2]]) if match and match[2] in _UNITS else 0
    if not 0 < count <= MAX_SHARD:
        raise InputError(f"--shard-size {text[:40]!r}: give bytes, such as 64MiB, at most 16GiB")
    return count


def parse_skip_bad(text: str) -> Callable[[int, int], bool]:
    """What `--skip-bad` allows: a number, such as `20`, or a share, such as `1%`.

    Returns:
        Whether so many bad samples, the first argument, are allowed of so many in all, the second.

    Raises:
        InputError: It is neither.
    """
    match = re.fullmatch(r"(\d{1,9})|(\d{1,3}(?:\.\d{1,6})?)%", text.strip())
    if not match or (match[2] and float(match[2]) > 100):
        raise InputError(
            f"--skip-bad {text[:40]!r}: give a number of samples, such as 20, or a share, such as 1%"
        )
    if match[1]:
        return lambda bad, _: bad <= int(match[1])
    return lambda bad, samples: bad * 100 <= float(match[2]) * samples


def asked_of_source(asked: SourceRequest) -> dict[str, Any]:
    """What a plan holds of the options that are set: absent where nothing is asked for, as in plans of before
    there was anything to ask for. No path, since a path may name a patient.
    """
    values = {field: getattr(asked, field) for field in OPTIONS if field not in NOT_IN_PLAN}
    lists = {field: sorted(value) if isinstance(value, tuple) else value for field, value in values.items()}
    return {field: value for field, value in lists.items() if value}


def fingerprint(source: Source, pseudonyms: Pseudonyms | None) -> str:
    """Tells one source from another, whatever the order of its samples; keyed, since it is made from
    identities.
    """
    lines = sorted(f"{r.name}\0{r.patient}\0{r.stamp}" for r in source.records) + sorted(source.problems)
    digest = stamp(source.kind, hashlib.sha256("\n".join(lines).encode()).hexdigest())
    return digest if pseudonyms is None else pseudonyms.of("source", digest)


def _finished(store: Storage, plan: dict) -> dict | None:
    """The root index of a finished DEST; None where there is work to do. Raises InputError where DEST is made
    of something else.
    """
    existing = claim(
        store,
        plan,
        INDEX,
        begun=PLAN,
        settings_of=lambda value: value["plan"],
        within=[f"{split}/" for split in SPLITS],
    )
    if isinstance(existing, Complete):
        return existing.record
    if not isinstance(existing, Foreign):
        return None
    if existing.record is None:
        raise InputError(
            f"{store.url} holds files that prepare did not leave there; delete them or choose another DEST"
        )
    if not existing.differing:
        raise InputError(
            f"{store.url}/{existing.record}: not what prepare writes; delete {store.url} or choose another "
            "DEST"
        )
    differing = (
        "the source" if name == "fingerprint" else name.replace("_", " ") for name in existing.differing
    )
    raise InputError(
        f"{store.url} holds shards that differ in {', '.join(differing)}; delete it or choose another DEST"
    )


def _split(
    source: Source, pseudonyms: Pseudonyms | None, shares: dict[str, float] | str, seed: int
) -> dict[str, list[PseudonymousRecord]]:
    """Each split's records, ordered by domain, as a shard holds one alone, and by key: the order of the
    source's rows might lead back to names, a keyed hash does not.
    """

    def pseudonym(purpose: str, value: str) -> str:
        return pseudonyms.of(purpose, value) if pseudonyms else value

    records = [
        PseudonymousRecord(pseudonym("sample", r.name), pseudonym("patient", r.patient), r)
        for r in source.records
    ]
    # By the identifier itself: whoever prepares a data set with the same seed gets the same splits, whatever
    # their key.
    if isinstance(shares, str):
        split_of = patient_splits.published((r.patient, r.split) for r in source.records)
    else:
        split_of = patient_splits.assign((r.patient for r in source.records), shares, seed)
    there = set(split_of.values())
    by_split: dict[str, list[PseudonymousRecord]] = {split: [] for split in SPLITS if split in there}
    for record in sorted(records, key=lambda one: (one.record.domain or "", one.key)):
        by_split[split_of[record.record.patient]].append(record)
    return by_split


def manifest(
    source: Source, plan: dict[str, Any], indexes: dict[str, dict], asked: SourceRequest
) -> dict[str, Any]:
    """The root index: what the shards are made of, how, and what came of it. No path, since a path may name a
    patient.
    """
    fields = ("samples", "patients", "bytes", "labels", "masks", "domains")
    splits = {
        split: {name: index[name] for name in fields if name in index} for split, index in indexes.items()
    }
    warnings: Counter[str] = Counter()
    for index in indexes.values():
        warnings.update({text: value["count"] for text, value in index["warnings"].items()})
    return {
        "format": FORMAT,
        "kind": source.kind,
        "splits": splits,
        "skipped": len(source.problems) + sum(index["skipped"] for index in indexes.values()),
        "warnings": dict(warnings),
        "plan": plan,
        "command": command_of(plan, asked),
        "version": version("medsd"),
    }


def command_of(plan: dict[str, Any], asked: SourceRequest) -> str:
    """The command that makes these shards again of the same source. In the place of a path, which may name a
    patient, stands what it is of, such as SOURCE or BOXES.
    """
    splits, takes = plan["splits"], KINDS[plan["source"]].takes
    if not isinstance(splits, str):
        splits = ",".join(str(splits.get(name, 0)).removesuffix(".0") for name in SPLITS)
    words = [f"medsd prepare SOURCE DEST --kind {plan['source']} --shard-size {plan['shard_size']}"]
    words += [f"--size {plan['size']}"] if plan["size"] else []
    words += [f"--fit {plan['fit']}"] if "fit" in plan else []
    if plan["split_by"] and "patient_column" in takes:
        words.append(f"--patient-column {shlex.quote(plan['split_by'])}")
    for field, option in OPTIONS.items():
        value = field.upper() if field in PATHS and getattr(asked, field) else plan.get(field)
        if value is True:
            words.append(option)
        elif value:
            words += [
                f"{option} {shlex.quote(str(one))}"
                for one in ([value] if isinstance(value, str | int) else value)
            ]
    return " ".join([*words, f"--splits {splits} --seed {plan['seed']}"])


def _report(dest: str, root: dict, bad_samples: BadSampleLog, allowed: Callable[[int, int], bool]) -> None:
    """Says what was written. Raises InputError where more samples could not be used than are allowed."""
    for text, count in root["warnings"].items():
        have = "samples have" if count > 1 else "sample has"
        note(
            f"warning: {count} {have} {text}; look before you share them: each split's index.json has their "
            "keys"
        )
    total = sum(value["samples"] for value in root["splits"].values())
    held = ", ".join(
        f"{value['samples']} {split} ({value['patients']} patients)"
        for split, value in root["splits"].items()
    )
    print(f"{dest}: {held}")
    if skipped := root["skipped"]:
        first = bad_samples.only() if skipped == 1 else None
        said = (
            f"{first or f'{skipped} samples could not be used{bad_samples.where_listed()}'}; "
            f"the other {total} samples are in {dest}, complete"
        )
        if not allowed(skipped, skipped + total):
            raise InputError(said)
        note(f"warning: {said}")
