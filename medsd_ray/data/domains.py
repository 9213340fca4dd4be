"""The shards of one domain alone: the others are never fetched."""

from __future__ import annotations

from dataclasses import replace

from medsd_ray.data.shards import Index
from medsd_ray.errors import InputError


def of_domain(index: Index, domain: str | None, where: str) -> Index:
    """The index without the shards of other domains: it counts the labels and masks of this one. What it says
    of captions, of all, goes.

    Args:
        index: Of a split. Where it knows no domains, all of its samples are of any that is named.
        domain: Which to keep; None: all.
        where: The address of the shards, for messages.

    Raises:
        InputError: There are other domains alone, or an earlier version did not tell them apart by shards.
    """
    counts: dict[str, int] = index.meta.get("domains", {})
    there = sorted(counts.keys() | {shard.domain for shard in index.shards if shard.domain is not None})
    if domain is None or not there or counts.get(domain) == index.samples:
        return index
    if domain not in there:
        raise InputError(
            f"{where}: no samples of the domain {domain!r} here; there are {', '.join(there[:20])}"
        )
    shards = tuple(shard for shard in index.shards if shard.domain == domain)
    kept = sum(shard.samples for shard in shards)
    if kept != counts.get(domain, kept):
        raise InputError(
            f"{where}: these shards mix domains, as an earlier version wrote them; prepare again, and encode "
            f"again, to take {domain!r} alone"
        )
    own: dict[str, dict] = index.meta.get("by_domain", {}).get(domain, {})
    meta = {name: value for name, value in index.meta.items() if name not in ("captions", "by_domain")}
    meta |= {"labels": own.get("labels", {}), "masks": own.get("masks", {}), "domains": {domain: kept}}
    return replace(index, shards=shards, meta=meta)
