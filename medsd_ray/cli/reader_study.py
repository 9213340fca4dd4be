"""`medsd reader-study`: new, serve, report."""

from __future__ import annotations

from typing import Annotated

import typer

from medsd_ray.cli.options import GeneratedImages, port_option, seed_option
from medsd_ray.console import stage

reader_study = typer.Typer(
    name="reader-study",
    help="Let readers rate real and generated images, blinded, and report how well they tell them apart.",
    rich_markup_mode=None,
)


Folder = Annotated[str, typer.Argument(metavar="DIR", help="Folder that `medsd reader-study new` made")]


@reader_study.command()
def new(
    real: Annotated[
        str, typer.Option(help="Image shards that prepare wrote, or a folder of images (with metadata.csv)")
    ],
    generated: GeneratedImages,
    out: Annotated[str, typer.Option(help="A new folder for the study")],
    num_images: Annotated[
        int | None, typer.Option(help="Half of them real; as many as there are where absent")
    ] = None,
    seed: Annotated[int, seed_option("Of the choice of images and of each reader's order")] = 0,
    label: Annotated[
        str, typer.Option(help="The label that says whether a real image shows an abnormality")
    ] = "finding",
    normal: Annotated[str, typer.Option(help="Its value where there is none")] = "No Finding",
) -> None:
    """Make a study: images that differ in nothing but their pixels, and a key that says which is which.

    Example: medsd reader-study new --real shards/ --generated images/ --out study --num-images 100
    """
    stage(f"reading {generated} and {real}")
    from medsd_ray.reader_study.assembly import new_study

    new_study(real, generated, out, num_images=num_images, seed=seed, label=label, normal=normal)


@reader_study.command()
def serve(
    folder: Folder,
    port: Annotated[int, port_option("0 takes a free one")] = 8600,
    host: Annotated[
        str, typer.Option(help="0.0.0.0 for other machines: with a token, printed or MEDSD_READER_TOKEN")
    ] = "127.0.0.1",
) -> None:
    """Serve the page on which readers rate the images; each answer is kept at once, and a reader goes on
    where they stopped.

    Example: medsd reader-study serve study
    """
    stage(f"opening {folder}")
    from medsd_ray.reader_study.serve import serve_study

    serve_study(folder, host, port)


@reader_study.command()
def report(folder: Folder) -> None:
    """Report the answers so far: report.json, report.html and answers.csv in DIR/report.

    Example: medsd reader-study report study
    """
    stage(f"reading {folder}")
    from medsd_ray.reader_study.report import report_study

    report_study(folder)
