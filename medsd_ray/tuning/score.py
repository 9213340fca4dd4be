"""A trial's images as numbers: the report's own figures, by the study's one detector."""

from __future__ import annotations

from functools import partial

from medsd_ray.evaluation.estimates import Missing
from medsd_ray.evaluation.evaluate import assign
from medsd_ray.evaluation.figures import sections
from medsd_ray.evaluation.inputs import read_inputs
from medsd_ray.evaluation.networks.classifier import Classifier
from medsd_ray.evaluation.networks.features import of_classifier

HELD_OUT = ("test",)
NO_WEIGHTS = Missing("a study compares in its own detector's features")


def score(shards: str, images: str, detector: Classifier, label: str) -> dict[str, float | None]:
    """Metric -> value; None for one that these images do not give. Raises InputError for images that are not
    whole.
    """
    sets = assign(read_inputs(shards, images, None, label), HELD_OUT)
    insertion = sections.insertion_section(sections.classifier_section(detector, sets, label, seed=0))
    extractors = {"inception": NO_WEIGHTS, "xrv": NO_WEIGHTS, "classifier": of_classifier(detector)}
    distances = sections.distance_sections(extractors, sets, 0, partial(print, flush=True))
    prdc = distances["prdc"]["generated"] or {}
    return {
        "insertion_accuracy": insertion["accuracy"],
        "detector_accuracy": insertion["detector_accuracy"],
        "fid": distances["fid"]["generated"],
        "kid": distances["kid"]["generated"],
        **{name: prdc.get(name) for name in ("precision", "recall", "density", "coverage")},
    }
