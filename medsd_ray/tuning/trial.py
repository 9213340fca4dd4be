"""One trial, in an actor of Ray Tune: a Ray Train run inside, then images of it and their score, or that of a
classifier or segmenter on real ones.

Whatever it did before is there when it starts again: training goes on from its newest checkpoint, images that
are made are kept. So a trial may be lost with its machine, or with the whole study, at any time.
"""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from medsd_ray.errors import InputError, Interrupted, RunError
from medsd_ray.evaluation.evaluate_task import evaluate_task
from medsd_ray.evaluation.localize import localize
from medsd_ray.evaluation.networks import detector
from medsd_ray.evaluation.task_metrics import task_metrics
from medsd_ray.evaluation.task_options import TaskEvaluation
from medsd_ray.generation.generate import generate
from medsd_ray.models.networks.task_run import need_task_run
from medsd_ray.runs.names import IMAGES, LOCALIZATION, REPORT, STOP, TRIAL, checkpoint_folder, trial_file
from medsd_ray.spec import plan
from medsd_ray.spec.figures import FIGURES
from medsd_ray.spec.load import parse_study
from medsd_ray.spec.run import RunSpec
from medsd_ray.spec.space import Combination, within
from medsd_ray.spec.study import StudySpec
from medsd_ray.storage import COMPLETE, Storage, open_storage
from medsd_ray.training.run import train
from medsd_ray.tuning.image_metrics import image_metrics
from medsd_ray.tuning.localization_metrics import localization_metrics, localization_options
from medsd_ray.tuning.population import NOTE, take_over_checkpoint

LOOK_EVERY_S = 1.0
CHECKPOINT_S = 60.0
Report = Callable[..., None]


