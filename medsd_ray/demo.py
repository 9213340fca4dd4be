"""The whole pipeline in one command, sized for two CPU cores, on GPUs where there are some: prepare, adapt,
encode, adapt, generate, evaluate.

Each step is the verb of the same name on a spec that is written beside its output, so that any of them can be
run again by hand with other settings. A second `medsd demo` on the same folder goes on where the first
stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from medsd_ray.errors import InputError
from medsd_ray.generation.prompts import prompts_of_shards
from medsd_ray.gpus import found_gpus
from medsd_ray.runs.names import REPORT, REPORT_PAGE, RESULT
from medsd_ray.spec.images import Sampling
from medsd_ray.spec.load import dump_run, parse_run
from medsd_ray.spec.run import RunSpec

IMAGE_SIZE = 64
SPLITS = "0.7,0.1,0.2"
MOST_WORKERS = 2
BASE = "medsd-small"
BATCH_SIZE = 32
LAST = {"select": {"figure": "last"}}
"""The checkpoint that the demo's images are by. On few images the validation loss is lowest long before
images follow their prompts.
"""


@dataclass(frozen=True)
class DemoSizes:
    """How much the demo does; the defaults take some minutes on two CPU cores."""

    phantoms: int = 1200
    """Images that are drawn where no folder of images is given."""
    vae_steps: int = 200
    unet_steps: int = 1200
    images: int = 160
    """Images that are generated, before the adaptation and after it."""
    sampling: Sampling = field(default_factory=lambda: Sampling(guidance_scale=2.0))


def vae_run(shards: str, output: str, steps: int, workers: Workers) -> RunSpec:
    """Adapts the VAE's decoder: latents keep their meaning, the images that they become look like the new
    data.
    """
    return parse_run(
        {
            "name": "demo-vae",
            "model": BASE,
            "data": {"train": shards},
            "components": {"vae": "decoder"},
            "training": {
                "max_steps": steps,
                "global_batch_size": BATCH_SIZE,
                "learning_rate": 5e-4,
                "warmup_steps": steps // 10,
                "zero_stage": 2,
                "ema": {"decay": 0.99},
                "validate_every": 100,
            },
            "checkpoint": LAST,
            "resources": {"num_workers": workers.count, "use_gpu": workers.use_gpu},
            "output": output,
        }
    )


def unet_run(
    latents: str, model: str, output: str, prompts: list[str], steps: int, workers: Workers
) -> RunSpec:
    """Adapts the U-Net and the text encoder together, each with its own learning rate, as RoentGen does."""
    return parse_run(
        {
            "name": "demo-unet",
            "model": model,
            "data": {"train": latents},
            "components": {
                "text_encoder": {"method": "full", "learning_rate": 2e-4},
                "unet": {"method": "full", "learning_rate": 4e-4},
            },
            "training": {
                "max_steps": steps,
                "global_batch_size": BATCH_SIZE,
                "warmup_steps": steps // 24,
                "zero_stage": 2,
                "ema": {"decay": 0.998},
                "validate_every": 200,
                "sample_every": 400,
                "sample_prompts": prompts[:4],
            },
            "checkpoint": {"every_steps": 400} | LAST,
            "resources": {"num_workers": workers.count, "use_gpu": workers.use_gpu},
            "output": output,
        }
    )


@dataclass(frozen=True)
class Workers:
    """The workers of every step, each with a GPU or on the CPU."""

    count: int
    use_gpu: bool


def choose_workers(gpus: int) -> Workers:
    """On a GPU each where there are some, at most two; else two on the CPU."""
    return Workers(min(gpus, MOST_WORKERS), True) if gpus else Workers(MOST_WORKERS, False)


class Stopwatch:
    """Wall-clock seconds of each step, printed as they pass and shown in the report."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, step: str, work: Callable[[], object]) -> None:
        print(f"--- {step}", flush=True)
        started = time.monotonic()
        work()
        self.seconds[step] = round(time.monotonic() - started, 1)


def demo(data: Path | None, out: Path, sizes: DemoSizes | None = None) -> None:
    """Runs every step into `out` and prints where the page is.

    Args:
        data: A folder of images with a metadata.csv; None draws phantoms.
        out: The folder of all outputs; what an earlier demo has finished there is kept.
        sizes: How much is done; DemoSizes() where it is None.

    Raises:
        InputError: `data` has no metadata.csv, or one that prepare refuses.
        RunError: A step failed.
        Interrupted: Training was stopped, with a checkpoint; the same call goes on.
    """
    from medsd_ray.data.prepare import prepare
    from medsd_ray.data.sources.request import SourceRequest
    from medsd_ray.data.sources.table import TABLE
    from medsd_ray.evaluation.evaluate import EvaluationOptions, evaluate
    from medsd_ray.generation.encode import encode
    from medsd_ray.generation.generate import generate
    from medsd_ray.training.run import train

    if data is not None and not (data / TABLE).is_file():
        raise InputError(
            f"{data}: no {TABLE} here; name a folder of images with one (columns image, report, patient_id)"
        )
    paths = {
        name: str(out / name) for name in ("shards", "latents", "vae", "unet", "generated", "base", "report")
    }
    sizes, watch, workers = sizes or DemoSizes(), Stopwatch(), choose_workers(found_gpus(MOST_WORKERS))
    print(f"on {workers.count} {'GPU' if workers.use_gpu else 'CPU'} workers", flush=True)

    def prepared() -> None:
        source, kind = (str(sizes.phantoms), "phantom") if data is None else (str(data), "folder")
        asked = SourceRequest(source, kind, size=IMAGE_SIZE)
        prepare(asked, paths["shards"], shard_size="1MiB", splits=SPLITS)

    def trained(run: RunSpec) -> None:
        (out / f"{run.name}.yaml").write_text(dump_run(run))
        if not (Path(run.output) / RESULT).is_file():
            train(run, resume=Path(run.output).exists())

    def generated(model: str, to: str) -> None:
        generate(
            model,
            to,
            prompts=prompts,
            num_images=sizes.images,
            seed=0,
            sampling=sizes.sampling,
            batch_size=40,
            num_workers=workers.count,
            use_gpu=workers.use_gpu,
        )

    watch("prepare", prepared)
    prompts = prompts_of_shards(paths["shards"], "finding")
    of_vae = vae_run(paths["shards"], paths["vae"], sizes.vae_steps, workers)
    watch("adapt the VAE's decoder", lambda: trained(of_vae))
    watch(
        "encode",
        lambda: encode(
            paths["shards"],
            paths["latents"],
            model=paths["vae"],
            text_embeddings=False,
            batch_size=32,
            num_workers=workers.count,
            use_gpu=workers.use_gpu,
        ),
    )
    of_unet = unet_run(paths["latents"], paths["vae"], paths["unet"], prompts, sizes.unet_steps, workers)
    watch("adapt the U-Net and text encoder", lambda: trained(of_unet))
    watch("generate, before adaptation", lambda: generated(BASE, paths["base"]))
    watch("generate, after adaptation", lambda: generated(paths["unet"], paths["generated"]))
    options = EvaluationOptions(
        paths["shards"], paths["generated"], paths["report"], base=paths["base"], run=paths["unet"]
    )
    evaluate(options, extra={"seconds": watch.seconds})
    print(f"Open {(out / REPORT / REPORT_PAGE).resolve()}")
