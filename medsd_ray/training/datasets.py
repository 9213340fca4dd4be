"""The samples of a run: a split of shards, and beside it those of the prior."""

from __future__ import annotations

import copy
from functools import partial

from medsd_ray.data.dataset import ShardedDataset, WithPrior
from medsd_ray.models.tokens import token_ids
from medsd_ray.spec.run import RunSpec
from medsd_ray.training.stages.stage import StageModule


def open_dataset(run: RunSpec, where: tuple[str, str], stage: StageModule) -> ShardedDataset:
    """The samples of a split, with what a stage reads of each; `where` is (address, split)."""
    # Of its own: each data set is read by a thread of its own, and tokenizers are not made for several.
    tokenize = partial(token_ids, copy.deepcopy(stage.tokenizer)) if stage.tokenizer is not None else None
    return ShardedDataset(
        *where, seed=run.seed, cache_dir=run.data.cache, tokenize=tokenize, targets=stage.targets
    )


def with_prior(run: RunSpec, dataset: ShardedDataset, stage: StageModule) -> ShardedDataset | WithPrior:
    """The training samples, beside those of the prior where the run has one."""
    return WithPrior(dataset, open_dataset(run, (run.prior.data, "train"), stage)) if run.prior else dataset
