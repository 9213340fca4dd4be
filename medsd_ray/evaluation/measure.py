"""Each section of the report of `medsd evaluate`, and the report put together."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

from medsd_ray.evaluation.estimates import Missing
from medsd_ray.evaluation.figures.accuracy import classifier_section, insertion_section
from medsd_ray.evaluation.figures.clip_score import clip_section
from medsd_ray.evaluation.figures.counts import count_section
from medsd_ray.evaluation.figures.distances import distance_sections
from medsd_ray.evaluation.figures.diversity import diversity_section
from medsd_ray.evaluation.figures.memorisation import SpaceCheck, memorisation_section
from medsd_ray.evaluation.figures.protocol import LoadedProtocol, load_protocol, protocol_section
from medsd_ray.evaluation.figures.reconstruction import Lpips, Vae, checked, vae_section
from medsd_ray.evaluation.figures.sets import NO_TRAIN, Sets
from medsd_ray.evaluation.figures.training_record import train_section
from medsd_ray.evaluation.inputs import ImageSet, Inputs, read_made
from medsd_ray.evaluation.messages import Say
from medsd_ray.evaluation.networks.classifier import Classifier, train_classifier
from medsd_ray.evaluation.networks.extractors import EXTRACTORS, Extractor, of_classifier
from medsd_ray.evaluation.networks.weights import local_path
from medsd_ray.evaluation.options import EvaluationOptions
from medsd_ray.evaluation.report import page, plots
from medsd_ray.evaluation.report.format import dumps
from medsd_ray.evaluation.versions import own_code, versions
from medsd_ray.runs.names import REPORT_DATA, REPORT_PAGE
from medsd_ray.runs.overfitting import overfitting
from medsd_ray.runs.record import RunRecord
from medsd_ray.storage import open_storage
from medsd_ray.storage.outputs import Complete, claim, finish
from medsd_ray.times import now


@dataclass(frozen=True)
class Networks:
    """The networks that the options name, loaded, or why each is not there. `clip` is a local folder."""

    extractors: dict[str, Extractor | Missing]
    clip: str | None
    protocol: LoadedProtocol | None
    vae: Vae | Missing
    lpips: Lpips | Missing

    def descriptions(self) -> dict[str, Any]:
        """What the figures depend on besides the images."""
        extractors = {
            n: str(e if isinstance(e, Missing) else e.description) for n, e in self.extractors.items()
        }
        return extractors | {
            "protocol": self.protocol and self.protocol.descriptions(),
            "vae": self.vae if isinstance(self.vae, Missing) else [self.vae.model, self.vae.fingerprint],
            "lpips": self.lpips if isinstance(self.lpips, Missing) else self.lpips.description,
        }


def report_on(
    options: EvaluationOptions,
    inputs: Inputs,
    sets: Sets,
    record: RunRecord,
    extra: dict,
    say: Say,
    started: float,
) -> dict:
    """The report of images that were read, computed where it is not there yet, and written.

    `started` is when the evaluation began, by time.monotonic(). Raises InputError for networks that cannot be
    loaded.
    """
    store = open_storage(options.out)
    networks = load_networks(options)
    seed_images = _seed_images(networks.protocol, inputs)
    checksum = _checksum(inputs, seed_images, record, options, networks)
    existing = claim(store, {"inputs_sha256": checksum}, REPORT_DATA, settings_of=_inputs_sha256)
    if isinstance(existing, Complete):
        say(f"{options.out}: this report is already there\n{page.summary(existing.record)}")
        return existing.record
    say(f"evaluate: {len(sets.generated)} generated images against {sets.reference}")
    risen = overfitting(record.metrics)
    report: dict[str, Any] = {
        "format": page.FORMAT,
        "title": options.title,
        "created": now(),
        "command": options.command(),
        "inputs_sha256": checksum,
        "model": inputs.manifest.get("model"),
        "model_fingerprint": inputs.manifest.get("model_fingerprint"),
        "checkpoint": inputs.manifest.get("checkpoint"),
        "generation": inputs.manifest,
        "reference": sets.reference,
        "notes": [*inputs.notes, *([f"In training {risen}."] if risen else [])],
    }
    sections, checks = measure(sets, networks, options, say)
    report |= sections
    protocol, seed = networks.protocol, options.seed
    report["protocol"] = protocol and protocol_section(protocol, sets, seed_images, seed, say)
    report["vae"] = vae_section(networks.vae, networks.lpips, sets.held_out.pixels)
    report["train"] = train_section(record)
    report["run"] = {
        "output": record.url,
        "spec": record.spec,
        "manifest": record.manifest,
        "result": record.result,
    }
    report["extra"], report["versions"] = extra, versions()
    report["cautions"] = page.cautions(report)
    report["seconds"] = round(time.monotonic() - started, 1)
    view = _view(report, sets, record, checks)
    finish(store, {REPORT_DATA: dumps(report), REPORT_PAGE: page.render(report, view)})
    say(page.summary(report))
    return report


def load_networks(options: EvaluationOptions) -> Networks:
    """Raises InputError for what is named and cannot be loaded."""
    addresses = {"inception": options.inception, "xrv": options.xrv}
    extractors: dict[str, Extractor | Missing] = {
        name: EXTRACTORS[name](local_path(address))
        if address
        else Missing(f"no weight file was given (--{name})")
        for name, address in addresses.items()
    }
    clip = str(local_path(options.clip)) if options.clip else None
    protocol = load_protocol(options.protocol, extractors, options.clip) if options.protocol else None
    vae, lpips = checked(options.vae, local_path(options.lpips) if options.lpips else None)
    return Networks(extractors, clip, protocol, vae, lpips)


def measure(
    sets: Sets, networks: Networks, options: EvaluationOptions, say: Say
) -> tuple[dict[str, Any], dict[str, SpaceCheck]]:
    """Every section that the images decide, and the memorisation checks behind its own section."""
    seed = options.seed
    trained = _train(sets, seed, say)
    own = trained if isinstance(trained, Missing) else of_classifier(trained)
    extractors = networks.extractors | {"classifier": own}
    sections: dict[str, Any] = {
        "counts": count_section(sets),
        "classifier": classifier_section(trained, sets, options.label, seed),
    }
    sections["insertion"] = insertion_section(sections["classifier"])
    sections |= distance_sections(extractors, sets, seed, say)
    say("evaluate: diversity and memorisation")
    sections["ms_ssim"] = diversity_section(sets, seed)
    sections["clip"] = clip_section(networks.clip, sets)
    sections["memorisation"], checks = memorisation_section(extractors, sets)
    return sections, checks


def _train(sets: Sets, seed: int, say: Say) -> Classifier | Missing:
    if sets.train is None:
        return NO_TRAIN
    try:
        return train_classifier(sets.train, sets.validation, seed, say)
    except ValueError as error:
        return Missing(str(error))


def _view(found: dict, sets: Sets, record: RunRecord, checks: dict[str, SpaceCheck]) -> dict:
    shown = {
        name: {
            "plot": plots.ratio_plot(check),
            "pairs": plots.memorisation_pairs(check, sets.generated, sets.train) if sets.train else [],
        }
        for name, check in checks.items()
    }
    return {
        "rows": plots.picture_rows(sets.held_out, sets.generated, sets.base),
        "curve": plots.loss_curve(record.metrics),
        "fid_plot": plots.interval_plot(found["fid"], "FID to held-out real images (lower is nearer)"),
        "kid_plot": plots.interval_plot(found["kid"], "KID to held-out real images (lower is nearer)"),
        "checks": shown,
        "extractors": list(found["fid"]["by_extractor"]),
    }


def _inputs_sha256(report: dict) -> dict[str, str]:
    return {"inputs_sha256": report["inputs_sha256"]}


def _seed_images(protocol: LoadedProtocol | None, inputs: Inputs) -> ImageSet | Missing:
    """The images of training prompts, from several seeds each, that a protocol compares with training
    images.
    """
    if protocol is None or protocol.reidentify is None:
        return Missing("no images of training prompts were given (--reidentify)")
    height, width, channels = inputs.generated.pixels.shape[1:]
    return read_made(protocol.reidentify, (height, width), channels)


def _checksum(
    inputs: Inputs,
    seed_images: ImageSet | Missing,
    record: RunRecord,
    options: EvaluationOptions,
    networks: Networks,
) -> str:
    """Of all that a report follows from: images, run, options, networks and this package's own code."""
    settings = {
        "label": options.label,
        "seed": options.seed,
        "held_out": options.held_out,
        "clip": options.clip,
        "title": options.title,
        "seed_images": seed_images if isinstance(seed_images, Missing) else seed_images.checksum(),
    }
    settings |= networks.descriptions()
    parts = [inputs.checksum(), inputs.manifest, record.result, record.metrics, settings, own_code()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
