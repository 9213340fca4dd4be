"""The verbs by Ray's Jobs API, on a Ray cluster that runs already: each run is a job NAME-1, NAME-2, ... of
that cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medsd_ray.client.display import table
from medsd_ray.client.submit import check_folders, job_folder
from medsd_ray.errors import InputError, Interrupted, RunError
from medsd_ray.ray_cluster import CLUSTER
from medsd_ray.runs.names import RUN_SPEC
from medsd_ray.spec.run import RunSpec

ENTRYPOINT = f"medsd train {RUN_SPEC} --auto-resume"
NAME, OUTPUT = "medsd.io/run", "medsd.io/output"
STOP_WAIT, STOP_GRACE_S = "RAY_JOB_STOP_WAIT_TIME_S", 120
"""From a job's stop to its kill: Ray's own 3 s are too short for a checkpoint."""
POLL_S = 1.0
PROGRESS = re.compile(r"step +\d+/\d+ .*")
TOKEN = (
    "set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's own (KubeRay keeps it in the Secret named "
    "after the RayCluster, key auth_token)"
)


class RayJobClient:
    """Raises InputError where no Ray dashboard answers at `address` or it refuses the token; RunError where
    Ray fails.
    """

    def __init__(self, address: str):
        self.address = address if "://" in address else f"http://{address}"
        if not self.address.startswith(("http://", "https://")):
            raise InputError(f"--address {address}: give Ray's dashboard, such as http://ray-head:8265")
        self.client = self._connect()

    def _connect(self) -> Any:
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):  # Ray would take these rather than --address
            os.environ.pop(name, None)
        import requests

        logging.disable(
            logging.WARNING
        )  # Ray's remarks on missing tokens and packed folders: said here in words
        try:
            answer = requests.get(f"{self.address}/api/version", timeout=(5, 30))
            asks_token = answer.status_code in (401, 403)
            if not asks_token and "ray_version" not in answer.json():
                raise ValueError
        except ValueError as error:
            raise InputError(
                f"{self.address} answers, but is no Ray dashboard; give its address, with port 8265"
            ) from error
        except requests.RequestException as error:
            raise self._no_answer(error) from error
        # Set before Ray is imported, which reads it once: in this mode it sends the token, and fails without
        # one.
        os.environ.setdefault("RAY_AUTH_MODE", "token" if asks_token else "disabled")
        from ray.job_submission import JobSubmissionClient

        with self._errors():
            return JobSubmissionClient(self.address)

    def submit(self, run: RunSpec, working_dir: Path | None) -> str:
        """Sends the run (and the code in `working_dir`). Returns the job's id. Raises InputError where it
        runs already.
        """
        check_folders(run)
        earlier = self._of(run.name)
        if earlier and not earlier[-1].status.is_terminal():
            running = earlier[-1].submission_id
            raise InputError(
                f"{self.address} runs {running} already; `medsd cancel {run.name}` first, "
                "or give another name"
            )
        wanted = f"{run.name}-{1 + max((_number(job.submission_id) for job in earlier), default=0)}"
        with job_folder(run, working_dir) as folder, self._errors():
            made = self.client.submit_job(
                entrypoint=ENTRYPOINT,
                submission_id=wanted,
                runtime_env={
                    "working_dir": str(folder),
                    "env_vars": {CLUSTER: "1", STOP_WAIT: str(STOP_GRACE_S)},
                },
                metadata={NAME: run.name, OUTPUT: run.output},
            )
        print(f"Ray job {made} submitted to {self.address}")
        print(
            f"next: medsd status {run.name} --address {self.address}; "
            f"medsd logs {run.name} --address {self.address} --follow"
        )
        return made

    def status(self, name: str | None) -> None:
        """Prints a run's newest job in detail, or a table of all. Raises InputError where it is unknown."""
        if name is not None:
            print("\n".join(self._details(self._find(name))))
            return
        jobs = self._jobs()
        rows = [
            (job.metadata[NAME], job.submission_id, job.status.value, self._last(job, PROGRESS))
            for job in jobs
        ]
        print(table([("NAME", "JOB", "STATUS", "PROGRESS"), *rows]) if rows else f"no runs on {self.address}")

    def _details(self, job: Any) -> list[str]:
        progress = self._last(job, PROGRESS)
        lines = [f"{job.submission_id}: {job.status.value}" + (f", {progress}" if progress else "")]
        if job.status.is_terminal() and job.status.value != "SUCCEEDED":
            lines.append(self._last(job, re.compile("medsd: .*")) or " ".join((job.message or "").split()))
        return [*lines, f"  output  {job.metadata[OUTPUT]}"]

    def logs(self, name: str, following: bool) -> None:
        """Prints the newest job's log; `following` goes on to its end, and ends as the run did."""
        job = self._find(name)
        if following:
            self.follow(job.submission_id)
        else:
            print(self._log(job.submission_id), end="")

    def follow(self, job_id: str) -> None:
        """Prints the job's log until it ends. Raises what `medsd train` raised there; Ctrl-C leaves it
        running.
        """
        try:
            asyncio.run(self._tail(job_id))
        except KeyboardInterrupt:
            raise Interrupted(f"{job_id} goes on; medsd logs shows more, medsd cancel ends it") from None
        check_end(job_id, *self._end(job_id))

    async def _tail(self, job_id: str) -> None:
        """A connection that breaks is made anew; Ray then begins at the log's start, so what was printed is
        passed over.
        """
        import aiohttp

        printed = 0
        while True:
            position = 0
            with contextlib.suppress(aiohttp.ClientError, RuntimeError):
                async for text in self.client.tail_job_logs(job_id):
                    print(text[max(0, printed - position) :], end="", flush=True)
                    position += len(text)
                    printed = max(printed, position)
            if self._info(job_id).status.is_terminal():
                return
            await asyncio.sleep(POLL_S)

    def cancel(self, name: str, now: bool) -> None:
        """Stops the newest job, which leaves a checkpoint, and waits for its end unless `now`."""
        job = self._find(name)
        if job.status.is_terminal():
            print(f"{job.submission_id} ended before: {job.status.value}")
            return
        with self._errors():
            self.client.stop_job(job.submission_id)
        if now:
            print(f"{job.submission_id}: told to stop; Ray kills it after {STOP_GRACE_S}s")
            return
        print(f"{job.submission_id}: waiting up to {STOP_GRACE_S}s for a checkpoint", flush=True)
        end = time.monotonic() + STOP_GRACE_S + 10
        while not (job := self._info(job.submission_id)).status.is_terminal():
            if time.monotonic() > end:
                raise RunError(
                    f"{job.submission_id}: still {job.status.value}; see Ray's dashboard at {self.address}"
                )
            time.sleep(POLL_S)
        print("\n".join(self._details(job)))

    def output(self, name: str) -> str:
        """Where the run writes."""
        return self._find(name).metadata[OUTPUT]

    def _end(self, job_id: str) -> tuple[str, int | None, str]:
        job = self._info(job_id)
        return job.status.value, job.driver_exit_code, job.message or ""

    def _find(self, name: str) -> Any:
        """The newest job of a run, or the job of this id."""
        if found := self._of(name) or [job for job in self._jobs() if job.submission_id == name]:
            return found[-1]
        raise InputError(
            f"{self.address} has no run {name}; `medsd status --address {self.address}` lists them"
        )

    def _of(self, name: str) -> list[Any]:
        return [job for job in self._jobs() if job.metadata[NAME] == name]

    def _jobs(self) -> list[Any]:
        """medsd's jobs, the newest last."""
        with self._errors():
            jobs = [job for job in self.client.list_jobs() if NAME in (job.metadata or {})]
        return sorted(jobs, key=lambda job: job.start_time or 0)

    def _info(self, job_id: str) -> Any:
        with self._errors():
            return self.client.get_job_info(job_id)

    def _log(self, job_id: str) -> str:
        with self._errors():
            return self.client.get_job_logs(job_id)

    def _last(self, job: Any, pattern: re.Pattern[str]) -> str:
        return next(filter(pattern.fullmatch, reversed(self._log(job.submission_id).splitlines())), "")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise InputError(f"{self.address} {token_problem(str(error))}; {TOKEN}") from error
        except (requests.RequestException, ConnectionError) as error:
            raise self._no_answer(error) from error
        except ValueError as error:  # a folder that is too large to send
            raise InputError(f"--working-dir: {' '.join(str(error).split())}") from error
        except RuntimeError as error:
            raise error_of_ray(str(error), self.address) from error

    def _no_answer(self, error: Exception) -> InputError:
        return InputError(
            f"nothing answers at {self.address} ({type(error).__name__}); mend --address, "
            "or forward the port 8265"
        )


