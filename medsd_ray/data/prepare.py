"""`medsd prepare`: a source of images and reports to image shards, split by patient.

Two passes: names, patients and reports first, then the pixels, a shard at a time. DEST/.progress/plan.json
says what an unfinished DEST is being made of, so that it is gone on with only from the same source and
arguments; DEST/index.json, the last file, says what a finished one was made of.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version

from medsd_ray.data import splits as by_patient
from medsd_ray.data.free_text import signs_of_identity
from medsd_ray.data.pseudonyms import Pseudonyms, load_key
from medsd_ray.data.shards import FORMAT, INDEX, SPLITS, Sample, ShardWriter
from medsd_ray.data.sources.pixels import resize
from medsd_ray.data.sources.source import BadSample, Content, Record, Source, stamp
from medsd_ray.errors import InputError
from medsd_ray.storage import Storage, open_storage
from medsd_ray.storage.outputs import Complete, Foreign, claim

PLAN = ".progress/plan.json"
LINES = 20  # of bad samples that are listed one by one
KEYS = 100  # of a warning that the index names
VALUES = 30  # of a label that are counted; one with more is no class
_UNITS = {"": 1, "b": 1} | {
    f"{p}{u}": b**n for n, p in enumerate("kmgt", 1) for u, b in (("b", 1000), ("ib", 1024), ("", 1024))
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
) -> None:
    """Writes every usable sample of `source` to shards of `size` x `size` pixels in `dest`.

    A finished `dest` of the same source and arguments is left as it is, an unfinished one is gone on with.
    Samples that cannot be used are listed on standard error, and the rest is written all the same; then
    InputError says how many. Raises InputError at once for arguments or a source that cannot be used at all,
    or a `dest` that holds other shards.
    """
    if size < 8 or size % 8:
        raise InputError(f"--size {size}: give a positive multiple of 8")
    if images is not None and kind != "openi":
        raise InputError("--images is for --kind openi; other sources name their images themselves")
    max_bytes, shares = parse_bytes(shard_size), by_patient.parse_shares(splits)
    store = open_storage(dest)
    store.exists(INDEX)  # a wrong address is said before the source is read
    found = open_source(source, kind, size, split_by, seed, images)
    names = None if found.public else Pseudonyms(load_key())
    plan = {
        "source": kind,
        "size": size if found.kind == "image" else None,
        "shard_size": max_bytes,
        "splits": shares,
        "seed": seed,
    } | {
        "split_by": split_by if kind in ("folder", "dicom") else None,
        "pseudonym_key": names and names.key_name,
        "fingerprint": fingerprint(found, names),
    }
    if finished := _finished(store, plan):
        held = ", ".join(f"{value['samples']} {split}" for split, value in finished["splits"].items())
        print(f"{dest}: complete already ({held}; {finished['skipped']} skipped); nothing to do")
        return
    said = Said()
    for note in found.notes:
        said.note(note)
    for problem in found.problems:
        said.problem(problem)
    if not found.records:
        first = f" ({said.only()})" if said.count == 1 else said.more()
        raise InputError(f"{source}: no sample that can be used{first}; is --kind {kind} right?")
    parts = _split(found, names, shares, seed)
    store.write_json(PLAN, plan)
    indexes = _write(store, parts, found.kind, plan, names, said)
    root = manifest(found, plan, indexes)
    store.write_json(INDEX, root)
    store.delete_tree(".progress")
    _report(dest, root, said)


def parse_bytes(text: str) -> int:
    """`64MiB`, `1GB` or a plain number of bytes; `64M` is 64MiB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    count = int(float(match[1]) * _UNITS[match[2]]) if match and match[2] in _UNITS else 0
    if not count:
        raise InputError(f"--shard-size {text!r}: give bytes, such as 64MiB")
    return count


def open_source(source: str, kind: str, size: int, split_by: str, seed: int, images: str | None) -> Source:
    """The records of a source; see folder.py, dicom.py, openi.py and phantom.py."""
    if kind == "folder":
        from medsd_ray.data.sources import folder

        return folder.scan(source, split_by)
    if kind == "dicom":
        from medsd_ray.data.sources import dicom

        return dicom.scan(source, split_by)
    if kind == "openi":
        from medsd_ray.data.sources import openi

        return openi.scan(source, images)
    if kind == "phantom":
        return _phantoms(source, size, seed)
    raise InputError(f"--kind {kind!r}: choose folder, dicom, openi or phantom")


