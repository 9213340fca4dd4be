"""What a run leaves in its output, written without training one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny import shifted, write_checkpoint

from medsd_ray.spec.load import dump_run
from medsd_ray.spec.run import RunSpec
from medsd_ray.storage import FolderStorage
from medsd_ray.training.checks import check_inputs

STEPS = 6
RESULT = {
    "step": STEPS,
    "loss": 0.25,
    "validation_loss": None,
    "images_per_second": 12.0,
    "optimizer_bytes_per_worker": 2_000_000,
    "world_size": 2,
    "zero_stage": 2,
}


def write_output(run: RunSpec, components: Any, finished: bool) -> None:
    """What a run leaves: checkpoints with their description, records, and flags."""
    output, step = FolderStorage(Path(run.output)), STEPS if finished else STEPS // 2
    weights = shifted(components, "unet", 0.0) | shifted(components, "text_encoder", 0.0)
    methods = {"unet": "full", "text_encoder": "full", "vae": "frozen"}
    about = {
        "spec": run.model_dump(mode="json"), "fingerprints": check_inputs(run).fingerprints, "step": step,
        "updates": step, "loss_scale": [1.0, 0],
    }  # fmt: skip
    checkpoint = output.child(f"checkpoints/step-{step:08d}")
    write_checkpoint(checkpoint, run.model, methods, weights, weights, **about)
    output.write("run.yaml", dump_run(run).encode())
    output.write("manifest.json", b'{"data_sha256": "of the first start"}')
    output.write_json("progress.json", {"step": step, "state": "finished" if finished else "interrupted"})
    output.write("metrics.jsonl", (json.dumps({"step": step, "loss": 1.0}) + "\n").encode())
    if finished:
        output.write_json("result.json", RESULT)
