"""From words to work: which cluster a verb speaks to, by Ray's address or by the kubeconfig."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medsd_ray.client.ray_jobs import RayJobs
from medsd_ray.errors import InputError
from medsd_ray.spec.run import RunSpec

if TYPE_CHECKING:
    from medsd_ray.client.finetunes import FineTunes


def connect(address: str | None, namespace: str | None, context: str | None) -> FineTunes | RayJobs:
    """RayJobs at `address`, or FineTunes by the kubeconfig. Raises InputError as they do."""
    if address is None:
        from medsd_ray.client.finetunes import FineTunes

        return FineTunes(context, namespace)
    if namespace or context:
        raise InputError(
            "--address is a Ray cluster's; leave out --namespace and --context, which belong to Kubernetes"
        )
    return RayJobs(address)


def submit(
    run: RunSpec,
    *,
    address: str | None,
    namespace: str | None,
    context: str | None,
    runtime: str | None,
    pool: str | None,
    queue: str | None,
    report: Path | None,
    working_dir: Path | None,
    follow: bool,
) -> None:
    """Sends a run to a cluster; `follow` prints its log until it ends, and ends as the run did."""
    kubernetes = {"runtime": runtime, "pool": pool, "queue": queue, "report": report}
    if address is not None and (
        given := [f"--{name}" for name, value in kubernetes.items() if value is not None]
    ):
        raise InputError(f"{', '.join(given)}: for Kubernetes alone; leave out with --address")
    if address is None and working_dir is not None:
        raise InputError(
            "--working-dir ships code to a Ray cluster, which --address names; on Kubernetes the image has it"
        )
    runs = connect(address, namespace, context)
    if isinstance(runs, RayJobs):
        made = runs.submit(run, working_dir)
    else:
        made = runs.submit(run, runtime=runtime, pool=pool, queue=queue, report=report)
    if follow:
        runs.follow(made)
