"""`medsd localize`: whether a model looks at a finding where real images have it; report.json, report.html
and pictures.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from medsd_ray.addresses import shown
from medsd_ray.console import ProgressLine, stage
from medsd_ray.data.shards import Index, Sample, iter_samples, read_index
from medsd_ray.errors import InputError
from medsd_ray.evaluation.estimates import put
from medsd_ray.evaluation.messages import Say, print_line
from medsd_ray.evaluation.report.format import dumps
from medsd_ray.evaluation.task_samples import judging_split
from medsd_ray.evaluation.versions import own_code, versions
from medsd_ray.gpus import use_gpus
from medsd_ray.models.inference import inference_settings
from medsd_ray.models.resolve import model_fingerprint, used_checkpoint
from medsd_ray.runs.names import REPORT_DATA, REPORT_PAGE
from medsd_ray.storage import Storage, open_storage
from medsd_ray.storage.outputs import Complete, claim, finish
from medsd_ray.times import now

if TYPE_CHECKING:
    from medsd_ray.evaluation.figures.localization import Localizations
    from medsd_ray.models.components import Components

FORMAT = "medsd-localization/1"
BATCH = 32
SHOWN = 12
"""Pictures: the first images."""


@dataclass(frozen=True)
class LocalizeOptions:
    """What `medsd localize` is asked for. Addresses are paths or s3://.

    Attributes:
        model: As `load_components` takes it.
        real: Image shards that `prepare` wrote, with masks.
        out: Where the report goes.
        masks: The masks whose findings are looked for; all that the shards have where it is empty.
        words: Of a mask, what its finding is called in captions; the mask's name where it has none.
        split: The split that judges; `test`, else `validation`, where it is None.
        num_images: Of each mask, at most; all where it is None.
        seed: Of the noise and of the draws of patients.
        use_gpu: Whether the model runs on a GPU; where None, if there is one.
        precision: Its number format; where None, bf16 on a GPU and fp32 on a CPU.
    """

    model: str
    real: str
    out: str
    masks: tuple[str, ...] = ()
    words: tuple[tuple[str, str], ...] = ()
    split: str | None = None
    num_images: int | None = None
    seed: int = 0
    use_gpu: bool | None = None
    precision: str | None = None

    def command(self) -> str:
        """The command line that asks for the same figures."""
        words = ["medsd", "localize", self.model, "--real", self.real, "--out", self.out]
        words += [word for mask in self.masks for word in ("--mask", mask)]
        words += [word for mask, said in self.words for word in ("--word", f"{mask}={said}")]
        given = {"split": self.split, "num-images": self.num_images, "precision": self.precision}
        words += [word for name, value in given.items() if value for word in (f"--{name}", str(value))]
        return shlex.join([*words, "--seed", str(self.seed)])

    def phrases(self, mask: str) -> list[str]:
        """What the finding of a mask is called in captions."""
        return [said for name, said in self.words if name == mask] or [mask.replace("_", " ")]


@dataclass
class Looked:
    """What was found on the images, one for each of their masks. `samples` are without their images."""

    samples: list[Sample]
    findings: list[str]
    named: np.ndarray
    judged: Localizations
    map_size: tuple[int, int]
    pictures: list[bytes]


def localize(options: LocalizeOptions, say: Say = print_line) -> dict[str, Any]:
    """Looks, judges and writes the report. Where the output holds that of the same model, images and
    settings, nothing is computed.

    Args:
        options: What is asked for.
        say: Is told where the computation stands, a line at a time.

    Returns:
        What report.json holds.

    Raises:
        InputError: The model cannot be loaded, or the shards have no such mask or images of another size.
    """
    started = time.monotonic()
    split, index, masks = find_masks(options)
    fingerprint = model_fingerprint(options.model)
    on_gpu = use_gpus(options.use_gpu, 1)
    how = inference_settings(on_gpu, options.precision, False, images=index.samples, compile_from=0)
    store = open_storage(options.out)
    shards = [shard.sha256 for shard in index.shards]
    asked = [masks, options.words, options.num_images, options.seed, how.use_gpu, how.precision]
    parts = [fingerprint, shards, split, asked, own_code()]
    checksum = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    existing = claim(
        store, {"inputs_sha256": checksum}, REPORT_DATA,
        settings_of=lambda report: {"inputs_sha256": report["inputs_sha256"]},
    )  # fmt: skip
    if isinstance(existing, Complete):
        say(f"{options.out}: this report is already there\n{summary(existing.record)}")
        return existing.record
    stage(f"loading the model {options.model}")
    from medsd_ray.models.load import load_components  # it imports torch

    components = load_components(options.model)
    components.for_inference(how)
    found = look(components, options, split, index, masks, say)
    report = _about(options, split, masks, fingerprint, checksum) | sections(found, options.seed)
    report |= {"device": "gpu" if how.use_gpu else "cpu", "precision": how.precision, "versions": versions()}
    report["seconds"] = round(time.monotonic() - started, 1)
    write(store, report, found.pictures)
    say(f"{summary(report)}\n{options.out}/{REPORT_PAGE}")
    return report


def find_masks(options: LocalizeOptions) -> tuple[str, Index, list[str]]:
    """The split that judges, its index, and the masks. Raises InputError where there is none."""
    split = judging_split(options.real, options.split)
    index = read_index(options.real, split)
    known = sorted(index.meta.get("masks", {}))
    if index.kind != "image" or not known:
        raise InputError(
            f"{options.real}: no masks here; give image shards that prepare wrote with --mask-column or "
            "--boxes"
        )
    asked = [*options.masks, *(name for name, _ in options.words)]
    if unknown := [name for name in asked if name not in known]:
        raise InputError(f"{options.real}: no mask {unknown[0]!r} here, only {', '.join(known)}")
    return split, index, list(options.masks) or known


def look(
    components: Components, options: LocalizeOptions, split: str, index: Index, masks: list[str], say: Say
) -> Looked:
    """Has the model see every image that has a mask. Raises InputError for images of another size, or where
    no mask has both a pixel in it and one out of it.
    """
    from medsd_ray.evaluation.figures.localization import Localizations, enlarged
    from medsd_ray.evaluation.report.task_plots import localization_picture
    from medsd_ray.generation.attention_maps import attention_maps, tokens_of
    from medsd_ray.generation.sampling import image_size

    samples: list[Sample] = []
    findings: list[str] = []
    named, judged, pictures, size = [], [], [], (0, 0)
    with ProgressLine(_total(index, masks, options.num_images), "masks") as progress:
        for batch in _batches(options, split, masks):
            pixels = np.stack(
                [np.atleast_3d(sample.image) for sample, _ in batch if sample.image is not None]
            )
            if pixels.shape[1:3] != image_size(components):
                raise InputError(
                    f"{options.real}: images of {pixels.shape[1]} px, but the model makes "
                    f"{image_size(components)[0]} px; prepare with --size {image_size(components)[0]}"
                )
            captions = [sample.caption for sample, _ in batch]
            phrases = [options.phrases(mask) for _, mask in batch]
            pairs = [
                tokens_of(components.tokenizer, [caption], words)
                for caption, words in zip(captions, phrases, strict=True)
            ]
            maps = attention_maps(
                components, pixels, captions, np.concatenate([tokens for tokens, _ in pairs]),
                seed=options.seed, indices=range(len(samples), len(samples) + len(batch)),
            )  # fmt: skip
            truth = np.stack([sample.masks[mask] > 0 for sample, mask in batch])
            judged.append(Localizations.of(maps, truth))
            named.append(np.concatenate([has for _, has in pairs]))
            size = (maps.shape[1], maps.shape[2])
            for row in range(min(len(batch), SHOWN - len(pictures))):
                whole = enlarged(maps[row], (pixels.shape[1], pixels.shape[2]))
                pictures.append(localization_picture(pixels[row], whole, truth[row]))
            samples += [replace(sample, image=None, masks={}) for sample, _ in batch]
            findings += [mask for _, mask in batch]
            progress.add(len(batch))
    if not samples:
        raise InputError(f"{options.real}: no image of the {split} split has a pixel of {', '.join(masks)}")
    say(f"localize: {len(samples)} findings on images of the {split} split")
    return Looked(samples, findings, np.concatenate(named), Localizations.joined(judged), size, pictures)


def _findings(options: LocalizeOptions, split: str, masks: list[str]) -> Iterator[tuple[Sample, str]]:
    """Samples with the name of one of their masks that has a pixel, and one that it has not."""
    left = dict.fromkeys(masks, options.num_images)
    for sample in iter_samples(options.real, split):
        for mask in masks:
            truth = sample.masks.get(mask)
            if truth is not None and sample.image is not None and 0 < np.count_nonzero(truth) < truth.size:
                if (count := left[mask]) is not None:
                    if not count:
                        continue
                    left[mask] = count - 1
                yield sample, mask


def _batches(options: LocalizeOptions, split: str, masks: list[str]) -> Iterator[list[tuple[Sample, str]]]:
    batch: list[tuple[Sample, str]] = []
    for one in _findings(options, split, masks):
        batch.append(one)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _total(index: Index, masks: list[str], most: int | None) -> int:
    counts: dict[str, int] = index.meta.get("masks", {})
    return sum(min(counts.get(mask, 0), most or counts.get(mask, 0)) for mask in masks)


def sections(found: Looked, seed: int) -> dict[str, Any]:
    """The figures over all findings and of each, with intervals over patients."""
    from medsd_ray.evaluation.figures.groups import Judged, domain_rows, members
    from medsd_ray.evaluation.figures.localization import FIGURES
    from medsd_ray.evaluation.figures.patient_draws import PatientDraws

    draws = PatientDraws([sample.patient for sample in found.samples], seed)
    judged = Judged(lambda of: found.judged.take(of).overall, FIGURES, draws, "auroc")
    overall = judged.row(np.arange(len(found.samples)))
    put(overall, "named", float(found.named.mean()))
    return {
        "map_size": list(found.map_size),
        "figures": overall,
        "by_finding": [
            {"finding": name, "named": float(found.named[of].mean())} | judged.row(of)
            for name, of in members(found.findings).items()
        ],
        "by_domain": domain_rows(judged, found.samples),
    }


def _about(
    options: LocalizeOptions, split: str, masks: list[str], fingerprint: str, checksum: str
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "title": f"Where {shown(options.model)} looks",
        "created": now(),
        "command": options.command(),
        "inputs_sha256": checksum,
        "model": shown(options.model),
        "model_fingerprint": fingerprint,
        "checkpoint": used_checkpoint(options.model),
        "split": split,
        "words": {mask: options.phrases(mask) for mask in masks},
    }


def write(store: Storage, report: dict[str, Any], pictures: list[bytes]) -> None:
    """report.json, report.html and the pictures."""
    from medsd_ray.evaluation.report.localization_page import render

    files = {f"{number:02d}.png": picture for number, picture in enumerate(pictures)}
    finish(store, {**files, REPORT_DATA: dumps(report), REPORT_PAGE: render(report, files)})


def summary(report: dict[str, Any]) -> str:
    """A few lines for the terminal."""
    from medsd_ray.evaluation.report.localization_page import summary as lines

    return lines(report)
