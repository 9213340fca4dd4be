"""What a run is: the one place where each field is declared, with its unit, its default and its check.

A run adapts either the VAE alone (on image shards) or the U-Net and text encoder (on latent shards that
`encode` wrote with the VAE of `model`). See `load_run` for how a YAML file becomes a `RunSpec`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from medsd_ray.spec.rules import Strict
from medsd_ray.spec.types import LearningRate, Positive, Seed, Text, Workers

MAX_BATCH = 1_000_000


# No batch up to MAX_BATCH is a multiple of 17 numbers in a row (lcm(1..17) is 12,252,240): rules need not
# look further.
SIZES = "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]"


TOP = "self.resources.?max_workers.orValue(self.resources.num_workers)"


class Method(StrEnum):
    """How a component is adapted; `models/methods/registry.py` holds an entry for each that a component knows."""

    frozen = "frozen"
    full = "full"  # all weights, from the model's own
    scratch = "scratch"  # all weights, from a new random start
    decoder = "decoder"  # the VAE's decoder alone, so that encoded latents stay valid
    lora = "lora"  # low-rank updates of the attention's projections
    cross_attention = "cross_attention"  # the U-Net's attention to the text alone
    swap = "swap"  # another text encoder, through a learnt projection
    textual_inversion = "textual_inversion"  # embeddings of new tokens alone


class Lora(Strict):
    """W + alpha/rank·B·A, see models/methods/lora.py."""

    rank: int = Field(default=16, ge=1, le=1024)
    alpha: float = Field(default=16.0, gt=0)


class Swap(Strict):
    """Another text encoder in place of the model's own, see models/methods/swap.py."""

    model: Text = Field(
        description="any transformers AutoModel with its tokenizer: folder, s3:// or hub name; checkpoints refer to it"
    )
    max_length: int | None = Field(
        default=None, ge=1, le=8192, description="tokens of a caption; the tokenizer's own where absent"
    )
    train: bool = Field(
        default=False, description="fine-tune the encoder too; else the projection alone is trained"
    )


class Token(Strict):
    """A new word of textual inversion, see models/methods/textual_inversion.py."""

    token: str = Field(
        max_length=64, pattern=r"^<[a-z0-9_-]+>$", description="as it stands in captions and prompts"
    )
    initializer: Text = Field(min_length=1, description="words whose mean embedding it starts from")


class Component(Strict):
    """One part of the pipeline. In RUN.yaml `unet: full` is short for `unet: {method: full}`; a Kubernetes
    object has the long form alone.
    """

    method: Method = Method.frozen
    learning_rate: LearningRate | None = Field(
        default=None, description="peak; the training's own where absent"
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value):
        return {"method": value} if isinstance(value, str) else value

    @property
    def trained(self) -> bool:
        return self.method is not Method.frozen


class Vae(Component):
    method: Literal[Method.frozen, Method.decoder, Method.full, Method.scratch] = Method.frozen


LORA_RULE = (
    "!has(self.lora) || self.method == 'lora'",
    "lora holds settings of the method lora alone; set method to lora, or leave them out",
)


class Unet(Component):
    method: Literal[Method.frozen, Method.full, Method.scratch, Method.lora, Method.cross_attention] = (
        Method.frozen
    )
    lora: Lora | None = Field(
        default=None, description="settings of the method lora; its defaults where absent"
    )

    cel: ClassVar = (LORA_RULE,)

    @model_validator(mode="after")
    def _settings(self):
        if self.lora and self.method is not Method.lora:
            raise ValueError(LORA_RULE[1])
        return self


class TextEncoder(Component):
    method: Literal[
        Method.frozen, Method.full, Method.scratch, Method.lora, Method.swap, Method.textual_inversion
    ] = Method.frozen  # fmt: skip
    lora: Lora | None = Field(
        default=None, description="settings of the method lora; its defaults where absent"
    )
    swap: Swap | None = Field(default=None, description="the encoder of the method swap")
    tokens: list[Token] = Field(
        default=[],
        max_length=32,
        description="the new words of the method textual_inversion",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["token"]},
    )

    cel: ClassVar = (
        LORA_RULE,
        (
            "has(self.swap) == (self.method == 'swap')",
            "swap: {model: ...} is needed by the method swap, and by no other",
        ),
        (
            "(size(self.tokens) > 0) == (self.method == 'textual_inversion')",
            "tokens are needed by the method textual_inversion, and by no other",
        ),
    )

    @model_validator(mode="after")
    def _settings(self):
        (_, lora), (_, swap), (_, tokens) = self.cel
        if self.lora and self.method is not Method.lora:
            raise ValueError(lora)
        if (self.swap is not None) != (self.method is Method.swap):
            raise ValueError(swap)
        if bool(self.tokens) != (self.method is Method.textual_inversion):
            raise ValueError(tokens)
        names = [one.token for one in self.tokens]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"tokens: Duplicate value: {twice[0]}")
        return self


