"""What the JSON files beside and inside of shards may say, whoever wrote them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from medsd_ray.schemas import Count, Schema

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Pixels = Annotated[int, Field(ge=1, le=2**16)]


class ShardEntry(Schema):
    """See `shards.Shard`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$", max_length=255)]
    samples: Count
    bytes: Count
    sha256: Sha256
    domain: str | None = None


class DomainCounts(Schema):
    """Of one domain of a split."""

    labels: dict[str, dict[str, Count]]
    masks: dict[str, Count]


class SplitIndex(Schema):
    """A split's index.json: the fields that some reader believes; what one kind of shards lacks is absent."""

    format: str
    kind: Literal["image", "text", "latent"]
    split: Annotated[str, Field(pattern=r"^[a-z]+$", max_length=32)]
    shards: list[ShardEntry]
    size: Pixels | None = None
    fit: Literal["crop", "pad"] = "crop"
    labels: dict[str, dict[str, Count]] = Field(default_factory=dict)
    masks: dict[str, Count] = Field(default_factory=dict)
    domains: dict[str, Count] = Field(default_factory=dict)
    by_domain: dict[str, DomainCounts] = Field(default_factory=dict)
    model: str = ""
    fingerprint: str = ""
    vae_fingerprint: str = ""
    text_encoder_fingerprint: str | None = None
    tokenizer_fingerprint: str = ""
    scaling_factor: Annotated[float, Field(gt=0)] = 1.0
    sample_size: Annotated[list[Pixels], Field(min_length=2, max_length=2)] = Field(default_factory=list)
    text_embeddings: bool = False
    empty_embedding: list[list[float]] | None = None
    sources: list[str] = Field(default_factory=list)
    captions: dict[Literal["tokens", "captions", "cut", "different", "equal"], Count] = Field(
        default_factory=dict
    )


class SplitTotals(Schema):
    """Of one split, in the root's index."""

    samples: Count


class RootIndex(Schema):
    """The index.json above the splits that `prepare` wrote."""

    splits: dict[str, SplitTotals]
    skipped: Count
    plan: dict


class EncodedShard(Schema):
    """The note of `encode` on a shard that it has written."""

    shard: ShardEntry


class WrittenShard(Schema):
    """The sidecar of `ShardWriter` beside a shard that it has written."""

    shard: ShardEntry
    notes: list[dict]


class LatentSampleNote(Schema):
    """Of a sample, in the header of a latent shard."""

    labels: dict[str, str | int | float | bool]
    domain: str | None


class SampleNote(Schema):
    """KEY.json of a sample."""

    patient: str
    labels: dict[str, str | int | float | bool]
    domain: str | None = None
