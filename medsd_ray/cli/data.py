"""From images and reports to shards, and from shards to latents: `medsd prepare` and `encode`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from medsd_ray.cli.options import CompileModel, ModelOption, Precision, UseGpu, seed_option
from medsd_ray.console import stage

SourceKind = Literal["folder", "dicom", "openi", "mimic-cxr", "chexpert", "nih", "padchest", "hf", "phantom"]
UncertainFinding = Literal["positive", "negative", "omit"]
Fit = Literal["crop", "pad"]
FramesTaken = Literal["first", "middle", "all"]


def prepare(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder with metadata.csv, a CSV, TSV or Parquet file, a folder of DICOM files or of OpenI "
            "XML, a published set's folder, one of Hugging Face datasets; for phantoms, how many"
        ),
    ],
    dest: Annotated[str, typer.Argument(help="Folder or s3:// for the shards")],
    kind: Annotated[SourceKind, typer.Option(help="What SOURCE holds")] = "folder",
    size: Annotated[int, typer.Option(help="Height and width in pixels; a multiple of 8")] = 256,
    shard_size: Annotated[str, typer.Option(help="Bytes of a shard at most, such as 64MiB")] = "64MiB",
    image_column: Annotated[
        str | None, typer.Option(help="Column that names the image; by default image")
    ] = None,
    caption_column: Annotated[
        str | None, typer.Option(help="Column with the caption; by default report")
    ] = None,
    caption: Annotated[
        str | None,
        typer.Option(
            help="Caption made of columns, such as '{age} year old {sex}. {view} chest X-ray. {impression}'; "
            "a sentence with an empty field is left out"
        ),
    ] = None,
    patient_column: Annotated[
        str | None,
        typer.Option(
            "--patient-column",
            "--split-by",
            help="Column or DICOM keyword that names the patient; by default patient_id",
        ),
    ] = None,
    patient_regex: Annotated[
        str | None,
        typer.Option(help="Takes the patient from the image's path, such as '(patient[0-9]+)/'"),
    ] = None,
    yes_split: Annotated[
        bool, typer.Option("--yes-split", help="Split by values that do not look like patients")
    ] = False,
    splits: Annotated[
        str, typer.Option(help="Shares of train, validation and test, by patient, or published")
    ] = "0.8,0.1,0.1",
    seed: Annotated[int, seed_option("Of the split, and of drawn phantoms")] = 0,
    images: Annotated[
        str | None, typer.Option(help="Folder of the images, where SOURCE is a table or OpenI XML")
    ] = None,
    reports: Annotated[
        str | None,
        typer.Option(help="mimic-cxr, chexpert: folder, zip or table of the reports, if elsewhere"),
    ] = None,
    view: Annotated[
        list[str] | None,
        typer.Option(help="View that is taken of a published set, such as PA; by default all"),
    ] = None,
    uncertain: Annotated[
        UncertainFinding | None,
        typer.Option(help="mimic-cxr, chexpert: what an uncertain finding becomes; by default no label"),
    ] = None,
    label_column: Annotated[
        list[str] | None, typer.Option(help="Column that becomes a label; beside finding, sex and the like")
    ] = None,
    yes_label: Annotated[
        list[str] | None, typer.Option(help="The same, though values may look like dates, numbers or names")
    ] = None,
    mask_column: Annotated[
        list[str] | None, typer.Option(help="Column that names a mask of the image; may be given again")
    ] = None,
    boxes: Annotated[
        str | None,
        typer.Option(help="Table of boxes (image, finding, x, y, w, h in pixels), drawn as masks"),
    ] = None,
    domain_column: Annotated[
        str | None, typer.Option(help="Column that names where the image comes from, such as site")
    ] = None,
    site: Annotated[
        list[str] | None,
        typer.Option(
            help="phantom: site whose scanner sees it, A (as drawn) to D; again for several, in turn"
        ),
    ] = None,
    visits: Annotated[
        int | None,
        typer.Option(help="phantom: 2 draws each patient twice, the second time with another finding"),
    ] = None,
    fit: Annotated[
        Fit, typer.Option(help="Images that are not square: crop them, or pad them with black")
    ] = "crop",
    frames: Annotated[
        FramesTaken | None,
        typer.Option(help="Which to take of DICOM files and TIFFs that hold several; refused without it"),
    ] = None,
    skip_bad: Annotated[
        str, typer.Option(help="Samples that may be unusable before the exit code is 2, such as 20 or 1%")
    ] = "0",
) -> None:
    """Turn images and reports into shards (WebDataset tar), split by patient.

    Example: medsd prepare xrays/ s3://bucket/shards --kind folder --size 256
    """
    stage(f"reading {source}")
    from medsd_ray.data.prepare import prepare as run
    from medsd_ray.data.sources.request import SourceRequest

    asked = SourceRequest(
        source,
        kind=kind,
        size=size,
        seed=seed,
        images=images,
        reports=reports,
        views=tuple(view or ()),
        uncertain=uncertain,
        image_column=image_column,
        caption_column=caption_column,
        caption=caption,
        patient_column=patient_column,
        patient_regex=patient_regex,
        yes_split=yes_split,
        label_columns=tuple(label_column or ()),
        yes_labels=tuple(yes_label or ()),
        mask_columns=tuple(mask_column or ()),
        boxes=boxes,
        domain_column=domain_column,
        frames=frames,
        sites=tuple(site or ()),
        visits=visits,
    )
    run(asked, dest, fit=fit, shard_size=shard_size, splits=splits, skip_bad=skip_bad)


def encode(
    shards: Annotated[str, typer.Argument(help="A folder or s3:// address of shards that prepare wrote")],
    dest: Annotated[str, typer.Argument(help="Folder or s3:// for the latent shards")],
    model: ModelOption,
    text_embeddings: Annotated[
        bool, typer.Option(help="Store text embeddings too: for a frozen text encoder")
    ] = True,
    batch_size: Annotated[int, typer.Option(help="Images per forward pass")] = 32,
    num_workers: Annotated[int, typer.Option(help="Ray workers")] = 1,
    use_gpu: UseGpu = None,
    precision: Precision = None,
    compile: CompileModel = None,
) -> None:
    """Encode image shards with a model's VAE and text encoder into latent shards, over Ray workers.

    Example: medsd encode s3://bucket/shards s3://bucket/latents --model medsd-small
    """
    stage(f"checking {shards} and the model {model}")
    from medsd_ray.generation.encode import encode as run

    run(
        shards,
        dest,
        model=model,
        text_embeddings=text_embeddings,
        batch_size=batch_size,
        num_workers=num_workers,
        use_gpu=use_gpu,
        precision=precision,
        compile=compile,
    )
