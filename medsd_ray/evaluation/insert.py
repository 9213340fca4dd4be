"""`medsd insert`: a finding put into images by a prompt, and whether it shows and the rest stays. Writes JSON
and pictures.

out/insertion.json   settings and figures
out/pictures.png     before, reconstruction (of an edit), after, the real second visit (of a pair), and
                     where it changed, row by row
out/00000.png ...    the images after; out/COMPLETE is written last
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medsd_ray.addresses import shown
from medsd_ray.console import stage
from medsd_ray.errors import InputError
from medsd_ray.evaluation.estimates import Missing
from medsd_ray.evaluation.figures.prompt_labels import prompt_labels
from medsd_ray.evaluation.inputs import ImageSet, check_real, decode, read_real, resized
from medsd_ray.evaluation.insertion_page import sheet, summary
from medsd_ray.evaluation.messages import Say, print_line
from medsd_ray.evaluation.report.format import dumps
from medsd_ray.evaluation.versions import versions
from medsd_ray.evaluation.visit_pairs import read_visit_pairs
from medsd_ray.generation.png import NOTICE, encode_png
from medsd_ray.gpus import use_gpus
from medsd_ray.models.drift import drift_notes, in_effect, recorded_drift
from medsd_ray.models.inference import Inference
from medsd_ray.models.resolve import model_fingerprint, resolve, used_checkpoint
from medsd_ray.spec.images import NUM_INSERTED, SEED, Sampling
from medsd_ray.storage import Storage, open_storage
from medsd_ray.storage.outputs import finish, read_finished

if TYPE_CHECKING:
    from medsd_ray.evaluation.figures.insertion import Region
    from medsd_ray.evaluation.networks.classifier import Classifier
    from medsd_ray.models.components import Components

RESULT = "insertion.json"
METHODS = ("prompt", "sdedit", "inpaint", "drift", "pair")
STRENGTHS = {"sdedit": 0.6, "inpaint": 1.0, "drift": 0.6, "pair": 0.6}
EDITED = "research use only: a real image changed by a model, not as it was taken"


@dataclass(frozen=True)
class Settings:
    """What `medsd insert` was asked for."""

    model: str
    model_fingerprint: str
    real: str
    method: str
    prompt: str | None
    without: str | None
    target: str | None
    mask: str | None
    strength: float
    label: str
    normal: str
    num_images: int
    seed: int
    sampling: Sampling


def insert(
    model: str,
    real: str,
    out: str,
    *,
    prompt: str | None = None,
    method: str = "inpaint",
    without: str | None = None,
    target: str | None = None,
    mask: Path | None = None,
    strength: float | None = None,
    label: str = "finding",
    normal: str = "No Finding",
    num_images: int = NUM_INSERTED.default,
    seed: int = SEED.default,
    sampling: Sampling = Sampling(),
    use_gpu: bool | None = None,
    detector: str | None = None,
    say: Say = print_line,
) -> dict:
    """Puts the finding of `prompt` into images, and measures whether it shows and whether the rest stays.

    Args:
        model: Pipeline folder, checkpoint, s3://, hub name, or medsd-small.
        real: Image shards that `prepare` wrote, or a folder of images.
        out: Where insertion.json and the pictures go.
        prompt: The words that ask for the finding; of `pair` the second visit's own caption where it is None.
        method: `prompt` makes pairs from the same noise, one by the prompt `without` the finding; `sdedit`
            and `inpaint` change real images of the held-out split whose `label` is `normal`; `drift` is
            `sdedit` along a reverse process that drifts; `pair` does the same, with the model's drift if any,
            to the first of a patient's two visits, and compares it with the real second.
        without: Of `prompt`: the words without the finding; the commonest normal caption where it is None.
        target: The label that the prompt asks for; by the training images' captions where it is None.
        mask: An image that is white where the finding may be; by the shards' masks where it is None.
        strength: From 0, which keeps the image, to 1, which starts from noise; 1 for `inpaint` and 0.6 for
            other edits where it is None.
        label: The field of the shards' labels that the classifier learns.
        normal: Its value of the images to insert into.
        num_images: Images to change, or pairs to make.
        seed: Of the noise and the classifier.
        sampling: Guidance, scheduler and steps.
        use_gpu: Whether the model runs on this machine's GPU; where None, if there is one.
        detector: Where the classifier is kept, to be trained once for many insertions.
        say: Is told where the computation stands, a line at a time.

    Returns:
        What insertion.json holds.

    Raises:
        InputError: Settings do not fit, the model cannot be loaded, or images cannot be read.
    """
    _check(method, prompt, without, mask, strength, num_images, seed)
    own = recorded_drift(resolve(model))
    for note in drift_notes(sampling, own):
        say(note)
    if method == "drift" and not in_effect(sampling, own).drift:
        raise InputError("--method drift: the model has no drift of its own; give --drift, such as 0.1")
    strength = STRENGTHS.get(method, 1.0) if strength is None else strength
    settings = Settings(
        model,
        model_fingerprint(model),
        real,
        method,
        prompt,
        without,
        target,
        mask and str(mask),
        strength,
        label,
        normal,
        num_images,
        seed,
        in_effect(sampling, own),
    )
    store = open_storage(out)
    if (known := read_finished(store, RESULT, asdict(settings))) is not None:
        say(f"{out}: complete, nothing to do\n{summary(known)}")
        return known
    check_real(real)
    on_gpu = use_gpus(use_gpu, 1)
    stage(f"loading the model {model}")
    from medsd_ray.evaluation.figures import insertion  # these import torch
    from medsd_ray.generation.sampling import image_size
    from medsd_ray.models.load import load_components

    components = load_components(model)
    components.for_inference(Inference(on_gpu))
    size = image_size(components)
    splits = read_real(real, label, size)
    region = _region(components, method, mask, real, prompt, size)
    say(f"insert: {method}, {num_images} images")
    made = _made(components, splits, region, settings)
    images = made.images
    classifier, wanted = _classifier(splits, settings, made.shown, detector, say)
    figures, where = insertion.measure(images, region, classifier, wanted)
    found = {
        "format": "medsd-insertion/1",
        "settings": asdict(settings),
        "checkpoint": used_checkpoint(model),
        **figures,
        "versions": versions(),
    }
    _write(store, found, made, where, settings)
    say(summary(found))
    return found


def _check(
    method: str,
    prompt: str | None,
    without: str | None,
    mask: Path | None,
    strength: float | None,
    num_images: int,
    seed: int,
) -> None:
    if method not in METHODS:
        raise InputError(f"method {method!r} is not known; choose {', '.join(METHODS)}")
    NUM_INSERTED.check(num_images)
    SEED.check(seed)
    if prompt is None and method != "pair":
        raise InputError("--prompt is missing: words that ask for the finding")
    if without is not None and method != "prompt":
        raise InputError("--without is the other prompt of --method prompt; leave it out")
    if strength is not None and method == "prompt":
        raise InputError("--strength is of edits, not of --method prompt; leave it out")
    if strength is not None and not 0 <= strength <= 1:
        raise InputError(
            f"strength is {strength}; choose from 0 (the image stays) to 1 (nothing of it is kept)"
        )
    if mask is not None and not mask.is_file():
        raise InputError(f"{mask}: no such image; give one that is white where the finding may be")


def _region(
    components: Components,
    method: str,
    mask: Path | None,
    real: str,
    prompt: str | None,
    size: tuple[int, int],
) -> Region:
    from medsd_ray.evaluation.figures import insertion
    from medsd_ray.generation.edit import editable

    if mask is not None:
        white = resized(decode(mask.read_bytes(), str(mask)), size).mean(-1) > 127
        region = insertion.Region(white, f"the mask {mask}")
    else:
        region = insertion.masked_region(real, prompt, size) if prompt is not None else None
    if region is None and method == "inpaint":
        raise InputError(
            f"{real}: no training image with the caption {prompt!r} has a mask; give --mask, an image that "
            "is white where the finding may be, or choose --method sdedit"
        )
    if region is None or region.mask is None:
        return insertion.CHANGED_MOST
    if method == "inpaint":
        return insertion.Region(editable(components, region.mask), f"{region.source}, grown to whole latents")
    return region


def _classifier(
    splits: dict[str, ImageSet], settings: Settings, target: str | None, detector: str | None, say: Say
) -> tuple[Classifier | Missing, str | Missing]:
    """The classifier of the real training images, and which of its classes the prompt asks for: `target`
    where that is known.
    """
    from medsd_ray.evaluation.networks.classifier import train_classifier
    from medsd_ray.evaluation.networks.detector import read, train_once

    if "train" not in splits:
        return Missing("the real images have no training split with labels"), Missing("no classifier")
    train = splits["train"]
    try:
        if detector is None:
            classifier = train_classifier(train, splits.get("validation"), settings.seed, say)
        else:
            kept = open_storage(detector)
            train_once(settings.real, settings.label, settings.seed, kept, say)
            classifier = read(kept)
    except ValueError as error:
        return Missing(str(error)), Missing("no classifier")
    asked = prompt_labels(train.captions, train.labels, classifier.classes).get(settings.prompt or "")
    wanted = target or asked
    if wanted is None:
        return classifier, Missing(
            "the prompt is no caption of the training images; say with --target which label it asks for"
        )
    if wanted not in classifier.classes:
        raise InputError(
            f"--target {wanted!r} is no label of the training images; choose {', '.join(classifier.classes)}"
        )
    return classifier, wanted


@dataclass(frozen=True)
class Made:
    """`before`, `after`, of an edit `reconstruction` and of pairs `second`, (N, H, W, C) uint8; the prompt of
    each; and the label that all of them are to show, where it is known.
    """

    images: dict[str, np.ndarray]
    prompts: list[str]
    shown: str | None


def _made(components: Components, splits: dict[str, ImageSet], region: Region, settings: Settings) -> Made:
    from medsd_ray.generation.edit import edit
    from medsd_ray.generation.sampling import sample_images

    if settings.method == "prompt":
        assert settings.prompt is not None
        without = settings.without or _normal_caption(splits, settings)
        indices = range(settings.num_images)
        pair = [
            sample_images(
                components,
                [text] * settings.num_images,
                indices,
                seed=settings.seed,
                sampling=settings.sampling,
            )
            for text in (without, settings.prompt)
        ]
        prompts = [settings.prompt] * settings.num_images
        return Made({"before": pair[0], "after": pair[1]}, prompts, settings.target)
    if settings.method == "pair":
        return _changed_first_visits(components, splits, settings)
    assert settings.prompt is not None
    pixels = _normal_images(splits, settings)
    edited = edit(
        components,
        pixels,
        settings.prompt,
        seed=settings.seed,
        sampling=settings.sampling,
        strength=settings.strength,
        mask=region.mask if settings.method == "inpaint" else None,
    )
    images = {"before": pixels, "reconstruction": edited.reconstruction, "after": edited.after}
    return Made(images, [settings.prompt] * len(pixels), settings.target)


def _changed_first_visits(components: Components, splits: dict[str, ImageSet], settings: Settings) -> Made:
    """Each patient's first visit after the prompt of the second, which stands beside it."""
    from medsd_ray.generation.edit import edit
    from medsd_ray.generation.sampling import image_size

    pairs = read_visit_pairs(
        splits,
        settings.real,
        image_size(components),
        normal=settings.normal,
        target=settings.target,
        count=settings.num_images,
    )
    prompts = pairs.captions if settings.prompt is None else [settings.prompt] * len(pairs.captions)
    images = {"before": pairs.first, "second": pairs.second}
    for prompt in dict.fromkeys(prompts):  # those of one prompt together
        rows = [i for i, one in enumerate(prompts) if one == prompt]
        edited = edit(
            components,
            pairs.first[rows],
            prompt,
            seed=settings.seed,
            sampling=settings.sampling,
            strength=settings.strength,
        )
        for name, part in (("reconstruction", edited.reconstruction), ("after", edited.after)):
            images.setdefault(name, np.empty((len(prompts), *part.shape[1:]), np.uint8))[rows] = part
    shown_at_second = set(pairs.labels)
    return Made(images, prompts, settings.target or (pairs.labels[0] if len(shown_at_second) == 1 else None))


