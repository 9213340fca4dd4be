"""Whether a verb's workers use GPUs, where the user leaves it to medsd."""

from __future__ import annotations

from medsd_ray.errors import InputError


def use_gpus(wanted: bool | None, num_workers: int) -> bool:
    """`wanted`, else whether there are GPUs: in this machine for one worker, which runs in this process, in
    Ray for several. Said in one line where it was left to medsd and there are some.

    Raises InputError where there are none though they are wanted, or fewer than workers where it was left to
    medsd: the CPU never takes a GPU's place unasked.
    """
    if wanted is False:
        return False
    found = _in_this_machine() if num_workers == 1 else _in_ray(num_workers)
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


def _in_this_machine() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _in_ray(num_workers: int) -> int:
    import ray

    from medsd_ray.ray_cluster import ensure_ray

    ensure_ray(num_workers)
    return int(ray.cluster_resources().get("GPU", 0))
