"""What an attempt's pods run: job.yaml, and the words of each step, which are a function of it alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medsd_ray.addresses import canonical
from medsd_ray.errors import InputError
from medsd_ray.runs.names import BASE_IMAGES, IMAGES, REPORT, RUN_SPEC, STUDY_SPEC
from medsd_ray.spec.load import dump_run, dump_study
from medsd_ray.spec.objects import Report
from medsd_ray.spec.run import RunSpec
from medsd_ray.spec.status import Stage
from medsd_ray.spec.study import StudySpec
from medsd_ray.spec.types import Workers
from medsd_ray.spec.values import describe_errors, read_values

Address = Annotated[str, Field(min_length=1)]


PROMPTS = "prompts.txt"


class EvaluationJob(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    model: Address
    base: Address | None = None
    output: Address
    numWorkers: Workers = 1
    useGpu: bool = False


class PodJob(BaseModel):
    """job.yaml: a run, with or without a report; a study; or an evaluation, which is a report of a model that
    is there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    attempt: int = Field(ge=1)
    run: RunSpec | None = None
    study: StudySpec | None = None
    report: Report | None = None
    evaluation: EvaluationJob | None = None

    @model_validator(mode="after")
    def _one(self):
        if sum(one is not None for one in (self.run, self.study, self.evaluation)) != 1:
            raise ValueError("give one of run, study and evaluation")
        if self.evaluation and not self.report:
            raise ValueError("an evaluation needs a report")
        return self

    @property
    def output(self) -> str:
        """The address for all that this job writes, without a slash at its end."""
        one = self.run or self.study or self.evaluation
        assert one is not None
        return canonical(one.output)

    @property
    def tells(self) -> bool:
        """Whether its first verb writes progress.json into the output."""
        return self.evaluation is None


def load_job(path: Path) -> PodJob:
    """Reads job.yaml. Raises InputError with every wrong field, one line."""
    values = read_values(
        path, "job.yaml", "a job is a mapping with attempt and one of run, study and evaluation"
    )
    try:
        return PodJob.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{path}: {describe_errors(error, PodJob, 'a job')}") from error


@dataclass(frozen=True)
class Step:
    stage: Stage
    words: list[str]
    """What follows `medsd`."""


def steps(job: PodJob, folder: Path) -> list[Step]:
    """The job's verbs in order; `write_inputs` has put the files that they name into `folder`."""
    if job.study:
        return [Step("search", ["tune", str(folder / STUDY_SPEC), "--auto-resume"])]
    return [
        *([Step("train", ["train", str(folder / RUN_SPEC), "--auto-resume"])] if job.run else []),
        *_report_steps(job, folder),
    ]


def write_inputs(job: PodJob, folder: Path) -> None:
    if job.run:
        (folder / RUN_SPEC).write_text(dump_run(job.run))
    if job.study:
        (folder / STUDY_SPEC).write_text(dump_study(job.study))
    if job.report and job.report.prompts:
        (folder / PROMPTS).write_text("".join(f"{prompt}\n" for prompt in job.report.prompts))


def _task_report(job: PodJob, report: Report) -> Step:
    """Of a classifier or segmenter, which makes no images."""
    model = job.evaluation.model if job.evaluation else job.output
    words = ["evaluate", model, "--real", report.real, "--out", f"{job.output}/{REPORT}"]
    return Step("evaluate", [*words, "--seed", str(report.seed)])


def _report_steps(job: PodJob, folder: Path) -> list[Step]:
    if not (report := job.report):
        return []
    if not report.prompts:
        return [_task_report(job, report)]
    if job.run:
        model, base = job.output, job.run.model if report.base else None
        workers, use_gpu = job.run.resources.sizes[-1], job.run.resources.use_gpu
    else:
        assert job.evaluation is not None
        model, base = job.evaluation.model, job.evaluation.base
        workers, use_gpu = job.evaluation.numWorkers, job.evaluation.useGpu
    images, base_images = f"{job.output}/{IMAGES}", f"{job.output}/{BASE_IMAGES}"
    how = [
        "--prompts", str(folder / PROMPTS), "--num-images", str(report.numImages), "--seed", str(report.seed),
        "--guidance-scale", str(report.guidanceScale), "--steps", str(report.steps),
        # With one worker `generate` works in its own process: the head pod, which has no GPU and few cores.
        # Two are asked for instead; the second gets no work where it finds no room.
        "--num-workers", str(max(2, workers)), "--use-gpu" if use_gpu else "--no-use-gpu",
        *([] if report.drift is None else ["--drift", str(report.drift)]),
        *([] if report.driftWhere is None else ["--drift-where", report.driftWhere]),
    ]  # fmt: skip
    made = [Step("generate", ["generate", model, "--out", images, *how])]
    if base:
        made.append(Step("generate", ["generate", base, "--out", base_images, *how]))
    evaluate = [
        "evaluate", "--real", report.real, "--generated", images, "--out", f"{job.output}/{REPORT}",
        "--label", report.label,
        "--seed", str(report.seed), *(["--base", base_images] if base else []),
        *(["--run", job.output] if job.run else []),
    ]  # fmt: skip
    return [*made, Step("evaluate", evaluate)]
