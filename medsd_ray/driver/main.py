"""What runs in the head pod: `python -m medsd_ray.driver.main job.yaml`, the driver of one attempt.

It runs medsd's verbs as processes, one after the other; tells the operator how far they are (server.py);
and at the end, good or bad, puts the logs into the run's storage (archive.py). It ends with the code of the
verb that failed.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NoReturn

from medsd_ray.driver.archive import archive
from medsd_ray.driver.job import PodJob, Step, load_job, steps, write_inputs
from medsd_ray.driver.protocol import DRIVER_PORT, POLL_TOKEN_SHA256
from medsd_ray.driver.server import DriverState, serve
from medsd_ray.errors import InputError, RunError, UnreachableError
from medsd_ray.ray_cluster import CLUSTER
from medsd_ray.runs.names import DRIVER_LOG, PROGRESS, logs_folder
from medsd_ray.runs.progress import read_progress
from medsd_ray.storage import Storage, open_storage

MEDSD = Path(sys.executable).with_name("medsd")


NO_STORAGE = 75
"""Exit code where the store does not answer: not the run's fault, nor that of its input (EX_TEMPFAIL of
sysexits.h).
"""


STORAGE_S = 60


LINGER_S = 15


COLOUR = re.compile(rb"\x1b\[[0-9;]*m")
WARNING = "warning: "
"""What a line of a verb begins with that says something is wrong while the verb goes on."""


class LogTee:
    """Bytes to this process's own output (the Ray job's log), to a file, and to the log of the pod's
    container.
    """

    def __init__(self, path: Path):
        self._lock = threading.Lock()
        self._outputs: list[BinaryIO] = [sys.stdout.buffer, path.open("wb")]
        if "KUBERNETES_SERVICE_HOST" in os.environ:  # elsewhere process 1 is not ours
            with contextlib.suppress(OSError):  # the log of the Ray job has it all
                self._outputs.append(os.fdopen(os.open("/proc/1/fd/1", os.O_WRONLY), "wb", buffering=0))

    def write(self, data: bytes) -> None:
        with self._lock:
            for output in list(self._outputs):
                try:
                    output.write(data)
                    output.flush()
                except OSError:
                    self._outputs.remove(output)

    def say(self, line: str) -> None:
        self.write(f"{line}\n".encode())


class VerbRunner:
    """Runs one verb at a time, until it is asked to stop; from then on none is started."""

    def __init__(self, tee: LogTee):
        self.tee = tee
        self.stop_signal: signal.Signals | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.RLock()  # a signal's handler may find its own thread inside

    def stop(self, sent: signal.Signals) -> None:
        """Passes the first wish to stop on to the verb: a second one would end it without its checkpoint."""
        with self._lock:
            if self.stop_signal is None:
                self.stop_signal = sent
                if self._child:
                    self._child.send_signal(sent)

    def run(self, step: Step, warn: Callable[[str], None] = lambda text: None) -> tuple[int, str | None]:
        """The verb's exit code, 128 + N where signal N ended it; and where it is not 0, the line that says
        why. `warn` gets each warning that the verb prints, as a store that takes no writes does not tell it.
        """
        self.tee.say(f"$ medsd {' '.join(step.words)}")
        environment = os.environ | {CLUSTER: "1", "PYTHONUNBUFFERED": "1"}
        with self._lock:
            if self.stop_signal:
                return 128 + self.stop_signal, None
            child = self._child = subprocess.Popen(
                [str(MEDSD), *step.words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        # A thread reads, because what the verb leaves behind may keep its output open.
        last_lines = LastLines(warn)
        reader = threading.Thread(target=last_lines.read, args=(child.stdout, self.tee), daemon=True)
        reader.start()
        code = child.wait()
        with self._lock:
            self._child = None
        reader.join(5)
        if code == 0:
            return 0, None
        if not last_lines.medsd:
            last_lines.medsd = f"medsd: {_why(step, code, last_lines.any)}"
            self.tee.say(last_lines.medsd)
        return (128 - code if code < 0 else code), last_lines.medsd


class LastLines:
    """Of a verb's output, the last line of `any` kind and the last in which `medsd` says how it ended; `warn`
    gets its warnings.
    """

    any = medsd = ""

    def __init__(self, warn: Callable[[str], None]):
        self.warn = warn

    def read(self, stream: BinaryIO, tee: LogTee) -> None:
        for line in stream:
            line = COLOUR.sub(b"", line)  # Ray paints the names of workers
            tee.write(line)
            if text := line.decode(errors="replace").strip():
                self.any = text
                if text.startswith("medsd: "):
                    self.medsd = text
                if text.startswith(WARNING):
                    self.warn(text.removeprefix(WARNING))


def _why(step: Step, code: int, last: str) -> str:
    if code < 0:
        hint = "; was the head pod's memory enough?" if code == -signal.SIGKILL else ""
        return f"{step.words[0]} was ended by {signal.Signals(-code).name}{hint}"
    return f"{step.words[0]} failed: {last or f'exit code {code}'}"


def main() -> None:
    """Runs the job.yaml that the command line names; the process ends with the job's exit code."""
    if len(sys.argv) != 2:
        _stop("give the path of a job.yaml", 2)
    try:
        code = run(Path(sys.argv[1]))
    except (InputError, RunError) as error:
        _stop(str(error), 2 if isinstance(error, InputError) else 1)
    sys.exit(code)


