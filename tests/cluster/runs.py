"""What the runs on the cluster work on: a tiny model, latents made with it, phantoms for the report, and
FineTunes of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cluster.kube import Object

RESEARCH = "research"
"""The namespace of the runs."""


@dataclass(frozen=True)
class Data:
    """S3 addresses."""

    root: str
    model: str
    latents: str
    shards: str


def write_data(root: str, folder: Path) -> Data:
    """Puts all of it below `root`; `folder` is empty and local."""
    from small_latents import write_latents
    from tiny import tiny_components

    from medsd_ray.data.prepare import prepare
    from medsd_ray.data.sources.request import SourceRequest
    from medsd_ray.models.save import save_pipeline
    from medsd_ray.storage import open_storage

    data = Data(root, *(f"{root}/{name}" for name in ("model", "latents", "shards")))
    components = tiny_components(0)
    save_pipeline(components, folder)
    open_storage(data.model).upload_tree(folder)
    for split in ("train", "validation"):
        write_latents(data.latents, components, data.model, split=split)
    prepare(SourceRequest("160", "phantom", size=16), data.shards, splits="0.6,0.2,0.2")
    return data


def finetune(name: str, data: Data, training: Object, run: Object) -> Object:
    spec = {
        "model": data.model,
        "data": {"train": data.latents},
        "components": {"unet": {"method": "full"}, "text_encoder": {"method": "full"}},
        "training": {
            "learning_rate": 1e-3,
            "zero_stage": 2,
            "log_every": 1,
            "max_steps": 20,
            "global_batch_size": 8,
            **training,
        },
        "checkpoint": {"every_steps": 5},
        "resources": {"num_workers": 2},
        "output": f"{data.root}/runs/{name}",
    }
    meta = {"name": name, "namespace": RESEARCH}
    return {
        "apiVersion": "medsd.io/v1alpha1",
        "kind": "FineTune",
        "metadata": meta,
        "spec": {"run": spec | run},
    }
