"""A study and a run on storage as `medsd tune` and `medsd train` leave them, made up: for tests and
benchmarks of the pages.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from command import MEDSD, printed_address
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from medsd_ray.data.sources.phantom import draw_phantom

Trial = dict[str, Any]
Pictures = list[list[np.ndarray]] | None
EVIL = '<img src=x onerror="window.ran=1"><script>window.ran=1</script>'
PROMPTS = (
    "A chest x-ray with a large left pleural effusion",
    "A chest x-ray without abnormality",
    f"Effusion {EVIL}",
)
VAES, TEXTS, UNETS = (
    ("frozen", "decoder"),
    ("frozen", "full", "textual_inversion"),
    ("full", "lora", "cross_attention", "frozen"),
)
GAIN = {
    "full": 0.30,
    "lora": 0.24,
    "cross_attention": 0.17,
    "frozen": 0.03,
    "decoder": 0.05,
    "textual_inversion": 0.06,
}
IMPORTANCE = {
    "components.unet": 0.58,
    "components.text_encoder": 0.17,
    "components.unet.learning_rate": 0.16,
    "components.vae": 0.09,
}
OUTPUT = "s3://bucket/studies/chambon2022"


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    part.replace(path)


def make_trial(index: int, status: str = "done", steps: int = 600) -> Trial:
    """A trial whose figures follow from its components and learning rate, so that charts show a pattern."""
    rng = random.Random(index)
    pair, seed = divmod(index, 2)
    vae, text, unet = VAES[pair % 2], TEXTS[pair // 2 % 3], UNETS[pair // 6 % 4]
    rate = 10 ** random.Random(pair).uniform(-5, -3)
    params: dict[str, Any] = {"components.vae": vae, "components.text_encoder": text, "components.unet": unet}
    if text == "textual_inversion":
        params["components.text_encoder"] = {
            "method": text,
            "tokens": [{"token": "<effusion>", "initializer": "effusion"}],
        }
    if unet in ("full", "lora"):
        params["components.unet.learning_rate"] = rate
    quality = (
        GAIN[unet]
        + 0.6 * GAIN[text]
        + GAIN.get(vae, 0) * (vae == "decoder")
        - 0.05 * abs(math.log10(rate) + 3.7)
    )
    accuracy = min(0.99, max(0.48, 0.52 + quality + rng.gauss(0, 0.02)))
    metrics = {"insertion_accuracy": accuracy, "fid": 9 * (1.02 - accuracy) + rng.gauss(0, 0.1)}
    trial = {
        "id": f"{index:04d}",
        "params": params,
        "components": {"vae": vae, "text_encoder": text, "unet": unet},
        "seed": seed,
        "status": status,
        "error": "the loss became NaN at step 120; lower the learning rate" if status == "failed" else None,
        "metrics": metrics | {"validation_loss": 0.9 - 0.6 * quality}
        if status in ("done", "stopped")
        else {},
        "steps": {"done": steps, "stopped": steps // 3, "failed": 120, "running": steps // 2, "pending": 0}[
            status
        ],
        "seconds": round(rng.uniform(80, 130), 1) if status in ("done", "stopped", "failed") else None,
        "run": f"trials/{index:04d}/run.yaml",
    }
    return trial


def run_values(trial: Trial, output: str) -> dict[str, Any]:
    components = {name: {"method": method} for name, method in trial["components"].items() if name != "vae"}
    if components["text_encoder"]["method"] == "textual_inversion":
        components["text_encoder"]["tokens"] = [{"token": "<effusion>", "initializer": "effusion"}]
    if all(component["method"] == "frozen" for component in components.values()):
        components["unet"]["method"] = "full"
    if rate := trial["params"].get("components.unet.learning_rate"):
        components["unet"]["learning_rate"] = rate
    training = {
        "max_steps": 600,
        "global_batch_size": 32,
        "sample_every": 200,
        "sample_prompts": list(PROMPTS),
    }
    return {
        "name": f"chambon2022-{trial['id']}",
        "seed": trial["seed"],
        "data": {"train": "s3://bucket/latents"},
        "components": components,
        "training": training,
        "output": output,
    }


def curve(steps: int, points: int, end: float, seed: int) -> list[tuple[int, float]]:
    """A falling loss with noise."""
    rng = random.Random(seed)
    at = [max(1, round(steps * (index + 1) / points)) for index in range(points)]
    return [(step, end + 0.8 * math.exp(-4 * step / steps) + rng.gauss(0, 0.012)) for step in at]


def metrics_lines(steps: int, points: int, end: float, seed: int, every: int = 5) -> str:
    """metrics.jsonl: training records, and after each `every` of them one of validation (only those where
    `every` is 0).
    """
    lines = []
    for index, (step, loss) in enumerate(curve(steps, points, end, seed)):
        if every:
            rates = {"unet": 1e-4 * (1 - step / steps / 1.1), "text_encoder": 5e-5 * (1 - step / steps / 1.1)}
            more = {
                "grad_norm": 0.4 + loss,
                "images_per_second": 96 + 3 * math.sin(index),
                "eta_seconds": 1.0,
            }
            lines.append({"step": step, "loss": loss, "learning_rates": rates} | more)
        if not every or index % every == every - 1:
            lines.append({"step": step, "validation_loss": loss + 0.02})
    return "".join(json.dumps(line) + "\n" for line in lines)


def png(image: np.ndarray, prompt: str, index: int) -> bytes:
    info = PngInfo()
    for name, value in {"prompt": prompt, "seed": "0", "index": str(index)}.items():
        info.add_itxt(name, value)
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG", pnginfo=info)
    return file.getvalue()


def drawings(variants: int = 4) -> list[list[np.ndarray]]:
    """For each of PROMPTS some drawings that show what it says."""
    return [
        [np.asarray(draw_phantom(index, variant, 64, side).image) for variant in range(variants)]
        for index, side in enumerate(("left", None, "bilateral"))
    ]


def write_images(folder: Path, name: str, pictures: list[list[np.ndarray]], variant: int) -> None:
    """One drawing for each prompt; `name` is a format of its number."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, some in enumerate(pictures):
        (folder / name.format(index)).write_bytes(png(some[variant % len(some)], PROMPTS[index], index))


