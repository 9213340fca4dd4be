"""The model card of an exported task run: what the network is, and the lines that load and use it."""

from __future__ import annotations

from typing import Any

from medsd_ray.addresses import shown
from medsd_ray.models.card import as_yaml, manifest_of, named, origin
from medsd_ray.models.networks.task_run import TaskRun
from medsd_ray.spec.run import RANDOM
from medsd_ray.spec.shown_addresses import without_local_paths

_KIND = {"classifier": "image-classification", "segmenter": "image-segmentation"}
_LEARNT = {"classifier": "label", "segmenter": "mask"}
_OUTPUTS = {
    "classifier": "the logits of the classes",
    "segmenter": "a map of logits for the background and each class",
}
_FITTED = {"crop": "the middle", "pad": "all, with black borders"}
_RESIZED = {"crop": "fit", "pad": "pad"}
_USED = {
    "classifier": "print(dict(zip(config['outputs'], probabilities.tolist())))",
    "segmenter": "mask = probabilities.argmax(0)  # of each pixel, a place in config['outputs']",
}


def card(run: TaskRun, config: dict[str, Any], code: str, command: str) -> str:
    """README.md of an exported folder.

    Args:
        run: The run.
        config: What config.json says.
        code: The lines that load the network.
        command: What wrote the folder.
    """
    description, spec = run.description, without_local_paths(run.description.get("spec", {}))
    model = {"model": shown(description["model"])}
    started = named(description | model) if description["model"] != RANDOM else "random weights"
    weights = "their moving average (EMA)" if description.get("ema") else "as trained"
    versions = config["versions"]
    made_of = ", ".join(f"{name} {number}" for name, number in versions.items())
    return f"""---
library_name: {next(iter(versions))}
pipeline_tag: {_KIND[run.task]}
tags: [medsd, research-use-only]
---
# {spec.get("name", "A network trained with medsd")}

**Research use only, not for diagnosis.** A {run.task} of the {_LEARNT[run.task]} `{run.subject}`.

- Classes: {", ".join(f"`{name}`" for name in run.classes)}
- Outputs: {_OUTPUTS[run.task]}; their softmax is what `medsd predict` gives
- Images: {run.size}x{run.size} px, of one that is not square {_FITTED[run.fit]}; three channels, a grayscale
  one repeated; values from 0 to 1, then normalised by mean {_numbers(config["mean"])} and standard deviation
  {_numbers(config["std"])}
- Made by: `{config["made_by"]}`, of {made_of}
- Started from: {started}
- Weights: {weights}, of step {description["step"]}
- Run fingerprint: `{run.fingerprint}`
{origin(spec, manifest_of(run.checkpoint))}
- Written by: `{command}`

## Load

In this folder, without medsd:

```python
{code.strip()}
```

## Use

Of an 8-bit image this is what `medsd predict` says, which also reads DICOM and 16 bits:

```python
{_use(run).strip()}
```

## The run

{as_yaml(spec)}
"""


def _use(run: TaskRun) -> str:
    return f"""import numpy as np
from PIL import Image, ImageOps

image = Image.open("image.png").convert("RGB")
image = ImageOps.{_RESIZED[run.fit]}(image, ({run.size}, {run.size}), Image.Resampling.LANCZOS)
pixels = torch.tensor(np.asarray(image)).permute(2, 0, 1)[None] / 255
mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
with torch.no_grad():
    probabilities = model((pixels - mean) / std).softmax(1)[0]
{_USED[run.task]}
"""


def _numbers(values: list[float]) -> str:
    return "/".join(f"{value:.4g}" for value in values)
