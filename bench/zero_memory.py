"""Optimizer-state bytes per worker at each ZeRO stage, with two CPU workers: `python bench/zero_memory.py`.

Four short runs of `medsd train` on drawn phantoms with medsd-small. The figures are measured from the tensors
on each worker: Adam's two moments in float32, and the float32 master weights that stages 1 and 2 keep beside
the parameters.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from medsd_ray.data.prepare import prepare
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.generation.encode import encode
from medsd_ray.spec.load import parse_run
from medsd_ray.training.run import train


def run(root: Path, stage: int) -> dict:
    spec = parse_run(
        {
            "name": f"zero-{stage}",
            "data": {"train": str(root / "latents")},
            "components": {"unet": "full", "text_encoder": "full"},
            "training": {"max_steps": 4, "global_batch_size": 8, "zero_stage": stage, "log_every": 1},
            "resources": {"num_workers": 2},
            "output": str(root / f"zero-{stage}"),
        }
    )
    return train(spec, resume=False)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(SourceRequest("64", "phantom", size=64), str(root / "shards"))
        encode(str(root / "shards"), str(root / "latents"), model="medsd-small", text_embeddings=False)
        results = {stage: run(root, stage) for stage in (0, 1, 2, 3)}
    whole = results[0]["optimizer_bytes_per_worker"]
    print(
        "| ZeRO stage | Adam's moments, bytes a worker | share of stage 0 | master weights, bytes a worker |"
    )
    print("| --- | --- | --- | --- |")
    for stage, result in results.items():
        moments, masters = result["optimizer_bytes_per_worker"], result["master_weight_bytes_per_worker"]
        print(f"| {stage} | {moments:,} | {moments / whole:.3f} | {masters:,} |")


if __name__ == "__main__":
    main()
