"""Images/s of `medsd encode` against the same models called in a plain loop: `python bench/encode.py`.

All read the same shards and write the same latents and text embeddings: medsd, a loop over single images, and
a loop over batches. Then medsd over Ray workers of one core each.
"""

from __future__ import annotations

import json
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

PACKAGES = ("torch", "diffusers", "transformers", "ray")
CASES = {"cpu": ("small", 64, 384, "1MiB"), "cuda": ("sd2", 512, 256, "4MiB")}
"""(layout, pixels, images, bytes of a shard). Few images and many turns, as a shared machine changes within
seconds.
"""
OVER_WORKERS = 2048
"""Images that two workers share: some shards for each."""
BATCH = 32


def main() -> None:
    given = arguments(__doc__, repetitions=9).parse_args()
    if given.arm:
        return arm(json.loads(given.arm))
    layout, size, count, shard_size = CASES[given.device]
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "folder": folder,
            "layout": layout,
            "device": given.device,
            "shards": subject.shards(count, size, shard_size),
        }
        alive = given.device == "cpu"
        names = ("ours", "one image at a time", "batch loop") + (() if alive else ("compiled",))
        arms = [Arm(name, options) for name in names]
        answers = alternate(arms, given.repetitions, {"warm": True}, alive=alive)
        for one in arms:
            one.close()
        speeds = {name: median(found, "images_per_second") for name, found in answers.items()}

        def line(name: str, ours: float, peer: float, goal: str | None = None) -> Row:
            return row(
                f"{layout} {size} px: {name}",
                ours,
                peer,
                "images/s",
                given.device,
                goal,
                PACKAGES,
                batch=BATCH,
            )

        rows = [
            line(
                "encode, over one image at a time", speeds["ours"], speeds["one image at a time"], "ratio > 1"
            ),
            line(
                "encode, over a batch loop",
                speeds["ours"],
                speeds["batch loop"],
                "ratio >= 1",
            ),
        ]
        if given.device == "cuda":
            name = "encode compiled, over a batch loop"
            rows.append(line(name, speeds["compiled"], speeds["batch loop"], "ratio >= 1.2"))
        if given.device == "cpu":
            more = options | {"shards": subject.shards(OVER_WORKERS, size, shard_size)}
            rows += over_workers("encode", "batch loop", more, line)
    gpu = [
        pending("sd2 512 px: encode, over one image at a time", "images/s", "ratio > 1"),
        pending("sd2 512 px: encode, over a batch loop", "images/s", "ratio >= 1"),
        pending("sd2 512 px: encode compiled, over a batch loop", "images/s", "ratio >= 1.2"),
    ]
    save("encode", rows, gpu)


def arm(options: dict[str, Any]) -> None:
    import torch

    from medsd_ray.data.shards import iter_samples, open_split
    from medsd_ray.generation.encode_tasks import Task
    from medsd_ray.generation.encoder import Encoder
    from medsd_ray.models.inference import Inference
    from medsd_ray.storage import open_storage

    torch.set_num_threads(THREADS)
    store, index = open_split(options["shards"], "train")
    components = subject.components(options["layout"], options["device"])
    tasks = [Task("train", number, shard) for number, shard in enumerate(index.shards)]
    on_gpu = options["device"] == "cuda"
    how = Inference(on_gpu, "bf16" if on_gpu else "fp32", options["name"] == "compiled")

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(dir=options["folder"]) as out:
            encoder = Encoder(components, True, BATCH, how, {"train": store}, open_storage(out))
            if options["name"] == "over workers":
                return {"images_per_second": rate_over_workers(encoder, tasks, question["workers"])}
            began = time.perf_counter()
            if options["name"] in ("ours", "compiled"):
                for task in tasks:
                    encoder.run(task)
            else:
                batch = 1 if options["name"] == "one image at a time" else BATCH
                plain_loop(
                    components, list(iter_samples(options["shards"], "train")), batch, Path(out), on_gpu
                )
            return {"images_per_second": index.samples / (time.perf_counter() - began)}

    serve(answer)


def plain_loop(components: Any, samples: list, batch: int, out: Path, on_gpu: bool) -> None:
    """What a script of a few lines does: pixels and tokens through the models, the results into one file."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    device = "cuda" if on_gpu else "cpu"
    dtype, tokenizer = torch.bfloat16 if on_gpu else torch.float32, components.tokenizer
    vae, text = components.vae.to(device, dtype), components.text_encoder.to(device, dtype)
    parts = []
    with torch.no_grad():
        for at in range(0, len(samples), batch):
            chosen = samples[at : at + batch]
            pixels = np.stack(
                [
                    np.repeat(np.atleast_3d(sample.image), 3 if sample.image.ndim == 2 else 1, 2)
                    for sample in chosen
                ]
            )
            x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
            posterior = vae.encode(x.to(device, dtype)).latent_dist
            ids = tokenizer(
                [sample.caption for sample in chosen], padding="max_length", truncation=True,
                max_length=tokenizer.model_max_length, return_tensors="pt",
            ).input_ids  # fmt: skip
            parts.append((posterior.mean.cpu(), posterior.logvar.cpu(), text(ids.to(device))[0].cpu()))
    mean, logvar, embeddings = (torch.cat(column).contiguous() for column in zip(*parts, strict=True))
    save_file({"mean": mean, "logvar": logvar, "text_embeddings": embeddings}, out / "latents.safetensors")


if __name__ == "__main__":
    main()
