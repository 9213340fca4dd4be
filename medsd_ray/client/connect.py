"""From words to work: which cluster a verb speaks to, by Ray's address or by the kubeconfig."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medsd_ray.client.ray_job_client import RayJobClient
from medsd_ray.client.submit import check_model_here
from medsd_ray.errors import InputError
from medsd_ray.spec.run import RunSpec

if TYPE_CHECKING:
    from medsd_ray.client.finetune_client import FineTuneClient


def connect(address: str | None, namespace: str | None, context: str | None) -> FineTuneClient | RayJobClient:
    """RayJobs at `address`, or FineTunes by the kubeconfig. Raises InputError as they do."""
    if address is None:
        from medsd_ray.client.finetune_client import FineTuneClient

        return FineTuneClient(context, namespace)
    if namespace or context:
        raise InputError(
            "--address is a Ray cluster's; leave out --namespace and --context, which belong to Kubernetes"
        )
    return RayJobClient(address)


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
    """Sends a run to a cluster: as a FineTune by the kubeconfig, or as a Ray job to `address`.

    Args:
        run: The run, as RUN.yaml says it.
        address: Of a Ray cluster's dashboard; None: Kubernetes.
        namespace: Of Kubernetes; None: the context's.
        context: Of the kubeconfig; None: its current one.
        runtime: Name of the Runtime; None: `default`.
        pool: Name of one of its pools; None: the first.
        queue: Name of a LocalQueue of Kueue; None: no queue.
        report: A YAML file with the report to make after training; None: none.
        working_dir: A folder with code to ship to the Ray cluster; None: what is installed there.
        follow: Prints the run's log until it ends, and ends as the run did.

    Raises:
        InputError: Options that exclude each other, or what the cluster refuses.
        RunError: The cluster fails; with `follow`, the run failed.
        Interrupted: With `follow`: Ctrl-C, which leaves the run as it is, or the run was stopped.
    """
    kubernetes = {"runtime": runtime, "pool": pool, "queue": queue, "report": report}
    if address is not None and (
        given := [f"--{name}" for name, value in kubernetes.items() if value is not None]
    ):
        raise InputError(f"{', '.join(given)}: for Kubernetes alone; leave out with --address")
    if address is None and working_dir is not None:
        raise InputError(
            "--working-dir ships code to a Ray cluster, which --address names; on Kubernetes the image has it"
        )
    check_model_here(run)
    runs = connect(address, namespace, context)
    if isinstance(runs, RayJobClient):
        name = runs.submit(run, working_dir)
    else:
        name = runs.submit(run, runtime=runtime, pool=pool, queue=queue, report=report)
    if follow:
        runs.follow(name)
