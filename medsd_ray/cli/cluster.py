"""Runs on a Kubernetes or a running Ray cluster: `medsd submit`, `status`, `logs`, `cancel`, `download`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from medsd_ray.cli.options import Address, Context, Namespace, RunFile, RunName, RunOverrides
from medsd_ray.console import stage

Part = Literal["checkpoint", "export", "report"]


def _where(address: str | None) -> str:
    return f"Ray at {address}" if address else "the Kubernetes of the kubeconfig"


def submit(
    run_file: RunFile,
    overrides: RunOverrides = None,
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
    stage(f"reading {run_file}")
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
    stage(f"asking {_where(address)}", sys.stderr)
    from medsd_ray.client.connect import connect

    connect(address, namespace, context).status(name)


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
    stage(f"asking {_where(address)} for {name}", sys.stderr)
    from medsd_ray.client.connect import connect

    connect(address, namespace, context).logs(name, follow)


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
    stage(f"asking {_where(address)} to end {name}")
    from medsd_ray.client.connect import connect

    connect(address, namespace, context).cancel(name, now)


def download(
    name: RunName,
    dest: Annotated[Path, typer.Argument(help="A new or empty folder")],
    what: Annotated[
        Part, typer.Option(help="Newest complete checkpoint, diffusers folder, or report")
    ] = "checkpoint",
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
    stage(f"asking {_where(address)} where the output of {name} is")
    from medsd_ray.client.connect import connect
    from medsd_ray.client.download import download as fetch

    output = connect(address, namespace, context).output(name)
    fetch(
        output,
        dest,
        what,
        report=report,
        without_memorisation_check=without_memorisation_check,
        raw=raw,
    )
