"""From a source's records to the shards of each split: reads pixels, resizes, warns, writes and counts."""

from __future__ import annotations

import os
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from medsd_ray.console import ProgressLine
from medsd_ray.data.bad_samples import BadSampleLog, OddityLog
from medsd_ray.data.free_text import signs_of_identity
from medsd_ray.data.shards import INDEX, Sample, ShardWriter
from medsd_ray.data.sources.decoding_room import decoding_room
from medsd_ray.data.sources.pixels import ONE_VALUE, Fit, resize
from medsd_ray.data.sources.source import LONGEST_TEXT, BadSample, Content, Record
from medsd_ray.storage import Storage

READ_AHEAD = 32
"""Samples, at most, that are decoded, or wait for it, while earlier ones are written."""
READ_AHEAD_BYTES = 2**28
"""What their images take at most."""
LOST_CLASS = "a mask of which a class, or all, is lost by --size or --fit"
"""What the user is told of a mask that says less than its file: what is small or at the edge is gone."""
MOST_KEYS = 100
"""Samples of a warning that the index names."""
MOST_VALUES = 30
"""Values of a label that the index counts; a label with more is no class."""


@dataclass(frozen=True, slots=True)
class PseudonymousRecord:
    """A record of a source under the names that shards give it."""

    key: str
    """The sample's pseudonym."""
    patient: str
    """The patient's pseudonym."""
    record: Record


def write_splits(
    store: Storage,
    splits: dict[str, list[PseudonymousRecord]],
    *,
    kind: str,
    size: int | None,
    fit: Fit,
    max_bytes: int,
    bad_samples: BadSampleLog,
    oddities: OddityLog,
) -> dict[str, dict]:
    """Writes every split that has no index yet, and goes on with one that is unfinished.

    Args:
        store: The root above the splits.
        splits: Split -> its records, in the order of the shards.
        kind: `image` or `text`.
        size: The images' height and width in pixels; None for text.
        fit: How those that are not square become so.
        max_bytes: The size of a shard at most.
        bad_samples: Told of each record that cannot be used.
        oddities: Told of each whose file is odd.

    Returns:
        Split -> what its index.json says.
    """
    meta = {"size": size, "fit": fit} if size else {}
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        ProgressLine(sum(map(len, splits.values())), "samples") as progress,
    ):
        for split, records in splits.items():
            split_store = store.child(split)
            if split_store.exists(INDEX):
                progress.skip(len(records))
                continue
            writer = ShardWriter(split_store, max_bytes, kind, split, **meta)
            _write_split(writer, records, size, fit, pool, progress, bad_samples, oddities)
    return {split: store.child(split).read_json(INDEX) for split in splits}


def _write_split(
    writer: ShardWriter,
    records: list[PseudonymousRecord],
    size: int | None,
    fit: Fit,
    pool: ThreadPoolExecutor,
    progress: ProgressLine,
    bad_samples: BadSampleLog,
    oddities: OddityLog,
) -> None:
    counts = SplitCounts()
    for written in writer.notes:
        counts.add(written)
    done = {written["key"] for written in writer.notes}
    progress.skip(len(done))
    left = (record for record in records if record.key not in done)
    for record, outcome in _read_ahead(pool, left, size, fit):
        if isinstance(outcome, BadSample):
            counts.skipped += 1
            bad_samples.add(f"{record.record.where}: {outcome}")
        else:
            sample, warnings, odd = outcome
            for oddity in odd:
                oddities.add(f"{record.record.where}: {oddity}")
            note = {
                "key": sample.key,
                "patient": record.patient,
                "labels": sample.labels,
                "masks": sorted(sample.masks),
                "domain": sample.domain,
                "warnings": [*warnings, *odd],
            }
            writer.write(sample, note)
            counts.add(note)
        progress.add()
    writer.meta |= counts.meta()
    writer.finish()


Outcome = tuple[Sample, list[str], list[str]] | BadSample
"""A sample, what it is to be warned of and what is odd about its file, or why there is none."""


