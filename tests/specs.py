"""Runs, good and bad: what the rules and bounds of medsd_ray/spec say of them, the API server must say."""

from __future__ import annotations

import copy
from typing import Any

RUN: dict[str, Any] = {
    "data": {"train": "s3://bucket/latents"},
    "components": {"unet": {"method": "full"}},
    "training": {"max_steps": 100, "global_batch_size": 12},
    "output": "s3://bucket/run",
}


def changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with some fields set, such as changed(RUN, {"training.max_steps": 3})."""
    values = copy.deepcopy(values)
    for path, value in changes.items():
        *parents, last = path.split(".")
        inner = values
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return values


A, B = {"shards": "s3://b/a"}, {"shards": "s3://b/b"}
NETWORK: dict[str, Any] = {"library": "monai", "name": "DenseNet121"}


def task(name: str, **settings: Any) -> dict[str, Any]:
    """The changes that make RUN a task run, such as task("classifier", loss="focal")."""
    return {"components": None, name: {"network": NETWORK} | settings}


GOOD: tuple[dict[str, Any], ...] = (
    {},
    {"data": {"sources": [A | {"domain": "x"}, A | {"domain": "y"}, B | {"kind": "generated"}]}},
    {
        "data": {
            "sources": [A | {"domain": "x"}, B | {"domain": "x", "kind": "generated", "weight": 0.5}],
            "balance": "domain",
        }
    },
    {"components": {"vae": {"method": "decoder"}}},
    {
        "components": {
            "text_encoder": {"method": "full", "learning_rate": 1e-5},
            "unet": {"method": "scratch"},
        }
    },
    {"components.unet": {"method": "lora"}},
    {
        "components.unet": {"method": "lora", "lora": {"rank": 4, "alpha": 0.5}},
        "components.text_encoder": {"method": "lora"},
    },
    {"components.unet": {"method": "cross_attention", "lora": None}},
    {
        "components.text_encoder": {
            "method": "swap",
            "swap": {"model": "s3://bucket/radbert", "max_length": 128, "train": True},
        }
    },
    {"components.text_encoder": {"method": "swap", "swap": {"model": "org/name"}, "tokens": []}},
    {
        "components.text_encoder": {
            "method": "textual_inversion",
            "tokens": [{"token": "<effusion>", "initializer": "effusion"}],
        }
    },
    {"prior": {"data": "s3://bucket/class-latents"}},
    {"prior": {"data": "s3://bucket/class-latents", "weight": 0.5}, "components.unet.method": "lora"},
    {"objective.drift": {"delta": -0.1, "target": "plain", "where": "scaled_by_sigma", "steps": 50}},
    {"objective.drift.delta": 1},
    {
        "conditions": {
            "lung": {"kind": "mask"},
            "nodule": {"kind": "mask", "field": "nodule_boxes"},
            "age": {"kind": "number", "range": [0, 100]},
            "sex": {"kind": "category", "values": ["F", "M"]},
        },
        "objective.conditioning_dropout": 0.5,
    },
    {"training.warmup_steps": 99},
    {
        "training.ema": None,
        "training.gradient_clipping": None,
        "objective.snr_gamma": None,
    },  # none, and not the default
    {"training.micro_batch_size": None, "training.validate_every": None, "data.validation": None},
    {"training.adam_betas": [0.9, 0.95], "training.zero_stage": 0, "training.precision": "bf16"},
    {"training.offload": {"optimizer": True, "parameters": True}, "training.zero_stage": 3},
    {"training.offload": {"optimizer": True}, "training.zero_stage": 1},
    {"training.sample_every": 10, "training.sample_prompts": ["Erguss: links", "a, b"]},
    {"training.micro_batch_size": 3, "resources.num_workers": 4},
    {"resources": {"num_workers": 2, "max_workers": 4}},
    {"resources": {"num_workers": 3, "max_workers": 3}},
    {
        "resources": {"num_workers": 2, "max_workers": 4},
        "training.global_batch_size": 24,
        "training.micro_batch_size": 2,
    },
    {"resources": {"num_workers": 1, "max_workers": 16}, "training.global_batch_size": 720_720},
    {"resources.num_workers": 1000, "training.global_batch_size": 1_000_000},
    task("classifier"),
    task("classifier", classes=["a", "b"], loss="focal", class_weights="none", label="view"),
    task("classifier") | {"training.sample_every": 10},
    task("classifier", network={"library": "transformers", "weights": "s3://bucket/vit", "method": "frozen"}),
    task(
        "classifier",
        network={
            "library": "timm",
            "name": "vit_tiny_patch16_224",
            "weights": "s3://bucket/vit",
            "method": "lora",
            "lora": {"rank": 4, "alpha": 8.0},
        },
    ),
    task("segmenter", mask="lungs", missing="background", classes=["left", "right"]),
    task("segmenter", mask="lungs", network=NETWORK | {"arguments": {"channels": [8, 16], "norm": "group"}}),
    {"components": {"vae": {"method": "decoder"}}, "training.sample_every": 10},
)

# What is changed, and words that both the validators and the API server say of it.
BAD: tuple[tuple[dict[str, Any], str], ...] = (
    ({"data": {}}, "give train or sources, one of the two"),
    ({"data.sources": [A]}, "give train or sources, one of the two"),
    ({"data": {"sources": [A | {"weight": 1}]}}, "sources: a weight counts samples for each real one"),
    ({"data.balance": "domain"}, "balance: domain needs sources that each name their domain"),
    (
        {"data": {"sources": [A | {"domain": "a"}, B], "balance": "domain"}},
        "balance: domain needs sources that each name their domain",
    ),
    ({"data": {"sources": [A | {"weight": 0}]}}, "data.sources"),
    ({"data": {"sources": [A | {"kind": "drawn"}]}}, "data.sources"),
    ({"components": {}}, "every component is frozen"),
    ({"components": {"vae": {"method": "frozen"}}}, "every component is frozen"),
    ({"components.vae": {"method": "scratch"}}, "run of its own"),
    ({"components": {"unet": {"method": "decoder"}}}, "components.unet.method"),
    ({"components": {"unet": {"method": "swap"}}}, "components.unet.method"),
    ({"components": {"text_encoder": {"method": "decoder"}}}, "components.text_encoder.method"),
    ({"components": {"vae": {"method": "lora"}}}, "components.vae.method"),
    ({"components.unet.method": "lorra"}, "components.unet.method"),
    (
        {"components.unet": {"method": "full", "lora": {"rank": 4}}},
        "lora holds settings of the method lora alone",
    ),
    (
        {"components.text_encoder": {"method": "full", "lora": {}}},
        "lora holds settings of the method lora alone",
    ),
    ({"components.unet": {"method": "lora", "lora": {"rank": 0}}}, "components.unet.lora.rank"),
    ({"components.text_encoder": {"method": "swap"}}, "needed by the method swap"),
    (
        {"components.text_encoder": {"method": "full", "swap": {"model": "s3://b/e"}}},
        "needed by the method swap",
    ),
    ({"components.text_encoder": {"method": "swap", "swap": {}}}, "components.text_encoder.swap.model"),
    ({"components.text_encoder": {"method": "textual_inversion"}}, "needed by the method textual_inversion"),
    (
        {"components.text_encoder.tokens": [{"token": "<a>", "initializer": "a"}]},
        "needed by the method textual_inversion",
    ),
    (
        {
            "components.text_encoder": {
                "method": "textual_inversion",
                "tokens": [{"token": "<a>", "initializer": "a"}] * 2,
            }
        },
        "Duplicate value",
    ),
    (
        {
            "components.text_encoder": {
                "method": "textual_inversion",
                "tokens": [{"token": "a b", "initializer": "a"}],
            }
        },
        "components.text_encoder.tokens",
    ),
    ({"objective.drift.delta": 1.5}, "objective.drift.delta"),
    ({"objective.drift.where": "nowhere"}, "objective.drift.where"),
    ({"objective.drift.steps": 0}, "objective.drift.steps"),
    (
        {"components": {"vae": {"method": "full"}}, "objective.drift.delta": 0.1},
        "leave it out of a run of the vae",
    ),
    (task("classifier") | {"objective.drift.delta": 0.1}, "objective is of runs with components"),
    (
        {"components": {"vae": {"method": "full"}}, "prior": {"data": "s3://b/c"}},
        "leave prior out of a run of the vae",
    ),
    ({"prior": {"data": "s3://b/c", "weight": 0}}, "prior.weight"),
    ({"components.unet.learning_rate": 0}, "components.unet.learning_rate"),
    ({"conditions": {"age": {"kind": "number"}}}, "is needed by a number, and by no other condition"),
    ({"conditions": {"lung": {"kind": "mask", "range": [0.0, 1.0]}}}, "is needed by a number, and by no"),
    ({"conditions": {"age": {"kind": "number", "range": [9, 9]}}}, "the lowest value comes first"),
    ({"conditions": {"age": {"kind": "number", "range": [9]}}}, "conditions.age.range"),
    ({"conditions": {"lung": {"kind": "mask", "values": ["a"]}}}, "values are of a category alone"),
    ({"conditions": {"lung": {"kind": "picture"}}}, "conditions.lung.kind"),
    (
        {"conditions": {"lung": {"kind": "mask"}}, "components": {"text_encoder": {"method": "full"}}},
        "conditions are trained with the unet",
    ),
    (
        {"conditions": {"lung": {"kind": "mask"}}, "objective.conditioning_dropout": 0.6},
        "objective.conditioning_dropout is at most 0.5 with conditions",
    ),
    ({"training.warmup_steps": 100}, "must be below max_steps"),
    (
        {"training.offload": {"optimizer": True}, "training.zero_stage": 0},
        "offload.optimizer needs zero_stage 1, 2 or 3",
    ),
    (
        {"training.offload": {"parameters": True}, "training.zero_stage": 2},
        "offload.parameters needs zero_stage 3",
    ),
    ({"training.sample_every": 10}, "sample_every needs sample_prompts"),
    ({"training.sample_prompts": ["x"] * 17}, "training.sample_prompts"),
    ({"training.max_steps": 0}, "training.max_steps"),
    ({"training.max_steps": "many"}, "training.max_steps"),
    ({"training.global_batch_size": 1_000_001}, "training.global_batch_size"),
    ({"training.zero_stage": 4}, "training.zero_stage"),
    ({"training.precision": "fp8"}, "training.precision"),
    ({"training.adam_betas": [0.9]}, "training.adam_betas"),
    ({"training.adam_betas": [0.9, 1.0]}, "training.adam_betas"),
    ({"training.adam_betas": [-0.1, 0.99]}, "training.adam_betas"),
    ({"training.weight_decay": 1e39}, "training.weight_decay"),
    ({"training.weight_decay": -1}, "training.weight_decay"),
    ({"training.gradient_clipping": 1e39}, "training.gradient_clipping"),
    ({"objective.snr_gamma": 1e39}, "objective.snr_gamma"),
    ({"vae_objective.kl_weight": 1e39}, "vae_objective.kl_weight"),
    ({"vae_objective.edge_weight": 1e39}, "vae_objective.edge_weight"),
    ({"components.unet": {"method": "lora", "lora": {"alpha": 1e39}}}, "components.unet.lora.alpha"),
    ({"prior": {"data": "s3://b/c", "weight": 1e39}}, "prior.weight"),
    ({"prior": {"data": ""}}, "prior.data"),
    ({"data.train": ""}, "data.train"),
    ({"data.validation": ""}, "data.validation"),
    ({"data.cache": " "}, "data.cache"),
    ({"model": ""}, "model"),
    ({"output": ""}, "output"),
    ({"components.text_encoder": {"method": "swap", "swap": {"model": ""}}}, "text_encoder.swap.model"),
    ({"training.ema.decay": 1.0}, "training.ema.decay"),
    ({"objective.prediction_type": "x0"}, "objective.prediction_type"),
    ({"objective.conditioning_dropout": 1}, "objective.conditioning_dropout"),
    ({"seed": 2**31}, "seed"),
    ({"model": "m" * 1025}, "model"),
    ({"resources.num_workers": 5}, "training.global_batch_size"),
    ({"resources.num_workers": 0}, "resources.num_workers"),
    ({"resources": {"num_workers": 4, "max_workers": 3}}, "must not be below num_workers"),
    ({"resources": {"num_workers": 3, "max_workers": 6}}, "is not a multiple"),  # of 5
    (
        {"resources": {"num_workers": 1, "max_workers": 20}, "training.global_batch_size": 720_720},
        "is not a multiple",
    ),  # of 17
    ({"training.micro_batch_size": 5}, "does not divide a worker's share"),
    (
        {"training.micro_batch_size": 6, "resources": {"num_workers": 2, "max_workers": 3}},
        "does not divide a worker's share",
    ),
    ({"components": None}, "exactly one of components, classifier and segmenter"),
    ({"classifier": {"network": NETWORK}}, "exactly one of components, classifier and segmenter"),
    (task("classifier", classes=["a"]), "tells two classes or more apart"),
    (task("classifier", classes=["a", "b", "a"]), "Duplicate value"),
    (task("classifier", loss="focal", label_smoothing=0.1), "label_smoothing is of the loss cross_entropy"),
    (task("classifier", network=NETWORK | {"method": "frozen"}), "a frozen or lora network needs weights"),
    (task("classifier", network={"library": "timm"}), "name is needed by monai, timm and smp"),
    (task("classifier", network={"library": "transformers"}), "transformers needs weights"),
    (
        task("classifier", network=NETWORK | {"lora": {"rank": 4}}),
        "lora holds settings of the method lora alone",
    ),
    (task("classifier", augmentation={"zoom": 0.6}), "classifier.augmentation.zoom"),
    (task("segmenter"), "segmenter.mask"),
    (task("segmenter", mask="lungs", loss="l2"), "segmenter.loss"),
    (task("classifier") | {"model": "s3://bucket/model"}, "model is of runs with components"),
    (task("classifier") | {"objective": {"snr_gamma": 1.0}}, "objective is of runs with components"),
    (task("classifier") | {"vae_objective": {"kl_weight": 1.0}}, "vae_objective is of runs with components"),
    (task("classifier") | {"prior": {"data": "s3://b/c"}}, "prior is of runs with components"),
    (
        task("classifier") | {"training.sample_prompts": ["x"]},
        "training.sample_prompts is of runs with components",
    ),
)
