"""What makes and stores the images of a plan: in this process, or in a Ray worker that it travels to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from medsd_ray.data.shard_png import write_png
from medsd_ray.generation.asked import Asked
from medsd_ray.generation.png import encode_png
from medsd_ray.generation.sampling import sample_images
from medsd_ray.models.components import Components
from medsd_ray.models.inference import Inference
from medsd_ray.spec.images import Sampling
from medsd_ray.storage import Storage


def write_images(
    components: Components, plan: dict[str, Any], indices: list[int], store: Storage, asked: Asked
) -> int:
    """Makes and stores the images of `plan` with these indices, and the masks that they follow; returns how
    many.
    """
    sampling = Sampling(**{name: plan[name] for name in Sampling.__dataclass_fields__})
    entries = [plan["images"][index] for index in indices]
    images = sample_images(
        components,
        [entry["prompt"] for entry in entries],
        indices,
        seed=plan["seed"],
        sampling=sampling,
        conditions=[asked.given(entry) for entry in entries],
        guidance=asked.guidance,
    )
    apart = ("images", "format", "checkpoint")
    common = {name: _as_text(value) for name, value in plan.items() if name not in apart}
    if used := plan.get("checkpoint"):
        common |= {"step": str(used["step"]), "why_this_step": used["why"]}
    for entry, image in zip(entries, images, strict=True):
        masks = asked.masks_of(entry)
        for name, file in asked.mask_files(entry).items():
            store.write(file, write_png(np.where(masks[name] > 0, 255, 0).astype(np.uint8)))
        own = {name: _as_text(value) for name, value in entry.items() if name not in ("file", "seed")}
        store.write(entry["file"], encode_png(image, common | own))
    return len(indices)


def _as_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else str(value)


@dataclass
class ImageWorker:
    """Makes and stores images of a plan; travels to the Ray workers."""

    components: Components
    plan: dict[str, Any]
    store: Storage
    how: Inference
    asked: Asked

    def run(self, indices: list[int]) -> int:
        self.components.for_inference(self.how)
        return write_images(self.components, self.plan, indices, self.store, self.asked)


def warn_of_cut_prompts(components: Components, prompts: list[str], negative_prompt: str) -> None:
    """Says of how many prompts the text encoder sees a part alone."""
    limit = components.tokenizer.model_max_length
    long = [
        p
        for p in {*prompts, negative_prompt}
        if len(components.tokenizer(p, truncation=False)["input_ids"]) > limit
    ]
    if long:
        print(
            f"{len(long)} prompts are longer than the text encoder's {limit} tokens; what is beyond them is "
            "not used"
        )
