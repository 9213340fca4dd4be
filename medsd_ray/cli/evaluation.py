"""The verbs that measure images: `medsd evaluate` and `augment`; `prompts` for the named protocols."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from medsd_ray.cli.options import (
    CheckpointStep,
    ClassifierLabel,
    LastCheckpoint,
    ModelArgument,
    OptionalGeneratedImages,
    Precision,
    RealImages,
    UseGpu,
    seed_option,
)
from medsd_ray.console import stage
from medsd_ray.errors import InputError
from medsd_ray.runs.chosen import checkpoint_address

ProtocolName = Literal["roentgen", "chexgenbench"]


JudgeName = Literal["test", "validation"]


def evaluate(
    real: RealImages,
    trained: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="A task run's output or checkpoint, in place of --generated"),
    ] = None,
    generated: OptionalGeneratedImages = None,
    out: Annotated[
        str | None,
        typer.Option(help="Folder or s3:// for report.html and report.json; of a RUN its report/ if absent"),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Images of the model before adaptation, as a reference")
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="The field of the shards' labels that the classifier learns; finding if absent"),
    ] = None,
    inception: Annotated[
        str | None, typer.Option(help="Weight file of the FID Inception network (torch-fidelity's)")
    ] = None,
    xrv: Annotated[str | None, typer.Option(help="Weight file of a torchxrayvision DenseNet-121")] = None,
    clip: Annotated[
        str | None, typer.Option(help="Folder of a CLIP model: image-text score, and roentgen's FID")
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="Output of the training run, for its loss curve and speed")
    ] = None,
    vae: Annotated[
        str | None, typer.Option(help="Model whose VAE's reconstructions of real images are measured")
    ] = None,
    lpips: Annotated[
        str | None, typer.Option(help="Weight file of torchvision's AlexNet, for LPIPS of --vae")
    ] = None,
    protocol: Annotated[
        ProtocolName | None, typer.Option(help="The field's figures by name, in a section of their own")
    ] = None,
    rad_dino: Annotated[str | None, typer.Option(help="chexgenbench: folder of RadDINO")] = None,
    alignment: Annotated[
        str | None, typer.Option(help="chexgenbench: folder of a radiology model in CLIP's layout")
    ] = None,
    siamese: Annotated[
        str | None, typer.Option(help="chexgenbench: weight file of the siamese ResNet-50")
    ] = None,
    reidentify: Annotated[
        str | None, typer.Option(help="chexgenbench: images of training prompts, 10 seeds each")
    ] = None,
    split: Annotated[
        JudgeName | None, typer.Option(help="RUN: the split that judges; test, else validation, if absent")
    ] = None,
    use_gpu: UseGpu = None,
    precision: Precision = None,
    last: LastCheckpoint = False,
    step: CheckpointStep = None,
    seed: Annotated[int, seed_option("Of the classifier and the bootstrap")] = 0,
) -> None:
    """Measure generated images against real ones, or a task run on real ones; write report.html and
    report.json. Weights may be on s3:// too.

    Example: medsd evaluate --real shards/ --generated images/ --out report/

    Example: medsd evaluate runs/classifier --real shards/
    """
    if trained is not None:
        of_images = {
            "--generated": generated, "--base": base, "--label": label, "--inception": inception,
            "--xrv": xrv, "--clip": clip, "--run": run, "--vae": vae, "--lpips": lpips,
            "--protocol": protocol, "--rad-dino": rad_dino, "--alignment": alignment,
            "--siamese": siamese, "--reidentify": reidentify,
        }  # fmt: skip
        _refuse(of_images, f"the evaluation of generated images, and {trained} is a run; leave it out")
        checkpoint = checkpoint_address(trained, last, step)
        return _evaluate_run(checkpoint, real, out, split, seed, use_gpu, precision)
    of_runs = {
        "--split": split, "--use-gpu": use_gpu, "--precision": precision, "--last": last or None,
        "--step": step,
    }  # fmt: skip
    _refuse(of_runs, "the evaluation of a task run; name the run, or leave it out")
    if generated is None or out is None:
        raise InputError(
            f"give --{'out' if generated else 'generated'} for generated images, or name the output of a "
            "task run"
        )
    stage(f"reading {generated} and {real}")
    others = (rad_dino, alignment, siamese, reidentify)
    if protocol is None and any(others):
        raise InputError("--rad-dino, --alignment, --siamese and --reidentify belong to --protocol; name one")
    from medsd_ray.evaluation.evaluate import EvaluationOptions
    from medsd_ray.evaluation.evaluate import evaluate as measure
    from medsd_ray.evaluation.protocols import ProtocolOptions

    measure(
        EvaluationOptions(
            real=real,
            generated=generated,
            out=out,
            base=base,
            label=label or "finding",
            inception=inception,
            xrv=xrv,
            clip=clip,
            run=run,
            vae=vae,
            lpips=lpips,
            protocol=ProtocolOptions(protocol, *others) if protocol else None,
            seed=seed,
        )
    )


def _refuse(options: Mapping[str, object], why: str) -> None:
    """Raises InputError for an option that was given and does nothing."""
    if given := [name for name, value in options.items() if value is not None]:
        raise InputError(f"{given[0]} is of {why}")


def _evaluate_run(
    trained: str,
    real: str,
    out: str | None,
    split: str | None,
    seed: int,
    use_gpu: bool | None,
    precision: str | None,
) -> None:
    stage(f"checking the run {trained} and {real}")
    from medsd_ray.evaluation.task_options import TaskEvaluation
    from medsd_ray.models.networks.task_run import need_task_run

    run = need_task_run(trained)  # before what comes with torch
    from medsd_ray.evaluation.evaluate_task import evaluate_task

    evaluate_task(TaskEvaluation(trained, real, out, split, seed, use_gpu, precision), run)


def localize(
    model: ModelArgument,
    real: Annotated[str, typer.Option(help="Image shards with masks that prepare wrote")],
    out: Annotated[str, typer.Option(help="Folder or s3:// for report.html and report.json")],
    mask: Annotated[
        list[str] | None, typer.Option(help="A mask whose finding is looked for; all where absent")
    ] = None,
    word: Annotated[
        list[str] | None,
        typer.Option(help="MASK=WORDS: what a mask's finding is called in captions; its name where absent"),
    ] = None,
    split: Annotated[
        JudgeName | None, typer.Option(help="The split that judges; test, else validation, if absent")
    ] = None,
    num_images: Annotated[
        int | None, typer.Option(help="Of each mask, at most; all where absent", min=1)
    ] = None,
    use_gpu: UseGpu = None,
    precision: Precision = None,
    last: LastCheckpoint = False,
    step: CheckpointStep = None,
    seed: Annotated[int, seed_option("Of the noise and the bootstrap")] = 0,
) -> None:
    """Measure whether a model's attention finds what real images' masks outline (Dombrowski et al. 2024).

    Example: medsd localize runs/unet --real shards/ --out where/ --word effusion="pleural effusion"
    """
    stage(f"reading {real}")
    words: list[tuple[str, str]] = []
    for one in word or ():
        name, _, said = one.partition("=")
        if not name or not said.strip():
            raise InputError(f"--word {one!r}: write it as effusion='pleural effusion'")
        words.append((name, said.strip()))
    from medsd_ray.evaluation.localize import LocalizeOptions
    from medsd_ray.evaluation.localize import localize as run

    given, masks = checkpoint_address(model, last, step), tuple(mask or ())
    run(LocalizeOptions(given, real, out, masks, tuple(words), split, num_images, seed, use_gpu, precision))


def augment(
    real: Annotated[
        str, typer.Option(help="Image shards that prepare wrote, with a training and a test split")
    ],
    generated: Annotated[
        str, typer.Option(help="Folder that generate wrote, its prompts captions of the training images")
    ],
    out: Annotated[str, typer.Option(help="Folder or s3:// for augmentation.json, .csv and .png")],
    ratio: Annotated[
        list[float] | None, typer.Option(help="Generated images a real one; 0.5, 1 and 2 where absent")
    ] = None,
    num_seeds: Annotated[int, typer.Option(help="Trainings of each case; intervals are over them")] = 3,
    seed: Annotated[int, seed_option("The first of them")] = 0,
    label: ClassifierLabel = "finding",
) -> None:
    """Train a classifier on real, generated, and real and generated images; score it on real held-out
    patients.

    Example: medsd augment --real shards/ --generated images/ --out augmentation --ratio 0.5 --ratio 1
    """
    stage(f"reading {generated} and {real}")
    from medsd_ray.tuning.augment import augment as run

    run(real, generated, out, ratios=ratio or (0.5, 1.0, 2.0), num_seeds=num_seeds, seed=seed, label=label)


def prompts(
    protocol: Annotated[ProtocolName, typer.Argument(help="Whose prompts")],
    real: Annotated[str, typer.Option(help="Image shards that prepare wrote, with a test split")],
    out: Annotated[Path, typer.Option(help="Text file for the prompts, one a line")],
    reidentify: Annotated[
        bool, typer.Option("--reidentify", help="Of training images, for `evaluate --reidentify`")
    ] = False,
    seed: Annotated[int, seed_option("Of the choice among more captions than the protocol asks for")] = 0,
) -> None:
    """Write the prompts that a protocol generates images of, and say how many of each.

    Example: medsd prompts chexgenbench --real shards/ --out prompts.txt
    """
    stage(f"reading {real}")
    from medsd_ray.evaluation.prompts import write_prompts

    write_prompts(protocol, real, out, reidentify=reidentify, seed=seed)
