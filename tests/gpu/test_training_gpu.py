"""Training on a GPU: the precision that is in effect, steps that wait for nothing, one CUDA graph, exact
resume.

`make test-gpu`, on a machine with a GPU; one worker, in this process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from run_records import half_of, losses
from small_latents import write_latents
from tiny import tiny_components

from medsd_ray.models.save import save_pipeline
from medsd_ray.spec.load import dump_run, parse_run
from medsd_ray.training.auto_settings import Machine, choose
from medsd_ray.training.checks import check_inputs
from medsd_ray.training.worker import Trainer

STEPS, HALF = 12, 6
DEVICE = torch.device("cuda")
MACHINE = Machine(gpus=1, has_bf16=True, gpu_memory=80 * 10**9, cpu_memory=64 * 10**9)
NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@pytest.fixture(scope="module", autouse=True)
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import torch.distributed as dist

    assert torch.cuda.is_available(), "these tests need a GPU"
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "DS_ACCELERATOR": "cuda"}
    store = dist.FileStore(str(tmp_path_factory.mktemp("group") / "store"), 1)
    dist.init_process_group("nccl", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("training")
    components = tiny_components(0)
    save_pipeline(components, root / "model")
    write_latents(str(root / "latents"), components, str(root / "model"), embeddings=True)
    return root


def trainer(root: Path, output: str, **training: Any) -> Trainer:
    values = {"max_steps": STEPS, "global_batch_size": 8, "learning_rate": 1e-3, "log_every": 1, **training}
    run = parse_run(
        {
            "name": "test",
            "model": str(root / "model"),
            "data": {"train": str(root / "latents")},
            "components": {"unet": "full"},
            "training": values,
            "checkpoint": {"every_steps": HALF},
            "resources": {"use_gpu": True},
            "output": str(root / output),
        }
    )
    (root / output).mkdir(exist_ok=True)
    (root / output / "run.yaml").write_text(dump_run(run))
    return Trainer(choose(check_inputs(run), MACHINE), DEVICE, lambda record: None, print)


def trained(root: Path, output: str, **training: Any) -> torch.Tensor:
    trainer(root, output, **training).train()
    return losses(root, output)


@pytest.fixture(scope="module")
def reference(root: Path) -> torch.Tensor:
    return trained(root, "reference", zero_stage=0, precision="fp32")


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("micro", [8, 4])
def test_a_run_computes_in_the_precision_that_it_asks_for(
    root: Path, reference: torch.Tensor, stage: int, precision: str, micro: int
):
    output = f"{precision}-{stage}-{micro}"
    found = trained(root, output, zero_stage=stage, precision=precision, micro_batch_size=micro)
    result = json.loads((root / output / "result.json").read_text())
    assert result["compute_dtype"] == {"unet": NAMES[precision]}
    torch.testing.assert_close(found, reference, atol=1e-4 if precision == "fp32" else 0.03, rtol=0)


@pytest.mark.parametrize("ema", [None, {"decay": 0.9}])
def test_a_step_that_logs_nothing_waits_for_nothing(root: Path, ema: dict | None):
    running = trainer(root, f"sync-{ema is None}", zero_stage=0, precision="bf16", log_every=100, ema=ema)
    steps = running.steps()
    for step in range(4):
        running.step(step, next(steps))
        running.signals()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(4, 8):
            running.step(step, next(steps))
            running.signals()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_compiled_step_is_one_graph_and_trains_alike(root: Path, reference: torch.Tensor, precision: str):
    found = trained(root, f"graph-{precision}", zero_stage=0, precision=precision, compile=True)
    result = json.loads((root / f"graph-{precision}" / "result.json").read_text())
    assert result["cuda_graph"] is True
    torch.testing.assert_close(found, reference, atol=0.03, rtol=0)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_resumed_run_differs_no_more_than_two_undisturbed_ones(root: Path, stage: int):
    how: dict[str, Any] = {"zero_stage": stage, "precision": "bf16"}
    one, other = (trained(root, f"whole-{stage}-{n}", **how) for n in range(2))
    half_of(root, f"whole-{stage}-0", f"resumed-{stage}", STEPS)
    resumed = trained(root, f"resumed-{stage}", **how)
    assert (resumed - one).abs().max() <= (one - other).abs().max() + 1e-6
