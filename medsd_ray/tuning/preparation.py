"""What all trials of a study share, made once before them: the detector, the adapted VAEs, their latents."""

from __future__ import annotations

from medsd_ray.data.shards import list_splits, open_split
from medsd_ray.errors import InputError
from medsd_ray.evaluation.localize import find_masks
from medsd_ray.evaluation.messages import print_line
from medsd_ray.generation.encode import encode
from medsd_ray.models.resolve import resolve
from medsd_ray.spec import plan
from medsd_ray.spec.figures import FIGURES
from medsd_ray.spec.space import Combination, combinations
from medsd_ray.spec.study import StudySpec
from medsd_ray.training.run import train
from medsd_ray.tuning.localization_metrics import localization_options
from medsd_ray.tuning.proposals import planned_combinations
from medsd_ray.tuning.study_record import StudyRecord


def check_shards(study: StudySpec) -> None:
    """Raises InputError where the shards are no images, or lack a split or the masks that the study needs."""
    store, index = open_split(study.shards, "train")
    if index.kind != "image":
        raise InputError(
            f"{store.url}: {index.kind} shards; a study starts from the image shards that prepare wrote"
        )
    splits = list_splits(study.shards)
    if study.subject != "components" and (split := study.evaluation.split) not in splits:
        raise InputError(
            f"{study.shards}: no {split} split to judge a {study.subject} on; prepare with one, or set "
            "evaluation.split"
        )
    if "localization" in study.figures:
        find_masks(localization_options(study, model="", out="", use_gpu=None))
    if "validation" in splits:
        return
    if study.search.scheduler != "none":
        raise InputError(
            f"{study.shards}: no validation split, by whose loss {study.search.scheduler} compares trials"
        )
    if study.metric == "validation_loss":
        raise InputError(
            f"{study.shards}: no validation split for the metric validation_loss; prepare with one"
        )


def check_models(study: StudySpec) -> None:
    """Raises InputError where a model that a combination starts from is not there, or of another layout."""
    if study.subject != "components":  # each run looks at the weights of its network itself
        return
    for model in dict.fromkeys(plan.model(study, combination) for combination in combinations(study.space)):
        resolve(model)


def prepare(study: StudySpec, record: StudyRecord, together: int) -> bool:
    """The detector, each adapted VAE and its latents, each where it is not there yet, with the workers of
    `together` trials; nothing for a task. False where the shards have no labels to judge images by, and the
    metric needs none.
    """
    if study.subject != "components":
        return True
    images = any(FIGURES[name].needs == "images" for name in study.figures)
    judged = not images or _train_detector(study, record)
    for combination, text_embeddings in latent_sets(study, planned_combinations(study)):
        stage = plan.vae_run(study, combination)
        if stage is not None:
            print_line(f"--- VAE, {stage.methods['vae']}")
            train(plan.widened(stage, together), auto_resume=True)
        print_line("--- encode")
        resources = plan.resources(study, combination)
        encode(
            study.shards,
            plan.latents(study, combination),
            model=plan.base_model(study, combination),
            text_embeddings=text_embeddings,
            num_workers=resources.num_workers * together,
            use_gpu=resources.use_gpu,
        )
    return judged


def _train_detector(study: StudySpec, record: StudyRecord) -> bool:
    """False where there is none, as the shards have no labels; the study's warnings say so."""
    print_line("--- detector")
    from medsd_ray.evaluation.networks import detector  # it imports torch, which a refusal need not wait for

    store = record.output.child(plan.DETECTOR)
    try:
        detector.train_once(study.shards, study.evaluation.label, study.search.seed, store, print_line)
    except InputError as error:
        if study.metric != "validation_loss":
            raise
        record.warnings.append(f"images are not judged: {error}")
        return False
    return True


def latent_sets(study: StudySpec, planned: list[Combination] | None) -> list[tuple[Combination, bool]]:
    """A combination for each distinct set of latents that a trained trial reads, and whether any combination
    that reads it has a frozen text encoder, which needs text embeddings. Sets that no planned trial reads are
    left out; `planned` is None where that is not known.
    """
    every = list(combinations(study.space))
    frozen = {
        plan.latents(study, combination)
        for combination in every
        if plan.methods(study, combination)["text_encoder"] == "frozen"
    }
    first = {
        plan.latents(study, combination): combination
        for combination in reversed(planned if planned is not None else every)
    }
    return [(combination, latents in frozen) for latents, combination in reversed(first.items())]
