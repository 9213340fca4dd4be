"""`medsd evaluate`: reads the images, computes each section of the report, writes report.json and
report.html.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from medsd_ray.errors import InputError
from medsd_ray.evaluation.estimates import Missing
from medsd_ray.evaluation.figures import memorisation, reconstruction, sections
from medsd_ray.evaluation.figures import protocol as protocol_figures
from medsd_ray.evaluation.figures.protocol import Asked
from medsd_ray.evaluation.figures.sections import NO_TRAIN, Sets
from medsd_ray.evaluation.inputs import ImageSet, Inputs, concatenate, read_inputs, read_made
from medsd_ray.evaluation.networks import classifier as classifying
from medsd_ray.evaluation.networks import features
from medsd_ray.evaluation.networks.encoders import fetched
from medsd_ray.evaluation.report import page, plots
from medsd_ray.evaluation.report.format import dumps
from medsd_ray.evaluation.versions import versions
from medsd_ray.runs.record import RunRecord, read_run
from medsd_ray.storage import Storage, open_storage

TITLE = "Generated medical images: evaluation"
Say = Callable[[str], None]


def evaluate(
    real: str, generated: str, out: str, *, base: str | None = None, label: str = "finding", inception: str | None = None,
    xrv: str | None = None, clip: str | None = None, run: str | None = None, vae: str | None = None,
    lpips: str | None = None, protocol: Asked | None = None, seed: int = 0,
    held_out: Sequence[str] = ("test",), title: str = TITLE, extra: dict | None = None, say: Say = partial(print, flush=True),
) -> dict:  # fmt: skip
    """Measures generated images against real ones; writes report.html and report.json to `out` and returns
    the latter.

    Arguments are those of `medsd evaluate`. `held_out` names the splits that distances refer to; `extra` adds
    sections to the report, each a dict of figures or a list of dicts. Where `out` holds a report of the same
    images and settings, nothing is computed. Raises InputError for unreadable or missing inputs.
    """
    started, store = time.monotonic(), open_storage(out)
    loaded: dict[str, features.Extractor | Missing] = {
        name: features.EXTRACTORS[name](fetched(address))
        if address
        else Missing(f"no weight file was given (--{name})")
        for name, address in (("inception", inception), ("xrv", xrv))
    }
    clip_folder = str(fetched(clip)) if clip else None
    given = protocol_figures.load(protocol, loaded, clip) if protocol else None
    carrier, perceptual = reconstruction.checked(vae, fetched(lpips) if lpips else None)
    inputs, record = read_inputs(real, generated, base, label), read_run(run)
    words = {name: str(one if isinstance(one, Missing) else one.description) for name, one in loaded.items()}
    options = {"label": label, "seed": seed, "held_out": list(held_out), "clip": clip, "title": title} | words
    seeds = _seeds(given, inputs)
    options["protocol"] = given and [
        *given.words(),
        seeds if isinstance(seeds, Missing) else seeds.checksum(),
    ]
    options["vae"] = carrier if isinstance(carrier, Missing) else [carrier.model, carrier.fingerprint]
    options["lpips"] = perceptual if isinstance(perceptual, Missing) else perceptual.description
    checksum = _checksum(inputs, record, options)
    known = _finished(store, checksum)
    if known is not None:
        say(f"{out}: this report is already there\n{page.summary(known)}")
        return known
    sets = assign(inputs, held_out)
    say(f"evaluate: {len(sets.generated)} generated images against {sets.reference}")
    found: dict[str, Any] = {
        "format": page.FORMAT,
        "title": title,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _command(
            real, generated, out, base, label, inception, xrv, clip, run, vae, lpips, protocol, seed
        ),
        "inputs_sha256": checksum,
        "model": inputs.manifest.get("model"),
        "model_fingerprint": inputs.manifest.get("model_fingerprint"),
        "generation": inputs.manifest,
        "reference": sets.reference,
        "notes": inputs.notes,
    }
    measured, checks = measure(sets, loaded, label, clip_folder, seed, say)
    found |= measured
    found["protocol"] = given and protocol_figures.section(given, sets, seeds, seed, say)
    found["vae"] = reconstruction.vae_section(carrier, perceptual, sets.held_out.pixels)
    found["train"] = sections.train_section(record)
    found["run"] = {
        "output": record.url,
        "spec": record.spec,
        "manifest": record.manifest,
        "result": record.result,
    }
    found["extra"], found["versions"] = extra or {}, versions()
    found["cautions"] = page.cautions(found)
    found["seconds"] = round(time.monotonic() - started, 1)
    _write(store, found, _view(found, sets, record, checks))
    say(page.summary(found))
    return found


def measure(
    sets: Sets,
    loaded: dict[str, features.Extractor | Missing],
    label: str,
    clip: str | None,
    seed: int,
    say: Say,
) -> tuple[dict, dict[str, memorisation.SpaceCheck]]:
    """Every section that the images decide, and the memorisation checks behind its own section."""
    trained = _train(sets, seed, say)
    loaded = loaded | {
        "classifier": trained if isinstance(trained, Missing) else features.of_classifier(trained)
    }
    found: dict[str, Any] = {
        "counts": sections.count_section(sets),
        "classifier": sections.classifier_section(trained, sets, label, seed),
    }
    found["insertion"] = sections.insertion_section(found["classifier"])
    found |= sections.distance_sections(loaded, sets, seed, say)
    say("evaluate: diversity and memorisation")
    found["ms_ssim"] = sections.diversity_section(sets, seed)
    found["clip"] = sections.clip_section(clip, sets)
    found["memorisation"], checks = sections.memorisation_section(loaded, sets)
    return found, checks


def assign(inputs: Inputs, held_out: Sequence[str]) -> Sets:
    """Which real images train, choose and judge. Raises InputError where no split named in `held_out` has
    images.
    """
    real = inputs.real
    if set(real) == {"all"}:
        reference = f"all {len(real['all'])} real images (a plain folder: no split, no labels)"
        return Sets(None, None, real["all"], inputs.generated, inputs.base, reference)
    names = [name for name in held_out if name in real]
    note = ""
    if not names and "validation" in real:
        names, note = ["validation"], " (there is no test split; it also chose the classifier's epoch)"
    if not names:
        raise InputError(
            f"the real shards have no {' or '.join(held_out)} split to judge by; prepare with a test split"
        )
    judge = concatenate([real[name] for name in names])
    reference = (
        f"the {' and '.join(names)} split{note}: {len(judge)} real images of {judge.patients} patients"
    )
    return Sets(real.get("train"), real.get("validation"), judge, inputs.generated, inputs.base, reference)


def _train(sets: Sets, seed: int, say: Say) -> classifying.Classifier | Missing:
    if sets.train is None:
        return NO_TRAIN
    try:
        return classifying.train_classifier(sets.train, sets.validation, seed, say)
    except ValueError as error:
        return Missing(str(error))


def _view(found: dict, sets: Sets, record: RunRecord, checks: dict[str, memorisation.SpaceCheck]) -> dict:
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


def _write(store: Storage, found: dict, view: dict) -> None:
    store.delete("COMPLETE")
    files = {"report.json": dumps(found), "report.html": page.render(found, view)}
    for name, data in files.items():
        store.write(name, data)
    store.mark_complete(
        {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in files.items()}
    )


def _finished(store: Storage, checksum: str) -> dict | None:
    """The report that is there already, where it is complete and of the same inputs."""
    if store.complete() is None:
        return None
    try:
        known = store.read_json("report.json")
    except (FileNotFoundError, ValueError):
        return None
    return known if isinstance(known, dict) and known.get("inputs_sha256") == checksum else None


def _checksum(inputs: Inputs, record: RunRecord, options: dict) -> str:
    """Of all that a report follows from: images, run, options and this package's own code."""
    code = [
        path.read_text() for path in sorted(Path(__file__).parent.rglob("*")) if path.suffix in (".py", ".j2")
    ]
    parts = [inputs.checksum(), inputs.manifest, record.result, record.metrics, options, code]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _seeds(given: protocol_figures.Given | None, inputs: Inputs) -> ImageSet | Missing:
    """The images of training prompts that a protocol compares with their training images."""
    if given is None or given.reidentify is None:
        return Missing("no images of training prompts were given (--reidentify)")
    height, width, channels = inputs.generated.pixels.shape[1:]
    return read_made(given.reidentify, (height, width), channels)


def _command(real, generated, out, base, label, inception, xrv, clip, run, vae, lpips, protocol, seed) -> str:
    parts = [
        "medsd",
        "evaluate",
        "--real",
        real,
        "--generated",
        generated,
        "--out",
        out,
        "--label",
        label,
        "--seed",
        str(seed),
    ]
    named = {
        "base": base,
        "inception": inception,
        "xrv": xrv,
        "clip": clip,
        "run": run,
        "vae": vae,
        "lpips": lpips,
    }
    if protocol:
        named |= {"protocol": protocol.name, "rad-dino": protocol.rad_dino, "alignment": protocol.alignment}
        named |= {"siamese": protocol.siamese, "reidentify": protocol.reidentify}
    for name, value in named.items():
        parts += [f"--{name}", str(value)] if value else []
    return shlex.join(map(str, parts))
