"""What a task run trains: a network that classifies images or segments them, its augmentation and its loss.

A task run is a run like any other, with `classifier` or `segmenter` in the place of `components`. It reads
image shards, with the labels and masks that `prepare` wrote there.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from medsd_ray.spec.components import LORA_RULE, Lora
from medsd_ray.spec.rules import Rule, SpecModel
from medsd_ray.spec.types import Address, LearningRate, Text


class Network(SpecModel):
    """A network of a well-kept library; see models/networks. It gets images of three channels; a grayscale
    one is repeated.
    """

    library: Literal["monai", "timm", "smp", "transformers"] = Field(
        description="monai: a class of monai.networks.nets; timm: a name of timm.create_model; smp: a class "
        "of segmentation_models_pytorch; transformers: the vision model that `weights` holds"
    )
    name: Text = Field(
        default="",
        description="the library's own name of the network, such as DenseNet121, resnet18 or Unet; none for "
        "transformers",
    )
    arguments: Annotated[dict[str, Any], Field(max_length=32)] = Field(
        default={},
        description="keyword arguments of the network, as its library has them, or fields of the "
        "configuration of a model of transformers; the numbers of channels and classes are given by the run",
    )
    weights: Address | None = Field(
        default=None,
        description="what it starts from: a folder, s3:// or hub name with safetensors, the output or a "
        "checkpoint of another task run or, for transformers, medsd-small or another diffusion model, whose "
        "VAE's encoder it takes; random where absent",
    )
    method: Literal["full", "frozen", "lora"] = Field(
        default="full",
        description="what is trained beside the layers that weights do not have, such as the head: full: all "
        "weights; frozen: nothing; lora: low-rank updates of the linear layers; the last two need weights",
    )
    lora: Lora | None = Field(
        default=None, description="settings of the method lora; its defaults where absent"
    )
    normalisation: Literal["group", "instance"] = Field(
        default="group",
        description="what takes the place of batch normalisation in a network without weights, so that "
        "neither the batch nor the number of workers changes a result; with weights its statistics stay as "
        "they are",
    )

    rules = (
        LORA_RULE,
        Rule(
            "self.method == 'full' || has(self.weights)",
            "a frozen or lora network needs weights: name them, or set method to full",
            lambda network: network.method == "full" or network.weights is not None,
        ),
        Rule(
            "(size(self.name) > 0) == (self.library != 'transformers')",
            "name is needed by monai, timm and smp, and not by transformers, whose weights say what it is",
            lambda network: bool(network.name) == (network.library != "transformers"),
        ),
        Rule(
            "self.library != 'transformers' || has(self.weights)",
            "transformers needs weights: the folder or hub name of a vision model",
            lambda network: network.library != "transformers" or network.weights is not None,
        ),
    )


Share = Annotated[float, Field(ge=0, le=0.5)]


class Augmentation(SpecModel):
    """What is changed at random in a training image, and alike in its mask: a function of the run's seed and
    the sample's position. Images are not mirrored by default, as left and right mean something in the body.
    """

    rotation: float = Field(default=10.0, ge=0, le=180, description="degrees at most, each way")
    translation: Share = Field(default=0.06, description="share of the side at most, each way")
    zoom: Share = Field(default=0.1, description="share by which the image grows or shrinks at most")
    contrast: Share = Field(default=0.1, description="share by which contrast changes at most")
    brightness: Share = Field(
        default=0.1, description="share of the range by which brightness changes at most"
    )
    noise: Share = Field(
        default=0.0, description="standard deviation of added noise at most, as a share of the range"
    )
    horizontal_flip: float = Field(default=0.0, ge=0, le=1, description="probability of a mirror image")


class Task(SpecModel):
    """What classifier and segmenter share."""

    network: Network
    learning_rate: LearningRate | None = Field(
        default=None, description="peak; the training's own where absent"
    )
    augmentation: Augmentation = Augmentation()

    @model_validator(mode="after")
    def _no_class_twice(self):
        """The API server has no rule for this: it checks the list's items, and says the same."""
        classes: list[str] = getattr(self, "classes", [])
        if repeated := sorted({name for name in classes if classes.count(name) > 1}):
            raise ValueError(f"classes: Duplicate value: {repeated[0]}")
        return self


NO_ITEM_TWICE: dict[str, Any] = {"x-kubernetes-list-type": "set"}


class Classifier(Task):
    """A network that tells which value of a label an image has."""

    label: Text = Field(default="finding", description="the field of the shards' labels that it learns")
    classes: Annotated[list[Text], Field(max_length=1000)] = Field(
        default=[],
        description="the values that it tells apart, in the order of its outputs; samples with another or "
        "none are left out; where empty, all of the training samples, in alphabetical order",
        json_schema_extra=NO_ITEM_TWICE,
    )
    loss: Literal["cross_entropy", "focal"] = Field(
        default="cross_entropy",
        description="cross_entropy, or focal with gamma 2 (Lin et al. 2017, arXiv 1708.02002)",
    )
    class_weights: Literal["balanced", "none"] = Field(
        default="balanced",
        description="balanced: a class's loss is weighted by the inverse of its share of the samples",
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="share of the target that all classes divide; cross_entropy's"
    )

    rules = (
        Rule(
            "size(self.classes) != 1",
            "a classifier tells two classes or more apart; name another, or leave classes out",
            lambda classifier: len(classifier.classes) != 1,
        ),
        Rule(
            "self.loss == 'cross_entropy' || self.label_smoothing == 0.0",
            "label_smoothing is of the loss cross_entropy alone",
            lambda classifier: classifier.loss == "cross_entropy" or classifier.label_smoothing == 0,
        ),
    )


class Segmenter(Task):
    """A network that gives each pixel of an image a class."""

    mask: Text = Field(description="the name of the masks that it learns, as the index of the shards has it")
    classes: Annotated[list[Text], Field(max_length=255)] = Field(
        default=[],
        description="names of a label map's values 1, 2, ...; 0 is the background; where empty, the mask has "
        "one class, which has its name: every value above 0",
        json_schema_extra=NO_ITEM_TWICE,
    )
    loss: Literal["dice_ce", "dice", "cross_entropy", "focal"] = Field(
        default="dice_ce",
        description="Dice and cross-entropy in equal parts; Dice alone (Milletari et al. 2016, arXiv "
        "1606.04797), without the background; cross-entropy; or focal with gamma 2",
    )
    missing: Literal["refuse", "background"] = Field(
        default="refuse",
        description="what a sample without this mask is: an error, or one that shows none of its classes",
    )


TASKS = ("classifier", "segmenter")
"""Sections of a run, of which a task run has one in the place of `components`."""
