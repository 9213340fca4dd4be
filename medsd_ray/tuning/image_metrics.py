"""A trial's images as numbers: the report's own figures, by the study's one detector."""

from __future__ import annotations

from collections.abc import Sequence

from medsd_ray.evaluation.estimates import Missing
from medsd_ray.evaluation.figures.accuracy import classifier_section, insertion_section
from medsd_ray.evaluation.figures.distances import distance_sections
from medsd_ray.evaluation.figures.sets import assign
from medsd_ray.evaluation.inputs import read_inputs
from medsd_ray.evaluation.messages import print_line
from medsd_ray.evaluation.networks.classifier import Classifier
from medsd_ray.evaluation.networks.extractors import of_classifier

HELD_OUT = ("test",)
NO_WEIGHTS = Missing("a study compares in its own detector's features")


def image_metrics(
    shards: str, images: str, detector: Classifier, label: str, figures: Sequence[str]
) -> dict[str, float | None]:
    """Metric -> value, of the figures `following` and `distances` where they are named; None for one that
    these images do not give. Raises InputError for images that are not whole.
    """
    sets = assign(read_inputs(shards, images, None, label), HELD_OUT)
    found: dict[str, float | None] = {}
    if "following" in figures:
        insertion = insertion_section(classifier_section(detector, sets, label, seed=0))
        found["insertion_accuracy"] = insertion["accuracy"]
        found["detector_accuracy"] = insertion["detector_accuracy"]
    if "distances" in figures:
        extractors = {"inception": NO_WEIGHTS, "xrv": NO_WEIGHTS, "classifier": of_classifier(detector)}
        distances = distance_sections(extractors, sets, 0, print_line)
        prdc = distances["prdc"]["generated"] or {}
        found |= {name: distances[name]["generated"] for name in ("fid", "kid")}
        found |= {name: prdc.get(name) for name in ("precision", "recall", "density", "coverage")}
    return found
