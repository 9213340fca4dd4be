"""From a spec to a finished run: it is checked, written down, trained, and its result told."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from medsd_ray.documents import DocumentError, parse_yaml
from medsd_ray.errors import InputError, Interrupted
from medsd_ray.retries import with_retries
from medsd_ray.runs.names import RAY_TRAIN, RESULT, RUN_SPEC, STOP
from medsd_ray.runs.notices import warn_once
from medsd_ray.runs.progress import read_metrics, read_progress
from medsd_ray.spec.load import parse_run
from medsd_ray.spec.run import RunSpec
from medsd_ray.storage import Storage, open_storage
from medsd_ray.training.auto_settings import choices_in_words
from medsd_ray.training.checks import check_run, complete_run, started
from medsd_ray.training.failures import as_user_error
from medsd_ray.training.manifest import write_run
from medsd_ray.training.ray_train import fit_and_show
from medsd_ray.training.resume import check_same_spec
from medsd_ray.training.terminal import RecordCallback, stop_on_signals


def train(
    run: RunSpec,
    resume: bool = False,
    auto_resume: bool = False,
    *,
    stop: threading.Event | None = None,
    on_record: RecordCallback | None = None,
) -> dict[str, Any]:
    """Trains a run over Ray Train workers, and waits for its end.

    All that can be checked is checked before the output is written to: a run that is refused leaves its
    output as it was.

    Args:
        run: What to train, on which data, into which output.
        resume: Goes on from the newest checkpoint of the output, which must hold this run.
        auto_resume: Resumes where the output has a run, starts one where it has none, and returns at once
            where this run is finished there.
        stop: Asks for a checkpoint and an end when it is set; Ctrl-C and SIGTERM do where it is None.
        on_record: Gets every record of metrics.jsonl, those of before a resume too, in place of the terminal.

    Returns:
        What result.json says: losses, images per second, bytes of the optimizer's state.

    Raises:
        InputError: The spec, the data, the model, the output or the machine does not allow the run.
        RunError: Training failed: it diverged, lost more workers than `resources.max_failures` allows, or
            could not save its last checkpoint.
        Interrupted: It was stopped, and saved a checkpoint from which `resume` goes on.
    """
    output = open_storage(run.output)
    if auto_resume:
        if result := finished(output, run):
            print(summary(result), flush=True)
            return result
        resume = started(output)
    checked, recorded = check_run(run, output, resume)
    if resume and (result := finished(output, run)):
        if on_record is not None:
            for record in read_metrics(output):
                on_record(record)
        print(f"{output.url}: this run is finished, nothing to do\n{summary(result)}", flush=True)
        return result
    checked = complete_run(checked, recorded)
    if said := choices_in_words(checked):
        print(said, flush=True)
    write_run(output, run, checked)
    seen = len(read_metrics(output)) if resume and on_record is None else 0
    with stop_on_signals() if stop is None else contextlib.nullcontext(stop) as asked_to_stop:
        failure = fit_and_show(checked, output, asked_to_stop, seen, on_record)
    # These do no harm where they stay: what the run ended with is the thing to tell.
    with contextlib.suppress(Exception):
        output.delete(STOP)
        output.delete_tree(RAY_TRAIN)
    if failure is not None:
        raise as_user_error(failure)
    result = _result(output)
    print(summary(result), flush=True)
    return result


def finished(output: Storage, run: RunSpec) -> dict[str, Any] | None:
    """The result of this run where the output has it; None where it is not finished, or where the result is
    damaged, which is said. Raises InputError for another run's. Not by `storage.outputs.claim`, as a run may
    go on with other workers.
    """
    try:
        result = output.read_json(RESULT)
    except FileNotFoundError:
        return None
    except DocumentError as error:
        warn_once(f"{error}; the run goes on from its newest checkpoint")
        return None
    try:
        spec = parse_yaml(output.read(RUN_SPEC))
    except FileNotFoundError:
        return None
    except DocumentError as error:
        raise InputError(f"{output.url}/{RUN_SPEC}: {error}; choose another output") from error
    check_same_spec(run, parse_run(spec, f"{output.url}/{RUN_SPEC}").model_dump(mode="json"), output.url)
    return result


def _result(output: Storage) -> dict[str, Any]:
    """The result that worker 0 has left. Raises Interrupted where the run was asked to stop."""
    progress = with_retries(lambda: read_progress(output))
    if progress.get("state") == "interrupted":
        raise Interrupted(
            f"after step {progress['step']}, with a checkpoint; the same command with --resume goes on"
        )
    return with_retries(lambda: output.read_json(RESULT))


def summary(result: dict[str, Any]) -> str:
    """The line that a finished run ends with."""
    speed, validation_loss = result["images_per_second"], result["validation_loss"]
    chosen, early = result.get("chosen_checkpoint"), result.get("ended_early")
    parts = [
        f"{result['step']} steps" + (f": {early}" if early else ""),
        f"loss {result['loss']:.4f}",
        *([f"validation loss {validation_loss:.5f}"] if validation_loss is not None else []),
        *([f"{speed:.1f} images/s"] if speed else []),
        *([f"checkpoint of step {chosen['step']} chosen ({chosen['why']})"] if chosen else []),
    ]
    return (
        f"done: {', '.join(parts)}; Adam's moments: {result['optimizer_bytes_per_worker'] / 1e6:.2f} MB a "
        f"worker ({result['world_size']} workers, ZeRO {result['zero_stage']})"
    )