class Components(Strict):
    vae: Vae = Vae()
    text_encoder: TextEncoder = TextEncoder()
    unet: Unet = Unet()

    cel: ClassVar = (
        (
            "self.vae.method != 'frozen' || self.text_encoder.method != 'frozen' || self.unet.method != 'frozen'",
            "every component is frozen: set vae, text_encoder or unet to be trained",
        ),
        (
            "self.vae.method == 'frozen' || (self.text_encoder.method == 'frozen' && self.unet.method == 'frozen')",
            "the vae is adapted in a run of its own: freeze text_encoder and unet here, then encode, then train them",
        ),
    )

    @property
    def trained(self) -> list[str]:
        return [name for name in ("vae", "text_encoder", "unet") if getattr(self, name).trained]

    @model_validator(mode="after")
    def _one_stage(self):
        (_, all_frozen), (_, own_run) = self.cel
        if not self.trained:
            raise ValueError(all_frozen)
        if self.vae.trained and len(self.trained) > 1:
            raise ValueError(own_run)
        return self


class Data(Strict):
    train: Text = Field(
        description="shards: the root that prepare or encode wrote, or one split of it; folder or s3://"
    )
    validation: Text | None = Field(
        default=None, description="where absent, `validation` beside the training split if there is one"
    )
    cache: Text | None = Field(
        default=None, description="local folder for fetched shards; a temporary one where absent"
    )


class Objective(Strict):
    """What the U-Net learns; see training/unet_objective.py for the equations."""

    prediction_type: Literal["epsilon", "v_prediction"] | None = Field(
        default=None, description="the model's own where absent"
    )
    snr_gamma: float | None = Field(
        default=5.0, gt=0, description="min-SNR weighting (Hang et al. 2023); null: none"
    )
    noise_offset: float = Field(default=0.0, ge=0, le=1)
    conditioning_dropout: float = Field(
        default=0.1, ge=0, lt=1, description="share of captions left empty, for guidance"
    )


class VaeObjective(Strict):
    """What the VAE learns: |x - x̂| + kl_weight·KL + edge_weight·|∇x - ∇x̂|; see training/vae_objective.py."""

    kl_weight: float = Field(default=0.02, ge=0, description="times the KL divergence per pixel value")
    edge_weight: float = Field(default=1.0, ge=0)


class Prior(Strict):
    """Prior preservation (Ruiz et al. 2023): loss + weight · loss on images that the model itself made of the
    class.
    """

    data: Text = Field(
        description="latent shards of class images: what generate, prepare and encode made; folder or s3://"
    )
    weight: float = Field(default=1.0, gt=0)


class Offload(Strict):
    optimizer: bool = Field(default=False, description="optimizer state in CPU memory (ZeRO 1-3)")
    parameters: bool = Field(default=False, description="parameters in CPU memory (ZeRO 3)")


class Ema(Strict):
    decay: float = Field(
        default=0.999, ge=0, lt=1, description="ceiling; warms up as (1 + step) / (10 + step)"
    )


class Training(Strict):
    max_steps: Positive = Field(description="optimizer steps")
    global_batch_size: int = Field(
        ge=1, le=MAX_BATCH, description="samples per optimizer step over all workers"
    )
    micro_batch_size: Positive | None = Field(
        None, description="samples per forward pass on a worker; the whole share of a worker where absent"
    )
    learning_rate: LearningRate = Field(default=1e-4, description="peak")
    warmup_steps: int = Field(default=0, ge=0, description="linear, then cosine down to zero at max_steps")
    weight_decay: float = Field(default=0.01, ge=0)
    adam_betas: tuple[float, float] = (0.9, 0.999)
    gradient_clipping: float | None = Field(default=1.0, gt=0, description="global norm; null: none")
    zero_stage: Literal[0, 1, 2, 3] = 2
    offload: Offload = Offload()
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    gradient_checkpointing: bool = False
    compile: bool = Field(
        default=False,
        description="torch.compile of the U-Net's (or VAE's) repeated blocks; the output keeps what it makes, for restarts",
    )
    ema: Ema | None = Ema()
    log_every: Positive = Field(default=10, description="steps")
    validate_every: Positive | None = Field(default=None, description="steps; null: at the end only")
    sample_every: Positive | None = Field(default=None, description="steps between sample images; null: none")
    sample_prompts: list[Text] = Field(default=[], max_length=16)

    cel: ClassVar = (
        ("self.warmup_steps < self.max_steps", "warmup_steps must be below max_steps"),
        ("!self.offload.optimizer || self.zero_stage != 0", "offload.optimizer needs zero_stage 1, 2 or 3"),
        ("!self.offload.parameters || self.zero_stage == 3", "offload.parameters needs zero_stage 3"),
        ("!has(self.sample_every) || size(self.sample_prompts) > 0", "sample_every needs sample_prompts"),
    )

    @model_validator(mode="after")
    def _fits(self):
        if self.warmup_steps >= self.max_steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be below max_steps ({self.max_steps})")
        if self.offload.optimizer and self.zero_stage == 0:
            raise ValueError("offload.optimizer needs zero_stage 1, 2 or 3")
        if self.offload.parameters and self.zero_stage != 3:
            raise ValueError("offload.parameters needs zero_stage 3")
        if self.sample_every and not self.sample_prompts:
            raise ValueError("sample_every needs sample_prompts")
        return self