def _stop(line: str, code: int) -> NoReturn:
    print(f"medsd: {line}", file=sys.stderr)
    sys.exit(code)


def run(path: Path) -> int:
    """Runs an attempt's job to its end, answering the operator's polls, and archives its logs.

    Args:
        path: Of job.yaml.

    Returns:
        The exit code: 0, that of the first verb that failed, 128 + N where signal N ended it, or NO_STORAGE.

    Raises:
        InputError: job.yaml is not valid.
        RunError: The port for polls is taken.
    """
    job = load_job(path)
    with tempfile.TemporaryDirectory(prefix="medsd-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        write_inputs(job, folder)
        todo = steps(job, folder)
        tee = LogTee(folder / DRIVER_LOG)
        runner = VerbRunner(tee)
        for sent in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sent, lambda number, _: runner.stop(signal.Signals(number)))
        signal.pthread_sigmask(
            signal.SIG_UNBLOCK, {signal.SIGINT}
        )  # Ray starts its jobs with this signal blocked
        state = DriverState(todo[0].stage, stop=lambda: runner.stop(signal.SIGINT))
        port = int(os.environ.get("MEDSD_PORT", DRIVER_PORT))
        serve(state, port, os.environ.get(POLL_TOKEN_SHA256))
        output = open_storage(job.output)
        code = run_steps(job, todo, output, state, runner)
        if job.tells:
            with contextlib.suppress(InputError, RunError):
                state.read(output)
        state.exit_code, state.stage = code, "archive"
        archive(
            output.child(logs_folder(job.attempt)),
            folder / DRIVER_LOG,
            state.events,
            lambda line: tee.say(f"warning: {line}"),
        )
        state.stage = "done"
        state.end_polled.wait(LINGER_S)
        return code


def run_steps(job: PodJob, todo: list[Step], output: Storage, state: DriverState, runner: VerbRunner) -> int:
    """The exit code of the first verb that fails, or 0. `state` follows."""
    if not wait_for(output, runner):
        return _no_storage(output, state, runner)
    if job.tells:
        with contextlib.suppress(InputError, RunError):  # the verb will say what is wrong with the store
            if read_progress(output).get("state") != "finished":
                output.delete(PROGRESS)  # an earlier attempt's would be taken for this one's
        state.keep_reading(output)
    for step in todo:
        state.stage = step.stage
        code, state.error = runner.run(step, state.warn)
        if code in (1, 2) and not answers(output):
            return _no_storage(output, state, runner)
        if code:
            return code
    return 0


def _no_storage(output: Storage, state: DriverState, runner: VerbRunner) -> int:
    if runner.stop_signal:
        return 128 + runner.stop_signal
    state.error = (
        f"medsd: {output.url}: the store does not answer; it may come back, else check AWS_ENDPOINT_URL"
    )
    runner.tee.say(state.error)
    return NO_STORAGE


def wait_for(output: Storage, runner: VerbRunner) -> bool:
    """Whether the store answers, within a minute."""
    end = time.monotonic() + STORAGE_S
    while not (there := answers(output)) and time.monotonic() < end and not runner.stop_signal:
        time.sleep(2)
    return there


def answers(output: Storage) -> bool:
    """False where no server answers or it has an error of its own. A refusal is an answer: the verbs say it
    in words.
    """
    try:
        output.exists(PROGRESS)
    except (UnreachableError, RunError):
        return False
    except InputError:
        return True
    return True


if __name__ == "__main__":
    main()
