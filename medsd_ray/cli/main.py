"""The verbs. Each parses its words and calls one function; heavy imports wait until a verb needs them."""

from __future__ import annotations

import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from medsd_ray.cli import evaluation
from medsd_ray.cli.reader_study import reader_study
from medsd_ray.errors import InputError, Interrupted, RunError
from medsd_ray.spec.images import (
    BATCH_SIZE,
    GUIDANCE_SCALE,
    NEGATIVE_PROMPT,
    NUM_IMAGES,
    SCHEDULER,
    SEED,
    STEPS,
    Sampling,
)

app = typer.Typer(
    name="medsd",
    help="Adapt Stable Diffusion's parts to medical images: prepare, encode, train, generate, evaluate.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


app.add_typer(reader_study)


class Kind(StrEnum):
    folder = "folder"
    dicom = "dicom"
    openi = "openi"
    phantom = "phantom"


class What(StrEnum):
    checkpoint = "checkpoint"
    export = "export"
    report = "report"


Shards = "A folder or s3:// address of shards"


@app.command()
def prepare(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder with metadata.csv, of DICOM files, or of OpenI XML; for phantoms, how many"
        ),
    ],
    dest: Annotated[str, typer.Argument(help="Folder or s3:// for the shards")],
    kind: Annotated[Kind, typer.Option(help="What SOURCE holds")] = Kind.folder,
    size: Annotated[int, typer.Option(help="Height and width in pixels; a multiple of 8")] = 256,
    shard_size: Annotated[str, typer.Option(help="Bytes of a shard at most, such as 64MiB")] = "64MiB",
    split_by: Annotated[
        str, typer.Option(help="CSV column or DICOM keyword that names the patient")
    ] = "patient_id",
    splits: Annotated[
        str, typer.Option(help="Shares of train, validation and test, by patient")
    ] = "0.8,0.1,0.1",
    seed: Annotated[int, typer.Option(help="Of the split, and of drawn phantoms")] = 0,
    images: Annotated[
        str | None, typer.Option(help="openi: folder with the images that parentImage names")
    ] = None,
) -> None:
    """Turn images and reports into shards (WebDataset tar), split by patient.

    Example: medsd prepare xrays/ s3://bucket/shards --kind folder --size 256
    """
    from medsd_ray.data.prepare import prepare as run

    run(
        source,
        dest,
        kind=kind.value,
        size=size,
        shard_size=shard_size,
        split_by=split_by,
        splits=splits,
        seed=seed,
        images=images,
    )


@app.command()
def encode(
    shards: Annotated[str, typer.Argument(help=Shards + " that prepare wrote")],
    dest: Annotated[str, typer.Argument(help="Folder or s3:// for the latent shards")],
    model: Annotated[str, typer.Option(help="Pipeline folder, checkpoint, s3://, hub name, or medsd-small")],
    text_embeddings: Annotated[
        bool, typer.Option(help="Store text embeddings too: for a frozen text encoder")
    ] = True,
    batch_size: Annotated[int, typer.Option(help="Images per forward pass")] = 32,
    num_workers: Annotated[int, typer.Option(help="Ray workers")] = 1,
    use_gpu: Annotated[bool, typer.Option(help="One GPU for each worker")] = False,
) -> None:
    """Encode image shards with a model's VAE and text encoder into latent shards, over Ray workers.

    Example: medsd encode s3://bucket/shards s3://bucket/latents --model medsd-small
    """
    from medsd_ray.generation.encode import encode as run

    run(
        shards,
        dest,
        model=model,
        text_embeddings=text_embeddings,
        batch_size=batch_size,
        num_workers=num_workers,
        use_gpu=use_gpu,
    )


@app.command()
def train(
    run_file: Annotated[Path, typer.Argument(metavar="RUN.yaml", help="The run's spec")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="A field, such as training.zero_stage=2")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest complete checkpoint")
    ] = False,
    auto_resume: Annotated[
        bool, typer.Option("--auto-resume", help="Go on where the output has a run, else start")
    ] = False,
) -> None:
    """Adapt a model's components with Ray Train and DeepSpeed.

    Example: medsd train run.yaml --set training.zero_stage=2 --set resources.num_workers=2
    """
    from medsd_ray.spec.load import load_run

    spec = load_run(run_file, overrides)  # before the heavy imports: a wrong field is said at once
    from medsd_ray.training.run import train as run

    run(spec, resume=resume, auto_resume=auto_resume)


@app.command()
def tune(
    study_file: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study's spec")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="A field, such as run.training.max_steps=200")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the study; no finished trial is run again")
    ] = False,
    auto_resume: Annotated[
        bool, typer.Option("--auto-resume", help="Go on where the output has a study, else start")
    ] = False,
) -> None:
    """Search components and settings with Ray Tune; each trial is a training run, judged by its images.

    Example: medsd tune tuning/chambon2022.yaml --set shards=s3://bucket/shards
    """
    from medsd_ray.spec.load import load_study

    spec = load_study(study_file, overrides)
    from medsd_ray.tuning.tune import tune as run

    run(spec, resume=resume, auto_resume=auto_resume)


