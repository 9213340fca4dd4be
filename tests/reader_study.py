"""A small reader study of phantoms, and the parts of its making, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from medsd_ray.data.shards import Sample, ShardWriter
from medsd_ray.data.sources.phantom import phantom_samples
from medsd_ray.reader_study.assembly import new_study
from medsd_ray.storage import open_storage

SIZE = 32


def real_shards(root: Path, count: int = 12, size: int = SIZE) -> list[Sample]:
    """Phantoms as shards: all captions in `train`, `count` in `test`. Returns the test split."""
    parts = {
        "train": list(phantom_samples(80, size, seed=1)),
        "test": list(phantom_samples(count, size, seed=2)),
    }
    for split, samples in parts.items():
        writer = ShardWriter(open_storage(root / split), 1 << 20, "image", split, size=size)
        for sample in samples:
            writer.write(sample)
        writer.finish()
    open_storage(root).write_json("index.json", {"format": "medsd-shards/1", "splits": list(parts)})
    return parts["test"]


def generated_images(folder: Path, count: int = 12, size: int = SIZE) -> list[Sample]:
    """Blurred phantoms, so that their PNG files are smaller, with metadata, colour mode and prompts of their
    own.
    """
    folder.mkdir(parents=True)
    samples, entries = list(phantom_samples(count, size, seed=3)), []
    for index, sample in enumerate(samples):
        smooth = gaussian_filter(np.asarray(sample.image, dtype=float), 1.5).astype(np.uint8)
        Image.fromarray(smooth).convert("RGB").save(folder / f"{index:05d}.png")
        entries.append({"file": f"{index:05d}.png", "prompt": sample.caption, "seed": 0, "index": index})
    (folder / "generated.json").write_text(json.dumps({"model": "a-model", "images": entries}))
    return samples


def make_study(
    root: Path, num_images: int | None = None, seed: int = 0, count: int = 12, size: int = SIZE
) -> Path:
    """Shards, generated images and a study below `root`. Returns the study's folder."""
    real_shards(root / "shards", count, size)
    generated_images(root / "made", count, size)
    new_study(str(root / "shards"), str(root / "made"), str(root / "study"), num_images=num_images, seed=seed)
    return root / "study"
