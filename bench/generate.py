"""Images/s of `medsd generate` against a loop over diffusers' pipeline, and FID's seconds: `python
bench/generate.py`.

The same model, sampler (DPM-Solver++, 25 steps), guidance and prompts. The peer's loops are what its users
write: a prompt at a time, or prompts in batches; each image saved as PNG. medsd's images do not depend on
batch or worker, for which its CPU forward passes have one shape and one thread: it uses more cores by more
workers.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import subject
from common import (
    THREADS,
    Arm,
    Row,
    alternate,
    arguments,
    median,
    over_workers,
    pending,
    rate_over_workers,
    row,
    save,
    serve,
)

PACKAGES = ("torch", "diffusers", "ray", "torchmetrics", "torch-fidelity", "scipy")
CASES = {"cpu": ("small", 64, 16), "cuda": ("sd2", 512, 32)}
"""(layout, pixels, images). Few images and many turns, as a shared machine changes within seconds."""
OVER_WORKERS = 48
"""Images that two workers share: some batches for each."""
PROMPTS = ["a chest x-ray with a large left pleural effusion", "a normal chest x-ray"]
BATCH, STEPS, GUIDANCE = 8, 25, 4.0
FEATURES = 10_000, 2048


def main() -> None:
    parser = arguments(__doc__, repetitions=7)
    parser.add_argument("--part", choices=("images", "fid"), help="one of the two alone")
    given = parser.parse_args()
    if given.arm:
        options = json.loads(given.arm)
        return serve_fid() if options["name"] == "fid" else arm(options)
    layout, size, _ = CASES[given.device]
    rows = []
    if given.part != "fid":
        rows += images(layout, size, given)
    if given.part != "images" and given.device == "cpu":
        rows += fid(given)
    gpu = [
        pending("sd2 512 px: generate, over the pipeline one prompt at a time", "images/s", "ratio > 1"),
        pending("sd2 512 px: generate, over the pipeline in batches", "images/s", "ratio >= 1"),
        pending("sd2 512 px: generate compiled, over the pipeline in batches", "images/s", "ratio >= 1.5"),
    ]
    save("generate", rows, gpu)


def images(layout: str, size: int, given: Any) -> list[Row]:
    on_cpu = given.device == "cpu"
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "folder": folder,
            "layout": layout,
            "device": given.device,
            "count": CASES[given.device][2],
        }
        names = ("ours", "one at a time", "batches") + (() if on_cpu else ("compiled",))
        arms = [Arm(name, options) for name in names]
        answers = alternate(arms, given.repetitions, {"warm": True}, alive=on_cpu)
        for one in arms:
            one.close()
        speed = {name: median(found, "images_per_second") for name, found in answers.items()}

        def line(name: str, ours: float, peer: float, goal: str | None = None) -> Row:
            notes = {"batch": BATCH, "steps": STEPS, "guidance": GUIDANCE}
            return row(
                f"{layout} {size} px: {name}", ours, peer, "images/s", given.device, goal, PACKAGES, **notes
            )

        rows = [
            line(
                "generate, over the pipeline one prompt at a time",
                speed["ours"],
                speed["one at a time"],
                "ratio > 1",
            ),
            line(
                "generate, over the pipeline in batches",
                speed["ours"],
                speed["batches"],
                "ratio >= 1",
            ),
        ]
        if not on_cpu:
            name = "generate compiled, over the pipeline in batches"
            rows.append(line(name, speed["compiled"], speed["batches"], "ratio >= 1.5"))
        if on_cpu:
            more = options | {"count": OVER_WORKERS}
            rows += over_workers("generate", "batches", more, line)
    return rows


def arm(options: dict[str, Any]) -> None:
    import torch

    from medsd_ray.generation.asked import Asked
    from medsd_ray.generation.generate import make_plan
    from medsd_ray.generation.image_worker import ImageWorker
    from medsd_ray.generation.sampling import build_pipeline
    from medsd_ray.models.inference import Inference
    from medsd_ray.models.precision import DTYPES
    from medsd_ray.spec.images import Sampling
    from medsd_ray.storage import open_storage

    torch.set_num_threads(THREADS)
    layout, count, on_gpu = options["layout"], options["count"], options["device"] == "cuda"
    components = subject.components(layout, options["device"])
    sampling = Sampling("", GUIDANCE, "dpm-solver++", STEPS)
    how = Inference(on_gpu, "bf16" if on_gpu else "fp32", options["name"] == "compiled")
    asked = Asked(PROMPTS, [{} for _ in PROMPTS])
    plan = make_plan(layout, "", asked, count, 0, sampling, how)
    chunks = [list(range(at, min(at + BATCH, count))) for at in range(0, count, BATCH)]

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(dir=options["folder"]) as out:
            worker = ImageWorker(components, plan, open_storage(out), how, asked)
            if options["name"] == "over workers":
                return {"images_per_second": rate_over_workers(worker, chunks, question["workers"])}
            began = time.perf_counter()
            if options["name"] in ("ours", "compiled"):
                for chunk in chunks:
                    worker.run(chunk)
            else:
                batch = 1 if options["name"] == "one at a time" else BATCH
                pipeline = build_pipeline(components, sampling)
                pipeline_loop(
                    pipeline.to("cuda" if on_gpu else "cpu", DTYPES[how.precision]), count, batch, Path(out)
                )
            return {"images_per_second": count / (time.perf_counter() - began)}

    serve(answer)


def pipeline_loop(pipeline: Any, count: int, batch: int, out: Path) -> None:
    prompts = [PROMPTS[index % len(PROMPTS)] for index in range(count)]
    for at in range(0, count, batch):
        made = pipeline(prompts[at : at + batch], num_inference_steps=STEPS, guidance_scale=GUIDANCE).images
        for number, image in enumerate(made):
            image.save(out / f"{at + number:05d}.png")


def fid(given: Any) -> list[Row]:
    """From features in memory to the distance, for two sets of 10,000 by 2,048: all after extraction."""
    with tempfile.TemporaryDirectory() as folder:
        one = Arm("fid", {"folder": folder})
        found = alternate([one], min(3, given.repetitions))["fid"]
        one.close()
    ours, differs = median(found, "ours"), max(answer["difference"] for answer in found)
    return [
        row(
            f"FID of 2 x {FEATURES[0]:,} features of {FEATURES[1]}, over {peer}",
            ours,
            median(found, key),
            "s",
            given.device,
            "ours < 5",
            PACKAGES,
            difference=f"{differs:.1e}",
        )
        for peer, key in (("torchmetrics", "torchmetrics"), ("torch-fidelity", "fidelity"))
    ]


def serve_fid() -> None:
    import numpy as np
    import torch
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torchmetrics.image.fid import _compute_fid

    from medsd_ray.evaluation.figures.distances import frechet_distance

    torch.set_num_threads(os.cpu_count() or 1)
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((FEATURES[1], FEATURES[1])) / FEATURES[1] ** 0.5
    x, y = (np.maximum(rng.standard_normal(FEATURES) @ mix + shift, 0) for shift in (0.0, 0.1))

    def moments(features: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        tensor = torch.from_numpy(features)
        return tensor.mean(0), torch.cov(tensor.T)

    def answer(_: dict[str, Any]) -> dict[str, Any]:
        marks = [time.perf_counter()]
        ours = frechet_distance(x, y)
        marks.append(time.perf_counter())
        theirs = float(_compute_fid(*moments(x), *moments(y)))
        marks.append(time.perf_counter())
        statistics = (fid_features_to_statistics(torch.from_numpy(f)) for f in (x, y))
        fid_statistics_to_metric(*statistics, verbose=False)
        marks.append(time.perf_counter())
        seconds = dict(zip(("ours", "torchmetrics", "fidelity"), np.diff(marks).tolist(), strict=True))
        return seconds | {"difference": abs(ours - theirs)}

    serve(answer)


if __name__ == "__main__":
    main()
