"""What a resumed run must share with the run that it goes on from."""

from __future__ import annotations

from typing import Any

from medsd_ray.errors import InputError
from medsd_ray.spec.load import parse_run
from medsd_ray.spec.run import RunSpec
from medsd_ray.spec.tasks import TASKS
from medsd_ray.training.checked_run import CheckedRun

MAY_CHANGE = {
    "name",
    "model",
    "data.train",
    "data.validation",
    "data.cache",
    "prior.data",
    "components.text_encoder.swap.model",
    *(f"{task}.network.weights" for task in TASKS),
    "output",
    "checkpoint",
    "resources",
    "training.micro_batch_size",
    "training.zero_stage",
    "training.offload",
    "training.precision",
    "training.gradient_checkpointing",
    "training.compile",
    "training.log_every",
    "training.validate_every",
    "training.patience",
    "training.sample_every",
    "training.sample_prompts",
}
"""Fields of the spec that a resumed run may set anew. Model and data are compared by fingerprint, not by
address.
"""


def check_same_run(checked: CheckedRun, description: dict[str, Any], where: str) -> RunSpec:
    """The run that wrote a checkpoint. Raises InputError naming the first field in which `checked` is not
    it.
    """
    then = parse_run(description["spec"], where)  # an earlier version's lacks the fields that came later
    check_same_spec(checked.run, then.model_dump(mode="json"), where)
    recorded: dict[str, str] = description["fingerprints"]
    for name in sorted(checked.fingerprints.keys() | recorded.keys()):
        if checked.fingerprints.get(name) != recorded.get(name):
            raise InputError(
                f"--resume: the {name} is not the one that {where} was trained on; choose another output"
            )
    return then


def check_same_spec(run: RunSpec, spec: dict[str, Any], where: str) -> None:
    """Raises InputError naming the first field that a resumed run may not change and that is another one in
    `spec`.
    """
    now, then = (_flat(_without_addresses(values)) for values in (run.model_dump(mode="json"), spec))
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
            f"--resume: {field} is {now.get(field)!r}, but {then.get(field)!r} in {where}: set it back or "
            f"choose another output{hint}"
        )


def _without_addresses(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a run without where the shards of its sources are."""
    sources = [{k: v for k, v in source.items() if k != "shards"} for source in values["data"]["sources"]]
    return values | {"data": values["data"] | {"sources": sources}}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat
