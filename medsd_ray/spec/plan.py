"""From a study and a combination to the runs that it takes: pure functions, no engine."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from typing import Any

from pydantic import ValidationError

from medsd_ray.spec.components import COMPONENTS, Lora, Method
from medsd_ray.spec.run import Resources, RunSpec
from medsd_ray.spec.space import Combination, apply, combinations, short
from medsd_ray.spec.study import MOST_COMBINATIONS, StudySpec
from medsd_ray.spec.values import describe_errors

TRIALS, VAES, LATENTS, DETECTOR, TUNE, BOARD = "trials", "vae", "latents", "detector", "tune", "tensorboard"


def methods(study: StudySpec, combination: Combination) -> dict[str, str]:
    """Component -> how it is adapted, the VAE in its stage too; of a task run, the task -> its network's
    method. Raises ValueError where a section has no fields.
    """
    values = apply(study.run, combination)
    if study.subject != "components":
        network = values[study.subject].get("network") if isinstance(values[study.subject], dict) else None
        if not isinstance(network, dict):
            raise ValueError(f"run.{study.subject}: give it a network")
        return {study.subject: str(network.get("method", "full"))}
    given = values.get("components") or {}
    if not isinstance(given, dict):
        raise ValueError("run.components: give vae, text_encoder and unet, each with its method")
    return {name: str(short(given.get(name) or {}) or "frozen") for name in COMPONENTS}


def resources(study: StudySpec, combination: Combination) -> Resources:
    """Of a trial with this combination. Raises ValidationError, a ValueError."""
    return Resources.model_validate(apply(study.run, combination).get("resources") or {})


def vae_run(study: StudySpec, combination: Combination) -> RunSpec | None:
    """The stage that adapts the VAE; None where it is frozen. Raises ValidationError, a ValueError."""
    if methods(study, combination).get("vae", "frozen") == "frozen":
        return None
    values = apply(study.run, combination)
    kept = {name: values[name] for name in ("model", "vae_objective", "resources") if name in values}
    run = RunSpec.model_validate(
        kept
        | {
            "name": f"{study.name[:48]}-vae",
            "data": {"train": study.shards},
            "components": {"vae": values["components"]["vae"]},
            "training": _vae_training(study),
            "output": f"{study.output}/{VAES}",
        }
    )
    return run.model_copy(update={"output": f"{study.output}/{VAES}/{_way(run)}"})


def widened(run: RunSpec, times: int) -> RunSpec:
    """The run with so many times its workers, or the most below that that its own rules allow, such as those
    of its batch.
    """
    values, few = run.model_dump(mode="json"), run.resources.num_workers
    for workers in range(few * times, few, -1):
        resources = values["resources"] | {"num_workers": workers, "max_workers": None}
        with contextlib.suppress(ValidationError):
            return RunSpec.model_validate(values | {"resources": resources})
    return run


def _vae_training(study: StudySpec) -> dict[str, Any]:
    if study.vae is None:
        raise ValueError("vae is missing: how the VAE is trained, as a combination adapts it")
    return study.vae.model_dump(mode="json")


def _way(run: RunSpec) -> str:
    """A name for all that makes one adapted VAE another: its method, and a checksum of the rest."""
    what = run.model_dump(mode="json", include={"model", "components", "vae_objective", "training", "seed"})
    return f"{run.methods['vae']}-{_digest(what)}"


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def model(study: StudySpec, combination: Combination) -> str:
    """The model that the combination's first run starts from."""
    return apply(study.run, combination).get("model", RunSpec.model_fields["model"].default)


def base_model(study: StudySpec, combination: Combination) -> str:
    """What U-Net and text encoder start from: the adapted VAE's run, or the template's model."""
    stage = vae_run(study, combination)
    return stage.output if stage else model(study, combination)


def latents(study: StudySpec, combination: Combination) -> str:
    """Where the images are as this combination's VAE encodes them; one address for all that share it."""
    stage = vae_run(study, combination)
    way = stage.output.rpartition("/")[2] if stage else f"frozen-{_digest(base_model(study, combination))}"
    return f"{study.output}/{LATENTS}/{way}"


def trial_run(study: StudySpec, combination: Combination, seed: int, trial: str) -> RunSpec | None:
    """The run that trains U-Net and text encoder; None where both are frozen. Of a task study, the run of its
    task. Raises ValidationError, a ValueError.
    """
    if study.subject != "components":
        return _task_run(study, combination, seed, trial)
    how, values = methods(study, combination), apply(study.run, combination)
    components = {name: value for name, value in (values.get("components") or {}).items() if name != "vae"}
    frozen = how["text_encoder"] == how["unet"] == "frozen"
    values["components"] = components | (
        {"unet": "full"} if frozen else {}
    )  # frozen: the rest of it is checked all the same
    given = {
        "name": f"{study.name[:48]}-{trial}",
        "seed": seed,
        "model": base_model(study, combination),
        "data": {"train": latents(study, combination)},
        "output": f"{study.output}/{TRIALS}/{trial}",
    }
    run = RunSpec.model_validate(_looked_at(study, values) | given)
    return None if frozen else run


def _task_run(study: StudySpec, combination: Combination, seed: int, trial: str) -> RunSpec:
    values = apply(study.run, combination)
    given = {
        "name": f"{study.name[:48]}-{trial}",
        "seed": seed,
        "data": values.get("data") or {"train": study.shards},
        "output": f"{study.output}/{TRIALS}/{trial}",
    }
    return RunSpec.model_validate(_looked_at(study, values) | given)


def _looked_at(study: StudySpec, values: dict[str, Any]) -> dict[str, Any]:
    """The run with validation as often as the scheduler looks, and for pbt a checkpoint to go on from."""
    search, training = study.search, values.get("training")
    if not isinstance(training, dict):
        return values
    if search.scheduler == "asha" and training.get("validate_every") is None:
        return values | {"training": training | {"validate_every": search.grace_steps}}
    if search.scheduler == "pbt":
        every = search.interval_steps
        checkpoint = (values.get("checkpoint") or {}) | {"every_steps": every}
        return values | {"training": training | {"validate_every": every}, "checkpoint": checkpoint}
    return values


def _written_out(run: RunSpec) -> str:
    """The run with what a component's absent settings stand for: equal for two runs that do the same."""
    values = run.model_dump(mode="json")
    for component in (values["components"] or {}).values():
        component["learning_rate"] = component["learning_rate"] or run.training.learning_rate
        if component["method"] == Method.lora:
            component["lora"] = component["lora"] or Lora().model_dump(mode="json")
    return json.dumps(values, sort_keys=True)


def check_combinations(study: StudySpec) -> None:
    """Raises ValueError where a combination of the study's space is no run, or none trains anything."""
    trained, vae = False, False
    ends = (0, 1) if any(dimension.choice is None for dimension in study.space.values()) else (0,)
    tried = itertools.chain(*(((end, one) for one in combinations(study.space, end)) for end in ends))
    runs: dict[str, Combination] = {}
    for count, (end, combination) in enumerate(tried, start=1):
        if count > MOST_COMBINATIONS * len(ends):
            raise ValueError(f"space: more than {MOST_COMBINATIONS} combinations of choices; narrow it")
        run, stage = _trained_by(study, combination)
        if run is not None:
            known = f"{end} {_written_out(run)}"
            if known in runs:
                raise ValueError(
                    f"space: {_words(runs[known])} and {_words(combination)} are the same run; keep one"
                )
            runs[known] = combination
        if study.search.scheduler != "none" and methods(study, combination).get("vae") in ("full", "scratch"):
            raise ValueError(
                f"space.components.vae: {study.search.scheduler} compares validation losses, and latents of "
                "another encoder have losses of their own; try frozen and decoder, or set search.scheduler "
                "to none"
            )
        trained, vae = trained or run is not None, vae or stage
    if not trained:
        raise ValueError(
            "run.components: text_encoder and unet are frozen in every combination; set one to be trained"
        )
    if vae and study.vae is None:
        raise ValueError("vae is missing: how the VAE is trained, as a combination adapts it")
    if study.vae is not None and not vae:
        raise ValueError("vae: no combination adapts the VAE; remove it, or set components.vae")


def _words(combination: Combination) -> str:
    return ", ".join(f"{path}={short(value)}" for path, value in combination.items())


def _trained_by(study: StudySpec, combination: Combination) -> tuple[RunSpec | None, bool]:
    """The run that trains U-Net or text encoder, if one does, and whether the VAE is trained. Raises
    ValueError where the combination is no run.
    """
    try:
        stage = vae_run(study, combination)
        return trial_run(study, combination, study.seeds[0], "0000"), stage is not None
    except ValidationError as error:
        tried = _words(combination)
        raise ValueError(
            f"run{f' with {tried}' if tried else ''}: {describe_errors(error, RunSpec, 'a run')}"
        ) from error
