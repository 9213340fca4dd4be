"""The samples of a run: a split of shards, and beside it those of the prior."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

from medsd_ray.data.dataset import ShardedDataset, WithPrior
from medsd_ray.models.tokens import token_ids
from medsd_ray.spec.run import RunSpec


def open_dataset(run: RunSpec, where: tuple[str, str], tokenizer: Any) -> ShardedDataset:
    """The samples of a split; `where` is (address, split). Captions become tokens where there is a
    tokenizer.
    """
    # Of its own: each data set is read by a thread of its own, and tokenizers are not made for several.
    tokenize = partial(token_ids, copy.deepcopy(tokenizer)) if tokenizer is not None else None
    return ShardedDataset(where[0], where[1], seed=run.seed, cache_dir=run.data.cache, tokenize=tokenize)


def with_prior(run: RunSpec, dataset: ShardedDataset, tokenizer: Any) -> ShardedDataset | WithPrior:
    """The training samples, beside those of the prior where the run has one."""
    return (
        WithPrior(dataset, open_dataset(run, (run.prior.data, "train"), tokenizer)) if run.prior else dataset
    )