def _phantoms(source: str, size: int, seed: int) -> Source:
    from medsd_ray.data.sources.phantom import phantom_sample

    if not source.isdecimal() or not int(source):
        raise InputError(f"SOURCE {source!r}: for --kind phantom give how many to draw, such as 2000")

    def draw(index: int) -> Content:
        sample = phantom_sample(seed, index, size)
        return Content(sample.image, sample.caption, sample.labels, sample.mask)

    names = ((index, f"phantom-{seed}-{index:07d}") for index in range(int(source)))
    records = [Record(name, name, name, "", lambda index=index: draw(index)) for index, name in names]
    return Source("image", records, public=True)


def fingerprint(found: Source, names: Pseudonyms | None) -> str:
    """Tells one source from another, whatever the order of its samples; keyed, since it is made from
    identities.
    """
    lines = sorted(f"{r.name}\0{r.patient}\0{r.stamp}" for r in found.records) + sorted(found.problems)
    text = stamp(found.kind, hashlib.sha256("\n".join(lines).encode()).hexdigest())
    return text if names is None else names.of("source", text)


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
            f"{store.url}/{existing.record}: not what prepare writes; delete {store.url} or choose another DEST"
        )
    differing = (
        "the source" if name == "fingerprint" else name.replace("_", " ") for name in existing.differing
    )
    raise InputError(
        f"{store.url} holds shards that differ in {', '.join(differing)}; delete it or choose another DEST"
    )


Made = tuple[Sample, list[str]] | BadSample  # a sample and what it is to be warned of, or why there is none
Part = list[tuple[str, str, Record]]  # (key, patient's pseudonym, record), in the order of the shards


def _split(found: Source, names: Pseudonyms | None, shares: dict[str, float], seed: int) -> dict[str, Part]:
    """Each split's records, ordered by key: the order of the source's rows might lead back to names, a keyed
    hash does not.
    """

    def pseudonym(purpose: str, value: str) -> str:
        return names.of(purpose, value) if names else value

    rows = [(pseudonym("sample", r.name), pseudonym("patient", r.patient), r) for r in found.records]
    # By the identifier itself: whoever prepares a data set with the same seed gets the same splits, whatever
    # their key.
    where = by_patient.assign((r.patient for r in found.records), shares, seed)
    parts: dict[str, Part] = {split: [] for split in shares}
    for row in sorted(rows, key=lambda row: row[0]):
        parts[where[row[2].patient]].append(row)
    return parts


@dataclass
class Tally:
    """What a split came to hold."""

    patients: set[str] = field(default_factory=set)
    skipped: int = 0
    labels: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    warnings: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, note: dict) -> None:
        self.patients.add(note["patient"])
        for name, value in note["labels"].items():
            self.labels[name][str(value)] += 1
        for warning in note["warnings"]:
            self.warnings[warning].append(note["key"])

    def meta(self) -> dict:
        """For the split's index."""
        counts = {
            name: dict(sorted(values.items()))
            for name, values in self.labels.items()
            if len(values) <= VALUES
        }
        warnings = {text: {"count": len(keys), "keys": keys[:KEYS]} for text, keys in self.warnings.items()}
        return {
            "patients": len(self.patients),
            "labels": counts,
            "warnings": warnings,
            "skipped": self.skipped,
        }


def _write(
    store: Storage, parts: dict[str, Part], kind: str, plan: dict, names: Pseudonyms | None, said: Said
) -> dict[str, dict]:
    """Writes every split that has no index yet. Returns each split's index."""
    progress = Progress(sum(map(len, parts.values())))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for split, part in parts.items():
            child = store.child(split)
            if child.exists(INDEX):
                progress.pass_over(len(part))
                continue
            writer = ShardWriter(
                child, plan["shard_size"], kind, split, **({"size": plan["size"]} if plan["size"] else {})
            )
            tally = Tally()
            for note in writer.notes:
                tally.add(note)
            done = {note["key"] for note in writer.notes}
            progress.pass_over(len(done))
            left = ((key, patient, record, plan["size"]) for key, patient, record in part if key not in done)
            for patient, record, made in _ahead(pool, left):
                if isinstance(made, BadSample):
                    tally.skipped += 1
                    said.problem(f"{record.where}: {made}")
                else:
                    sample, warnings = made
                    note = {
                        "key": sample.key,
                        "patient": patient,
                        "labels": sample.labels,
                        "warnings": warnings,
                    }
                    writer.write(sample, note)
                    tally.add(note)
                progress.step()
            writer.meta |= tally.meta()
            writer.finish()
    progress.end()
    return {split: store.child(split).read_json(INDEX) for split in parts}