def _read_ahead(
    pool: ThreadPoolExecutor, records: Iterator[PseudonymousRecord], size: int | None, fit: Fit
) -> Iterator[tuple[PseudonymousRecord, Outcome]]:
    """Samples in order, a few read ahead on other threads: decoding leaves Python's lock to others."""
    ahead = READ_AHEAD if not size else max(2, min(READ_AHEAD, READ_AHEAD_BYTES // (3 * size * size)))
    waiting: deque[tuple[PseudonymousRecord, Future[Outcome]]] = deque()
    for record in records:
        waiting.append((record, pool.submit(read_sample, record, size, fit)))
        if len(waiting) >= ahead:
            first, outcome = waiting.popleft()
            yield first, outcome.result()
    for record, outcome in waiting:
        yield record, outcome.result()


def read_sample(record: PseudonymousRecord, size: int | None, fit: Fit = "crop") -> Outcome:
    """The sample without identity, what it is to be warned of and what is odd, or why it cannot be used. Its
    image has `size` x `size` pixels, and its masks as many.
    """
    with decoding_room.visit():  # until the large image has become a small one
        try:
            content = record.record.read()
            image, masks = _fitted(content, size, fit)
        except BadSample as error:
            return error
        if (length := len(content.caption)) > LONGEST_TEXT:
            return BadSample(f"a report of {length:,} characters; shorten it to at most {LONGEST_TEXT:,}")
    text = "\n".join([content.caption, *map(str, content.labels.values())])
    warnings = [*content.warnings, *(f"{sign} in the report or labels" for sign in signs_of_identity(text))]
    odd = [*content.oddities]
    if image is not None and image.min() == image.max():
        odd.append(ONE_VALUE)
    if any(_classes(mask) - _classes(masks[name]) for name, mask in content.masks.items() if name in masks):
        odd.append(LOST_CLASS)
    labels = dict(content.labels)
    sample = Sample(record.key, image, content.caption, record.patient, labels, masks, record.record.domain)
    return sample, warnings, odd


def _classes(mask: np.ndarray) -> set[int]:
    """What is in a mask beside the background."""
    return {*np.flatnonzero(np.bincount(mask.reshape(-1))).tolist()} - {0}


def _fitted(content: Content, size: int | None, fit: Fit) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
    """The image and its masks in `size`. Raises BadSample where a mask has another size than its image."""
    if content.image is None or size is None:
        return None, {}
    height, width = content.image.shape[:2]
    for name, mask in content.masks.items():
        if mask.shape != (height, width):
            raise BadSample(
                f"mask {name}: {mask.shape[1]}x{mask.shape[0]} pixels where its image has {width}x{height}; "
                "give both in one size"
            )
    masks = {name: resize(mask, size, fit, labels=True) for name, mask in content.masks.items()}
    return resize(content.image, size, fit), masks


@dataclass
class SplitCounts:
    """What a split came to hold."""

    patients: set[str] = field(default_factory=set)
    skipped: int = 0
    labels: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    masks: Counter[str] = field(default_factory=Counter)
    domains: Counter[str] = field(default_factory=Counter)
    by_domain: dict[str, SplitCounts] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, note: dict) -> None:
        """Counts a sample by its note: key, patient, labels, masks, domain and warnings. A note of an earlier
        version has no masks and no domain.
        """
        self.patients.add(note["patient"])
        for name, value in note["labels"].items():
            self.labels[name][str(value)] += 1
        self.masks.update(note.get("masks", ()))
        if domain := note.get("domain"):
            self.domains[domain] += 1
            self.by_domain.setdefault(domain, SplitCounts()).add(note | {"domain": None, "warnings": []})
        for warning in note["warnings"]:
            self.warnings[warning].append(note["key"])

    def _of_domains(self) -> dict:
        """Labels and masks of each domain, where there are any: a run may take some domains alone."""
        if not self.by_domain:
            return {}
        metas = {domain: counts.meta() for domain, counts in sorted(self.by_domain.items())}
        own = ("labels", "masks")
        return {"by_domain": {domain: {name: m[name] for name in own} for domain, m in metas.items()}}

    def meta(self) -> dict:
        """For the split's index."""
        counts = {
            name: dict(sorted(values.items()))
            for name, values in self.labels.items()
            if len(values) <= MOST_VALUES
        }
        warnings = {
            text: {"count": len(keys), "keys": keys[:MOST_KEYS]} for text, keys in self.warnings.items()
        }
        return {
            "patients": len(self.patients),
            "labels": counts,
            "masks": dict(sorted(self.masks.items())),
            "domains": dict(sorted(self.domains.items())),
            **self._of_domains(),
            "warnings": warnings,
            "skipped": self.skipped,
        }
