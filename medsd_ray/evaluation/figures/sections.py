"""The report's sections as plain dicts, each from the images alone: what was measured, or null and why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from medsd_ray.evaluation.estimates import Estimate, Missing, put, wilson
from medsd_ray.evaluation.figures import accuracy, distances, diversity, memorisation
from medsd_ray.evaluation.inputs import ImageSet
from medsd_ray.evaluation.networks import classifier as classifying
from medsd_ray.evaluation.networks import features
from medsd_ray.runs.record import RunRecord

ORDER = ("inception", "xrv", "classifier")  # the first that is at hand gives the main FID


NO_BASE = Missing("no images of the model before adaptation were given (--base)")


NO_TRAIN = Missing("the real images have no training split")


@dataclass(frozen=True)
class Sets:
    """The parts that the images play. `held_out` is the reference of every distance."""

    train: ImageSet | None
    validation: ImageSet | None
    held_out: ImageSet
    generated: ImageSet
    base: ImageSet | None
    reference: str  # what held_out is, in words


def count_section(sets: Sets) -> dict:
    """Images of each set; patients and captions of the real ones."""
    counts: dict[str, Any] = {
        "generated": len(sets.generated),
        "prompts": len(set(sets.generated.captions) - {""}),
    }
    put(counts, "base", len(sets.base) if sets.base else NO_BASE)
    put(counts, "real_train", len(sets.train) if sets.train else NO_TRAIN)
    put(
        counts,
        "real_validation",
        len(sets.validation) if sets.validation else Missing("there is no validation split"),
    )
    counts["real_held_out"] = len(sets.held_out)
    # Keys tell an image that is in two sets (validation can also be held out) from two images.
    real = {
        key: group
        for s in (sets.train, sets.validation, sets.held_out)
        if s
        for key, group in zip(s.keys, s.groups, strict=True)
    }
    captions = {c for s in (sets.train, sets.validation, sets.held_out) if s for c in s.captions} - {""}
    counts["real"], counts["patients"] = len(real), len(set(real.values()))
    put(counts, "captions", len(captions) or Missing("the real images carry no captions"))
    return counts


def classifier_section(trained: classifying.Classifier | Missing, sets: Sets, label: str, seed: int) -> dict:
    section: dict[str, Any] = {"label": label}
    figures = ("real_heldout_accuracy", "real_heldout_auroc", "generated_accuracy", "base_accuracy")
    if isinstance(trained, Missing) or sets.train is None:
        for name in figures:
            put(
                section,
                name,
                Missing(f"no classifier: {trained if isinstance(trained, Missing) else NO_TRAIN}"),
            )
        return section
    section |= {
        "network": trained.name, "input_size": trained.size, "classes": trained.classes, "epochs": trained.epochs,
        "best_epoch": trained.best_epoch, "seconds": round(trained.seconds, 1),
    }  # fmt: skip
    try:
        score = accuracy.score_held_out(trained, sets.held_out, seed)
        put(section, "real_heldout_accuracy", score.accuracy)
        put(section, "real_heldout_auroc", score.auroc or Missing("the held-out images show one class only"))
        section |= {
            "real_heldout_count": score.count,
            "real_heldout_patients": score.patients,
            "real_heldout_by_class": _lists(score.by_class),
        }
    except ValueError as error:
        put(section, "real_heldout_accuracy", Missing(str(error)))
        put(section, "real_heldout_auroc", Missing(str(error)))
    wanted = accuracy.prompt_labels(sets.train.captions, sets.train.labels, trained.classes)
    for name, images in (("generated", sets.generated), ("base", sets.base)):
        if images is None:
            put(section, f"{name}_accuracy", NO_BASE)
            continue
        try:
            answer = accuracy.score_prompts(trained, images, wanted)
        except ValueError as error:
            put(section, f"{name}_accuracy", Missing(str(error)))
            continue
        put(section, f"{name}_accuracy", wilson(answer.right, answer.count))
        section |= {
            f"{name}_count": answer.count,
            f"{name}_unknown": answer.unknown,
            f"{name}_by_class": _lists(answer.by_class),
        }
    return section


def _lists(by_class: dict[str, tuple[int, int]]) -> dict[str, list[int]]:
    """[right, all] of each label, as JSON has it."""
    return {name: list(both) for name, both in by_class.items()}


def insertion_section(classifier: dict) -> dict:
    """The same answers as the paper's headline: does an image show what its prompt says, before and after
    adaptation?
    """
    section: dict[str, Any] = {}
    for name, source in (
        ("accuracy", "generated"),
        ("base_accuracy", "base"),
        ("detector_accuracy", "real_heldout"),
    ):
        for suffix in ("", "_interval", "_reason"):
            if f"{source}_accuracy{suffix}" in classifier:
                section[f"{name}{suffix}"] = classifier[f"{source}_accuracy{suffix}"]
    return section


def distance_sections(
    loaded: dict[str, features.Extractor | Missing], sets: Sets, seed: int, say: Callable[[str], None]
) -> dict[str, dict]:
    """`fid`, `kid` and `prdc`, each with the main extractor's figures on top and every extractor's in
    `by_extractor`.
    """
    each = {
        name: _distances(loaded[name], sets, seed, partial(say, f"evaluate: features of {name}"))
        for name in ORDER
    }
    usable = [name for name in ORDER if each[name]["fid"]["generated"] is not None]
    main = usable[0] if usable else None
    sections = {}
    for kind in ("fid", "kid", "prdc"):
        top = dict(each[main or "classifier"][kind])
        sections[kind] = top | {"extractor": main, "by_extractor": {name: each[name][kind] for name in ORDER}}
    if main is None:
        reasons = "; ".join(f"{name}: {each[name]['fid']['generated_reason']}" for name in ORDER)
        for section in sections.values():
            put(section, "extractor", Missing("none could be used"))
            for figure in ("generated", "real", "base"):
                put(section, figure, Missing(f"no feature extractor ({reasons})"))
    return sections


def _distances(
    extractor: features.Extractor | Missing, sets: Sets, seed: int, announce: Callable[[], None]
) -> dict[str, dict]:
    """`fid`, `kid` and `prdc` of one extractor."""
    if isinstance(extractor, Missing):
        return _not_measured(extractor)
    announce()
    values = _features(extractor, sets, seed)
    reference = values.pop("held_out")
    try:
        found = distances.compare(reference, values, seed)
    except ValueError as error:
        return _not_measured(Missing(str(error)))
    about = {
        "dimensions": extractor.dimensions,
        "description": extractor.description,
        "samples": found.samples,
    }
    about |= {"reference_samples": found.reference, "repeats": found.repeats}
    fid, kid, prdc = ({} | about for _ in range(3))
    for name, absent in (("generated", NO_TRAIN), ("real", NO_TRAIN), ("base", NO_BASE)):
        if name not in values:
            for section in (fid, kid, prdc):
                put(section, name, absent)
            continue
        put(fid, name, found.fid[name])
        put(kid, name, found.kid[name])
        kid[f"{name}_std"] = found.kid_std[name]
        put(prdc, name, _prdc(reference.values, values[name], found.samples, seed))
    put(fid, "generated_below_base", _criterion(found.fid_difference))
    put(kid, "generated_below_base", _criterion(found.kid_difference))
    if found.share_below is not None:
        fid["generated_below_base"]["share_of_halves"] = found.share_below
    return {"fid": fid, "kid": kid, "prdc": prdc}


def _not_measured(why: Missing) -> dict[str, dict]:
    sections: dict[str, dict] = {"fid": {}, "kid": {}, "prdc": {}}
    for kind, section in sections.items():
        for name in ("generated", "real", "base", *(() if kind == "prdc" else ("generated_below_base",))):
            put(section, name, why)
    return sections


def _criterion(difference: Estimate | None) -> dict | Missing:
    """Generated minus base: it holds where the whole interval is below zero."""
    if difference is None:
        return NO_BASE
    return {"difference": difference.value, "interval": difference.interval, "holds": difference.high < 0}


def _features(extractor: features.Extractor, sets: Sets, seed: int) -> dict[str, distances.Features]:
    """Of every set; of the training images no more than a fair comparison and its intervals use."""
    chosen = {"held_out": sets.held_out, "generated": sets.generated}
    if sets.train is not None:
        train, enough = sets.train, 2 * max(len(sets.generated), len(sets.held_out))
        if len(train) > enough:
            train = train.take(distances.draw(train.groups, enough, np.random.default_rng([seed, 31])))
        chosen["real"] = train
    if sets.base is not None:
        chosen["base"] = sets.base
    return {
        name: distances.Features(extractor(images.pixels), images.groups) for name, images in chosen.items()
    }


def _prdc(real: np.ndarray, fake: distances.Features, count: int, seed: int) -> dict | Missing:
    try:
        return distances.prdc(
            real, fake.values[distances.draw(fake.groups, count, np.random.default_rng([seed, 37]))]
        )
    except ValueError as error:
        return Missing(str(error))


def diversity_section(sets: Sets, seed: int) -> dict:
    """MS-SSIM between images of one prompt (generated, base) and of one caption (real held-out, different
    patients).
    """
    betas = diversity.scales(min(sets.generated.pixels.shape[1:3]))
    section: dict[str, Any] = {
        "scales": len(betas),
        "betas": [round(b, 4) for b in betas],
        "published_scales": len(diversity.BETAS),
    }
    for name, images in (("generated", sets.generated), ("real", sets.held_out), ("base", sets.base)):
        if images is None:
            put(section, name, NO_BASE)
            continue
        try:
            found = diversity.similarity(images.pixels, images.captions, images.groups, seed)
        except ValueError as error:
            put(section, name, Missing(str(error)))
            continue
        section |= {
            name: found.mean,
            f"{name}_std": found.std,
            f"{name}_pairs": found.pairs,
            f"{name}_prompts": found.prompts,
        }
    return section


def clip_section(folder: str | None, sets: Sets) -> dict:
    """Image-text agreement by a CLIP model, of generated, base and held-out real images with their text."""
    section: dict[str, Any] = {"model": folder}
    for name, images in (("generated", sets.generated), ("real", sets.held_out), ("base", sets.base)):
        if folder is None:
            put(section, name, Missing("no CLIP model was given (--clip)"))
        elif images is None:
            put(section, name, NO_BASE)
        elif not any(images.captions):
            put(section, name, Missing("these images have no text"))
        else:
            known = images.take([i for i, caption in enumerate(images.captions) if caption])
            section[name], section[f"{name}_std"] = features.clip_score(folder, known.pixels, known.captions)
    return section


def memorisation_section(
    loaded: dict[str, features.Extractor | Missing], sets: Sets
) -> tuple[dict, dict[str, memorisation.SpaceCheck]]:
    """Near-copies of training images, by brightness and in the main extractor's features. `passed` is null
    where unknown.
    """
    section: dict[str, Any] = {"flagged": [], "spaces": {}}
    if sets.train is None:
        put(section, "passed", NO_TRAIN)
        return section, {}
    spaces: dict[str, Callable[[np.ndarray], np.ndarray]] = {"pixels": memorisation.pixel_features}
    # The classifier sees a shifted copy as the same image; other extractors serve where there is none.
    extractors = [loaded[name] for name in ("classifier", "xrv", "inception")]
    spaces |= {e.name: e for e in extractors if isinstance(e, features.Extractor)}
    checks: dict[str, memorisation.SpaceCheck] = {}
    for name, extract in list(spaces.items())[:2]:
        try:
            checks[name] = memorisation.check(
                name,
                extract(sets.generated.pixels),
                extract(sets.train.pixels),
                extract(sets.held_out.pixels),
            )
        except ValueError as error:
            put(section, "passed", Missing(str(error)))
            return section, {}
    for name, check in checks.items():
        section["spaces"][name] = {
            "threshold": check.threshold,
            "held_out_smallest": float(check.held_out.ratio.min()),
            "held_out_median": float(np.median(check.held_out.ratio)),
            "generated_smallest": float(check.generated.ratio.min()),
            "generated_median": float(np.median(check.generated.ratio)),
            "flagged": len(check.flagged),
        }
        section["flagged"] += [
            {
                "file": sets.generated.keys[i],
                "neighbour": sets.train.keys[check.generated.index[i]],
                "space": name,
                "distance": float(check.generated.distance[i]),
                "ratio": float(check.generated.ratio[i]),
            }
            for i in check.flagged
        ]
    section["passed"] = not section["flagged"]
    return section, checks


def train_section(record: RunRecord) -> dict:
    """Speed and memory as the run recorded them."""
    section: dict[str, Any] = {}
    missing = Missing(
        "no training run was given (--run)" if record.url is None else "the run's result.json does not say"
    )
    for name in ("images_per_second", "optimizer_bytes_per_worker", "world_size", "zero_stage"):
        put(section, name, missing if record.result.get(name) is None else record.result[name])
    return section
