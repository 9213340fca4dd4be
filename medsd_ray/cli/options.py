"""Options and arguments that more than one verb takes, or that two verbs take in words of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medsd_ray.spec.images import DRIFT, DRIFT_WHERE, GUIDANCE_SCALE, SCHEDULER, SEED, STEPS

RunFile = Annotated[Path, typer.Argument(metavar="RUN.yaml", help="The run's spec")]
StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study's spec")]

RunOverrides = Annotated[
    list[str] | None, typer.Option("--set", help="A field, such as training.zero_stage=2")
]
StudyOverrides = Annotated[
    list[str] | None, typer.Option("--set", help="A field, such as run.training.max_steps=200")
]
ResumeRun = Annotated[bool, typer.Option("--resume", help="Go on from the newest complete checkpoint")]
ResumeStudy = Annotated[
    bool, typer.Option("--resume", help="Go on with the study; no finished trial is run again")
]
AutoResumeRun = Annotated[
    bool, typer.Option("--auto-resume", help="Go on where the output has a run, else start")
]
AutoResumeStudy = Annotated[
    bool, typer.Option("--auto-resume", help="Go on where the output has a study, else start")
]


def seed_option(help: str) -> Any:
    """`--seed` of a verb; `help` says of what."""
    return typer.Option(help=help, min=SEED.lowest, max=SEED.highest)


def port_option(help: str) -> Any:
    return typer.Option(help=help, min=0, max=65535)


MODEL_HELP = "Pipeline folder, checkpoint, s3://, hub name, or medsd-small"
ModelArgument = Annotated[str, typer.Argument(help=MODEL_HELP)]
ModelOption = Annotated[str, typer.Option(help=MODEL_HELP)]
LastCheckpoint = Annotated[
    bool, typer.Option("--last", help="Of a run's output: its last checkpoint in place of the chosen one")
]
CheckpointStep = Annotated[
    int | None, typer.Option("--step", help="Of a run's output: the checkpoint of this step")
]
GuidanceScale = Annotated[float, typer.Option(help=GUIDANCE_SCALE.help)]
Scheduler = Annotated[str, typer.Option(help=SCHEDULER.help)]
DriftDelta = Annotated[float | None, typer.Option("--drift", help=DRIFT.help)]
DriftPlace = Annotated[str | None, typer.Option("--drift-where", help=DRIFT_WHERE.help)]
Steps = Annotated[int, typer.Option(help=STEPS.help)]
UseGpu = Annotated[
    bool | None,
    typer.Option("--use-gpu/--no-use-gpu", help="One GPU for each worker; if there are GPUs where absent"),
]
Precision = Annotated[
    str | None, typer.Option(help="fp32, bf16 or fp16; bf16 on a GPU and fp32 on a CPU where absent")
]
CompileModel = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile", help="torch.compile; where absent, on a GPU if there are enough images"
    ),
]

RealImages = Annotated[str, typer.Option(help="Image shards that prepare wrote, or a folder of images")]
OptionalGeneratedImages = Annotated[str | None, typer.Option(help="Folder that generate wrote")]
GeneratedImages = Annotated[str, typer.Option(help="Folder that generate wrote")]
ClassifierLabel = Annotated[
    str, typer.Option(help="The field of the shards' labels that the classifier learns")
]

Address = Annotated[
    str | None,
    typer.Option(
        help="Dashboard of a running Ray cluster, such as http://ray-head:8265; the Kubernetes of the "
        "kubeconfig where absent"
    ),
]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="The kubeconfig's own where absent")]
Context = Annotated[str | None, typer.Option(help="Of the kubeconfig; its current one where absent")]
RunName = Annotated[str, typer.Argument(help="The run's name")]
