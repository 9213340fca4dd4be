"""The sources of a run, as their indexes say what is there: before a worker starts, and without torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from medsd_ray.data.domains import of_domain
from medsd_ray.data.mixture import SourceMix, SourceSplit
from medsd_ray.data.shards import Index, open_split
from medsd_ray.errors import InputError
from medsd_ray.spec.data import Data, DataSource
from medsd_ray.spec.run import RunSpec
from medsd_ray.storage import FolderStorage, Storage
from medsd_ray.training.stages.kinds import Kind


@dataclass(frozen=True)
class FoundSource:
    """A source whose shards are there."""

    where: str
    """Their address, as the user wrote it."""
    source: SourceSplit
    store: Storage
    index: Index
    """Of the samples that are taken."""


def find_sources(run: RunSpec, kind: Kind) -> list[FoundSource]:
    """The training samples of a run, source by source.

    Raises:
        InputError: A source is not of `kind`, is empty or lacks its domain; their images differ in size; or
            the domains do not divide the batch.
    """
    found = [find_split(named, "train", kind) for named in run.data.all_sources.values()]
    for one in found[1:]:
        if one.index.meta.get("size") != (first := found[0]).index.meta.get("size"):
            raise InputError(
                f"{one.where}: images of {one.index.meta.get('size')} px, but those of {first.where} are of "
                f"{first.index.meta.get('size')} px; prepare both with one --size"
            )
    domains, batch = mix_of(run, found).domains, run.training.global_batch_size
    if run.data.balance == "domain" and batch % len(domains):
        raise InputError(
            f"training.global_batch_size ({batch}) is not a multiple of the {len(domains)} domains of "
            "data.sources; data.balance: domain needs as many samples of each in every batch"
        )
    return found


def find_split(named: DataSource, split: str, kind: Kind) -> FoundSource:
    """One source's split. Raises InputError where it is not of `kind`, is empty or lacks its domain."""
    store, index = open_split(named.shards, split)
    if index.kind != kind.shards:
        advice = "encode them first" if kind.shards == "latent" else "name the shards that prepare wrote"
        raise InputError(
            f"{store.url}: {index.kind} shards, but {kind.subject} on {kind.shards} shards; {advice}"
        )
    index = of_domain(index, named.domain, store.url)
    if not index.samples:
        raise InputError(f"{store.url}: no samples in this split; prepare it from more images")
    address = str(store.root.absolute()) if isinstance(store, FolderStorage) else store.url
    source = SourceSplit(address, index.split, index.samples, named.domain, named.kind, named.weight)
    return FoundSource(named.shards, source, store, index)


def mix_of(run: RunSpec, found: list[FoundSource]) -> SourceMix:
    """The training sources as they are mixed."""
    return SourceMix(tuple(one.source for one in found), run.data.balance)


def together(found: list[FoundSource]) -> Index:
    """One index of all sources, with how often each label and mask occurs in them."""
    first = found[0].index
    if len(found) == 1:
        return first
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    masks: Counter[str] = Counter()
    for one in found:
        masks.update(one.index.meta.get("masks", {}))
        for name, counts in one.index.meta.get("labels", {}).items():
            labels[name].update(counts)
    counted = {"labels": {name: dict(counts) for name, counts in labels.items()}, "masks": dict(masks)}
    shards = tuple(shard for one in found for shard in one.index.shards)
    return replace(first, shards=shards, meta=first.meta | counted)


def find_validation(run: RunSpec, kind: Kind) -> SourceMix | None:
    """The named validation split; or `validation` beside the training split, or beside those of the real
    sources, where that is there and not empty. Raises InputError where one is named that cannot be used.
    """
    if run.data.validation:
        named = DataSource(shards=run.data.validation)
        return SourceMix((find_split(named, "validation", kind).source,))
    found = []
    for source in run.data.all_sources.values():
        if source.kind == "real":
            root = source.shards.rstrip("/").removesuffix("/train")
            beside = source.model_copy(update={"shards": root, "weight": None})
            with contextlib.suppress(InputError):
                found.append(find_split(beside, "validation", kind).source)
    held_out = tuple(source for source in found if source.split == "validation")
    return SourceMix(held_out) if held_out else None


def data_fingerprint(run: RunSpec, found: list[FoundSource]) -> str:
    """Tells other samples, or the same in another mixture, from these."""
    return mixture_fingerprint(run.data, [one.index for one in found])


def mixture_fingerprint(data: Data, indexes: Sequence[Index]) -> str:
    """The same of what a run is given as data; `indexes` are of the samples taken from each source."""
    if data.train is not None:
        return shards_fingerprint(indexes[0])
    sources = [
        [source.domain, source.kind, source.weight, shards_fingerprint(index)]
        for source, index in zip(data.sources, indexes, strict=True)
    ]
    return hashlib.sha256(json.dumps([data.balance, sources]).encode()).hexdigest()


def shards_fingerprint(index: Index) -> str:
    """Of the shards' names and checksums."""
    return hashlib.sha256(json.dumps([[s.name, s.sha256] for s in index.shards]).encode()).hexdigest()
