"""How a run is trained: steps, batch, optimizer, number formats, validation, and what is saved."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from medsd_ray.spec.rules import Rule, SpecModel
from medsd_ray.spec.types import Auto, Beta, LearningRate, Positive, Text, Weight

MAX_BATCH = 1_000_000


Precision = Literal["fp32", "bf16", "fp16"]
"""The number format of weights and activations."""


class Offload(SpecModel):
    """What DeepSpeed keeps in the CPU's memory instead of the GPU's."""

    optimizer: bool = Field(default=False, description="optimizer state in CPU memory (ZeRO 1-3)")
    parameters: bool = Field(default=False, description="parameters in CPU memory (ZeRO 3)")


class Ema(SpecModel):
    """Exponential moving average of the weights, which checkpoints keep beside them; null: none."""

    decay: float = Field(
        default=0.999, ge=0, lt=1, description="ceiling; warms up as (1 + step) / (10 + step)"
    )


class Training(SpecModel):
    """How the weights are optimized: AdamW under DeepSpeed, with a warm-up and a cosine schedule."""

    max_steps: Positive = Field(description="optimizer steps")
    global_batch_size: int = Field(
        ge=1, le=MAX_BATCH, description="samples per optimizer step over all workers"
    )
    micro_batch_size: Positive | None = Field(
        None, description="samples per forward pass on a worker; the whole share of a worker where absent"
    )
    learning_rate: LearningRate = Field(default=1e-4, description="peak")
    warmup_steps: int = Field(default=0, ge=0, description="linear, then cosine down to zero at max_steps")
    weight_decay: Weight = Field(default=0.01, description="AdamW's, decoupled from the gradient")
    adam_betas: tuple[Beta, Beta] = Field(
        default=(0.9, 0.999), description="decay of AdamW's first and second moments"
    )
    gradient_clipping: float | None = Field(default=1.0, gt=0, le=1e6, description="global norm; null: none")
    zero_stage: Annotated[Literal[0, 1, 2, 3] | None, Auto] = Field(
        default=None,
        description="what DeepSpeed's ZeRO divides among the workers; 0: nothing, 1: optimizer state, 2: "
        "gradients too, 3: parameters too; where absent (auto), the lowest with which weights, gradients and "
        "optimizer state fit in 60% of a worker's memory",
    )
    offload: Offload = Offload()
    precision: Annotated[Precision | None, Auto] = Field(
        default=None,
        description="number format of weights, activations and gradients, over float32 masters and optimizer "
        "state; fp16 scales its loss; where absent (auto), bf16 on GPUs that have it, else fp32",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="recompute activations in the backward pass: less memory, more time"
    )
    compile: Annotated[bool | None, Auto] = Field(
        default=None,
        description="torch.compile of the U-Net or VAE (on a CPU of its repeated blocks); the output keeps "
        "what it makes, for restarts; where absent (auto), on GPUs in runs of 500 steps or more, as it takes "
        "minutes",
    )
    ema: Ema | None = Ema()
    log_every: Positive = Field(default=10, description="steps between records of the loss")
    validate_every: Positive | None = Field(
        default=None,
        description="steps between validations, where there is a validation split; where absent, a tenth of "
        "max_steps, and each checkpoint is validated too",
    )
    patience: Positive | None = Field(
        default=None,
        description="validations in a row without a lower loss, after which the run ends; null: it goes on "
        "to max_steps",
    )
    sample_every: Positive | None = Field(default=None, description="steps between sample images; null: none")
    sample_prompts: list[Text] = Field(
        default=[], max_length=16, description="prompts of the sample images, one image each"
    )

    rules = (
        Rule(
            "self.warmup_steps < self.max_steps",
            "warmup_steps must be below max_steps",
            lambda training: training.warmup_steps < training.max_steps,
            lambda training: (
                f"warmup_steps ({training.warmup_steps}) must be below max_steps ({training.max_steps})"
            ),
        ),
        Rule(
            "!self.offload.optimizer || !has(self.zero_stage) || self.zero_stage != 0",
            "offload.optimizer needs zero_stage 1, 2 or 3",
            lambda training: not training.offload.optimizer or training.zero_stage != 0,
        ),
        Rule(
            "!self.offload.parameters || !has(self.zero_stage) || self.zero_stage == 3",
            "offload.parameters needs zero_stage 3",
            lambda training: not training.offload.parameters or training.zero_stage in (None, 3),
        ),
    )


class Select(SpecModel):
    """Which checkpoint of a run is used."""

    figure: Literal["validation_loss", "last"] = Field(
        description="validation_loss: the one with the lowest, of those that were validated; last: the last"
    )


class Checkpoint(SpecModel):
    """When a checkpoint is written, which stay, and which is used."""

    every_steps: Positive | None = Field(
        default=None, description="steps between checkpoints; null: at the end only"
    )
    keep_last: Positive = Field(default=2, description="how many of the newest stay")
    keep_best: bool = Field(default=True, description="also keep the one that is chosen by select")
    select: Select | None = Field(
        default=None,
        description="which one generate, export and all else use; where absent, by validation_loss where "
        "there is a validation split, else the last",
    )
