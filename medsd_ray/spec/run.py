"""What a run is: the one place where each field is declared, with its unit, its default and its check.

A run adapts either the VAE alone (on image shards) or the U-Net and text encoder (on latent shards that
`encode` wrote with the VAE of `model`): `components.py` declares how each of them is adapted. Or it is a task
run, of a classifier or a segmenter (on image shards): `tasks.py`. See `load_run` for how a YAML file becomes
a `RunSpec`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from medsd_ray.spec.components import Components, Method
from medsd_ray.spec.conditions import CONDITIONS, Conditions
from medsd_ray.spec.data import Data
from medsd_ray.spec.images import STEPS
from medsd_ray.spec.objective import Objective, Prior, VaeObjective
from medsd_ray.spec.rules import Rule, SpecModel
from medsd_ray.spec.tasks import TASKS, Classifier, Segmenter
from medsd_ray.spec.training import Checkpoint, Training
from medsd_ray.spec.types import Address, Auto, DnsLabel, Positive, Seed, Workers


class Resources(SpecModel):
    """The workers that train, and what each of them takes."""

    num_workers: Workers = Field(
        default=1, description="Ray Train's workers, each a process with its own data"
    )
    max_workers: Workers | None = Field(
        default=None,
        description="elastic: starts with what there is from num_workers up, and takes more later; "
        "num_workers where absent",
    )
    use_gpu: Annotated[bool | None, Auto] = Field(
        default=None,
        description="one GPU for each worker; where absent (auto), if Ray has GPUs; the operator sets it by "
        "the pool",
    )
    cpus_per_worker: Positive = Field(default=1, description="CPU cores for each worker")
    max_failures: int = Field(
        default=0, ge=0, description="restarts from the newest checkpoint after a lost worker"
    )

    rules = (
        Rule(
            "!has(self.max_workers) || self.max_workers >= self.num_workers",
            "max_workers must not be below num_workers",
            lambda resources: resources.max_workers is None or resources.max_workers >= resources.num_workers,
            lambda resources: (
                f"max_workers ({resources.max_workers}) must not be below num_workers "
                f"({resources.num_workers})"
            ),
        ),
    )

    @property
    def sizes(self) -> range:
        """The numbers of workers that the run may have."""
        return range(self.num_workers, (self.max_workers or self.num_workers) + 1)


# CEL cannot count up to a number that it is given, so a rule that speaks of every number of workers walks
# through a fixed list: num_workers + 0, num_workers + 1, and so on, skipping what is above max_workers. 17 of
# them are enough. Among 17 consecutive numbers there is a multiple of each number from 1 to 17, so a batch
# that all of them divide is a multiple of the least common multiple of 1 to 17. That is 12,252,240, more than
# MAX_BATCH: where a run may have 17 numbers of workers or more, one of the first 17 does not divide it.
OFFSETS = str(list(range(17)))
SIZE = "(self.resources.num_workers + i)"
ABOVE_MAX = "self.resources.num_workers + i > self.resources.?max_workers.orValue(self.resources.num_workers)"


def _uneven(run: RunSpec) -> str:
    """Says which number of workers does not divide the batch."""
    batch, least = run.training.global_batch_size, run.resources.num_workers
    workers = next(size for size in run.resources.sizes if batch % size)
    said = (
        f"resources.num_workers ({workers})"
        if workers == least
        else f"{workers} workers, which resources.max_workers allows"
    )
    return f"training.global_batch_size ({batch}) is not a multiple of {said}"


def _indivisible_share(run: RunSpec) -> int | None:
    """The first share of the batch that a worker can get which is no multiple of the micro-batch, if any."""
    micro = run.training.micro_batch_size
    shares = (run.training.global_batch_size // workers for workers in run.resources.sizes)
    return next((share for share in shares if share % micro), None) if micro else None


RANDOM = "random"
"""Where the weights of a network come from that starts from none."""


def _diffusion_alone(field: str, cel: str, holds: Callable[[RunSpec], bool]) -> Rule:
    """A task run has no use for a field: `cel` and `holds` say that it is as it is by default."""
    return Rule(
        f"has(self.components) || {cel}",
        f"{field} is of runs with components; leave it out of a run of a classifier or segmenter",
        lambda run: run.components is not None or holds(run),
    )


SMALL = "medsd-small"
"""The model that ships with medsd."""


class RunSpec(SpecModel):
    """A training run, as RUN.yaml and a FineTune's `run` say it."""

    name: DnsLabel = Field(description="a DNS label")
    seed: Seed = Field(
        default=0, description="of initial weights, of the order of the samples, and of the noise"
    )
    model: Address = Field(
        default=SMALL, description="pipeline folder, checkpoint, s3://, hub name, or medsd-small"
    )
    data: Data
    components: Components | None = Field(
        default=None, description="the parts of the diffusion model that are trained, and how"
    )
    classifier: Classifier | None = Field(
        default=None, description="in the place of components: a network that tells labels apart"
    )
    segmenter: Segmenter | None = Field(
        default=None, description="in the place of components: a network that gives each pixel a class"
    )
    conditions: Conditions = Field(
        default={},
        description="masks, numbers and categories that images are made by beside their prompt, by name",
    )
    objective: Objective = Objective()
    vae_objective: VaeObjective = VaeObjective()
    prior: Prior | None = Field(default=None, description="prior preservation, as in DreamBooth; null: none")
    training: Training
    checkpoint: Checkpoint = Checkpoint()
    resources: Resources = Resources()
    output: Address = Field(description="folder or s3:// for checkpoints, logs and samples of this run")

    rules = (
        Rule(
            f"{OFFSETS}.all(i, {ABOVE_MAX} || self.training.global_batch_size % {SIZE} == 0)",
            "training.global_batch_size is not a multiple of every number of workers, resources.num_workers "
            "to max_workers",
            lambda run: all(run.training.global_batch_size % workers == 0 for workers in run.resources.sizes),
            _uneven,
        ),
        Rule(
            f"!has(self.training.micro_batch_size) || {OFFSETS}.all(i, {ABOVE_MAX} || "
            f"self.training.global_batch_size / {SIZE} % self.training.micro_batch_size == 0)",
            "training.micro_batch_size does not divide a worker's share of the batch",
            lambda run: _indivisible_share(run) is None,
            lambda run: (
                f"training.micro_batch_size ({run.training.micro_batch_size}) does not divide a worker's "
                f"share of the batch ({_indivisible_share(run)})"
            ),
        ),
        Rule(
            "[has(self.components), has(self.classifier), has(self.segmenter)].exists_one(there, there)",
            "a run trains exactly one of components, classifier and segmenter",
            lambda run: [run.components, run.classifier, run.segmenter].count(None) == 2,
        ),
        Rule(
            "!has(self.prior) || !has(self.components) || self.components.vae.method == 'frozen'",
            "prior preservation is of the unet and text_encoder; leave prior out of a run of the vae",
            lambda run: run.prior is None or run.components is None or not run.components.vae.trained,
        ),
        Rule(
            "self.objective.drift.delta == 0.0 || !has(self.components) || "
            "self.components.vae.method == 'frozen'",
            "objective.drift is of the unet and text_encoder; leave it out of a run of the vae",
            lambda run: (
                not run.objective.drift.delta or run.components is None or not run.components.vae.trained
            ),
        ),
        Rule(
            "!has(self.training.sample_every) || size(self.training.sample_prompts) > 0 || "
            "!has(self.components) || self.components.vae.method != 'frozen'",
            "training.sample_every needs sample_prompts",
            lambda run: (
                run.training.sample_every is None
                or bool(run.training.sample_prompts)
                or run.components is None
                or run.components.vae.trained
            ),
        ),
        Rule(
            "size(self.conditions) == 0 || (has(self.components) && self.components.unet.method != 'frozen')",
            "conditions are trained with the unet; set components.unet to full, lora or another method",
            lambda run: not run.conditions or bool(run.components and run.components.unet.trained),
        ),
        Rule(
            "size(self.conditions) == 0 || self.objective.conditioning_dropout <= 0.5",
            "objective.conditioning_dropout is at most 0.5 with conditions: so many samples lose all of "
            "them, and as many all but one",
            lambda run: not run.conditions or run.objective.conditioning_dropout <= 0.5,
        ),
        _diffusion_alone("model", f"self.model == '{SMALL}'", lambda run: run.model == SMALL),
        _diffusion_alone(
            "objective",
            "((!has(self.objective.snr_gamma) || self.objective.snr_gamma == 5.0) && "
            "!has(self.objective.prediction_type) && self.objective.noise_offset == 0.0 && "
            "self.objective.conditioning_dropout == 0.1 && self.objective.drift.delta == 0.0 && "
            "self.objective.drift.target == 'shifted' && self.objective.drift.where == 'per_step' && "
            f"self.objective.drift.steps == {STEPS.default})",
            lambda run: run.objective == Objective(),
        ),
        _diffusion_alone(
            "vae_objective",
            "(self.vae_objective.kl_weight == 0.02 && self.vae_objective.edge_weight == 1.0)",
            lambda run: run.vae_objective == VaeObjective(),
        ),
        _diffusion_alone("prior", "!has(self.prior)", lambda run: run.prior is None),
        _diffusion_alone(
            "training.sample_prompts",
            "size(self.training.sample_prompts) == 0",
            lambda run: not run.training.sample_prompts,
        ),
    )

    @property
    def task(self) -> Classifier | Segmenter | None:
        """What a task run trains; None where the run is of the diffusion model."""
        return self.classifier or self.segmenter

    @property
    def methods(self) -> dict[str, str]:
        """What is trained, by the name that its parameters begin with -> how."""
        if self.components:
            found = {name: getattr(self.components, name).method.value for name in self.components.trained}
            return found | ({CONDITIONS: Method.concat.value} if self.conditions else {})
        return {name: getattr(self, name).network.method for name in TASKS if getattr(self, name)}

    @property
    def starts_from(self) -> str:
        """The address of the weights that the run starts from; RANDOM where a task's network has none."""
        return (self.task.network.weights or RANDOM) if self.task else self.model

    @property
    def starts_from_in_words(self) -> str:
        """The same, for messages."""
        if self.task is None:
            return f"the model {self.model}"
        network, weights = self.task.network, self.task.network.weights
        name = network.name or "the network"
        return f"{name} of {network.library}{f', from {weights}' if weights else ''}"

    def validates_after(self, step: int) -> bool:
        """Whether the validation loss is taken after `step` steps, where there is a validation split."""
        last, every = self.training.max_steps, self.training.validate_every
        if every:
            return step == last or step % every == 0
        between = self.checkpoint.every_steps or last
        return step == last or step % max(1, last // 10) == 0 or step % between == 0

    @property
    def other_models(self) -> dict[str, str]:
        """Addresses of models beside `model`, by their field: of a swapped encoder, of a task's weights."""
        swap = self.components.text_encoder.swap if self.components else None
        found = {"components.text_encoder.swap.model": swap.model if swap else None} | {
            f"{name}.network.weights": getattr(self, name).network.weights
            for name in TASKS
            if getattr(self, name)
        }
        return {field: address for field, address in found.items() if address}

    @property
    def learning_rates(self) -> dict[str, float]:
        """The peak learning rate of each part that is trained, in the order of the optimizer's groups."""
        parts = self.components or self
        # What takes the conditions in learns with the U-Net, and as fast.
        sections = {name: getattr(parts, "unet" if name == CONDITIONS else name) for name in self.methods}
        return {name: part.learning_rate or self.training.learning_rate for name, part in sections.items()}
