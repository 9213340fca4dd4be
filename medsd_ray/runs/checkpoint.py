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
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from medsd_ray.errors import InputError
from medsd_ray.runs.checkpoints import DESCRIPTION, saved_steps, step_folder
from medsd_ray.runs.fragments import Piece, assemble
from medsd_ray.storage import Storage

FORMAT = "medsd-checkpoint/1"


WEIGHTS = ("weight", "ema")


def rank_file(rank: int, kind: str) -> str:
    return f"rank-{rank:05d}.safetensors" if kind in WEIGHTS else f"rank-{rank:05d}.optimizer.safetensors"


class CheckpointReader:
    """One complete checkpoint; its files are fetched into `folder` when first needed and checked against
    COMPLETE.

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
        self.pieces = {
            name: [Piece(name, *piece) for piece in f["pieces"]]
            for name, f in self.description["fragments"].items()
        }

    def _describe(self) -> dict[str, Any]:
        try:
            description = json.loads(self._fetch(DESCRIPTION).read_bytes())
        except ValueError as error:
            raise InputError(
                f"{self.store.url}/{DESCRIPTION} is damaged; use an earlier checkpoint"
            ) from error
        if description.get("format") != FORMAT:
            raise InputError(
                f"{self.store.url}: not a {FORMAT} checkpoint; was it written by another version of medsd?"
            )
        return description

    def _fetch(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            if name not in self.files:
                raise InputError(
                    f"{self.store.url}: {name} is not among its files; use an earlier checkpoint"
                )
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
            raise InputError(
                f"{self.store.url}: {kind} of {name} is not whole ({error}); use an earlier checkpoint"
            ) from error

    def parameter(self, name: str, kind: str) -> Tensor:
        """A whole parameter in its own shape."""
        shape = self.shapes[name]
        numel = 1
        for size in shape:
            numel *= size
        return self.read(name, kind, 0, numel).view(shape)


def load_weights(checkpoint_store: Storage, raw: bool) -> dict[str, dict[str, Tensor]]:
    """Component -> parameter name -> float32 tensor, of the trained parameters: their moving average unless
    `raw`.
    """
    with tempfile.TemporaryDirectory(prefix="medsd-") as folder:
        reader = CheckpointReader(checkpoint_store, Path(folder))
        kind = "weight" if raw or not reader.description["ema"] else "ema"
        weights: dict[str, dict[str, Tensor]] = {}
        for name in reader.shapes:
            component, _, parameter = name.partition(".")
            weights.setdefault(component, {})[parameter] = reader.parameter(name, kind)
        return weights


def read_best(output: Storage) -> dict | None:
    try:
        return output.read_json("best.json")
    except (FileNotFoundError, ValueError):
        return None


def choose_checkpoint(output: Storage, folder: Path, warn: Callable[[str], None]) -> CheckpointReader | None:
    """The newest complete checkpoint all of whose files match their checksums; None where there is none at
    all.

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
