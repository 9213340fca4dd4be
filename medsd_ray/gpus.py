"""Whether a verb's workers use GPUs, where the user leaves it to medsd."""

from __future__ import annotations

from medsd_ray.errors import InputError


def use_gpus(wanted: bool | None, num_workers: int) -> bool:
    """`wanted`, else whether there are GPUs: in this machine for one worker, which runs in this process, in
    Ray for several. Said in one line where it was left to medsd and there are some.

    Raises InputError where there are none though they are wanted, or fewer than workers: the CPU never takes
    a GPU's place unasked.
    """
    if wanted is False:
        return False
    found = _in_this_machine() if num_workers == 1 else _in_ray(num_workers)
    if not found and not wanted:
        return False
    if found < num_workers:
        of = f"{num_workers} workers" if num_workers > 1 else "one worker"
        raise InputError(
            f"{found} GPUs for {of} with a GPU each; lower --num-workers, or say --no-use-gpu"
            if found
            else "no GPU here; leave --use-gpu out"
        )
    if wanted is None:
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
