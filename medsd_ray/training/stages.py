"""The two kinds of run, and their modules made ready to train: components loaded, methods applied."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import nn

from medsd_ray.data.loader import ShardedDataset, WithPrior, batches
from medsd_ray.errors import InputError
from medsd_ray.models.load import Components, load_components, token_ids
from medsd_ray.models.methods import adapt
from medsd_ray.spec import RunSpec
from medsd_ray.training.engine import autocast
from medsd_ray.training.job import LatentMeta
from medsd_ray.training.team import Team
from medsd_ray.training.unet_stage import UnetStage
from medsd_ray.training.vae_stage import VaeStage

Stage = UnetStage | VaeStage


def needed_components(run: RunSpec) -> tuple[str, ...]:
    """The parts of the model that a worker of this run loads."""
    if run.components.vae.trained:
        return ("vae", "scheduler")
    return ("unet", "scheduler", *(["text_encoder", "tokenizer"] if run.components.text_encoder.trained else []))


def load_adapted(run: RunSpec) -> Components:
    """The run's model with its methods applied: the parameters to train are those with `requires_grad`.

    Raises InputError where the model cannot be loaded or does not fit the methods.
    """
    components = load_components(run.model, only=needed_components(run))
    for name in components.modules():
        adapt(components, name, getattr(run.components, name), run.seed)
    return components


def build_stage(run: RunSpec, latents: LatentMeta | None) -> Stage:
    """The run's module on the CPU, float32; its trained parameters are those with `requires_grad`."""
    components = load_adapted(run)
    _options(components, run)
    if run.components.vae.trained:
        return VaeStage(components, run)
    assert latents is not None
    embedding = None if latents.empty_embedding is None else torch.tensor(latents.empty_embedding)
    return UnetStage(components, run, embedding, latents.scaling_factor)


def peak_rates(run: RunSpec) -> dict[str, float]:
    """Trained component -> its peak learning rate, in the order of the optimizer's groups."""
    return {name: getattr(run.components, name).learning_rate or run.training.learning_rate for name in run.components.trained}


def _options(components: Components, run: RunSpec) -> None:
    for name in run.components.trained:
        module = getattr(components, name)
        if run.training.gradient_checkpointing:
            # diffusers and transformers name the same thing differently
            if hasattr(module, "enable_gradient_checkpointing"):
                module.enable_gradient_checkpointing()
            else:
                module.gradient_checkpointing_enable({"use_reentrant": False})
        if run.training.compile and name != "text_encoder":
            _compile(module)


def _compile(module: nn.Module) -> None:
    """Compiles the blocks that a model repeats, each kind once; the whole module where it names none."""
    if getattr(module, "_repeated_blocks", None):
        module.compile_repeated_blocks()  # type: ignore[operator]
    else:
        module.compile()


def open_dataset(run: RunSpec, where: tuple[str, str], tokenizer: Any) -> ShardedDataset:
    """The samples of a split; `where` is (address, split). Captions become tokens where there is a tokenizer."""
    # Of its own: each data set is read by a thread of its own, and tokenizers are not made for several.
    tokenize = partial(token_ids, copy.deepcopy(tokenizer)) if tokenizer is not None else None
    return ShardedDataset(where[0], where[1], seed=run.seed, cache_dir=run.data.cache, tokenize=tokenize)


def with_prior(run: RunSpec, dataset: ShardedDataset, tokenizer: Any) -> ShardedDataset | WithPrior:
    """The training samples, beside those of the prior where the run has one."""
    return WithPrior(dataset, open_dataset(run, (run.prior.data, "train"), tokenizer)) if run.prior else dataset


def choose_micro_batch_size(run: RunSpec, stage: Stage, dataset: ShardedDataset | WithPrior, team: Team) -> int:
    """Samples of a forward pass: the spec's, else the largest divisor of a worker's share that fits; all workers agree.

    On a CPU at most 64. On a GPU a forward and backward pass is tried for each size, until one fits its memory.
    """
    training = run.training
    if training.micro_batch_size:
        return training.micro_batch_size
    share = training.global_batch_size // team.world_size
    divisors = [size for size in range(share, 0, -1) if share % size == 0]
    if team.device.type == "cpu":
        return next(size for size in divisors if size <= 64)
    stage.to(team.device)
    fitting = next((size for size in divisors if _fits(run, stage, dataset, size, team)), 0)
    smallest = -int(team.highest(-fitting)[0])
    if not smallest:
        raise InputError(
            "not even one sample fits in the GPU's memory; set training.gradient_checkpointing, precision bf16 or offload"
        )
    return smallest


def _fits(run: RunSpec, stage: Stage, dataset: ShardedDataset | WithPrior, size: int, team: Team) -> bool:
    device = team.device
    torch.cuda.reset_peak_memory_stats(device)
    try:
        steps = batches(dataset, first_step=0, last_step=1, global_batch_size=size, micro_batch_size=size, rank=0, world_size=1)
        for (sample,) in steps:
            batch = stage.prepare(sample, "train", device)
            if "caption" in batch:  # a later batch may have no two captions that are the same
                ids = batch["input_ids"][batch["caption"]]
                batch |= {"input_ids": ids, "caption": torch.arange(len(ids), device=device)}
            with autocast(run.training, device):
                loss = stage(batch)
            loss.backward()
        # The gradients are there now; Adam's moments and the master weights, 12 bytes a parameter at most, are yet to come.
        to_come = 0 if run.training.offload.optimizer else 12 * sum(p.numel() for p in stage.parameters() if p.requires_grad)
        return torch.cuda.max_memory_allocated(device) + to_come < 0.92 * torch.cuda.get_device_properties(device).total_memory
    except torch.cuda.OutOfMemoryError:
        return False
    finally:
        stage.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
