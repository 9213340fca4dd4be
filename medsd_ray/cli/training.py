"""Training on this machine or on the Ray cluster that it belongs to: `medsd train`, `tune`, `demo` and
`paper`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from medsd_ray.cli.options import (
    AutoResumeRun,
    AutoResumeStudy,
    ResumeRun,
    ResumeStudy,
    RunFile,
    RunOverrides,
    StudyFile,
    StudyOverrides,
)
from medsd_ray.console import stage

PaperSize = Literal["small", "full"]


def train(
    run_file: RunFile,
    overrides: RunOverrides = None,
    resume: ResumeRun = False,
    auto_resume: AutoResumeRun = False,
) -> None:
    """Adapt a model's components with Ray Train and DeepSpeed.

    Example: medsd train run.yaml --set training.zero_stage=2 --set resources.num_workers=2
    """
    stage(f"reading {run_file}")
    from medsd_ray.spec.load import load_run

    spec = load_run(run_file, overrides)  # before the heavy imports: a wrong field is said at once
    from medsd_ray.training.run import train as run

    run(spec, resume=resume, auto_resume=auto_resume)


def tune(
    study_file: StudyFile,
    overrides: StudyOverrides = None,
    resume: ResumeStudy = False,
    auto_resume: AutoResumeStudy = False,
) -> None:
    """Search components and settings with Ray Tune; each trial is a training run, judged by its images.

    Example: medsd tune tuning/chambon2022.yaml --set shards=s3://bucket/shards
    """
    stage(f"reading {study_file}")
    from medsd_ray.spec.load import load_study

    spec = load_study(study_file, overrides)
    from medsd_ray.tuning.tune import tune as run

    run(spec, resume=resume, auto_resume=auto_resume)


def demo(
    data: Annotated[
        Path | None, typer.Option(help="A folder with images and metadata.csv; drawn phantoms where absent")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for all that the demo makes")] = Path("demo-out"),
) -> None:
    """Run the whole pipeline, on GPUs where there are some, and write one page with its results.

    Example: medsd demo --data xrays/ --out demo-out
    """
    stage("prepare, adapt, encode, adapt, generate, evaluate: some minutes on a GPU or two cores")
    from medsd_ray.demo import demo as run

    run(data, out)


def paper(
    steps_file: Annotated[
        Path, typer.Argument(metavar="NAME.steps.yaml", help="The paper's steps and claims")
    ],
    out: Annotated[Path, typer.Option(help="Folder for all that the experiment makes")],
    size: Annotated[
        PaperSize, typer.Option(help="small: 15 minutes on two cores, directions alone; full: three seeds")
    ] = "small",
    data: Annotated[
        Path | None, typer.Option(help="A folder with images and metadata.csv; drawn images where absent")
    ] = None,
) -> None:
    """Run a paper's experiment, and say which of its claims hold here.

    Example: medsd paper tuning/chambon2022.steps.yaml --out paper-out --size small
    """
    stage(f"reading {steps_file}")
    from medsd_ray.papers.experiment import run_paper

    run_paper(steps_file, out, size, data)
