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
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from medsd_ray.data import splits as patient_splits
from medsd_ray.data.bad_samples import BadSampleLog, OddityLog, note
from medsd_ray.data.index_schema import RootIndex
from medsd_ray.data.labels import LabelColumns
from medsd_ray.data.pseudonyms import Pseudonyms, load_key
from medsd_ray.data.shards import FORMAT, INDEX, SPLITS
from medsd_ray.data.sources.frames import Frames
from medsd_ray.data.sources.source import Source, stamp
from medsd_ray.data.split_writer import PseudonymousRecord, write_splits
from medsd_ray.errors import InputError
from medsd_ray.schemas import first_fault
from medsd_ray.storage import Storage, open_storage
from medsd_ray.storage.outputs import Complete, Foreign, claim

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
    source: str,
    dest: str,
    *,
    kind: str,
    size: int,
    shard_size: str = "64MiB",
    split_by: str = "patient_id",
    splits: str = "0.8,0.1,0.1",
    seed: int = 0,
    images: str | None = None,
    label_columns: Sequence[str] = (),
    yes_labels: Sequence[str] = (),
    frames: Frames | None = None,
    skip_bad: str = "0",
) -> None:
    """Writes every usable sample of a source to shards.

    A finished `dest` of the same source and arguments is left as it is, an unfinished one is gone on with.
    Samples that cannot be used are listed on standard error, and the rest is written all the same.

    Args:
        source: A folder, or a number of phantoms.
        dest: The address of the shards.
        kind: What `source` is: `folder`, `dicom`, `openi` or `phantom`.
        size: Height and width of the images in the shards, in pixels.
        shard_size: Of a shard at most, such as `64MiB`.
        split_by: What names the patient: a column of metadata.csv or, for `dicom`, a keyword of a tag.
        splits: The shares of train, validation and test.
        seed: Of the assignment of patients to splits, and of phantoms.
        images: For `openi`, the folder of the images; without one the reports are written as text alone.
        label_columns: Columns of metadata.csv that become labels beside the harmless ones (`data/labels.py`);
            for `openi`, `mesh`.
        yes_labels: The same, whatever their values look like.
        frames: For `folder` and `dicom`, which images to take of a file that holds several; where it is
            None, such a file cannot be used.
        skip_bad: How many samples at most may be left out because they cannot be used: a number, or a share
            such as `1%`.

    Raises:
        InputError: At once for arguments or a source that cannot be used at all, or a `dest` that holds other
            shards; at the end where more samples could not be used than `skip_bad` allows.
    """
    if not 8 <= size <= MAX_SIZE or size % 8:
        raise InputError(f"--size {size}: give a multiple of 8 from 8 to {MAX_SIZE}")
    if images is not None and kind != "openi":
        raise InputError("--images is for --kind openi; other sources name their images themselves")
    labels = LabelColumns(tuple(label_columns), tuple(yes_labels))
    if kind == "phantom" and labels != LabelColumns():
        raise InputError("--label-column and --yes-label name columns, which phantoms do not have")
    if frames is not None and kind not in ("folder", "dicom"):
        raise InputError("--frames is for --kind folder or dicom; other sources have one image a file")
    allowed = parse_skip_bad(skip_bad)
    max_bytes, shares = parse_bytes(shard_size), patient_splits.parse_shares(splits)
    store = open_storage(dest)
    store.exists(INDEX)  # a wrong address is said before the source is read
    records = open_source(source, kind, size, split_by, seed, images, labels, frames)
    pseudonyms = None if records.public else Pseudonyms(load_key())
    plan: dict[str, Any] = {
        "source": kind,
        "size": size if records.kind == "image" else None,
        "shard_size": max_bytes,
        "splits": shares,
        "seed": seed,
        "split_by": split_by if kind in ("folder", "dicom") else None,
        "pseudonym_key": pseudonyms and pseudonyms.key_name,
        "fingerprint": fingerprint(records, pseudonyms),
    }
    # Absent where nothing is asked for, as in plans of before there was anything to ask for.
    plan |= {
        name: sorted(columns)
        for name, columns in (("label_columns", labels.asked), ("yes_labels", labels.insisted))
        if columns
    }
    plan |= {"frames": frames} if frames else {}
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
        raise InputError(f"{source}: no sample that can be used{first}; is --kind {kind} right?")
    by_split = _split(records, pseudonyms, shares, seed)
    store.write_json(PLAN, plan)
    indexes = write_splits(
        store,
        by_split,
        kind=records.kind,
        size=plan["size"],
        max_bytes=max_bytes,
        bad_samples=bad_samples,
        oddities=OddityLog(),
    )
    root = manifest(records, plan, indexes)
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