def write_run(
    folder: Path, trial: Trial, *, points: int = 60, pictures: Pictures = None, state: str = "finished"
) -> None:
    """What a run leaves behind: run.yaml, progress.json, metrics.jsonl, samples and checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.yaml").write_text(
        yaml.safe_dump(run_values(trial, f"{OUTPUT}/{folder.name}"), sort_keys=False)
    )
    end, steps = trial["metrics"].get("validation_loss", 0.6), trial["steps"]
    (folder / "metrics.jsonl").write_text(metrics_lines(steps, points, end - 0.35, int(trial["id"])))
    progress = {
        "step": steps,
        "total": 600,
        "state": state,
        "loss": end - 0.35,
        "validation_loss": end - 0.33,
        "warnings": [],
    }
    speed = {"images_per_second": 96.4, "eta_seconds": 61.0, "lastUpdateTime": "2026-01-05T10:00:00+00:00"}
    write_json(folder / "progress.json", progress | speed)
    for step in range(200, steps + 1, 200):
        write_json(folder / f"checkpoints/step-{step:08d}/COMPLETE", {"files": {}})
        if pictures:
            write_images(folder / f"samples/step-{step:08d}", "{:02d}.png", pictures, step // 200)


def combinations(trials: list[Trial]) -> list[dict[str, Any]]:
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(json.dumps(trial["params"], sort_keys=True), []).append(trial)
    found = []
    for group in groups.values():
        values = [
            trial["metrics"]["insertion_accuracy"]
            for trial in group
            if "insertion_accuracy" in trial["metrics"]
        ]
        fids = [trial["metrics"]["fid"] for trial in group if "fid" in trial["metrics"]]
        if values:
            metrics = {name: interval(some) for name, some in (("insertion_accuracy", values), ("fid", fids))}
            ids = [trial["id"] for trial in group]
            found.append(
                {
                    "params": group[0]["params"],
                    "components": group[0]["components"],
                    "trials": ids,
                    "metrics": metrics,
                }
            )
    return sorted(found, key=lambda one: -one["metrics"]["insertion_accuracy"]["mean"])


def interval(values: list[float]) -> dict[str, float]:
    mean, spread = sum(values) / len(values), max(values) - min(values) + 0.01
    return {"mean": mean, "low": mean - spread, "high": mean + spread, "n": len(values)}


def summarise(trials: list[Trial], state: str) -> dict[str, Any]:
    """study.json"""
    done = [trial for trial in trials if "insertion_accuracy" in trial["metrics"]]
    best = max(done, key=lambda trial: trial["metrics"]["insertion_accuracy"], default=None)
    found = {"trial": best["id"], "metric": best["metrics"]["insertion_accuracy"]} if best else None
    return {
        "name": "chambon2022",
        "state": state,
        "metric": "insertion_accuracy",
        "mode": "max",
        "trials": trials,
        "combinations": combinations(trials),
        "best": found and found | {"insertion_accuracy": found["metric"], "spec": {}},
        "best_run": "best.yaml",
        "importance": IMPORTANCE,
        "versions": {"medsd": "0.1.0"},
        "seconds": 1423.0,
    }


def write_study(root: Path, number: int = 12, *, with_images: bool = True) -> list[Trial]:
    """A study at work below `root`: the last trial is pending, the one before runs, one failed, some were
    stopped.
    """
    statuses = {number - 1: "pending", number - 2: "running", 5: "failed"}
    trials = [
        make_trial(index, statuses.get(index, "stopped" if index % 7 == 3 else "done"))
        for index in range(number)
    ]
    pictures = drawings() if with_images else None
    (root / "study.yaml").parent.mkdir(parents=True, exist_ok=True)
    (root / "study.yaml").write_text(
        yaml.safe_dump({"name": "chambon2022", "metric": "insertion_accuracy", "mode": "max"})
    )
    for trial in trials:
        folder = root / "trials" / trial["id"]
        if trial["status"] == "pending":
            continue
        write_run(
            folder, trial, pictures=pictures, state="running" if trial["status"] == "running" else "finished"
        )
        write_json(folder / "trial.json", trial)
        if trial["status"] in ("done", "stopped"):
            write_images(folder / "images", "{:05d}.png", pictures or [], int(trial["id"]) // 2)
    write_run(root / "vae" / "decoder", make_trial(4))
    write_json(root / "study.json", summarise(trials, "running"))
    return trials


def write_large_study(root: Path, trials: int = 1000, points: int = 1000) -> None:
    """Many finished trials with as many points of validation loss each; no images."""
    found = [
        make_trial(index, "stopped" if index % 9 == 4 else "done", points * 10) for index in range(trials)
    ]
    for trial in found:
        folder = root / "trials" / trial["id"]
        folder.mkdir(parents=True, exist_ok=True)
        end = trial["metrics"]["validation_loss"] - 0.35
        (folder / "metrics.jsonl").write_text(
            metrics_lines(points * 10, points, end, int(trial["id"]), every=0)
        )
    write_json(root / "study.json", summarise(found, "done"))


@contextlib.contextmanager
def served(root: Path) -> Iterator[tuple[str, int]]:
    """`medsd dashboard ROOT`, on a free port: its address and process id."""
    command = [MEDSD, "dashboard", str(root), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield printed_address(process), process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