def _ahead(
    pool: ThreadPoolExecutor, rows: Iterator[tuple[str, str, Record, int]]
) -> Iterator[tuple[str, Record, Made]]:
    """Samples in order, a few made ahead on other threads: decoding leaves Python's lock to others."""
    waiting: deque = deque()
    for row in rows:
        waiting.append((row[1], row[2], pool.submit(make_sample, *row)))
        if len(waiting) >= 32:
            patient, record, made = waiting.popleft()
            yield patient, record, made.result()
    for patient, record, made in waiting:
        yield patient, record, made.result()


def make_sample(key: str, patient: str, record: Record, size: int) -> Made:
    """The sample without identity and what it is to be warned of, or why it cannot be used."""
    try:
        content = record.read()
    except BadSample as error:
        return error
    image = None if content.image is None else resize(content.image, size)
    text = "\n".join([content.caption, *map(str, content.labels.values())])
    warnings = [*content.warnings, *(f"{sign} in the report or labels" for sign in signs_of_identity(text))]
    return Sample(key, image, content.caption, patient, dict(content.labels), content.mask), warnings


def manifest(found: Source, plan: dict, indexes: dict[str, dict]) -> dict:
    """The root index: what the shards are made of, how, and what came of it. No path, since a path may name a
    patient.
    """
    told = ("samples", "patients", "bytes", "labels")
    splits = {split: {name: index[name] for name in told} for split, index in indexes.items()}
    warnings: Counter[str] = Counter()
    for index in indexes.values():
        warnings.update({text: value["count"] for text, value in index["warnings"].items()})
    shares = ",".join(f"{plan['splits'].get(split, 0):g}" for split in SPLITS)
    return {
        "format": FORMAT,
        "kind": found.kind,
        "splits": splits,
        "skipped": len(found.problems) + sum(index["skipped"] for index in indexes.values()),
        "warnings": dict(warnings),
        "plan": plan,
        "command": f"medsd prepare SOURCE DEST --kind {plan['source']} --shard-size {plan['shard_size']}"
        + (f" --size {plan['size']}" if plan["size"] else "")
        + (f" --split-by {plan['split_by']}" if plan["split_by"] else "")
        + f" --splits {shares} --seed {plan['seed']}",
        "version": version("medsd"),
    }


def _report(dest: str, root: dict, said: Said) -> None:
    for text, count in root["warnings"].items():
        have = "samples have" if count > 1 else "sample has"
        said.note(
            f"warning: {count} {have} {text}; look before you share them: each split's index.json has their keys"
        )
    total = sum(value["samples"] for value in root["splits"].values())
    held = ", ".join(
        f"{v['samples']} {split} ({v['patients']} patients)" for split, v in root["splits"].items()
    )
    print(f"{dest}: {held}")
    if skipped := root["skipped"]:
        first = said.only() if skipped == 1 else None
        raise InputError(
            f"{first or f'{skipped} samples could not be used{said.more()}'}; the other {total} samples are in {dest}, complete"
        )


class Said:
    """What the user is told on standard error while the work goes on. Bad samples have a line each; a flood
    is cut.

    The first bad sample waits for a second one: where it stays alone, it is the line that the command ends
    with.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []  # at most LINES of them
        self.count = 0

    def note(self, line: str) -> None:
        print(line, file=sys.stderr)

    def problem(self, line: str) -> None:
        self.count += 1
        if self.count <= LINES:
            self.problems.append(line)
            for waiting in self.problems if self.count == 2 else [line] if self.count > 2 else []:
                self.note(waiting)
        elif self.count == LINES + 1:
            self.note(f"… more than {LINES} bad samples; the rest is only counted")

    def only(self) -> str | None:
        return self.problems[0] if self.count == 1 else None

    def more(self) -> str:
        if self.count < 2:
            return ""
        return " (listed above)" if self.count <= LINES else f" ({LINES} of them listed above)"


class Progress:
    """Samples per second and time left on standard error: one line in place on a terminal, else one each half
    minute.
    """

    def __init__(self, total: int):
        self.total, self.done, self.made = total, 0, 0
        self.terminal = sys.stderr.isatty()
        self.started = self.last = time.monotonic()

    def pass_over(self, count: int) -> None:
        """Samples that an interrupted run has left."""
        self.done += count

    def step(self) -> None:
        self.done, self.made = self.done + 1, self.made + 1
        now = time.monotonic()
        if now - self.last >= (0.5 if self.terminal else 30):
            self.last = now
            rate = self.made / (now - self.started)
            left = time.strftime("%H:%M:%S", time.gmtime((self.total - self.done) / rate))
            line = f"{self.done}/{self.total} samples, {rate:.0f}/s, {left} left"
            print(
                f"\r\033[K{line}" if self.terminal else line,
                end="" if self.terminal else "\n",
                file=sys.stderr,
                flush=True,
            )

    def end(self) -> None:
        if self.terminal and self.made:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
