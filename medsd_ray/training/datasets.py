"""The samples of a run: splits of shards, mixed, and beside them those of the prior."""

from __future__ import annotations

import copy
from functools import partial

from medsd_ray.data.dataset import Dataset, MixedDataset, ShardedDataset, WithPrior
from medsd_ray.data.mixture import SourceMix, SourceSplit
from medsd_ray.data.randomness import keyed_generator
from medsd_ray.models.tokens import token_ids
from medsd_ray.spec.run import RunSpec
from medsd_ray.training.stages.stage import StageModule, seed_of


def open_dataset(run: RunSpec, mix: SourceMix, stage: StageModule, purpose: str = "train") -> Dataset:
    """The samples of these sources, with what a stage reads of each, in the order of a purpose's seed."""
    seed = seed_of(run, purpose)
    # Of its own: each data set is read by a thread of its own, and tokenizers are not made for several.
    tokenize = partial(token_ids, copy.deepcopy(stage.tokenizer)) if stage.tokenizer is not None else None
    datasets = [
        ShardedDataset(
            source.address,
            source.split,
            seed=_seed(seed, number),
            cache_dir=run.data.cache,
            tokenize=tokenize,
            targets=stage.targets,
            conditions=stage.condition_targets,
            domain=source.domain,
        )
        for number, source in enumerate(mix.sources)
    ]
    return datasets[0] if len(datasets) == 1 and not mix.domains else MixedDataset(datasets, mix, seed)


def _seed(seed: int, number: int) -> int:
    """The first source's is the run's own. Others differ, or sources of as many samples would be in step."""
    return int(keyed_generator(seed, number, "source").integers(2**63)) if number else seed


def with_prior(run: RunSpec, dataset: Dataset, stage: StageModule) -> Dataset:
    """The training samples, beside those of the prior where the run has one."""
    if not run.prior:
        return dataset
    prior = SourceMix((SourceSplit(run.prior.data, "train", 0),))
    return WithPrior(dataset, open_dataset(run, prior, stage))
