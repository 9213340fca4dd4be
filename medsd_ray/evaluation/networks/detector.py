"""A classifier that is trained once and judges many models' images: saved as safetensors and JSON, never as
pickle.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from safetensors.torch import load, save
from torchvision.models import DenseNet

from medsd_ray.errors import InputError
from medsd_ray.evaluation.inputs import read_real
from medsd_ray.evaluation.messages import Say
from medsd_ray.evaluation.networks.batches import device
from medsd_ray.evaluation.networks.classifier import LARGE, SMALL, Classifier, train_classifier
from medsd_ray.storage import Storage, to_json
from medsd_ray.storage.outputs import finish

WEIGHTS, ABOUT = "network.safetensors", "classifier.json"


def train_once(shards: str, label: str, seed: int, store: Storage, say: Say) -> None:
    """Trains the classifier of the real training split into `store`; nothing where it is there already.

    Raises InputError where the training images have no two labels to learn.
    """
    if store.complete() is not None:  # of the study that it lies in, whose settings may not change
        return
    real = read_real(shards, label)
    if "train" not in real:
        raise InputError(
            f"{shards}: no training split with images, which the detector learns from; prepare with one"
        )
    try:
        classifier = train_classifier(real["train"], real.get("validation"), seed, say)
    except ValueError as error:
        raise InputError(
            f"{shards}: no detector of {label!r}: {error}; set evaluation.label to a field of the labels"
        ) from error
    write(classifier, store)


def write(classifier: Classifier, store: Storage) -> None:
    about: dict[str, Any] = {
        f.name: getattr(classifier, f.name) for f in fields(classifier) if f.name != "network"
    }
    about["large"] = classifier.dimensions != DenseNet(**SMALL).classifier.in_features
    weights = {name: tensor.cpu().contiguous() for name, tensor in classifier.network.state_dict().items()}
    finish(store, {WEIGHTS: save(weights), ABOUT: to_json(about)})


def read(store: Storage) -> Classifier:
    about = store.read_json(ABOUT)
    network = DenseNet(**(LARGE if about.pop("large") else SMALL), num_classes=len(about["classes"]))
    network.load_state_dict(load(store.read(WEIGHTS)))
    return Classifier(network=network.to(device()).eval(), **about)
