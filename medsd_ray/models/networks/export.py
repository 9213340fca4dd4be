"""`medsd export` of a task run: a folder that the network's own library loads, without medsd.

DEST/config.json    how the network is made, its classes, and what its images are
DEST/model.safetensors, or backbone/ and head.safetensors of a vision model of transformers
DEST/README.md      the model card, with the lines that load and use it
DEST/COMPLETE       written last
"""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medsd_ray.models.networks.card import card
from medsd_ray.models.networks.plain import Plain, write_plain
from medsd_ray.models.networks.task_network import load_trained
from medsd_ray.models.networks.task_run import TaskRun
from medsd_ray.models.networks.weights import PixelStatistics
from medsd_ray.storage import Storage

FORMAT = "medsd-network/1"
UNIT_RANGE = PixelStatistics((0.5,) * 3, (0.5,) * 3)
"""Of a network that wants pixels in [-1, 1]."""
PACKAGES = {"smp": "segmentation-models-pytorch"}
"""A library's package, where its name is another."""


def export_task(run: TaskRun, store: Storage, command: str) -> None:
    """Writes a task run's network, with the weights that `medsd predict` uses, and its model card; COMPLETE
    last.

    Args:
        run: The run.
        store: An empty folder.
        command: What is exported and whereto, for the card.

    Raises:
        InputError: The checkpoint is damaged, what it was trained from has changed, or its library alone does
            not make its network.
    """
    model = load_trained(run.checkpoint)
    with tempfile.TemporaryDirectory(prefix="medsd-") as name:
        folder = Path(name)
        plain = write_plain(model, run, folder)
        config = _config(run, model.network.pixels or UNIT_RANGE, plain)
        text = json.dumps(config, indent=2) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")
        (folder / "README.md").write_text(card(run, config, plain.code, command), encoding="utf-8")
        store.upload_tree(folder)
    step = run.description["step"]
    print(f"{store.url}: exported the {run.task} of step {step}; README.md says how to use it")


def _config(run: TaskRun, pixels: PixelStatistics, plain: Plain) -> dict[str, Any]:
    package = PACKAGES.get(run.settings.network.library, run.settings.network.library)
    return {
        "format": FORMAT,
        "task": run.task,
        "label" if run.task == "classifier" else "mask": run.subject,
        "outputs": [*(["background"] if run.task == "segmenter" else []), *run.classes],
        "classes": list(run.classes),
        "image_size": run.size,
        "fit": run.fit,
        "mean": list(pixels.mean),
        "std": list(pixels.std),
        "library": run.settings.network.library,
        **plain.settings,
        "step": run.description["step"],
        "run_fingerprint": run.fingerprint,
        "versions": {name: version(name) for name in (package, "torch")},
    }
