"""What Ray has for a run's workers: GPUs, their memory and number formats."""

from __future__ import annotations

from medsd_ray.ray_cluster import cluster_address
from medsd_ray.training.auto_settings import Machine


def look_at_machine() -> Machine:
    """Of the Ray that this process has joined. Where that is a cluster, one of its GPUs is asked by a
    task.
    """
    import psutil
    import ray

    gpus = int(ray.cluster_resources().get("GPU", 0))
    has_bf16, memory = False, 0
    if gpus:
        ask = ray.remote(num_gpus=1, max_calls=1)(_gpu).remote if cluster_address() else None
        has_bf16, memory = ray.get(ask()) if ask else _gpu()
    return Machine(gpus, has_bf16, memory, psutil.virtual_memory().available)


def _gpu() -> tuple[bool, int]:
    """Whether this process's first GPU computes in bf16, and its bytes of memory."""
    import torch

    return torch.cuda.get_device_capability(0) >= (8, 0), torch.cuda.get_device_properties(0).total_memory
