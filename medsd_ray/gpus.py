"""Whether a verb's workers use GPUs, where the user leaves it to medsd."""

from __future__ import annotations

import ctypes
import os
import sys
from itertools import takewhile
from pathlib import Path

from medsd_ray.errors import InputError
from medsd_ray.ray_cluster import cluster_address, ensure_ray

_NVML = "libnvidia-ml.so.1"
"""What NVIDIA's driver answers through."""
_OTHER_MAKERS = ("/dev/kfd", "/dev/dxg")
"""Of AMD's GPUs, and of any in Windows' Linux: there torch alone can tell."""


def use_gpus(wanted: bool | None, num_workers: int) -> bool:
    """`wanted`, else whether there are GPUs: in this machine for one worker, which runs in this process, in
    Ray for several. Said in one line where it was left to medsd and there are some.

    Raises InputError where there are none though they are wanted, or fewer than workers where it was left to
    medsd: the CPU never takes a GPU's place unasked.
    """
    if wanted is False:
        return False
    found = found_gpus(num_workers)
    if not found:
        if wanted:
            raise InputError("no GPU here; leave --use-gpu out")
        return False
    if wanted:
        return True  # workers for whom there is no GPU, or not yet, get no task
    if found < num_workers:
        raise InputError(
            f"{found} GPUs for {num_workers} workers with a GPU each; lower --num-workers, or say "
            "--no-use-gpu"
        )
    print(f"on {num_workers} GPU{'s' if num_workers > 1 else ''}; --no-use-gpu for the CPU", flush=True)
    return True


def found_gpus(num_workers: int) -> int:
    """The GPUs that so many workers of a verb can use: this machine's for one, Ray's for several."""
    return _in_this_machine() if num_workers == 1 else _in_ray(num_workers)


def count_gpus() -> int | None:
    """The GPUs that this process may use, asked of NVIDIA's driver (NVML), as its answer takes milliseconds
    where torch's import takes seconds. None where torch alone can tell.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = None if visible is None else [*takewhile(lambda one: one not in ("", "-1"), visible.split(","))]
    if named == []:
        return 0
    count = ctypes.c_uint()
    try:
        nvml = ctypes.CDLL(_NVML)
        answers = nvml.nvmlInit_v2() == 0 and nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0
    except (OSError, AttributeError):  # no driver, or one that is older than these names
        answers = False
    if not answers:
        return None if any(Path(device).exists() for device in _OTHER_MAKERS) else 0
    # Parts of a GPU are named one by one, and are more than NVML counts.
    return min(count.value, len(named)) if named and all(one.isdecimal() for one in named) else count.value


def gpus_of_local_ray() -> int | None:
    """The GPUs that a Ray would have that is started here; None where this process has joined or will join
    another, or where torch alone can tell.
    """
    ray = sys.modules.get("ray")
    if cluster_address() or (ray is not None and ray.is_initialized()):
        return None
    return count_gpus()


def _in_this_machine() -> int:
    if count_gpus() == 0:
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _in_ray(num_workers: int) -> int:
    if gpus_of_local_ray() == 0:
        return 0
    import ray

    ensure_ray(num_workers)
    return int(ray.cluster_resources().get("GPU", 0))
