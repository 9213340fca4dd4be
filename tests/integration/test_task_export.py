"""A task run's network written for its library: the very lines of its card say what `medsd predict` says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import vision_models
from command import assert_refused, medsd_here
from PIL import Image
from safetensors.torch import save_file
from tiny import write_checkpoint
from tiny_tasks import DENSE, UNET

from medsd_ray.client.download import download
from medsd_ray.data.sources.pixels import resize
from medsd_ray.errors import InputError
from medsd_ray.models.inference import Inference
from medsd_ray.models.networks.libraries import Task, outputs_of, recipe
from medsd_ray.models.networks.load import load_predictor
from medsd_ray.models.networks.plain import check_same
from medsd_ray.models.networks.task_network import load_network, load_trained
from medsd_ray.models.networks.task_run import need_task_run
from medsd_ray.models.resolve import weights_fingerprint
from medsd_ray.spec.tasks import Network
from medsd_ray.storage import FolderStorage

SIZE = 32
TIMM: dict[str, Any] = {"library": "timm", "name": "mobilenetv3_small_050"}
SMP: dict[str, Any] = {"library": "smp", "name": "Unet", "arguments": {"encoder_name": "tu-resnet10t"}}
VAE: dict[str, Any] = {"library": "transformers", "weights": "medsd-small"}
LORA: dict[str, Any] = {"weights": "vit", "method": "lora", "lora": {"rank": 2, "alpha": 8.0}}
RUNS: dict[str, tuple[Task, dict[str, Any]]] = {
    "monai-instance": ("classifier", DENSE | {"normalisation": "instance"}),
    "monai-own": ("segmenter", UNET),
    "timm-activated": ("classifier", TIMM),
    "timm-weights": ("classifier", {"library": "timm", "name": "resnet10t", "weights": "resnet10t"}),
    "smp-weights": ("segmenter", SMP | {"weights": "resnet10t"}),
    "vit-lora": ("classifier", {"library": "transformers", **LORA}),
    "vae": ("segmenter", VAE),
    "of-clip": ("classifier", {"library": "transformers", "weights": "clip_vision_model"}),
    "of-dinov2": ("segmenter", {"library": "transformers", "weights": "dinov2_with_registers"}),
    "of-siglip": ("segmenter", {"library": "transformers", "weights": "siglip_vision_model"}),
    "of-swin": ("segmenter", {"library": "transformers", "weights": "swin"}),
    "of-resnet": ("classifier", {"library": "transformers", "weights": "resnet"}),
}  # fmt: skip


def untrained(root: Path, name: str, task: Task, network: dict[str, Any]) -> None:
    """A run whose checkpoint has the network's first weights, and others as their moving average."""
    if (weights := network.get("weights", "medsd-small")) != "medsd-small":
        network = network | {"weights": str(root / weights)}
    settings = Network(**network)
    classes = ("a", "b", "c") if task == "classifier" else ("lung",)
    model = load_network(settings, task, outputs_of(task, classes), seed=0)
    generator = torch.Generator().manual_seed(1)
    first = {
        f"{task}.{k}": p.detach().clone() for k, p in model.network.named_parameters() if p.requires_grad
    }
    ema = {key: w + 0.05 * torch.randn(w.shape, generator=generator) for key, w in first.items()}
    learnt = {"label": "finding"} if task == "classifier" else {"mask": "lung"}
    spec = {"name": name, "seed": 0, task: {"network": network, **learnt}, "output": str(root / name)}
    started, run = settings.weights, FolderStorage(root / name)
    run.write("run.yaml", b"")
    write_checkpoint(
        run.child("checkpoints/step-00000020"), started or "random",
        {task: settings.method}, first, ema, spec=spec, classes=list(classes), image_size=SIZE, fit="crop",
        fingerprints={"model": weights_fingerprint(started)} if started else {},
    )  # fmt: skip


def save_resnet(folder: Path) -> None:
    """Weights of timm with statistics of images."""
    model = timm.create_model("resnet10t", num_classes=7)
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.rand(t.shape, generator=generator) + 0.5 if "running_" in name else t
        for name, t in model.state_dict().items()
    }
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"pretrained_cfg": {"mean": [0.4] * 3, "std": [0.3] * 3}}))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("task-export")
    save_resnet(root / "resnet10t")
    processor = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    for kind in {str(network.get("weights")) for _, network in RUNS.values()} & vision_models.KINDS.keys():
        vision_models.save(kind, root / kind, processor=processor)
    for name, (task, network) in RUNS.items():
        untrained(root, name, task, network)
    return root


