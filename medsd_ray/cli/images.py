"""What a model is used for: `medsd generate` and `insert` make images, `predict` looks at them, `export`
writes it for others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from medsd_ray.cli.options import (
    CheckpointStep,
    ClassifierLabel,
    CompileModel,
    DriftDelta,
    DriftPlace,
    GuidanceScale,
    LastCheckpoint,
    ModelArgument,
    Precision,
    RealImages,
    Scheduler,
    Steps,
    UseGpu,
    seed_option,
)
from medsd_ray.console import stage
from medsd_ray.errors import InputError
from medsd_ray.runs.chosen import checkpoint_address
from medsd_ray.spec.images import (
    BATCH_SIZE,
    DRIFT,
    DRIFT_WHERE,
    GUIDANCE,
    GUIDANCE_SCALE,
    NEGATIVE_PROMPT,
    NUM_IMAGES,
    NUM_INSERTED,
    SCHEDULER,
    SEED,
    STEPS,
    WEIGHT,
    Guidance,
    Sampling,
)

InsertionMethod = Literal["prompt", "sdedit", "inpaint", "drift", "pair"]
MaskFormat = Literal["png", "dicom"]


def generate(
    model: ModelArgument,
    out: Annotated[str, typer.Option(help="Folder or s3:// for the images")],
    prompt: Annotated[str | None, typer.Option(help="One prompt for all images")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A text file, one prompt a line")] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="A CSV with the column prompt, and maybe conditions (age=63; sex=F) and count"),
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A number or category of the model, such as age=63; repeat"),
    ] = None,
    masks: Annotated[
        str | None,
        typer.Option(help="Masks to follow: image shards, or a folder or s3:// of KEY.mask.NAME.png"),
    ] = None,
    guidance: Annotated[str, typer.Option(help=GUIDANCE.help)] = GUIDANCE.default,
    weight: Annotated[
        list[str] | None, typer.Option(metavar="NAME=WEIGHT", help=f"{WEIGHT.help}; repeat")
    ] = None,
    num_images: Annotated[
        int | None, typer.Option(help=f"{NUM_IMAGES.help}; as many as table asks for, or 1, where absent")
    ] = None,
    seed: Annotated[int, seed_option(SEED.help)] = SEED.default,
    negative_prompt: Annotated[str, typer.Option(help=NEGATIVE_PROMPT.help)] = NEGATIVE_PROMPT.default,
    guidance_scale: GuidanceScale = GUIDANCE_SCALE.default,
    scheduler: Scheduler = SCHEDULER.default,
    steps: Steps = STEPS.default,
    drift: DriftDelta = DRIFT.default,
    drift_where: DriftPlace = DRIFT_WHERE.default,
    batch_size: Annotated[int, typer.Option(help=BATCH_SIZE.help)] = BATCH_SIZE.default,
    num_workers: Annotated[int, typer.Option(help="Ray workers; does not change the images")] = 1,
    use_gpu: UseGpu = None,
    precision: Precision = None,
    compile: CompileModel = None,
    last: LastCheckpoint = False,
    step: CheckpointStep = None,
) -> None:
    """Make images from prompts.

    Example: medsd generate medsd-small --prompt "a chest x-ray" --num-images 8 --seed 0 --out images/
    """
    stage(f"checking the model {model}")
    sampling = Sampling(  # before the heavy imports
        negative_prompt, guidance_scale, scheduler, steps, drift, drift_where
    )
    from medsd_ray.generation.generate import generate as run
    from medsd_ray.generation.prompts import read_prompts
    from medsd_ray.generation.wishes import Wish, parse_weights, read_wishes, with_conditions

    how = Guidance(guidance, parse_weights(weight or []))
    if table and (prompt or prompts):
        raise InputError("give either --table, --prompt or --prompts")
    rows = read_wishes(table) if table else [Wish(text) for text in read_prompts(prompt, prompts)]
    run(
        checkpoint_address(model, last, step),
        out,
        prompts=[],
        wishes=with_conditions(rows, condition or []),
        guidance=how,
        masks=masks,
        num_images=(len(rows) if table else 1) if num_images is None else num_images,
        seed=seed,
        sampling=sampling,
        batch_size=batch_size,
        num_workers=num_workers,
        use_gpu=use_gpu,
        precision=precision,
        compile=compile,
    )


def predict(
    trained: Annotated[
        str, typer.Argument(metavar="RUN", help="A task run's output, or one checkpoint of it")
    ],
    images: Annotated[
        str, typer.Argument(help="A folder of image or DICOM files, one such file, or image shards")
    ],
    out: Annotated[str, typer.Option(help="Folder or s3:// for predictions.csv and masks")],
    mask_format: Annotated[
        MaskFormat, typer.Option(help="dicom: of DICOM images, SEG objects that refer to them")
    ] = "png",
    use_gpu: UseGpu = None,
    precision: Precision = None,
    last: LastCheckpoint = False,
    step: CheckpointStep = None,
) -> None:
    """Say what a trained classifier or segmenter sees in images; masks come in the images' own size.

    Example: medsd predict runs/lungs xrays/ --out predictions/

    Example: medsd predict runs/lungs study/ --out predictions/ --mask-format dicom
    """
    stage(f"checking the run {trained} and the images {images}")
    from medsd_ray.generation.predict import predict as run

    checkpoint = checkpoint_address(trained, last, step)
    run(checkpoint, images, out, mask_format=mask_format, use_gpu=use_gpu, precision=precision)


def insert(
    model: ModelArgument,
    real: RealImages,
    out: Annotated[str, typer.Option(help="Folder or s3:// for insertion.json and the pictures")],
    prompt: Annotated[
        str | None,
        typer.Option(help="Words that ask for the finding; pair: the second visit's caption where absent"),
    ] = None,
    method: Annotated[
        InsertionMethod,
        typer.Option(
            help="inpaint, sdedit, drift: into real images; pair: into first visits, beside the real second; "
            "prompt: two prompts from the same noise"
        ),
    ] = "inpaint",
    mask: Annotated[
        Path | None,
        typer.Option(help="Image, white where the finding may be; by the shards' masks where absent"),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(help="0 keeps the image, 1 starts from noise; 1 for inpaint, else 0.6"),
    ] = None,
    without: Annotated[
        str | None,
        typer.Option(help="prompt: the words without the finding; the commonest normal caption where absent"),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="The label that the prompt asks for; by the captions where absent")
    ] = None,
    label: ClassifierLabel = "finding",
    normal: Annotated[str, typer.Option(help="Its value of the images to insert into")] = "No Finding",
    num_images: Annotated[int, typer.Option(help=NUM_INSERTED.help)] = NUM_INSERTED.default,
    seed: Annotated[int, seed_option("Of the noise and the classifier")] = SEED.default,
    guidance_scale: GuidanceScale = GUIDANCE_SCALE.default,
    scheduler: Scheduler = SCHEDULER.default,
    steps: Steps = STEPS.default,
    drift: DriftDelta = DRIFT.default,
    drift_where: DriftPlace = DRIFT_WHERE.default,
    use_gpu: UseGpu = None,
    detector: Annotated[
        str | None,
        typer.Option(
            help="Folder or s3:// that keeps the classifier, to be trained once for many insertions"
        ),
    ] = None,
    last: LastCheckpoint = False,
    step: CheckpointStep = None,
) -> None:
    """Put a finding into images, and measure whether it shows and whether the rest stays.

    Example: medsd insert runs/nih --real shards/ --prompt "A chest x-ray. Pneumonia." --method sdedit --out
    insertion
    """
    stage(f"checking the model {model} and the images {real}")
    sampling = Sampling(
        guidance_scale=guidance_scale, scheduler=scheduler, steps=steps, drift=drift, drift_where=drift_where
    )
    from medsd_ray.evaluation.insert import insert as run

    run(
        checkpoint_address(model, last, step),
        real,
        out,
        prompt=prompt,
        method=method,
        without=without,
        target=target,
        mask=mask,
        strength=strength,
        label=label,
        normal=normal,
        num_images=num_images,
        seed=seed,
        sampling=sampling,
        use_gpu=use_gpu,
        detector=detector,
    )


def export(
    checkpoint: Annotated[
        str, typer.Argument(help="A run's output, or one checkpoint of it; folder or s3://")
    ],
    dest: Annotated[str, typer.Argument(help="Folder or s3:// for what is exported")],
    report: Annotated[
        str | None,
        typer.Option(help="report.json of this model's evaluation: its memorisation check must have passed"),
    ] = None,
    without_memorisation_check: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Why no check is needed, in words; kept in the model card"),
    ] = None,
    raw: Annotated[bool, typer.Option(help="The trained weights instead of their moving average")] = False,
    last: LastCheckpoint = False,
    step: CheckpointStep = None,
) -> None:
    """Write a checkpoint as a plain diffusers folder; of a task run, as its library's network with a card
    that loads it.

    Example: medsd export runs/nih pipelines/nih --report report/report.json

    Example: medsd export runs/classifier networks/classifier
    """
    stage(f"checking the checkpoint {checkpoint}")
    from medsd_ray.models.export import export as run

    source = checkpoint_address(checkpoint, last, step)
    run(source, dest, report=report, without_memorisation_check=without_memorisation_check, raw=raw)
