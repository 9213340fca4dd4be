"""What medsd chooses where a run leaves it open: GPUs, precision, compilation, ZeRO stage.

Chosen once, by the driver, before anything is written. `RUN.yaml` stays as the user wrote it; manifest.json
says what was chosen, and why.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from medsd_ray.errors import InputError
from medsd_ray.spec.run import RunSpec
from medsd_ray.training.checked_run import CheckedRun, ModelSize

COMPILE_FROM_STEPS = 500
"""Steps of a run from which on compiling, two minutes for Stable Diffusion's U-Net, is paid back on a GPU."""
FITS = 0.6
"""Share of a worker's memory that its weights, gradients and optimizer state may take: activations need the
rest.
"""


@dataclass(frozen=True)
class Machine:
    """What a worker has. `gpus` are all of Ray's; `has_bf16` and `gpu_memory` (bytes) are of one of them."""

    gpus: int
    has_bf16: bool
    gpu_memory: int
    cpu_memory: int
    """Bytes that are free on this node."""


def choose(checked: CheckedRun, machine: Machine, recorded: RunSpec | None = None) -> CheckedRun:
    """The run with nothing left open, and the reason of each choice.

    Args:
        checked: The run as the user wrote it, and the size of its model.
        machine: What its workers get.
        recorded: The run that wrote the checkpoint to go on from: precision and compile are kept as they
        were.

    Raises:
        InputError: There are GPUs, but fewer than workers.
    """
    run, size = checked.run, checked.size
    reasons: dict[str, str] = {}
    workers, training = run.resources.num_workers, run.training
    use_gpu = run.resources.use_gpu
    if use_gpu is None:
        use_gpu = machine.gpus > 0
        if use_gpu and machine.gpus < workers:
            raise InputError(
                f"resources: {workers} workers, but {machine.gpus} GPUs for them; set resources.num_workers "
                f"to {machine.gpus}, or use_gpu to false"
            )
        reasons["use_gpu"] = f"Ray has {machine.gpus} GPUs" if use_gpu else "Ray has no GPU"

    precision = training.precision or (recorded and recorded.training.precision)
    if training.precision is None:
        if precision:
            reasons["precision"] = "as in the checkpoint"
        else:
            precision = "bf16" if use_gpu and machine.has_bf16 else "fp32"
            reasons["precision"] = (
                "a CPU" if not use_gpu else f"the GPU has {'' if machine.has_bf16 else 'no '}bf16"
            )

    compile_it = training.compile
    if compile_it is None and recorded:
        compile_it = recorded.training.compile
        reasons["compile"] = "as in the checkpoint"
    if compile_it is None:
        compile_it = use_gpu and training.max_steps >= COMPILE_FROM_STEPS
        long = f"{training.max_steps} steps, from {COMPILE_FROM_STEPS} on compiling pays"
        reasons["compile"] = long if use_gpu else "a CPU"

    stage = training.zero_stage
    if stage is None:
        memory = machine.gpu_memory if use_gpu else machine.cpu_memory // workers
        lowest = 3 if training.offload.parameters else 1 if training.offload.optimizer else 0
        needed = {s: bytes_of_states(size, s, workers, precision != "fp32") for s in range(lowest, 4)}
        stage = next(
            (s for s, n in needed.items() if n < FITS * memory), min(needed, key=lambda s: needed[s])
        )
        reasons["zero_stage"] = (
            f"{needed[stage] / 1e9:.1f} GB of weights, gradients and optimizer state a worker, in "
            f"{memory / 1e9:.0f} GB"
        )
    chosen = {"training.precision": precision, "training.compile": compile_it, "training.zero_stage": stage}
    chosen["resources.use_gpu"] = use_gpu
    return dataclasses.replace(checked, run=_with(run, chosen), reasons=reasons)


def bytes_of_states(size: ModelSize, stage: int, workers: int, half: bool) -> float:
    """Bytes on one worker of weights, gradients, float32 masters and Adam's two moments at a ZeRO stage
    (Rajbhandari et al. 2020, arXiv 1910.02054, sec. 5).
    """
    element = 2 if half else 4
    weights = (size.trained + size.frozen) * element / (workers if stage >= 3 else 1)
    gradients = size.trained * element / (workers if stage >= 2 else 1)
    # In half precision Adam's gradient is float32; in float32 only stages 1 and 2 keep masters.
    masters = size.trained * (4 if half or stage in (1, 2) else 0)
    optimizer = masters + size.trained * (12 if half else 8)
    return weights + gradients + optimizer / (workers if stage >= 1 else 1)


def choices_in_words(checked: CheckedRun) -> str:
    """The line that a run begins with; empty where nothing was left open."""
    training, use_gpu = checked.run.training, checked.run.resources.use_gpu
    values: dict[str, Any] = {
        "use_gpu": "GPU" if use_gpu else "CPU",
        "precision": training.precision,
        "compile": "compiled" if training.compile else "not compiled",
        "zero_stage": f"ZeRO {training.zero_stage}",
    }
    return "; ".join(f"{values[field]} ({reason})" for field, reason in checked.reasons.items())


def _with(run: RunSpec, values: dict[str, Any]) -> RunSpec:
    changes: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        section, field = path.split(".")
        changes.setdefault(section, {})[field] = value
    update = {section: getattr(run, section).model_copy(update=fields) for section, fields in changes.items()}
    return run.model_copy(update=update)
