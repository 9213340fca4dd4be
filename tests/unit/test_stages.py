"""Which stage trains a run, and what it asks for before anything is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from specs import RUN, changed

from medsd_ray.spec.load import parse_run
from medsd_ray.training.stages.classifier import ClassifierStage
from medsd_ray.training.stages.diffusion import DiffusionStage
from medsd_ray.training.stages.kinds import kind_of
from medsd_ray.training.stages.registry import STAGES, stage_of
from medsd_ray.training.stages.segmenter import SegmenterStage
from medsd_ray.training.stages.unet import UnetStage
from medsd_ray.training.stages.vae import VaeStage

UNET: dict[str, Any] = {"components": {"unet": "full"}}
TEXT: dict[str, Any] = {"components": {"text_encoder": "full"}}
VAE: dict[str, Any] = {"components": {"vae": "decoder"}}
NETWORK = {"library": "monai", "name": "DenseNet121"}
TASK: dict[str, Any] = {"components": None, "model": "medsd-small"}
CLASSIFIER = TASK | {"classifier": {"network": NETWORK}}
SEGMENTER = TASK | {"segmenter": {"network": NETWORK, "mask": "lungs"}}


@pytest.mark.parametrize(
    ("change", "stage", "components"),
    [
        (UNET, UnetStage, {"unet", "scheduler"}),
        (TEXT, UnetStage, {"unet", "scheduler", "text_encoder", "tokenizer"}),
        (VAE, VaeStage, {"vae", "scheduler"}),
        (CLASSIFIER, ClassifierStage, set()),
        (SEGMENTER, SegmenterStage, set()),
    ],
)
def test_a_run_has_one_stage(change: dict[str, Any], stage: type, components: set[str]):
    run = parse_run(changed(RUN, {"name": "r"} | change))
    assert stage_of(run) is stage
    assert [one for one in STAGES if one.kind is kind_of(run)] == [stage]
    if issubclass(stage, DiffusionStage):
        assert set(stage.needed_components(run)) == components
    assert stage_of(run).kind.shards == ("latent" if stage is UnetStage else "image")


def test_the_driver_asks_a_stage_without_importing_diffusers():
    """A spec that is refused for its data need not wait for what takes seconds."""
    code = "import json, sys, medsd_ray.training.stages.registry; print(json.dumps(sorted(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"diffusers", "transformers", "deepspeed", "ray"} & set(json.loads(printed.splitlines()[-1]))
