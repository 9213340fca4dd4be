"""`medsd reader-study new`: real and generated images that differ in nothing but their pixels, and the key to
them.
"""

from __future__ import annotations

import json
import os
import secrets
from collections import Counter
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path

import numpy as np
from PIL import Image

from medsd_ray.addresses import path_of
from medsd_ray.data.sources.table import TABLE, Row, normal_name, read_table
from medsd_ray.errors import InputError
from medsd_ray.evaluation.figures.prompt_labels import prompt_labels
from medsd_ray.evaluation.inputs import ImageSet, concatenate, read_inputs
from medsd_ray.evaluation.report.format import png_bytes
from medsd_ray.reader_study.study import FORMAT, IMAGES, KEY, STUDY
from medsd_ray.storage import open_storage
from medsd_ray.storage.folder import make_folder
from medsd_ray.storage.outputs import is_empty

HELD_OUT = ("test", "validation")  # the first split that is there: readers see what no model was trained on


@dataclass(frozen=True)
class StudyImage:
    """One image and what is known of it; `abnormal` is None where neither label nor prompt says."""

    pixels: np.ndarray  # (H, W) or (H, W, 3) uint8
    group: str  # "real" or "generated"
    source: str
    text: str
    abnormal: bool | None
    patient: str = ""


def new_study(
    real: str,
    generated: str,
    out: str,
    *,
    num_images: int | None = None,
    seed: int = 0,
    label: str = "finding",
    normal: str = "No Finding",
) -> None:
    """Makes a study of equally many real and generated images, half of each with an abnormality where that is
    known.

    A real image is abnormal where its `label` is another than `normal`; a generated one where its prompt is
    the caption of real images that are.

    Args:
        real: Image shards that `prepare` wrote, or a folder of images, with metadata.csv or without.
        generated: A folder that `generate` wrote, or one of images.
        out: An empty or new folder on this machine.
        num_images: Of both kinds together; as many as both sets allow where it is None.
        seed: Of the choice of images, and of each reader's order.
        label: The field of the labels that says whether a real image shows an abnormality.
        normal: Its value where there is none.

    Raises:
        InputError: The images cannot be read or are too few, or `out` is not empty.
    """
    folder = path_of(out)
    if "://" in out:
        raise InputError(
            f"{out}: a reader study is kept in a folder of the machine that serves it; give --out a folder"
        )
    if folder.exists() and (not folder.is_dir() or not is_empty(open_storage(folder))):
        raise InputError(f"{out}: not an empty folder; choose another --out, so that no answers are lost")
    if num_images is not None and num_images < 2:
        raise InputError(f"num_images is {num_images}; choose 2 or more, half of them real")
    sets, reference, notes = _read(real, generated, label, normal)
    each = min(map(len, sets.values()))
    if num_images is not None and num_images // 2 > each:
        raise InputError(
            f"num_images is {num_images}, but there are only {each} images of each kind to choose from"
        )
    rng = np.random.default_rng([seed, 43])
    chosen = [
        one
        for images in sets.values()
        for one in choose(images, num_images // 2 if num_images else each, rng)
    ]
    about = {"real": real, "generated": generated, "label": label, "normal": normal, "reference": reference}
    _write(folder, chosen, seed, about)
    for note in notes:
        print(note)
    known = sum(one.abnormal is not None for one in chosen)
    print(
        f"{out}: {len(chosen)} images, half of them real ({reference}); "
        f"whether they show an abnormality is known of {known}.\n"
        f"Next: medsd reader-study serve {out}"
    )


def _read(
    real: str, generated: str, label: str, normal: str
) -> tuple[dict[str, list[StudyImage]], str, list[str]]:
    """The images to choose from, of one size and mode; what the real ones are, and what was done to them, in
    words.
    """
    inputs = read_inputs(real, generated, None, label)
    split = next((name for name in (*HELD_OUT, *inputs.real) if name in inputs.real), "all")
    shown = _with_table(inputs.real[split], Path(real), label) if split == "all" else inputs.real[split]
    every = shown if split == "all" else concatenate(list(inputs.real.values()))
    truths = prompt_labels(
        every.captions, every.labels, sorted({one for one in every.labels if one is not None})
    )
    asked = [truths.get(prompt) for prompt in inputs.generated.captions]
    both = {
        group: [
            _shown(group, images, i, None if found is None else found != normal)
            for i, found in enumerate(labels)
        ]
        for group, images, labels in (("real", shown, shown.labels), ("generated", inputs.generated, asked))
    }
    reference = "a plain folder" if split == "all" else f"the {split} split"
    return _one_kind(both), reference, inputs.notes


def _shown(group: str, images: ImageSet, index: int, abnormal: bool | None) -> StudyImage:
    pixels = images.pixels[index]
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    return StudyImage(
        pixels, group, images.keys[index], images.captions[index], abnormal, images.groups[index]
    )


def _with_table(images: ImageSet, folder: Path, label: str) -> ImageSet:
    """A plain folder's captions, patients and labels from its metadata.csv, where it has one."""
    if not (folder / TABLE).is_file():
        return images
    table = read_table(folder / TABLE, folder)
    if absent := [name for name in ("image", "report") if name not in table.columns]:
        raise InputError(
            f"{table.where}: no column {' and no column '.join(map(repr, absent))} among "
            f"{', '.join(table.columns) or 'none'}; name the images' file and caption so"
        )
    rows = {normal_name(row.values["image"]): row.values for row in table.rows if isinstance(row, Row)}
    found = [rows.get(normal_name(key), {}) for key in images.keys]
    return replace(
        images,
        captions=[" ".join(row.get("report", "").split()) for row in found],
        groups=[row.get("patient_id") or key for row, key in zip(found, images.keys, strict=True)],
        labels=[row.get(label) or None for row in found],
    )


def _one_kind(both: dict[str, list[StudyImage]]) -> dict[str, list[StudyImage]]:
    """All grayscale, unless images of both groups show colour: a gray one among coloured ones would tell."""

    def coloured(images: list[StudyImage]) -> bool:
        return any(one.pixels.ndim == 3 and bool((one.pixels != one.pixels[..., :1]).any()) for one in images)

    mode = "RGB" if all(map(coloured, both.values())) else "L"
    convert = lambda pixels: np.asarray(Image.fromarray(pixels).convert(mode))
    return {
        group: [replace(one, pixels=convert(one.pixels)) for one in images] for group, images in both.items()
    }


def choose(images: list[StudyImage], count: int, rng: np.random.Generator) -> list[StudyImage]:
    """`count` of them at random, equally many with and without an abnormality as far as they go, one of a
    patient first.
    """
    patients, places = Counter(), Counter()
    ranked = []
    for index in rng.permutation(len(images)):
        one = images[index]
        again = patients[one.patient]  # 0 for a patient's first image
        ranked.append(((again, places[again, one.abnormal]), one))
        patients[one.patient] += 1
        places[again, one.abnormal] += 1
    return [one for _, one in sorted(ranked, key=itemgetter(0))[:count]]


def uncompressed_png(pixels: np.ndarray) -> bytes:
    """A PNG without metadata, its pixels stored as they are: images of one size and mode have files of one
    length, so that bytes on disk or on the network tell nothing of their texture.
    """
    return png_bytes(pixels, compress_level=0)


def _write(folder: Path, chosen: list[StudyImage], seed: int, about: dict) -> None:
    names = set()
    while len(names) < len(chosen):
        names.add(
            secrets.token_hex(8)
        )  # from the system, not from the seed: no one can compute which is which
    images = dict(zip(sorted(names), (chosen[i] for i in _system_order(len(chosen))), strict=True))
    height, width = chosen[0].pixels.shape[:2]
    make_folder(folder / IMAGES)
    for name, one in images.items():
        path = folder / IMAGES / f"{name}.png"
        path.write_bytes(uncompressed_png(one.pixels))
        os.utime(path, (0, 0))
    entries = {
        n: {"group": o.group, "source": o.source, "text": o.text, "abnormal": o.abnormal}
        for n, o in images.items()
    }
    key = folder / KEY
    key.touch(mode=0o600)
    key.write_text(
        json.dumps({"format": FORMAT, **about, "images": entries}, indent=1, ensure_ascii=False) + "\n"
    )
    public = {"format": FORMAT, "seed": seed, "width": width, "height": height, "images": list(images)}
    (folder / STUDY).write_text(json.dumps(public, indent=1) + "\n")  # last: with it the study is whole


def _system_order(count: int) -> list[int]:
    order = list(range(count))
    secrets.SystemRandom().shuffle(order)
    return order