def token_problem(text: str) -> str:
    """What Ray says of a token, as the end of a sentence that begins with the cluster's address."""
    if text.startswith("Authentication failed"):
        return "refuses this token"
    if text.startswith("Authentication required") or "couldn't find an authentication token" in text:
        return "asks for a token"
    return f"could not be asked with a token ({' '.join(text.split('. ')[0].split())})"


def error_of_ray(text: str, address: str) -> Exception:
    """The error to raise for what Ray's server said, which is often a whole traceback."""
    last = text.strip().splitlines()[-1].strip()
    if "already exists" in text:
        return InputError(f"{address}: {last}; someone else submitted a run of this name just now")
    return RunError(f"{address}: {last}")


def check_end(job_id: str, status: str, exit_code: int | None, message: str) -> None:
    """Raises what `medsd train` would have raised: the exit code is that of the run."""
    if status == "SUCCEEDED":
        return
    if status == "STOPPED" or exit_code == 130:
        raise Interrupted(f"{job_id} was stopped")
    if exit_code is None:  # it did not come so far as to run
        raise RunError(f"{job_id} did not start: {' '.join(message.split())}")
    raise (InputError if exit_code == 2 else RunError)(
        f"{job_id} failed with exit code {exit_code}; its log above says why"
    )


def _number(job_id: str) -> int:
    return int(job_id.rpartition("-")[2])
