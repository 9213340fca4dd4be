"""A trained task run as its checkpoint describes it, found and checked without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from medsd_ray.data.sources.pixels import Fit
from medsd_ray.errors import InputError
from medsd_ray.models.resolve import checkpoint_fingerprint, find_checkpoint
from medsd_ray.runs.checkpoints import describe_checkpoint, task_of
from medsd_ray.runs.names import CHECKPOINT
from medsd_ray.spec.tasks import TASKS, Classifier, Segmenter
from medsd_ray.storage import Storage

if TYPE_CHECKING:
    from medsd_ray.models.networks.libraries import Task

SETTINGS: dict[str, type[Classifier] | type[Segmenter]] = {"classifier": Classifier, "segmenter": Segmenter}


@dataclass(frozen=True)
class TaskRun:
    """What a task run learnt.

    Attributes:
        checkpoint: The folder of its checkpoint.
        description: What checkpoint.json says.
        settings: The run's section of its task.
        classes: In the order of the network's outputs; a segmenter's without the background.
        size: Height and width of the images, in pixels.
        fit: How images that are not square come to that size.
    """

    checkpoint: Storage
    description: dict[str, Any]
    settings: Classifier | Segmenter
    classes: tuple[str, ...]
    size: int
    fit: Fit

    @property
    def task(self) -> Task:
        """The section of the run."""
        return "classifier" if isinstance(self.settings, Classifier) else "segmenter"

    @property
    def subject(self) -> str:
        """The label or the mask that it learnt."""
        return self.settings.label if isinstance(self.settings, Classifier) else self.settings.mask

    @property
    def fingerprint(self) -> str:
        """Of its weights."""
        return checkpoint_fingerprint(self.checkpoint)


def find_task_run(address: str) -> TaskRun | None:
    """The task run at an address: a run's output (its chosen checkpoint) or one checkpoint of it, a
    folder or `s3://`; None for any other model.

    Raises:
        InputError: The run has no complete checkpoint, or it does not say what was learnt.
    """
    if (checkpoint := find_checkpoint(address)) is None:
        return None
    description = describe_checkpoint(checkpoint)
    if (task := task_of(description)) is None:
        return None
    where = f"{checkpoint.url}/{CHECKPOINT}"
    classes, size = description.get("classes"), description.get("image_size")
    if not classes or size is None:
        raise InputError(f"{where} names no classes or no image_size; train the {task} again")
    try:
        settings = SETTINGS[task].model_validate(description["spec"][task])
    except (KeyError, TypeError, ValidationError) as error:
        raise InputError(f"{where} is damaged (spec.{task}); use another checkpoint") from error
    return TaskRun(checkpoint, description, settings, tuple(classes), size, description.get("fit") or "crop")


def need_task_run(address: str) -> TaskRun:
    """As `find_task_run`. Raises InputError where there is no task run at the address."""
    if (found := find_task_run(address)) is None:
        raise InputError(
            f"{address}: no task run; give the output of a run that trained a {' or a '.join(TASKS)}"
        )
    return found