@app.command()
def generate(
    model: Annotated[
        str, typer.Argument(help="Pipeline folder, checkpoint, s3://, hub name, or medsd-small")
    ],
    out: Annotated[str, typer.Option(help="Folder or s3:// for the images")],
    prompt: Annotated[str | None, typer.Option(help="One prompt for all images")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A text file, one prompt a line")] = None,
    num_images: Annotated[int, typer.Option(help=NUM_IMAGES.help)] = 1,
    seed: Annotated[int, typer.Option(help=SEED.help)] = SEED.default,
    negative_prompt: Annotated[str, typer.Option(help=NEGATIVE_PROMPT.help)] = NEGATIVE_PROMPT.default,
    guidance_scale: Annotated[float, typer.Option(help=GUIDANCE_SCALE.help)] = GUIDANCE_SCALE.default,
    scheduler: Annotated[str, typer.Option(help=SCHEDULER.help)] = SCHEDULER.default,
    steps: Annotated[int, typer.Option(help=STEPS.help)] = STEPS.default,
    batch_size: Annotated[int, typer.Option(help=BATCH_SIZE.help)] = BATCH_SIZE.default,
    num_workers: Annotated[int, typer.Option(help="Ray workers; does not change the images")] = 1,
    use_gpu: Annotated[bool, typer.Option(help="One GPU for each worker")] = False,
) -> None:
    """Make images from prompts.

    Example: medsd generate medsd-small --prompt "a chest x-ray" --num-images 8 --seed 0 --out images/
    """
    sampling = Sampling(negative_prompt, guidance_scale, scheduler, steps)  # before the heavy imports
    from medsd_ray.generation.generate import generate as run
    from medsd_ray.generation.prompts import read_prompts

    run(
        model,
        out,
        prompts=read_prompts(prompt, prompts),
        num_images=num_images,
        seed=seed,
        sampling=sampling,
        batch_size=batch_size,
        num_workers=num_workers,
        use_gpu=use_gpu,
    )


app.command()(evaluation.evaluate)


app.command()(evaluation.insert)


app.command()(evaluation.augment)


app.command()(evaluation.prompts)


@app.command()
def export(
    checkpoint: Annotated[
        str, typer.Argument(help="A run's output, or one checkpoint of it; folder or s3://")
    ],
    dest: Annotated[str, typer.Argument(help="Folder or s3:// for the pipeline")],
    report: Annotated[
        str | None,
        typer.Option(help="report.json of this model's evaluation: its memorisation check must have passed"),
    ] = None,
    without_memorisation_check: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Why no check is needed, in words; kept in the model card"),
    ] = None,
    raw: Annotated[bool, typer.Option(help="The trained weights instead of their moving average")] = False,
) -> None:
    """Write a checkpoint as a plain diffusers folder.

    Example: medsd export runs/nih pipelines/nih --report report/report.json
    """
    from medsd_ray.models.export import export as run

    run(checkpoint, dest, report=report, without_memorisation_check=without_memorisation_check, raw=raw)


@app.command()
def demo(
    data: Annotated[
        Path | None, typer.Option(help="A folder with images and metadata.csv; drawn phantoms where absent")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for all that the demo makes")] = Path("demo-out"),
) -> None:
    """Run the whole pipeline on two CPU workers and write one page with its results.

    Example: medsd demo --data xrays/ --out demo-out
    """
    from medsd_ray.demo import demo as run

    run(data, out)


ADDRESS = "Dashboard of a running Ray cluster, such as http://ray-head:8265; the Kubernetes of the kubeconfig where absent"


Address = Annotated[str | None, typer.Option(help=ADDRESS)]


Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="The kubeconfig's own where absent")]


Context = Annotated[str | None, typer.Option(help="Of the kubeconfig; its current one where absent")]


RunName = Annotated[str, typer.Argument(help="The run's name")]


