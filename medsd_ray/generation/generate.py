"""`medsd generate`: images from prompts into a folder or S3, in this process or over Ray workers; stops and
goes on.

out/generated.json   the plan, written first: model, settings, and each image's file, prompt, seed and index
out/00000.png ...    the images, each whole or not there; image i has prompt i modulo the number of prompts
out/00000.mask.lung.png ...   the masks that an image follows, where the model takes some
out/metadata.csv     prompts and conditions as `prepare` reads them, so that the images can be trained on:
                     each a patient of its own
out/COMPLETE         written last
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from medsd_ray.addresses import shown
from medsd_ray.console import ProgressLine, stage
from medsd_ray.data.sources.table import TABLE
from medsd_ray.errors import InputError
from medsd_ray.generation.asked import Asked, what_is_asked
from medsd_ray.generation.png import NOTICE
from medsd_ray.generation.wishes import Wish
from medsd_ray.gpus import use_gpus
from medsd_ray.models.drift import drift_notes, in_effect, recorded_drift
from medsd_ray.models.inference import Inference, inference_settings
from medsd_ray.models.resolve import model_fingerprint, resolve, used_checkpoint
from medsd_ray.ray_cluster import check_address
from medsd_ray.ray_tasks import run_tasks
from medsd_ray.runs.names import GENERATED
from medsd_ray.spec.images import BATCH_SIZE, NUM_IMAGES, SEED, Guidance, Sampling
from medsd_ray.storage import Storage, absolute, entry_of_bytes, open_storage
from medsd_ray.storage.outputs import Complete, Foreign, New, claim

COMPILE_FROM = 2000
"""Images that pay for a minute or two of compiling on a GPU."""


def generate(
    model: str,
    out: str,
    *,
    prompts: list[str],
    num_images: int,
    seed: int,
    sampling: Sampling = Sampling(),
    batch_size: int = BATCH_SIZE.default,
    num_workers: int = 1,
    use_gpu: bool | None = None,
    precision: str | None = None,
    compile: bool | None = None,
    wishes: Sequence[Wish] = (),
    guidance: Guidance = Guidance(),
    masks: str | None = None,
) -> None:
    """Makes images from prompts. An output of the same call is completed, or left as it is where complete.

    Args:
        model: The model, as `load_components` takes it.
        out: Where the images go, a folder or `s3://` address.
        prompts: Image i is of prompt i modulo their number.
        num_images: How many images are made.
        seed: With an image's index, what its initial noise follows from.
        sampling: How the images are sampled.
        batch_size: Images that a worker takes at a time; it changes no image.
        num_workers: Ray workers; 1 generates in this process.
        use_gpu: Gives each worker a GPU; where None, if there are GPUs.
        precision: fp32, bf16 or fp16; where None, bf16 on a GPU and fp32 on a CPU. Images differ with it.
        compile: Compiles the model; where None, on a GPU for COMPILE_FROM images or more. Images differ with
            it by rounding.
        wishes: In the place of `prompts`: prompts with the values of conditions beside them; image i is of
            wish i modulo their number.
        guidance: How conditions guide images.
        masks: What images follow where the model takes masks, as `mask_sets.read_mask_sets` takes it.

    A drift that `sampling` leaves to the model is the model's own; the plan says which was in effect.

    Raises:
        InputError: A setting is out of its range, the model cannot be loaded, or `out` holds anything else.
        RunError: The model gives no numbers, or a worker died.
    """
    NUM_IMAGES.check(num_images)
    BATCH_SIZE.check(batch_size)
    SEED.check(seed)
    if num_workers < 1:
        raise InputError(f"num_workers is {num_workers}; choose 1 or more")
    wishes = wishes or [Wish(prompt) for prompt in prompts]
    if not wishes:
        raise InputError("there is no prompt; give --prompt TEXT or --prompts FILE")
    if num_workers > 1:
        check_address()
    store = absolute(open_storage(out))
    on_gpu = use_gpus(use_gpu, num_workers)
    how = inference_settings(on_gpu, precision, compile, images=num_images, compile_from=COMPILE_FROM)
    own = recorded_drift(resolve(model))
    for note in drift_notes(sampling, own):
        print(note)
    sampling = in_effect(sampling, own)
    asked = what_is_asked(model, wishes, guidance, masks, num_images)
    plan = make_plan(model, model_fingerprint(model), asked, num_images, seed, sampling, how)
    plan["checkpoint"] = used_checkpoint(model)
    if not _begin(store, plan):
        print(f"{out}: complete, nothing to do")
        return
    stage(f"loading the model {model}")
    from medsd_ray.generation.image_worker import ImageWorker, warn_of_cut_prompts  # it imports torch
    from medsd_ray.models.load import load_components

    components = load_components(model)
    warn_of_cut_prompts(components, asked.prompts, sampling.negative_prompt)
    present = set(store.list())
    todo = [image["index"] for image in plan["images"] if image["file"] not in present]
    chunks = [todo[i : i + batch_size] for i in range(0, len(todo), batch_size)]
    worker = ImageWorker(components, plan, store, how, asked)
    with ProgressLine(num_images, "images") as progress:
        progress.skip(num_images - len(todo))
        for _, count in run_tasks(worker, chunks, num_workers, how.use_gpu):
            progress.add(count)
    store.write(TABLE, _table(plan, asked))
    images = [name for image in plan["images"] for name in (image["file"], *asked.mask_files(image).values())]
    files = [GENERATED, TABLE, *images]
    store.mark_complete({name: entry_of_bytes(store.read(name)) for name in files})


def make_plan(
    model: str,
    fingerprint: str,
    asked: Asked,
    num_images: int,
    seed: int,
    sampling: Sampling,
    how: Inference = Inference(),
) -> dict[str, Any]:
    """What an output will hold, as `generated.json` records it."""
    width = max(5, len(str(num_images - 1)))
    return {
        "format": "medsd-generated/1",
        "notice": NOTICE,
        "model": shown(model),
        "model_fingerprint": fingerprint,
        "seed": seed,
        "precision": how.precision,
        "compile": how.compile,
        **asdict(sampling),
        **asked.settings_of_plan(),
        "images": [
            {
                "file": f"{index:0{width}d}.png",
                "prompt": asked.prompts[index % len(asked.prompts)],
                "seed": seed,
                "index": index,
                **asked.of_image(index),
            }
            for index in range(num_images)
        ],
    }


def _table(plan: dict[str, Any], asked: Asked) -> bytes:
    """The images as `prepare` reads them, with their conditions and masks in columns of their own."""
    text = io.StringIO()
    rows = csv.writer(text)
    columns = asked.columns()
    rows.writerow(("image", "report", "patient_id", *columns))
    for image in plan["images"]:
        cells = asked.cells(image)
        own = (cells.get(column, "") for column in columns)
        rows.writerow((image["file"], image["prompt"], f"generated-{image['index']}", *own))
    return text.getvalue().encode()


def _begin(store: Storage, plan: dict[str, Any]) -> bool:
    """Makes the output this plan's own; False where it is complete already."""
    # An earlier version wrote a model's whole path, knew one precision, nothing compiled and no drift, and
    # did not say which checkpoint, which the fingerprint tells too.
    earlier = {"precision": "fp32", "compile": False, "drift": 0.0, "drift_where": None}
    told = {"checkpoint": plan["checkpoint"]}
    settings_of = lambda value: earlier | value | told | {"model": shown(value["model"])}
    existing = claim(store, plan, GENERATED, settings_of=settings_of)
    if isinstance(existing, New):
        store.write_json(GENERATED, plan)
    if not isinstance(existing, Foreign):
        return not isinstance(existing, Complete)
    if existing.record is None:
        raise InputError(f"{store.url}: not empty, and not made by generate; choose another --out")
    if not existing.differing:
        raise InputError(f"{store.url}/{GENERATED} is damaged; choose another --out or remove this one")
    raise InputError(
        f"{store.url}: holds images made with another {', '.join(existing.differing)}; choose another --out "
        "or remove this one"
    )
