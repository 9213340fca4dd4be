"""The shards that a run learns from: one set, or several sources that are mixed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from medsd_ray.spec.rules import Rule, SpecModel
from medsd_ray.spec.types import Address

MOST_SOURCES = 64

SourceKind = Literal["real", "generated"]
Balance = Literal["natural", "domain"]


class DataSource(SpecModel):
    """One source of training samples among others."""

    shards: Address = Field(
        description="the root that prepare or encode wrote, or one split of it; folder or s3://"
    )
    domain: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        default=None,
        description="the samples of this domain alone; shards that know no domain are all of it; where "
        "absent, all samples",
    )
    kind: SourceKind = Field(
        default="real", description="generated: images that a model made, which are never validated on"
    )
    weight: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        default=None,
        description="samples of it for each one of the real sources without a weight; where absent, each of "
        "its samples once a pass",
    )

    @property
    def is_measure(self) -> bool:
        """Whether the weights of other sources are counted by its samples."""
        return self.kind == "real" and self.weight is None


class Data(SpecModel):
    """The shards that a run learns from: images for the VAE and for tasks, latents for the text encoder and
    the U-Net.
    """

    train: Address | None = Field(
        default=None,
        description="shards: the root that prepare or encode wrote, or one split of it; folder or s3://",
    )
    sources: Annotated[list[DataSource], Field(max_length=MOST_SOURCES)] = Field(
        default=[], description="in the place of train: several sets of shards, or domains of them, mixed"
    )
    balance: Balance = Field(
        default="natural",
        description="natural: by the samples and weights of the sources; domain: every batch has as many "
        "samples of each domain",
    )
    validation: Address | None = Field(
        default=None,
        description="where absent, `validation` beside the training split, or beside those of the real "
        "sources, if there is one",
    )
    cache: Address | None = Field(
        default=None, description="local folder for fetched shards; a temporary one where absent"
    )

    rules = (
        Rule(
            "has(self.train) == (size(self.sources) == 0)",
            "give train or sources, one of the two",
            lambda data: (data.train is not None) == (not data.sources),
        ),
        Rule(
            "!self.sources.exists(one, has(one.weight)) || "
            "self.sources.exists(one, one.kind == 'real' && !has(one.weight))",
            "sources: a weight counts samples for each real one; leave it out of one real source",
            lambda data: (
                all(source.weight is None for source in data.sources)
                or any(source.is_measure for source in data.sources)
            ),
        ),
        Rule(
            "self.balance != 'domain' || (size(self.sources) > 0 && self.sources.all(one, has(one.domain)))",
            "balance: domain needs sources that each name their domain",
            lambda data: (
                data.balance != "domain" or (bool(data.sources) and all(one.domain for one in data.sources))
            ),
        ),
    )

    @model_validator(mode="after")
    def _sources_fit_each_other(self):
        """The API server has no rules for this: to compare each source with each is more than it allows."""
        named = {(source.shards, source.domain) for source in self.sources}
        if len(named) < len(self.sources):
            raise ValueError("sources name the same shards and domain twice; name them once")
        measures = {source.domain for source in self.sources if source.is_measure}
        if self.balance == "domain" and any(
            source.weight is not None and source.domain not in measures for source in self.sources
        ):
            raise ValueError(
                "sources: with balance: domain a weight counts samples for each real one of its domain; "
                "leave it out of one real source there"
            )
        return self

    @property
    def all_sources(self) -> dict[str, DataSource]:
        """The field that names each source's shards -> the source; `train` is one without domain or
        weight.
        """
        if self.train is not None:
            return {"data.train": DataSource(shards=self.train)}
        return {f"data.sources.{number}.shards": source for number, source in enumerate(self.sources)}
