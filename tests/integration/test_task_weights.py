"""Task runs that start from weights: what of them is trained, resumed exactly, and run after run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import vision_models
from plain_workers import Pool, chosen
from run_records import half_of, losses

from medsd_ray.data.prepare import prepare
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.errors import InputError
from medsd_ray.models.networks.task_network import load_trained
from medsd_ray.models.resolve import find_checkpoint
from medsd_ray.runs.checkpoints import describe_checkpoint
from medsd_ray.spec.load import parse_run
from medsd_ray.spec.run import RunSpec
from medsd_ray.storage import FolderStorage, Storage
from medsd_ray.training.checks import check_inputs, check_newest_checkpoint
from medsd_ray.training.manifest import manifest
from medsd_ray.training.stages.registry import build_stage

STEPS, HALF = 4, 2
DENSE = {
    "library": "monai",
    "name": "DenseNet",
    "arguments": {"block_config": [2, 2], "growth_rate": 4, "init_features": 8},
}
UNET = {"library": "monai", "name": "UNet", "arguments": {"channels": [8, 16], "strides": [2]}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    prepare(SourceRequest("60", "phantom", size=32), str(root / "shards"), splits="0.7,0.3,0")
    vision_models.save("vit", root / "vit", processor={"image_mean": [0.4], "image_std": [0.3]})
    vision_models.save("vit", root / "other-vit", seed=1)
    return root


def spec(
    root: Path, output: str, network: dict[str, Any], workers: int = 1, label: str = "extent", **training: Any
) -> RunSpec:
    segments = network["name"] == "UNet" if "name" in network else False
    learnt = {"mask": "effusion", "missing": "background"} if segments else {"label": label}
    return parse_run(
        {
            "name": "test",
            "data": {"train": str(root / "shards")},
            "segmenter" if segments else "classifier": {"network": network, **learnt},
            "training": {
                "max_steps": STEPS,
                "global_batch_size": 8,
                "learning_rate": 1e-3,
                "log_every": 1,
                "ema": None,
                **training,
            },
            "checkpoint": {"every_steps": HALF},
            "resources": {"num_workers": workers},
            "output": str(root / output),
        }
    )


def vit(root: Path, **settings: Any) -> dict[str, Any]:
    return {"library": "transformers", "weights": str(root / "vit"), **settings}


METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "frozen": {"method": "frozen"},
    "lora": {"method": "lora", "lora": {"rank": 2, "alpha": 8.0}},
}


@pytest.fixture(scope="module")
def whole_runs(root: Path, one_worker: Pool) -> None:
    for method, settings in METHODS.items():
        one_worker.train(spec(root, method, vit(root, **settings)))


@pytest.fixture(scope="module")
def dense(root: Path, one_worker: Pool) -> None:
    one_worker.train(spec(root, "dense", DENSE))


def newest(root: Path, output: str) -> Storage:
    checkpoint = find_checkpoint(str(root / output))
    assert checkpoint
    return checkpoint


def test_a_checkpoint_holds_what_its_method_trains(root: Path, whole_runs: None):
    names = {m: set(describe_checkpoint(newest(root, m))["fragments"]) for m in METHODS}
    head = {"classifier.body.head.weight", "classifier.body.head.bias"}
    assert names["frozen"] == head < names["full"]
    assert head < names["lora"] and all("lora_" in name for name in names["lora"] - head)
    first = {method: losses(root, method)[0] for method in METHODS}
    assert len(set(map(float, first.values()))) == 1  # each starts at the same network
    assert len({float(losses(root, method)[-1]) for method in METHODS}) == 3


@pytest.mark.parametrize("method", ["frozen", "lora"])
def test_resume_and_workers_change_nothing(
    root: Path, whole_runs: None, one_worker: Pool, two_workers: Pool, method: str
):
    network = vit(root, **METHODS[method])
    half_of(root, method, f"{method}-same", STEPS)
    one_worker.train(spec(root, f"{method}-same", network))
    assert torch.equal(losses(root, f"{method}-same"), losses(root, method))
    two_workers.train(spec(root, f"{method}-two", network, 2, micro_batch_size=2, zero_stage=3))
    torch.testing.assert_close(losses(root, f"{method}-two"), losses(root, method), atol=1e-5, rtol=0)


def test_samples_are_drawn_with_what_was_trained(root: Path, two_workers: Pool):
    for method in ("frozen", "lora"):
        network = vit(root, **METHODS[method])
        two_workers.train(spec(root, f"{method}-drawn", network, 2, sample_every=HALF, zero_stage=3))
        for step in (HALF, STEPS):  # the base is merged with anew
            assert len(list((root / f"{method}-drawn/samples/step-{step:08d}").glob("*.png"))) == 4


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_statistics_of_weights_stay_in_half_precision(root: Path, two_workers: Pool, zero_stage: int):
    vision_models.save("resnet", root / "resnet")
    network = vit(root, weights=str(root / "resnet"))
    half, whole = (f"{precision}-{zero_stage}" for precision in ("bf16", "fp32"))
    two_workers.train(spec(root, half, network, 2, precision="bf16", zero_stage=zero_stage))
    two_workers.train(spec(root, whole, network, 2, precision="fp32", zero_stage=zero_stage))
    assert not torch.equal(losses(root, half), losses(root, whole))
    torch.testing.assert_close(losses(root, half), losses(root, whole), atol=0.05, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_after_a_run_starts_where_that_one_ended(
    root: Path, whole_runs: None, one_worker: Pool, method: str
):
    settings = vit(root) | {"weights": str(root / method)}
    next_run = spec(root, f"{method}-next", settings, learning_rate=1e-12)
    one_worker.train(next_run)
    before, now = (
        FolderStorage(root / output).read_json("result.json") for output in (method, f"{method}-next")
    )
    assert now["validation_loss"] == pytest.approx(before["chosen_checkpoint"]["value"], abs=1e-5)
    assert check_inputs(next_run).loaded.endswith("mean 0.4/0.4/0.4, std 0.3/0.3/0.3")
    # A third one, over both.
    third = check_inputs(spec(root, "third", settings | {"weights": str(root / f"{method}-next")}))
    assert third.fingerprints["model"] != check_inputs(next_run).fingerprints["model"]


def test_networks_of_other_libraries_go_on_too_and_take_a_new_head(
    root: Path, dense: None, one_worker: Pool, capsys: pytest.CaptureFixture[str]
):
    same = spec(root, "dense-next", DENSE | {"weights": str(root / "dense")}, learning_rate=1e-12)
    one_worker.train(same)
    results = [FolderStorage(root / output).read_json("result.json") for output in ("dense", "dense-next")]
    chosen = results[0]["chosen_checkpoint"]["value"]
    assert results[1]["validation_loss"] == pytest.approx(chosen, abs=1e-5)

    head = spec(root, "head", DENSE | {"weights": str(root / "dense"), "method": "frozen"}, label="heart")
    capsys.readouterr()
    checked = check_inputs(head)
    said = f"{root / 'dense'}: weights: {checked.loaded.removeprefix('weights: ')}"
    assert said in capsys.readouterr().out and "class_layers.out.weight" in said
    about = manifest(head, checked)
    assert about["parameters"] == {
        "trained": checked.size.trained, "frozen": checked.size.frozen, "loaded": checked.loaded
    }  # fmt: skip
    assert about["model_sha256"] == checked.fingerprints["model"]
    one_worker.train(head)
    assert set(describe_checkpoint(newest(root, "head"))["fragments"]) == {
        "classifier.body.class_layers.out.weight",
        "classifier.body.class_layers.out.bias",
    }


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "DenseNet121", "arguments": {}}, "name"),
        ({"arguments": DENSE["arguments"] | {"growth_rate": 8}}, "arguments"),
        ({"normalisation": "instance"}, "normalisation"),
        ({"library": "timm", "name": "test_vit", "arguments": {}}, "library"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_weights_of_another_networks_run_are_refused(
    root: Path, dense: None, change: dict[str, Any], field: str
):
    with pytest.raises(InputError, match=rf"network.{field} of the run that trained these weights is"):
        check_inputs(spec(root, "refused", DENSE | change | {"weights": str(root / "dense")}))


def test_resume_with_other_weights_is_refused(root: Path, whole_runs: None, dense: None):
    other = spec(root, "frozen", vit(root, weights=str(root / "other-vit"), method="frozen"))
    with pytest.raises(InputError, match="the model is not the one"):
        check_newest_checkpoint(check_inputs(other), FolderStorage(root / "frozen"))
    none = spec(root, "dense", DENSE)  # weights where there were none
    with pytest.raises(InputError, match="the model is not the one"):
        with_weights = spec(root, "dense", DENSE | {"weights": str(root / "dense")})
        check_newest_checkpoint(check_inputs(with_weights), FolderStorage(root / "dense"))
    assert check_newest_checkpoint(check_inputs(none), FolderStorage(root / "dense"))
    same = spec(root, "frozen", vit(root, method="frozen"))
    assert check_newest_checkpoint(check_inputs(same), FolderStorage(root / "frozen"))


def test_a_base_that_has_changed_is_refused(root: Path, one_worker: Pool):
    vision_models.save("vit", root / "moving-vit")
    one_worker.train(spec(root, "moved", vit(root, weights=str(root / "moving-vit"), method="frozen")))
    assert load_trained(newest(root, "moved")).network.training is False
    vision_models.save("vit", root / "moving-vit", seed=2)
    with pytest.raises(InputError, match="moving-vit, has changed since it was trained"):
        load_trained(newest(root, "moved"))


def test_activations_are_computed_again_where_the_network_knows_how(
    root: Path, whole_runs: None, one_worker: Pool
):
    one_worker.train(spec(root, "recomputed", vit(root), gradient_checkpointing=True))
    torch.testing.assert_close(losses(root, "recomputed"), losses(root, "full"), atol=1e-5, rtol=0)
    stage: Any = build_stage(chosen(spec(root, "built", vit(root), gradient_checkpointing=True)))
    assert stage.classifier.body.backbone.model.is_gradient_checkpointing
    timm = {"library": "timm", "name": "test_resnet"}
    stage = build_stage(chosen(spec(root, "built", timm, gradient_checkpointing=True)))
    assert stage.classifier.body.grad_checkpointing
    vae = {"library": "transformers", "weights": "medsd-small"}
    stage = build_stage(chosen(spec(root, "built", vae, gradient_checkpointing=True)))
    assert stage.classifier.body.backbone.model.encoder.gradient_checkpointing
    assert manifest(stage_run := spec(root, "built", vae), check_inputs(stage_run))["model_sha256"]


def test_a_compiled_task_run_follows_the_other(root: Path, one_worker: Pool):
    one_worker.train(spec(root, "eager", UNET))
    one_worker.train(spec(root, "compiled", UNET, compile=True))
    assert FolderStorage(root / "compiled").read_json("result.json")["compile"] is True
    assert list((root / "compiled/compile-cache").iterdir())
    torch.testing.assert_close(losses(root, "compiled"), losses(root, "eager"), atol=1e-4, rtol=0)