def _normal_caption(splits: dict[str, ImageSet], settings: Settings) -> str:
    """The commonest caption of normal images."""
    every = [pair for images in splits.values() for pair in zip(images.captions, images.labels, strict=True)]
    counts = Counter(caption for caption, label in every if caption and label == settings.normal)
    if not counts:
        raise InputError(
            f"{settings.real}: no caption of images labelled {settings.normal!r}; give --without, a prompt "
            "without it"
        )
    return counts.most_common(1)[0][0]


def _normal_images(splits: dict[str, ImageSet], settings: Settings) -> np.ndarray:
    """Held-out real images without the finding (of a plain folder: any), one of each patient first."""
    name = next(one for one in ("test", "validation", *splits) if one in splits)
    images = splits[name]
    usable = [
        i
        for i, label in enumerate(images.labels)
        if label == settings.normal or (name == "all" and label is None)
    ]
    if not usable:
        raise InputError(
            f"{settings.real}: no image of the {name} split is labelled {settings.normal!r}; mend --label "
            "or --normal"
        )
    first = {images.groups[i]: i for i in reversed(usable)}
    ordered = [*sorted(first.values()), *(i for i in usable if first[images.groups[i]] != i)]
    if len(ordered) < settings.num_images:
        raise InputError(
            f"{settings.real}: only {len(ordered)} images of the {name} split are normal; lower --num-images"
        )
    return images.pixels[ordered[: settings.num_images]]


def _write(store: Storage, found: dict, made: Made, where: np.ndarray, settings: Settings) -> None:
    files = {"pictures.png": sheet(made.images, where)}
    about = {
        "notice": NOTICE if settings.method == "prompt" else EDITED,
        "method": settings.method,
        "model": shown(settings.model),
        "seed": str(settings.seed),
        "drift": str(settings.sampling.drift),
        "drift_where": str(settings.sampling.drift_where),
    }
    for index, (pixels, prompt) in enumerate(zip(made.images["after"], made.prompts, strict=True)):
        files[f"{index:05d}.png"] = encode_png(pixels, about | {"prompt": prompt})
    finish(store, files | {RESULT: dumps(found)})