READER = """
import contextlib, json, os, sys
sys.modules["medsd_ray"] = None
root, found = sys.argv[1], {}
for name, code in json.load(sys.stdin).items():
    os.chdir(f"{root}/{name}")
    known = {}
    with contextlib.redirect_stdout(sys.stderr):
        exec(code, known)
    found[name] = known["probabilities"].tolist()
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def said(root: Path) -> dict[str, np.ndarray]:
    """What the lines of each card make of an image, all in one process that has no medsd."""
    image = np.random.default_rng(0).integers(0, 256, (40, 36, 3), np.uint8)
    codes = {}
    for name in RUNS:
        done = medsd_here("export", root / name, root / "exported" / name)
        assert done.returncode == 0, done.stderr
        codes[name] = "\n".join(
            re.findall(r"```python\n(.*?)```", (root / f"exported/{name}/README.md").read_text(), re.S)
        )
        Image.fromarray(image).save(root / f"exported/{name}/image.png")
    words = [sys.executable, "-c", READER, str(root / "exported")]
    done = subprocess.run(words, input=json.dumps(codes), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name: np.array(values) for name, values in json.loads(done.stdout).items()}


@pytest.mark.parametrize("name", RUNS)
def test_the_lines_of_a_card_say_what_predict_says(root: Path, said: dict[str, np.ndarray], name: str):
    image = np.asarray(Image.open(root / f"exported/{name}/image.png"))
    predictor = load_predictor(need_task_run(str(root / name)), Inference())
    expected = predictor.predict(resize(image, SIZE)[None].copy())[0]
    assert said[name].shape == expected.shape and np.ptp(expected) > 1e-3
    np.testing.assert_allclose(said[name], expected, atol=1e-5)


def test_a_folder_says_what_it_is_and_names_no_folder_of_this_machine(root: Path, said: dict[str, Any]):
    folder = root / "exported/timm-weights"
    config = json.loads((folder / "config.json").read_text())
    assert config["outputs"] == config["classes"] == ["a", "b", "c"] and config["label"] == "finding"
    assert (config["image_size"], config["mean"], config["std"]) == (SIZE, [0.4] * 3, [0.3] * 3)
    assert json.loads((root / "exported/vae/config.json").read_text())["outputs"] == ["background", "lung"]
    card = (folder / "README.md").read_text()
    for words in (
        "moving average (EMA), of step 20",
        "mean 0.4/0.4/0.4",
        "`resnet10t` (fingerprint",
        "`a`, `b`",
    ):
        assert words in card
    for path in (root / "exported").rglob("*"):
        assert path.is_dir() or str(root).encode() not in path.read_bytes(), path


def test_an_exported_network_starts_another_run(root: Path, said: dict[str, Any]):
    network: dict[str, Any] = RUNS["timm-weights"][1] | {"weights": str(root / "exported/timm-weights")}
    model = load_network(Network(**network), "classifier", 3, seed=5)
    trained = load_trained(need_task_run(str(root / "timm-weights")).checkpoint)
    assert model.network.pixels == trained.network.pixels
    images = torch.rand(2, 3, SIZE, SIZE)
    torch.testing.assert_close(model.network.eval()(images), trained.network(images))


def test_what_belongs_to_diffusion_models_is_refused(root: Path, tmp_path: Path):
    words = ["export", root / "monai-own", tmp_path / "out"]
    for more, why in (
        (["--report", "report.json"], "--report is of the export of a diffusion model"),
        (["--without-memorisation-check", "no patient is here"], "it makes no images"),
        (["--raw"], "its weights are those that medsd predict uses"),
    ):
        assert_refused(medsd_here(*words, *more), why)
    assert not (tmp_path / "out").exists()


def test_a_network_that_its_library_makes_otherwise_is_not_written(root: Path):
    run = need_task_run(str(root / "monai-own"))
    body = load_trained(run.checkpoint).network.body
    other = {name: tensor + 1 for name, tensor in body.state_dict().items()}
    fresh = recipe(run.settings.network, "segmenter", 2).make()
    with pytest.raises(InputError, match=r"cannot be exported.*its outputs differ"):
        check_same(body, fresh, other, run)


def test_download_asks_for_no_memorisation_check_of_a_task_run(root: Path, tmp_path: Path):
    report = root / "monai-own/report/report.json"
    report.parent.mkdir()
    report.write_text("{}")
    download(str(root / "monai-own"), tmp_path / "out", "export")
    assert (tmp_path / "out/README.md").exists()