class Checkpoint(Strict):
    every_steps: Positive | None = Field(default=None, description="null: at the end only")
    keep_last: Positive = 2
    keep_best: bool = Field(default=True, description="also keep the one with the lowest validation loss")


class Resources(Strict):
    num_workers: Workers = 1
    max_workers: Workers | None = Field(
        default=None,
        description="elastic: starts with what there is from num_workers up, and takes more later; num_workers where absent",
    )
    use_gpu: bool = False
    cpus_per_worker: Positive = 1
    max_failures: int = Field(
        default=0, ge=0, description="restarts from the newest checkpoint after a lost worker"
    )

    cel: ClassVar = (
        (
            "!has(self.max_workers) || self.max_workers >= self.num_workers",
            "max_workers must not be below num_workers",
        ),
    )

    @model_validator(mode="after")
    def _elastic(self):
        if self.max_workers and self.max_workers < self.num_workers:
            raise ValueError(
                f"max_workers ({self.max_workers}) must not be below num_workers ({self.num_workers})"
            )
        return self

    @property
    def sizes(self) -> range:
        """The numbers of workers that the run may have."""
        return range(self.num_workers, (self.max_workers or self.num_workers) + 1)


class RunSpec(Strict):
    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", description="a DNS label")
    seed: Seed = Field(
        default=0, description="of initial weights, of the order of the samples, and of the noise"
    )
    model: Text = Field(
        default="medsd-small", description="pipeline folder, checkpoint, s3://, hub name, or medsd-small"
    )
    data: Data
    components: Components
    objective: Objective = Objective()
    vae_objective: VaeObjective = VaeObjective()
    prior: Prior | None = Field(default=None, description="prior preservation, as in DreamBooth; null: none")
    training: Training
    checkpoint: Checkpoint = Checkpoint()
    resources: Resources = Resources()
    output: Text = Field(description="folder or s3:// for checkpoints, logs and samples of this run")

    cel: ClassVar = (
        (
            f"{SIZES}.all(i, self.resources.num_workers + i > {TOP} || "
            "self.training.global_batch_size % (self.resources.num_workers + i) == 0)",
            "training.global_batch_size is not a multiple of every number of workers, resources.num_workers to max_workers",
        ),
        (
            f"!has(self.training.micro_batch_size) || {SIZES}.all(i, self.resources.num_workers + i > {TOP} || "
            "self.training.global_batch_size / (self.resources.num_workers + i) % self.training.micro_batch_size == 0)",
            "training.micro_batch_size does not divide a worker's share of the batch",
        ),
        (
            "!has(self.prior) || self.components.vae.method == 'frozen'",
            "prior preservation is of the unet and text_encoder; leave prior out of a run of the vae",
        ),
    )

    @model_validator(mode="after")
    def _prior(self):
        if self.prior and self.components.vae.trained:
            raise ValueError(self.cel[-1][1])
        return self

    @model_validator(mode="after")
    def _batches(self):
        batch, micro = self.training.global_batch_size, self.training.micro_batch_size
        for workers in self.resources.sizes:
            if batch % workers:
                first = workers == self.resources.num_workers
                what = (
                    f"resources.num_workers ({workers})"
                    if first
                    else f"{workers} workers, which resources.max_workers allows"
                )
                raise ValueError(f"training.global_batch_size ({batch}) is not a multiple of {what}")
            if micro and (batch // workers) % micro:
                raise ValueError(
                    f"training.micro_batch_size ({micro}) does not divide a worker's share of the batch ({batch // workers})"
                )
        return self
