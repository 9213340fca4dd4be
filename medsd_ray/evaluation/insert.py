"""`medsd insert`: a finding put into images by a prompt, and whether it shows and the rest stays. Writes JSON
and pictures.

out/insertion.json   settings and figures
out/pictures.png     before, reconstruction (of an edit), after, and where it changed, row by row
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
from medsd_ray.evaluation.messages import Say, print_line
from medsd_ray.evaluation.report.format import dumps, interval_words, number, percent, png_bytes
from medsd_ray.evaluation.versions import versions
from medsd_ray.generation.png import NOTICE, encode_png
from medsd_ray.gpus import use_gpus
from medsd_ray.models.drift import drift_notes, in_effect, recorded_drift
from medsd_ray.models.inference import Inference
from medsd_ray.models.resolve import model_fingerprint, resolve
from medsd_ray.spec.images import NUM_INSERTED, SEED, Sampling
from medsd_ray.storage import Storage, open_storage
from medsd_ray.storage.outputs import finish, read_finished

if TYPE_CHECKING:
    from medsd_ray.evaluation.figures.insertion import Region
    from medsd_ray.evaluation.networks.classifier import Classifier
    from medsd_ray.models.components import Components

RESULT = "insertion.json"
METHODS = ("prompt", "sdedit", "inpaint")
EDITED = "research use only: a real image changed by a model, not as it was taken"
SHOWN = 8  # rows of pictures.png


@dataclass(frozen=True)
class Settings:
    """What `medsd insert` was asked for."""

    model: str
    model_fingerprint: str
    real: str
    method: str
    prompt: str
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
    prompt: str,
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
        prompt: The words that ask for the finding.
        method: `prompt` makes pairs from the same noise, one by the prompt `without` the finding; `sdedit`
            and `inpaint` change real images of the held-out split whose `label` is `normal`.
        without: Of `prompt`: the words without the finding; the commonest normal caption where it is None.
        target: The label that the prompt asks for; by the training images' captions where it is None.
        mask: An image that is white where the finding may be; by the shards' masks where it is None.
        strength: From 0, which keeps the image, to 1, which starts from noise; 0.6 for `sdedit` and 1 for
            `inpaint` where it is None.
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
    _check(method, without, mask, strength, num_images, seed)
    own = recorded_drift(resolve(model))
    for note in drift_notes(sampling, own):
        say(note)
    strength = {"sdedit": 0.6, "inpaint": 1.0}.get(method, 1.0) if strength is None else strength
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
    images = _images(components, splits, region, settings)
    classifier, wanted = _classifier(splits, settings, detector, say)
    figures, where = insertion.measure(images, region, classifier, wanted)
    found = {"format": "medsd-insertion/1", "settings": asdict(settings), **figures, "versions": versions()}
    _write(store, found, images, where, settings)
    say(summary(found))
    return found


def _check(
    method: str, without: str | None, mask: Path | None, strength: float | None, num_images: int, seed: int
) -> None:
    if method not in METHODS:
        raise InputError(f"method {method!r} is not known; choose {', '.join(METHODS)}")
    NUM_INSERTED.check(num_images)
    SEED.check(seed)
    if without is not None and method != "prompt":
        raise InputError("--without is the other prompt of --method prompt; leave it out")
    if strength is not None and method == "prompt":
        raise InputError("--strength is of --method sdedit and inpaint; leave it out")
    if strength is not None and not 0 <= strength <= 1:
        raise InputError(
            f"strength is {strength}; choose from 0 (the image stays) to 1 (nothing of it is kept)"
        )
    if mask is not None and not mask.is_file():
        raise InputError(f"{mask}: no such image; give one that is white where the finding may be")


def _region(
    components: Components, method: str, mask: Path | None, real: str, prompt: str, size: tuple[int, int]
) -> Region:
    from medsd_ray.evaluation.figures import insertion
    from medsd_ray.generation.edit import editable

    if mask is not None:
        white = resized(decode(mask.read_bytes(), str(mask)), size).mean(-1) > 127
        region = insertion.Region(white, f"the mask {mask}")
    else:
        region = insertion.masked_region(real, prompt, size)
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
    splits: dict[str, ImageSet], settings: Settings, detector: str | None, say: Say
) -> tuple[Classifier | Missing, str | Missing]:
    """The classifier of the real training images, and which of its classes the prompt asks for."""
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
    target = settings.target
    wanted = target or prompt_labels(train.captions, train.labels, classifier.classes).get(settings.prompt)
    if wanted is None:
        return classifier, Missing(
            "the prompt is no caption of the training images; say with --target which label it asks for"
        )
    if wanted not in classifier.classes:
        raise InputError(
            f"--target {wanted!r} is no label of the training images; choose {', '.join(classifier.classes)}"
        )
    return classifier, wanted


def _images(
    components: Components, splits: dict[str, ImageSet], region: Region, settings: Settings
) -> dict[str, np.ndarray]:
    """`before`, `after` and, of an edit, `reconstruction`: (N, H, W, C) uint8."""
    from medsd_ray.generation.edit import edit
    from medsd_ray.generation.sampling import sample_images

    if settings.method == "prompt":
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
        return {"before": pair[0], "after": pair[1]}
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
    return {"before": pixels, "reconstruction": edited.reconstruction, "after": edited.after}


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


def _write(
    store: Storage, found: dict, images: dict[str, np.ndarray], where: np.ndarray, settings: Settings
) -> None:
    files = {"pictures.png": _sheet(images, where)}
    about = {
        "notice": NOTICE if settings.method == "prompt" else EDITED,
        "prompt": settings.prompt,
        "method": settings.method,
    }
    for index, pixels in enumerate(images["after"]):
        files[f"{index:05d}.png"] = encode_png(
            pixels, about | {"model": shown(settings.model), "seed": str(settings.seed)}
        )
    finish(store, files | {RESULT: dumps(found)})


def _sheet(images: dict[str, np.ndarray], where: np.ndarray) -> bytes:
    """The first images as a PNG: a row each of before, reconstruction, after, and the change with the
    region's outline.
    """
    three = {name: np.broadcast_to(p[:SHOWN], (*p[:SHOWN].shape[:3], 3)) for name, p in images.items()}
    change = np.abs(three["after"].astype(float) - three["before"].astype(float)).mean(-1)
    change = np.repeat((255 * change / max(change.max(), 1.0)).astype(np.uint8)[..., None], 3, axis=-1)
    some = where[:SHOWN]
    inner = some & np.roll(some, 1, 1) & np.roll(some, -1, 1) & np.roll(some, 1, 2) & np.roll(some, -1, 2)
    change[some & ~inner] = (255, 200, 87)
    columns = [three[name] for name in ("before", "reconstruction", "after") if name in three] + [change]
    gap = np.full((*columns[0].shape[:2], 4, 3), 255, np.uint8)
    rows = np.concatenate([part for column in columns for part in (column, gap)][:-1], axis=2)
    picture = np.concatenate([np.pad(row, ((0, 4), (0, 0), (0, 0)), constant_values=255) for row in rows])[
        :-4
    ]
    scale = max(1, 192 // images["before"].shape[1])
    return png_bytes(picture.repeat(scale, 0).repeat(scale, 1), optimize=True)


def summary(found: dict) -> str:
    """A few lines for the terminal."""
    response = found["response"]
    lines = [f"{found['settings']['method']}, {found['pairs']} images; region: {found['region']['source']}"]
    for name in ("before", "reconstruction", "after"):
        if response.get(name):
            shown, beside = response[name]["shown"], interval_words(response[name], "shown", percent, "95%: ")
            lines.append(f"{name:<16}{percent(shown):>7} show {response['target']} ({beside})")
    if response["gain"] is None:
        lines.append(f"response: not measured, {response['gain_reason']}")
    for name in ("ssim_outside", "ssim_outside_of_reconstruction"):
        if name in found:
            said = (
                found.get(f"{name}_reason")
                or f"{number(found[name])} ({interval_words(found, name, before='95%: ')})"
            )
            words = "SSIM outside" if name == "ssim_outside" else "of it the VAE's own, without an edit"
            lines.append(f"{words}: {said}")
    return "\n".join(lines)
