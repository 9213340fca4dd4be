"""What the driver finds out once and tells every worker, and what of it a resumed run must share with its
checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medsd_ray.errors import InputError
from medsd_ray.spec.run import RunSpec

MAY_CHANGE = {
    "name", "model", "data", "prior.data", "components.text_encoder.swap.model", "output", "checkpoint", "resources",
    "training.micro_batch_size", "training.zero_stage",
    "training.offload", "training.precision", "training.gradient_checkpointing", "training.compile", "training.log_every",
    "training.validate_every", "training.sample_every", "training.sample_prompts",
}  # fmt: skip
"""Fields of the spec that a resumed run may set anew. Model and data are compared by fingerprint, not by
address.
"""


@dataclass(frozen=True)
class LatentMeta:
    """What the index of latents says beyond the samples: the VAE's scaling factor and, where text embeddings
    are stored, the empty caption's (L, D).
    """

    scaling_factor: float
    empty_embedding: list[list[float]] | None


@dataclass(frozen=True)
class Job:
    """`run` names folders from the root; `model` is the model's address as the user wrote it, which a
    checkpoint keeps, so that a folder with models and runs can be moved. Data is (address, split).
    `fingerprints` has `model` and `data`, and `prior` and `text_encoder` where the run has a prior or swaps
    the encoder.
    """

    run: RunSpec
    model: str
    train: tuple[str, str]
    validation: tuple[str, str] | None
    latents: LatentMeta | None
    fingerprints: dict[str, str]


def check_same_run(job: Job, description: dict[str, Any], where: str) -> None:
    """Raises InputError naming the first field in which the run is not the one that wrote a checkpoint."""
    check_same_spec(job.run, description["spec"], where)
    for name, fingerprint in job.fingerprints.items():
        if fingerprint != description["fingerprints"][name]:
            raise InputError(
                f"--resume: the {name} is not the one that {where} was trained on; choose another output"
            )


def check_same_spec(run: RunSpec, spec: dict[str, Any], where: str) -> None:
    """Raises InputError naming the first field that a resumed run may not change and that is another one in
    `spec`.
    """
    now, then = _flat(run.model_dump(mode="json")), _flat(spec)
    for field in sorted(now.keys() | then.keys()):
        if now.get(field) == then.get(field) or any(
            field == f or field.startswith(f + ".") for f in MAY_CHANGE
        ):
            continue
        hint = (
            "; to train for longer, start a new run with this one's output as its model"
            if field.endswith("max_steps")
            else ""
        )
        raise InputError(
            f"--resume: {field} is {now.get(field)!r}, but {then.get(field)!r} in {where}: set it back or choose another "
            f"output{hint}"
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat
