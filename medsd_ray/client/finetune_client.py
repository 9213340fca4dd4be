"""The verbs by Kubernetes: each run is a FineTune object."""

from __future__ import annotations

import contextlib
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from medsd_ray.client import display
from medsd_ray.client.kube import Exists, Kube
from medsd_ray.client.logs import follow, print_newest
from medsd_ray.client.submit import finetune, read_report
from medsd_ray.errors import InputError, Interrupted
from medsd_ray.spec.objects import FineTuneSpec
from medsd_ray.spec.run import RunSpec

POLL_S = 2.0
PODS_GO_S = 60
"""How long pods may take to end once they were told to."""


class FineTuneClient:
    """Raises InputError, RunError and Interrupted as `kube.Kube` and `medsd train` do."""

    def __init__(self, context: str | None, namespace: str | None):
        self.kube = Kube(context, namespace)

    def submit(
        self, run: RunSpec, *, runtime: str | None, pool: str | None, queue: str | None, report: Path | None
    ) -> str:
        """Makes the FineTune and returns its name."""
        body = finetune(
            run, runtime=runtime, pool=pool, queue=queue, report=read_report(report) if report else None
        )
        try:
            self.kube.create(body)
        except Exists as error:
            raise InputError(
                f"{error} ({self._phase(run.name)}); give the run another name, "
                f"or `medsd cancel {run.name}` first: its checkpoints stay, and a run with the same output "
                "goes on from them"
            ) from error
        where = "" if self.kube.namespace == "default" else f" --namespace {self.kube.namespace}"
        print(f"finetune {run.name} made in namespace {self.kube.namespace} of {self.kube.host}")
        print(f"next: medsd status {run.name}{where}; medsd logs {run.name}{where} --follow", flush=True)
        return run.name

    def _phase(self, name: str) -> str:
        with contextlib.suppress(InputError):
            return display.phase(self.kube.get(name))
        return "just now deleted"

    def status(self, name: str | None) -> None:
        """Prints one FineTune in detail, or a table of all in the namespace. Raises NotFound."""
        now = datetime.now(UTC)
        if name is not None:
            print(display.details(self.kube.get(name), now))
            return
        found = sorted(self.kube.list(), key=lambda item: item["metadata"]["creationTimestamp"])
        if found:
            print(display.table([display.HEADER, *(display.row(item, now) for item in found)]))
        else:
            print(f"no FineTunes in namespace {self.kube.namespace} of {self.kube.host}")

    def logs(self, name: str, following: bool) -> None:
        """Prints the newest attempt's log; `following` goes on to the run's end, and ends as the run did."""
        if following:
            display.check_end(follow(self.kube, name))
        else:
            print_newest(self.kube, name)

    def cancel(self, name: str, now: bool) -> None:
        """Deletes the FineTune, after a checkpoint unless `now`, and waits for its pods to go."""
        item = self.kube.get(name)
        if not now and display.phase(item) in ("Running", "Suspending"):
            item = self._suspend(name, item)
        self.kube.delete(name, item["metadata"]["uid"])
        pods = "its pods are gone" if self._wait_gone(name) else "its pods are still ending"
        print(f"{name} deleted, {pods}; its data stays in {_output(item)}")

    def _suspend(self, name: str, item: dict) -> dict:
        """Asks for a checkpoint and waits for it, within the object's own grace. Returns the object as it is
        then.
        """
        default = FineTuneSpec.model_fields["stopGraceSeconds"].default
        grace = item["spec"].get("stopGraceSeconds", default)
        self.kube.suspend(name)
        print(f"{name}: waiting up to {grace}s for a checkpoint (--now does not)", flush=True)
        end = time.monotonic() + grace + PODS_GO_S
        while display.phase(item := self.kube.get(name)) not in display.ENDED and time.monotonic() < end:
            time.sleep(POLL_S)
        step = ((item.get("status") or {}).get("progress") or {}).get("lastCheckpointStep")
        late = "" if display.phase(item) in display.ENDED else f"no answer in {grace + PODS_GO_S}s; "
        print(
            f"{name}: {late}"
            + ("no checkpoint" if step is None else f"the newest checkpoint is of step {step}"),
            flush=True,
        )
        return item

    def _wait_gone(self, name: str) -> bool:
        """Whether all pods went in time."""
        end = time.monotonic() + PODS_GO_S
        while self.kube.pods(name):
            if time.monotonic() > end:
                return False
            time.sleep(POLL_S)
        return True

    def output(self, name: str) -> str:
        """Where the run writes."""
        return _output(self.kube.get(name))

    def follow(self, name: str) -> None:
        """As `logs --follow`, for the run that was just submitted: Ctrl-C leaves it running."""
        try:
            self.logs(name, following=True)
        except KeyboardInterrupt:
            sys.stdout.flush()
            raise Interrupted(
                f"{name} goes on; medsd logs {name} --follow shows more, medsd cancel {name} ends it"
            ) from None


def _output(item: dict) -> str:
    return item["spec"]["run"]["output"]