def open_source(
    source: str,
    kind: str,
    size: int,
    split_by: str,
    seed: int,
    images: str | None,
    labels: LabelColumns,
    frames: Frames | None = None,
) -> Source:
    """The records of a source of this kind; see `medsd_ray.data.sources`."""
    if kind == "folder":
        from medsd_ray.data.sources import folder

        return folder.scan(source, split_by, labels, frames)
    if kind == "dicom":
        from medsd_ray.data.sources import dicom

        return dicom.scan(source, split_by, labels, frames)
    if kind == "openi":
        from medsd_ray.data.sources import openi

        return openi.scan(source, images, labels)
    if kind == "phantom":
        from medsd_ray.data.sources import phantom

        return phantom.scan(source, size, seed)
    raise InputError(f"--kind {kind!r}: choose folder, dicom, openi or phantom")


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
    source: Source, pseudonyms: Pseudonyms | None, shares: dict[str, float], seed: int
) -> dict[str, list[PseudonymousRecord]]:
    """Each split's records, ordered by key: the order of the source's rows might lead back to names, a keyed
    hash does not.
    """

    def pseudonym(purpose: str, value: str) -> str:
        return pseudonyms.of(purpose, value) if pseudonyms else value

    records = [
        PseudonymousRecord(pseudonym("sample", r.name), pseudonym("patient", r.patient), r)
        for r in source.records
    ]
    # By the identifier itself: whoever prepares a data set with the same seed gets the same splits, whatever
    # their key.
    split_of = patient_splits.assign((r.patient for r in source.records), shares, seed)
    by_split: dict[str, list[PseudonymousRecord]] = {split: [] for split in shares}
    for record in sorted(records, key=lambda record: record.key):
        by_split[split_of[record.record.patient]].append(record)
    return by_split


def manifest(source: Source, plan: dict[str, Any], indexes: dict[str, dict]) -> dict[str, Any]:
    """The root index: what the shards are made of, how, and what came of it. No path, since a path may name a
    patient.
    """
    fields = ("samples", "patients", "bytes", "labels")
    splits = {split: {name: index[name] for name in fields} for split, index in indexes.items()}
    warnings: Counter[str] = Counter()
    for index in indexes.values():
        warnings.update({text: value["count"] for text, value in index["warnings"].items()})
    shares = ",".join(f"{plan['splits'].get(split, 0):g}" for split in SPLITS)
    return {
        "format": FORMAT,
        "kind": source.kind,
        "splits": splits,
        "skipped": len(source.problems) + sum(index["skipped"] for index in indexes.values()),
        "warnings": dict(warnings),
        "plan": plan,
        "command": f"medsd prepare SOURCE DEST --kind {plan['source']} --shard-size {plan['shard_size']}"
        + (f" --size {plan['size']}" if plan["size"] else "")
        + (f" --split-by {plan['split_by']}" if plan["split_by"] else "")
        + (f" --frames {plan['frames']}" if plan.get("frames") else "")
        + "".join(f" --label-column {shlex.quote(name)}" for name in plan.get("label_columns", ()))
        + "".join(f" --yes-label {shlex.quote(name)}" for name in plan.get("yes_labels", ()))
        + f" --splits {shares} --seed {plan['seed']}",
        "version": version("medsd"),
    }


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
