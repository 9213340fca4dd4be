"""From a source's records to the shards of each split: reads pixels, resizes, warns, writes and counts."""

from __future__ import annotations

import os
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from medsd_ray.console import ProgressLine
from medsd_ray.data.bad_samples import BadSampleLog, OddityLog
from medsd_ray.data.free_text import signs_of_identity
from medsd_ray.data.shards import INDEX, Sample, ShardWriter
from medsd_ray.data.sources.decoding_room import decoding_room
from medsd_ray.data.sources.pixels import ONE_VALUE, resize
from medsd_ray.data.sources.source import LONGEST_TEXT, BadSample, Record
from medsd_ray.storage import Storage

READ_AHEAD = 32
"""Samples, at most, that are decoded, or wait for it, while earlier ones are written."""
READ_AHEAD_BYTES = 2**28
"""What their images take at most."""
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
        max_bytes: The size of a shard at most.
        bad_samples: Told of each record that cannot be used.
        oddities: Told of each whose file is odd.

    Returns:
        Split -> what its index.json says.
    """
    meta = {"size": size} if size else {}
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
            _write_split(writer, records, size, pool, progress, bad_samples, oddities)
    return {split: store.child(split).read_json(INDEX) for split in splits}


def _write_split(
    writer: ShardWriter,
    records: list[PseudonymousRecord],
    size: int | None,
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
    for record, outcome in _read_ahead(pool, left, size):
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
    pool: ThreadPoolExecutor, records: Iterator[PseudonymousRecord], size: int | None
) -> Iterator[tuple[PseudonymousRecord, Outcome]]:
    """Samples in order, a few read ahead on other threads: decoding leaves Python's lock to others."""
    ahead = READ_AHEAD if not size else max(2, min(READ_AHEAD, READ_AHEAD_BYTES // (3 * size * size)))
    waiting: deque[tuple[PseudonymousRecord, Future[Outcome]]] = deque()
    for record in records:
        waiting.append((record, pool.submit(read_sample, record, size)))
        if len(waiting) >= ahead:
            first, outcome = waiting.popleft()
            yield first, outcome.result()
    for record, outcome in waiting:
        yield record, outcome.result()


def read_sample(record: PseudonymousRecord, size: int | None) -> Outcome:
    """The sample without identity, what it is to be warned of and what is odd, or why it cannot be used. Its
    image has `size` x `size` pixels.
    """
    with decoding_room.visit():  # until the large image has become a small one
        try:
            content = record.record.read()
        except BadSample as error:
            return error
        if (length := len(content.caption)) > LONGEST_TEXT:
            return BadSample(f"a report of {length:,} characters; shorten it to at most {LONGEST_TEXT:,}")
        image = None if content.image is None or size is None else resize(content.image, size)
    text = "\n".join([content.caption, *map(str, content.labels.values())])
    warnings = [*content.warnings, *(f"{sign} in the report or labels" for sign in signs_of_identity(text))]
    odd = [*content.oddities]
    if image is not None and image.min() == image.max():
        odd.append(ONE_VALUE)
    sample = Sample(record.key, image, content.caption, record.patient, dict(content.labels), content.mask)
    return sample, warnings, odd


@dataclass
class SplitCounts:
    """What a split came to hold."""

    patients: set[str] = field(default_factory=set)
    skipped: int = 0
    labels: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    warnings: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, note: dict) -> None:
        """Counts a sample by its note: key, patient, labels and warnings."""
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
            if len(values) <= MOST_VALUES
        }
        warnings = {
            text: {"count": len(keys), "keys": keys[:MOST_KEYS]} for text, keys in self.warnings.items()
        }
        return {
            "patients": len(self.patients),
            "labels": counts,
            "warnings": warnings,
            "skipped": self.skipped,
        }
