"""`medsd insert` and `medsd augment`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class How(StrEnum):
    prompt = "prompt"
    sdedit = "sdedit"
    inpaint = "inpaint"


def insert(
    model: Annotated[str, typer.Argument(help="Pipeline folder, checkpoint, s3://, hub name, or medsd-small")],
    real: Annotated[str, typer.Option(help="Image shards that prepare wrote, or a folder of images")],
    prompt: Annotated[str, typer.Option(help="Words that ask for the finding")],
    out: Annotated[str, typer.Option(help="Folder or s3:// for insertion.json and the pictures")],
    method: Annotated[
        How, typer.Option(help="inpaint, sdedit: into real images; prompt: two prompts from the same noise")
    ] = How.inpaint,
    mask: Annotated[
        Path | None, typer.Option(help="Image, white where the finding may be; by the shards' masks where absent")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="0 keeps the image, 1 starts from noise; 0.6 for sdedit, 1 for inpaint")
    ] = None,
    without: Annotated[
        str | None, typer.Option(help="prompt: the words without the finding; the commonest normal caption where absent")
    ] = None,
    target: Annotated[str | None, typer.Option(help="The label that the prompt asks for; by the captions where absent")] = None,
    label: Annotated[str, typer.Option(help="The field of the shards' labels that the classifier learns")] = "finding",
    normal: Annotated[str, typer.Option(help="Its value of the images to insert into")] = "No Finding",
    num_images: Annotated[int, typer.Option(help="Images to change, or pairs to make")] = 16,
    seed: Annotated[int, typer.Option(help="Of the noise and the classifier")] = 0,
    guidance_scale: Annotated[float, typer.Option(help="1 is no guidance")] = 4.0,
    scheduler: Annotated[str, typer.Option(help="dpm-solver++ or ddim")] = "dpm-solver++",
    steps: Annotated[int, typer.Option(help="Denoising steps of the whole schedule")] = 25,
    use_gpu: Annotated[bool, typer.Option(help="On this machine's GPU")] = False,
) -> None:
    """Put a finding into images, and measure whether it shows and whether the rest stays.

    Example: medsd insert runs/nih --real shards/ --prompt "A chest x-ray. Pneumonia." --method sdedit --out insertion
    """
    from medsd_ray.evaluation.insert import insert as run

    run(
        model, real, out, prompt=prompt, method=method.value, without=without, target=target, mask=mask, strength=strength,
        label=label, normal=normal, num_images=num_images, seed=seed, guidance_scale=guidance_scale, scheduler=scheduler,
        steps=steps, use_gpu=use_gpu,
    )  # fmt: skip


def augment(
    real: Annotated[str, typer.Option(help="Image shards that prepare wrote, with a training and a test split")],
    generated: Annotated[str, typer.Option(help="Folder that generate wrote, its prompts captions of the training images")],
    out: Annotated[str, typer.Option(help="Folder or s3:// for augmentation.json, .csv and .png")],
    ratio: Annotated[list[float] | None, typer.Option(help="Generated images a real one; 0.5, 1 and 2 where absent")] = None,
    num_seeds: Annotated[int, typer.Option(help="Trainings of each case; intervals are over them")] = 3,
    seed: Annotated[int, typer.Option(help="The first of them")] = 0,
    label: Annotated[str, typer.Option(help="The field of the shards' labels that the classifier learns")] = "finding",
) -> None:
    """Train a classifier on real, generated, and real and generated images; score it on real held-out patients.

    Example: medsd augment --real shards/ --generated images/ --out augmentation --ratio 0.5 --ratio 1
    """
    from medsd_ray.evaluation.augment import augment as run

    run(real, generated, out, ratios=ratio or (0.5, 1.0, 2.0), num_seeds=num_seeds, seed=seed, label=label)
