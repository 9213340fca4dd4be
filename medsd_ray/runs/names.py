"""The name of every file in what medsd writes for a run, a checkpoint, a study and a report.

Names are relative to the output's address, with `/` between folders. This module is their one owner: whoever
writes or reads such a file takes its name from here. It imports no engine. Two kinds of names live elsewhere:
the folders of a study, in `medsd_ray.spec.plan`, which computes their addresses from a spec; and `COMPLETE`,
in `medsd_ray.storage`, as it marks an output of any kind.
"""

from __future__ import annotations

from medsd_ray.spec.plan import TRIALS

# --- a run

RUN_SPEC = "run.yaml"
"""The run as it was started, overrides included. The file that makes a folder a run's output."""
MANIFEST = "manifest.json"
"""The spec again, and checksums of the data, the model and the code, and the versions of packages."""
METRICS = "metrics.jsonl"
"""One JSON object a line for each logged step, and one for each validation."""
PROGRESS = "progress.json"
"""The newest state: step, total, loss, warnings. Replaced about once a second; a study has one too."""
STOP = "stop"
"""An empty file that asks the workers of a run, or the trials of a study, for a checkpoint and an end."""
RESULT = "result.json"
"""What a run came to. Written last, so that it marks a run as finished."""
BEST_CHECKPOINT = "best.json"
"""The checkpoint that was chosen so far: its step, by which figure, and why."""
CHECKPOINTS = "checkpoints"
"""The folder with one folder for each saved checkpoint."""
SAMPLES = "samples"
"""The folder with one folder of sample images for each step at which they were drawn."""
TENSORBOARD = "tensorboard"
"""The folder with TensorBoard's event files of a run."""
COMPILE_CACHE = "compile-cache"
"""The folder with what torch.compile made, so that a restarted worker need not compile again."""
RAY_TRAIN = "ray"
"""Ray Train's own notes, while a run goes on; deleted at its end."""


def checkpoint_folder(step: int) -> str:
    """The folder of the checkpoint after `step` steps."""
    return f"{CHECKPOINTS}/step-{step:08d}"


def samples_folder(step: int) -> str:
    """The folder of the images that were drawn after `step` steps."""
    return f"{SAMPLES}/step-{step:08d}"


def sample_image(step: int, index: int) -> str:
    """The image of prompt number `index` that was drawn after `step` steps."""
    return f"{samples_folder(step)}/{index:02d}.png"


# --- a checkpoint, in its own folder

CHECKPOINT = "checkpoint.json"
"""The map of the parameters' pieces, and what a resumed run or a reader of the weights must know."""


def weights_file(rank: int) -> str:
    """The weights and moving averages of the pieces that worker `rank` owns."""
    return f"rank-{rank:05d}.safetensors"


def optimizer_file(rank: int) -> str:
    """Adam's two moments of the pieces that worker `rank` owns."""
    return f"rank-{rank:05d}.optimizer.safetensors"


# --- an attempt in a cluster, in its output

DRIVER_LOG = "driver.log"
"""What the verbs of an attempt printed, in the attempt's folder of logs."""
EVENTS = "events.json"
"""Kubernetes' events about an attempt's pods, in the attempt's folder of logs."""


def logs_folder(attempt: int) -> str:
    """The folder of the logs of one attempt, the first of which is 1."""
    return f"logs/attempt-{attempt:02d}"


def worker_log(node: str, name: str) -> str:
    """The file `name` of a Ray worker on the node with this address, in the attempt's folder of logs."""
    return f"workers/{node}/{name}"


# --- a study

STUDY_SPEC = "study.yaml"
"""The study as it was started or last resumed, overrides included."""
STUDY = "study.json"
"""All trials, what they have in common, and the best one; replaced at each change of a trial."""
STUDY_TABLE = "study.md"
"""The same for a reader, written at the end."""
BEST_RUN = "best.yaml"
"""The best trial's run, ready for `medsd train`."""
TRIAL = "trial.json"
"""One trial's parameters, status and metrics, in the trial's folder: the truth, which study.json repeats."""


def trial_folder(trial: str) -> str:
    """The folder of a trial, which is also the output of its run."""
    return f"{TRIALS}/{trial}"


def trial_file(trial: str, name: str) -> str:
    """A file in a trial's folder."""
    return f"{TRIALS}/{trial}/{name}"


# --- images and reports, beside a run's own files

IMAGES = "images"
"""The folder of the images that were generated with the trained model, for a report or to judge a trial."""
BASE_IMAGES = "images-base"
"""The folder of the same prompts' images by the model that the run started from."""
GENERATED = "generated.json"
"""In a folder of generated images: the model, the settings, and each image's file, prompt and seed."""
LOCALIZATION = "localization"
"""The folder with the report of where a trial's model looks."""
REPORT = "report"
"""The folder with the report of a run or an evaluation."""
REPORT_DATA = "report.json"
"""In a report's folder: all figures."""
REPORT_PAGE = "report.html"
"""In a report's folder: the page with the figures and pictures."""

# --- the experiment of a paper

PAPER = "paper.json"
"""What the steps of a paper's experiment measured, and what that says of its claims."""
PAPER_PAGE = "paper.html"
"""The same as a page."""
PAPER_BEGUN = "experiment.json"
"""The steps of the experiment that this output is of."""
