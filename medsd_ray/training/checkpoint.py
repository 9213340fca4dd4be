"""Checkpoints: sharded safetensors and one JSON that says which piece of which parameter is where.

    checkpoints/step-00000020/rank-00000.safetensors            weights and their moving average (EMA)
                              rank-00000.optimizer.safetensors  Adam's moments
                              checkpoint.json                   the map of pieces, and what the run was
                              COMPLETE                          every file's size and SHA-256; written last

Nothing here is a pickle, and nothing depends on the number of workers or the ZeRO stage that wrote it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from medsd_ray.errors import InputError
from medsd_ray.retries import with_retries
from medsd_ray.spec import Checkpoint
from medsd_ray.storage import Storage, describe
from medsd_ray.training.fragments import Piece, assemble
from medsd_ray.training.steps import saved_steps, step_folder
from medsd_ray.training.team import Team

FORMAT = "medsd-checkpoint/1"
DESCRIPTION = "checkpoint.json"
WEIGHTS = ("weight", "ema")


def rank_file(rank: int, kind: str) -> str:
    return f"rank-{rank:05d}.safetensors" if kind in WEIGHTS else f"rank-{rank:05d}.optimizer.safetensors"


def newest_complete(run_output: Storage) -> Storage | None:
    """The newest complete checkpoint of a run, or None."""
    complete, _ = saved_steps(run_output)
    return run_output.child(step_folder(complete[-1])) if complete else None


class CheckpointReader:
    """One complete checkpoint; its files are fetched into `folder` when first needed and checked against COMPLETE.

    Raises InputError where a file is absent or differs.
    """

    def __init__(self, store: Storage, folder: Path):
        self.store, self.folder = store, folder
        self._open: dict[str, Any] = {}
        if (files := store.complete()) is None:
            raise InputError(f"{store.url}: not a complete checkpoint; use an earlier one")
        self.files = files
        self.description = self._describe()
        self.shapes = {name: tuple(f["shape"]) for name, f in self.description["fragments"].items()}
        self.pieces = {name: [Piece(name, *piece) for piece in f["pieces"]] for name, f in self.description["fragments"].items()}

    def _describe(self) -> dict[str, Any]:
        try:
            description = json.loads(self._fetch(DESCRIPTION).read_bytes())
        except ValueError as error:
            raise InputError(f"{self.store.url}/{DESCRIPTION} is damaged; use an earlier checkpoint") from error
        if description.get("format") != FORMAT:
            raise InputError(f"{self.store.url}: not a {FORMAT} checkpoint; was it written by another version of medsd?")
        return description

    def _fetch(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            if name not in self.files:
                raise InputError(f"{self.store.url}: {name} is not among its files; use an earlier checkpoint")
            try:
                self.store.download_tree(self.folder, [name])
            except FileNotFoundError as error:
                raise InputError(f"{self.store.url}: {name} is gone; use an earlier checkpoint") from error
        return path

    def verify(self) -> None:
        """Fetches and checks every file."""
        for name in self.files:
            self._fetch(name)

    def read(self, name: str, kind: str, start: int, end: int) -> Tensor:
        """Elements [start, end) of a parameter's `kind` (weight, ema, exp_avg, exp_avg_sq), flat, float32."""

        def part(piece: Piece, lo: int, hi: int) -> Tensor:
            file = rank_file(piece.rank, kind)
            if file not in self._open:
                self._open[file] = safe_open(self._fetch(file), framework="pt")
            return self._open[file].get_slice(piece.key(kind))[lo:hi]

        try:
            return assemble(self.pieces[name], start, end, part)
        except (KeyError, ValueError) as error:
            raise InputError(f"{self.store.url}: {kind} of {name} is not whole ({error}); use an earlier checkpoint") from error

    def parameter(self, name: str, kind: str) -> Tensor:
        """A whole parameter in its own shape."""
        shape = self.shapes[name]
        numel = 1
        for size in shape:
            numel *= size
        return self.read(name, kind, 0, numel).view(shape)


def load_weights(checkpoint_store: Storage, raw: bool) -> dict[str, dict[str, Tensor]]:
    """Component -> parameter name -> float32 tensor, of the trained parameters: their moving average unless `raw`."""
    with tempfile.TemporaryDirectory(prefix="medsd-") as folder:
        reader = CheckpointReader(checkpoint_store, Path(folder))
        kind = "weight" if raw or not reader.description["ema"] else "ema"
        weights: dict[str, dict[str, Tensor]] = {}
        for name in reader.shapes:
            component, _, parameter = name.partition(".")
            weights.setdefault(component, {})[parameter] = reader.parameter(name, kind)
        return weights