@app.command()
def submit(
    run_file: Annotated[Path, typer.Argument(metavar="RUN.yaml", help="The run's spec")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="A field, such as training.zero_stage=2")
    ] = None,
    namespace: Namespace = None,
    context: Context = None,
    runtime: Annotated[
        str | None, typer.Option(help="Runtime object that says which image and nodes; `default`")
    ] = None,
    pool: Annotated[str | None, typer.Option(help="Node pool of the runtime; its first where absent")] = None,
    queue: Annotated[str | None, typer.Option(help="Kueue's LocalQueue to wait in")] = None,
    report: Annotated[
        Path | None, typer.Option(help="YAML with a FineTune's `report`: images after training")
    ] = None,
    address: Address = None,
    working_dir: Annotated[
        Path | None, typer.Option(help="With --address: folder of code that runs in place of the image's")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print the log until the end; exit as the run does")
    ] = False,
) -> None:
    """Send a run to a Kubernetes cluster, or to a running Ray cluster.

    Example: medsd submit run.yaml --set resources.num_workers=4 --follow
    """
    from medsd_ray.spec.load import load_run

    spec = load_run(run_file, overrides)
    from medsd_ray.client.connect import submit as send

    send(
        spec,
        address=address,
        namespace=namespace,
        context=context,
        runtime=runtime,
        pool=pool,
        queue=queue,
        report=report,
        working_dir=working_dir,
        follow=follow,
    )


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="The run's name; all runs where absent")] = None,
    namespace: Namespace = None,
    context: Context = None,
    address: Address = None,
) -> None:
    """Show all runs of a cluster in a table, or one run: progress, what it waits for, and where its output
    is.

    Example: medsd status nih-unet
    """
    from medsd_ray.client.connect import connect

    connect(address, namespace, context).status(name)


@app.command()
def logs(
    name: RunName,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run's end; exit as the run does")
    ] = False,
    namespace: Namespace = None,
    context: Context = None,
    address: Address = None,
) -> None:
    """Print the output of a run's driver and workers; from its storage where its pods are gone.

    Example: medsd logs nih-unet --follow
    """
    from medsd_ray.client.connect import connect

    connect(address, namespace, context).logs(name, follow)


@app.command()
def cancel(
    name: RunName,
    now: Annotated[
        bool, typer.Option("--now", help="Without a checkpoint first; with --address: do not wait for it")
    ] = False,
    namespace: Namespace = None,
    context: Context = None,
    address: Address = None,
) -> None:
    """End a run after a checkpoint, and free its nodes. What it wrote stays.

    Example: medsd cancel nih-unet
    """
    from medsd_ray.client.connect import connect

    connect(address, namespace, context).cancel(name, now)


@app.command()
def download(
    name: RunName,
    dest: Annotated[Path, typer.Argument(help="A new or empty folder")],
    what: Annotated[
        What, typer.Option(help="Newest complete checkpoint, diffusers folder, or report")
    ] = What.checkpoint,
    report: Annotated[
        str | None, typer.Option(help="export: report.json, as in `medsd export`; the run's own if absent")
    ] = None,
    without_memorisation_check: Annotated[
        str | None, typer.Option(metavar="REASON", help="export: as in `medsd export`")
    ] = None,
    raw: Annotated[
        bool, typer.Option(help="export: the trained weights instead of their moving average")
    ] = False,
    namespace: Namespace = None,
    context: Context = None,
    address: Address = None,
) -> None:
    """Fetch a run's checkpoint, export or report from its storage, with this machine's own S3 settings.

    Example: medsd download nih-unet pipelines/nih --what export
    """
    from medsd_ray.client.connect import connect
    from medsd_ray.client.download import download as fetch

    output = connect(address, namespace, context).output(name)
    fetch(
        output,
        dest,
        what.value,
        report=report,
        without_memorisation_check=without_memorisation_check,
        raw=raw,
    )


@app.command()
def dashboard(
    root: Annotated[str, typer.Argument(help="Folder or s3:// address below which studies and runs are")],
    host: Annotated[
        str, typer.Option(help="Address to listen at; any but localhost needs a token")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free")] = 8650,
) -> None:
    """Show studies and runs, live, on a page that changes nothing.

    The token of a host that others reach is printed, or taken from MEDSD_DASHBOARD_TOKEN.

    Example: medsd dashboard studies/
    """
    from medsd_ray.dashboard.app import dashboard as run

    run(root, host, port)


def main() -> None:
    # SIGTERM ends a verb as Ctrl-C does, so that both leave a checkpoint; also where a script's `&` or nohup
    # had Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        code = app(
            standalone_mode=False
        )  # typer turns a KeyboardInterrupt into this code, a verb's own end is None
        if code:
            raise KeyboardInterrupt
    except InputError as error:
        _stop(f"medsd: {error}", 2)
    except RunError as error:
        _stop(f"medsd: {error}", 1)
    except (Interrupted, KeyboardInterrupt, typer.Abort) as error:
        _stop(f"medsd: interrupted{f': {error}' if str(error) else ''}", 130)
    except Exception as error:
        words = getattr(
            error, "format_message", None
        )  # typer's usage errors: an unknown option, a missing argument
        if words is None:
            raise
        _stop(f"medsd: {words().rstrip('.')}; see --help", 2)


def _stop(line: str, code: int) -> None:
    print(line, file=sys.stderr)
    sys.exit(code)