def trial(config: dict[str, Any], study: dict[str, Any], prompts: list[str], judged: bool) -> None:
    """Ray Tune's function trainable. Its last report has `final`, with metrics, or `error`, or neither after
    an interrupt.

    `params` of the config are those that pbt may change.
    """
    from ray import tune

    try:
        final = TrialRunner(
            parse_study(study), tune.get_context().get_trial_name(), config.get("params", {}), prompts, judged
        ).run(tune.report)
    except Interrupted:
        tune.report({"interrupted": True})
    except (InputError, RunError) as error:
        tune.report({"error": str(error)})
    except Exception as error:  # a fault in one trial must not end the others; Ray's logs have the rest of it
        traceback.print_exc()
        tune.report({"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]})
    else:
        tune.report({"final": final})


class TrialRunner:
    """A trial's way through training, generation and judgement. It ends with Interrupted where the study is
    asked to stop.
    """

    def __init__(
        self, study: StudySpec, name: str, changed: dict[str, Any], prompts: list[str], judged: bool
    ):
        self.study, self.name, self.prompts, self.judged = study, name, prompts, judged
        self.store = open_storage(study.output)
        record = self.store.read_json(trial_file(name, TRIAL))
        self.params: Combination = within(study.space, record["params"] | changed)
        self.seed: int = record["seed"]
        self.stop = threading.Event()

    def run(self, report: Report) -> dict[str, Any]:
        """The trial's metrics, and its `steps`."""
        if self.store.exists(STOP):
            raise Interrupted("the study was asked to stop")
        run = plan.trial_run(self.study, self.params, self.seed, self.name)
        metrics: dict[str, Any] = {"steps": 0}
        with watched(self.store, self.stop):
            if run is not None:
                metrics = self._train(run, report)
            if self.judged:
                self._check_stop()
                metrics |= self._judge_task(run) if run and run.task else self._judge(run)
        return metrics

    def _train(self, run: RunSpec, report: Report) -> dict[str, Any]:
        pbt = self.study.search.scheduler == "pbt"
        if pbt:
            take_over_checkpoint(run, self.store)

        def on_record(record: dict[str, Any]) -> None:
            if "validation_loss" not in record:
                return
            metrics = scheduler_metrics(record)
            if not pbt:
                report(metrics)
            elif record["step"] < run.training.max_steps:  # at the end there is nothing to take over any more
                self._report_checkpoint(run, metrics, report)

        result = train(run, auto_resume=True, stop=self.stop, on_record=on_record)
        chosen = result.get("chosen_checkpoint") or {"figure": None}
        by_loss = chosen["figure"] == "validation_loss"
        return {
            "steps": result["step"],
            "validation_loss": chosen["value"] if by_loss else result["validation_loss"],
            "training_loss": result["loss"],
        }

    def _report_checkpoint(self, run: RunSpec, metrics: dict[str, Any], report: Report) -> None:
        """To Ray Tune a checkpoint is a note of where medsd's own is."""
        from ray import tune

        mark = f"{checkpoint_folder(metrics['step'])}/{COMPLETE}"
        end = time.monotonic() + CHECKPOINT_S
        output = open_storage(run.output)
        while not output.exists(mark):
            if time.monotonic() > end:
                return report(metrics)
            time.sleep(0.2)
        with tempfile.TemporaryDirectory(prefix="medsd-") as folder:
            Path(folder, NOTE).write_text(json.dumps({"trial": self.name, "step": metrics["step"]}))
            report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))

    def _judge(self, run: RunSpec | None) -> dict[str, Any]:
        """The figures of the adapted model, or of the base model where nothing is trained."""
        model = run.output if run else plan.base_model(self.study, self.params)
        needed = {FIGURES[name].needs for name in self.study.figures}
        metrics = self._judge_images(model) if "images" in needed else {}
        self._check_stop()
        return metrics | (self._localize(model) if "localization" in self.study.figures else {})

    def _judge_images(self, model: str) -> dict[str, Any]:
        """Images that the model makes, and their figures."""
        how, resources = self.study.evaluation, plan.resources(self.study, self.params)
        images = f"{self.study.output}/{trial_file(self.name, IMAGES)}"
        generate(
            model, images, prompts=self.prompts, num_images=how.num_images, seed=how.seed,
            sampling=how.sampling, batch_size=how.batch_size, num_workers=resources.num_workers,
            use_gpu=resources.use_gpu,
        )  # fmt: skip
        self._check_stop()
        judge = detector.read(self.store.child(plan.DETECTOR))
        return image_metrics(self.study.shards, images, judge, how.label, self.study.figures)

    def _localize(self, model: str) -> dict[str, float | None]:
        """Whether the model looks at what real images' masks outline; the report stays in the trial."""
        out = f"{self.study.output}/{trial_file(self.name, LOCALIZATION)}"
        use_gpu = plan.resources(self.study, self.params).use_gpu
        return localization_metrics(localize(localization_options(self.study, model, out, use_gpu)))

    def _judge_task(self, run: RunSpec) -> dict[str, float]:
        """The figures of a classifier or segmenter on real images, by the run's chosen checkpoint; the report
        stays in the trial's output.
        """
        options = TaskEvaluation(
            run.output, self.study.shards, out=f"{run.output}/{REPORT}", split=self.study.evaluation.split,
            use_gpu=run.resources.use_gpu,
        )  # fmt: skip
        return task_metrics(evaluate_task(options, need_task_run(run.output)))

    def _check_stop(self) -> None:
        """Raises Interrupted where the study is asked to stop."""
        if self.stop.is_set():
            raise Interrupted("the study was asked to stop")


def scheduler_metrics(record: dict[str, Any]) -> dict[str, Any]:
    """What a scheduler is told of a record of validation: asha would let a NaN go on, as it is below
    nothing.
    """
    loss = record["validation_loss"]
    return {"step": record["step"], "validation_loss": loss if math.isfinite(loss) else math.inf}


@contextlib.contextmanager
def watched(store: Storage, stop: threading.Event) -> Iterator[None]:
    """Sets `stop` as soon as the study's flag is there."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_EVERY_S):
            with contextlib.suppress(Exception):  # the store may answer at the next look
                if store.exists(STOP):
                    stop.set()

    thread = threading.Thread(target=look, name="stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