class CheckpointWriter:
    """Writes checkpoints while training goes on: `save` has the tensors copied and returns. Worker 0 calls
    `before_complete` once all of a checkpoint but its mark is there."""

    def __init__(
        self, output: Storage, team: Team, keep: Checkpoint, warn: Callable[[str], None],
        before_complete: Callable[[], None] = lambda: None,
    ):  # fmt: skip
        self.output, self.team, self.keep, self.warn = output, team, keep, warn
        self.before_complete = before_complete
        self.last_step: int | None = None
        """Worker 0: the newest step whose checkpoint is complete."""
        self._group = team.new_group()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[str | None] | None = None

    def save(self, step: int, take: Callable[[], dict[str, dict[str, Tensor]]], description: dict[str, Any]) -> None:
        """`take` gives file name -> tensor name -> a copy of this worker's own tensor; `description` goes to checkpoint.json
        (worker 0's). Waits for the checkpoint before, where that is still on its way, so that `take` may use its memory."""
        self.wait()
        self._pending = self._thread.submit(self._write, step, take(), description)

    def wait(self) -> str | None:
        """Waits for the checkpoint on its way. At worker 0, why it failed; None where it is complete or there is none."""
        if self._pending is None:
            return None
        result, self._pending = self._pending.result(), None
        return result

    def _write(self, step: int, tensors: dict[str, dict[str, Tensor]], description: dict[str, Any]) -> str | None:
        store = self.output.child(step_folder(step))
        files: dict[str, dict] = {}
        failure = None
        try:
            with tempfile.TemporaryDirectory(prefix="medsd-") as folder:
                for name, parts in tensors.items():
                    path = Path(folder) / name
                    save_file(parts, path)
                    files[name] = describe(path)
                    with_retries(lambda path=path, name=name: store.upload(path, name))
        except Exception as error:
            failure = f"{error}"
        reports = self.team.at_first((files, failure), group=self._group)
        if reports is None:
            return None
        failures = [f"worker {rank}: {failure}" for rank, (_, failure) in enumerate(reports) if failure]
        if not failures:
            try:
                self._complete(step, store, {k: v for part, _ in reports for k, v in part.items()}, description)
            except Exception as error:
                failures = [f"{error}"]
        if failures:
            self.warn(f"the checkpoint of step {step} was not saved: {'; '.join(failures)}")
            return "; ".join(failures)
        return None

    def _complete(self, step: int, store: Storage, files: dict[str, dict], description: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory(prefix="medsd-") as folder:
            path = Path(folder) / DESCRIPTION
            path.write_text(json.dumps(description, indent=1, sort_keys=True) + "\n")
            files = files | {DESCRIPTION: describe(path)}
            with_retries(lambda: store.upload(path, DESCRIPTION))
        with_retries(self.before_complete)
        with_retries(lambda: store.mark_complete(files))
        self.last_step = step
        try:
            self._keep(step, description.get("validation_loss"))
        except Exception as error:  # what was to be deleted stays; the checkpoint itself is complete
            self.warn(f"older checkpoints were not deleted: {error}")

    def _keep(self, step: int, validation_loss: float | None) -> None:
        best = read_best(self.output)
        if validation_loss is not None and (best is None or validation_loss < best["validation_loss"]):
            best = {"step": step, "validation_loss": validation_loss}
            self.output.write_json("best.json", best)
        complete, _ = saved_steps(self.output)
        kept = set(complete[-self.keep.keep_last :]) | ({best["step"]} if best and self.keep.keep_best else set())
        for old in complete:
            if old not in kept:
                self.output.delete_tree(step_folder(old))


def read_best(output: Storage) -> dict | None:
    try:
        return output.read_json("best.json")
    except (FileNotFoundError, ValueError):
        return None


def choose_checkpoint(output: Storage, folder: Path, warn: Callable[[str], None]) -> CheckpointReader | None:
    """The newest complete checkpoint all of whose files match their checksums; None where there is none at all.

    A damaged one is named in one line and the one before is taken. Raises InputError where all are damaged.
    """
    complete, _ = saved_steps(output)
    for step in reversed(complete):
        try:
            reader = CheckpointReader(output.child(step_folder(step)), folder / str(step))
            reader.verify()
            return reader
        except (InputError, FileNotFoundError) as error:
            warn(f"the checkpoint of step {step} is damaged and left aside: {error}")
    if complete:
        raise InputError(f"{output.url}: every checkpoint is damaged; start again with another output")
    return None


def drop_unusable(output: Storage, step: int) -> None:
    """Deletes what an earlier attempt left: incomplete checkpoints, and those after `step`, from where the run goes on."""
    complete, incomplete = saved_steps(output)
    for old in incomplete + [s for s in complete if s > step]:
        output.delete_tree(step_folder(old))
    if (best := read_best(output)) and best["step"] > step:
        output.delete("best.json")
