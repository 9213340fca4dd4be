"""What a task run learns, by the indexes of its samples: the classes of a label or a mask."""

from __future__ import annotations

from medsd_ray.data.shards import Index
from medsd_ray.errors import InputError
from medsd_ray.spec.run import RunSpec
from medsd_ray.spec.tasks import Classifier, Segmenter
from medsd_ray.training.checked_run import TaskMeta


def check_task(run: RunSpec, index: Index, where: str) -> TaskMeta | None:
    """What the run learns; None where it is no task run.

    Args:
        run: The run.
        index: Of its training samples.
        where: Their address, as the user wrote it.

    Raises:
        InputError: The samples do not have the label or the mask that the run learns.
    """
    if run.classifier:
        classes, counts = _label_classes(run.classifier, index, where)
    elif run.segmenter:
        classes, counts = _mask_classes(run.segmenter, index, where), ()
    else:
        return None
    return TaskMeta(classes, counts, index.meta["size"], index.meta.get("fit", "crop"))


def _label_classes(
    classifier: Classifier, index: Index, where: str
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    labels: dict[str, dict[str, int]] = index.meta.get("labels", {})
    if classifier.label not in labels:
        raise InputError(
            f"{where}: no label {classifier.label!r} whose values are counted; set classifier.label to one "
            f"of {', '.join(sorted(labels)) or 'none: prepare with --label-column'}"
        )
    there = labels[classifier.label]
    classes = tuple(classifier.classes or sorted(there))
    if absent := [name for name in classes if name not in there]:
        raise InputError(
            f"{where}: no sample whose {classifier.label} is {absent[0]!r}; there are "
            f"{', '.join(sorted(there))}"
        )
    if len(classes) < 2:
        raise InputError(
            f"{where}: every {classifier.label} is {', '.join(classes)!r}; a classifier tells two classes or "
            "more apart"
        )
    return classes, tuple(there[name] for name in classes)


def _mask_classes(segmenter: Segmenter, index: Index, where: str) -> tuple[str, ...]:
    masks: dict[str, int] = index.meta.get("masks", {})
    if segmenter.mask not in masks:
        raise InputError(
            f"{where}: no mask {segmenter.mask!r}; set segmenter.mask to one of "
            f"{', '.join(sorted(masks)) or 'none: prepare with --mask-column or --boxes'}"
        )
    without = index.samples - masks[segmenter.mask]
    if without and segmenter.missing == "refuse":
        raise InputError(
            f"{where}: {without} of {index.samples} samples have no mask {segmenter.mask!r}; leave them out, "
            "or set segmenter.missing to background where they show nothing of it"
        )
    return tuple(segmenter.classes or [segmenter.mask])
