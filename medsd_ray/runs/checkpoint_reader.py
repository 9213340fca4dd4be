"""The tensors of a checkpoint: sharded safetensors, and one JSON that says which piece of which parameter is
where.

    checkpoints/step-00000020/rank-00000.safetensors            weights and their moving average (EMA)
                              rank-00000.optimizer.safetensors  Adam's moments
                              checkpoint.json                   the map of pieces, and what the run was
                              COMPLETE                          every file's size and SHA-256; written last

Nothing here is a pickle, and nothing depends on the number of workers or the ZeRO stage that wrote it.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from medsd_ray.documents import json_object
from medsd_ray.errors import InputError
from medsd_ray.runs.checkpoints import FORMAT, check_description, newest_usable
from medsd_ray.runs.fragments import Piece, assemble
from medsd_ray.runs.names import CHECKPOINT, optimizer_file, weights_file
from medsd_ray.storage import Storage

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = ("weight", "ema")
"""The kinds of tensors in a worker's first file; Adam's `exp_avg` and `exp_avg_sq` are in its second."""


class CheckpointReader:
    """One complete checkpoint. Its files are fetched into a folder when they are first needed, and checked
    against COMPLETE.

    Attributes:
        description: What checkpoint.json says.
        shapes: Parameter name -> its shape, of all trained parameters.
        pieces: Parameter name -> the pieces that it was saved in.
    """

    def __init__(self, store: Storage, folder: Path):
        """Reads checkpoint.json.

        Args:
            store: The checkpoint's own folder.
            folder: A local folder for the files.

        Raises:
            InputError: The checkpoint is incomplete, or its description is absent or damaged.
        """
        self.store, self.folder = store, folder
        self._open: dict[str, Any] = {}
        if (files := store.complete()) is None:
            raise InputError(f"{store.url}: not a complete checkpoint; use an earlier one")
        self.files = files
        self.description = self._describe()
        fragments = self.description.get("fragments", {}).items()
        self.shapes = {name: tuple(f["shape"]) for name, f in fragments}
        self.pieces = {name: [Piece(name, *piece) for piece in f["pieces"]] for name, f in fragments}
        for name, shape in self.shapes.items():  # before memory is taken for what is not there
            if math.prod(shape) > sum(piece.length for piece in self.pieces[name]):
                raise InputError(
                    f"{store.url}/{CHECKPOINT} is damaged ({name} is not whole); use an earlier checkpoint"
                )

    def _describe(self) -> dict[str, Any]:
        try:
            description = json_object(self._fetch(CHECKPOINT).read_bytes())
        except ValueError as error:
            raise InputError(
                f"{self.store.url}/{CHECKPOINT} is damaged; use an earlier checkpoint"
            ) from error
        if description.get("format") != FORMAT:
            raise InputError(
                f"{self.store.url}: not a {FORMAT} checkpoint; was it written by another version of medsd?"
            )
        check_description(description, f"{self.store.url}/{CHECKPOINT}")
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
        """Fetches and checks every file. Raises InputError where one is absent or differs."""
        for name in self.files:
            self._fetch(name)

    def read(self, name: str, kind: str, start: int, end: int) -> Tensor:
        """Elements [start, end) of a parameter, as it lies flat in memory.

        Args:
            name: The parameter, such as `unet.conv_in.weight`.
            kind: `weight`, `ema`, `exp_avg` or `exp_avg_sq`.
            start: The first element.
            end: The element after the last.

        Returns:
            A tensor of shape (end - start,), float32.

        Raises:
            InputError: A file is absent or differs from COMPLETE, or an element is in none of them.
        """

        def part(piece: Piece, lo: int, hi: int) -> Tensor:
            file = weights_file(piece.rank) if kind in WEIGHTS else optimizer_file(piece.rank)
            if file not in self._open:
                self._open[file] = safe_open(self._fetch(file), framework="pt")
            found = self._open[file].get_slice(piece.key(kind))
            if found.get_shape() != [piece.length] or found.get_dtype() != "F32":
                raise ValueError(f"{piece.key(kind)} is {found.get_dtype()} of shape {found.get_shape()}")
            return found[lo:hi]

        try:
            return assemble(self.pieces[name], start, end, part)
        except (KeyError, SafetensorError, ValueError) as error:
            raise InputError(
                f"{self.store.url}: {kind} of {name} is not whole ({error}); use an earlier checkpoint"
            ) from error

    def parameter(self, name: str, kind: str) -> Tensor:
        """A whole parameter in its own shape, float32. Raises InputError as `read` does."""
        shape = self.shapes[name]
        return self.read(name, kind, 0, math.prod(shape)).view(shape)


def load_weights(store: Storage, raw: bool) -> dict[str, dict[str, Tensor]]:
    """The trained parameters of a checkpoint.

    Args:
        store: The checkpoint's own folder.
        raw: The weights as they were trained, instead of their moving average.

    Returns:
        Component -> parameter name -> float32 tensor. A run without a moving average gives its weights.

    Raises:
        InputError: The checkpoint is incomplete or damaged.
    """
    with tempfile.TemporaryDirectory(prefix="medsd-") as folder:
        reader = CheckpointReader(store, Path(folder))
        if not reader.shapes:  # else the base model would pass for what was trained
            raise InputError(f"{store.url}/{CHECKPOINT} names no weights; use an earlier checkpoint")
        kind = "weight" if raw or not reader.description["ema"] else "ema"
        weights: dict[str, dict[str, Tensor]] = {}
        for name in reader.shapes:
            component, _, parameter = name.partition(".")
            weights.setdefault(component, {})[parameter] = reader.parameter(name, kind)
        return weights


def choose_checkpoint(output: Storage, folder: Path, warn: Callable[[str], None]) -> CheckpointReader | None:
    """The newest complete checkpoint all of whose files match their checksums.

    Args:
        output: A run's output.
        folder: A local folder for the files.
        warn: Gets one line for each damaged checkpoint; the one before it is taken.

    Returns:
        The reader of the checkpoint; None where the run has no complete one.

    Raises:
        InputError: All complete checkpoints are damaged.
    """

    def verified(store: Storage) -> CheckpointReader:
        reader = CheckpointReader(store, folder / store.url.rpartition("/")[2])
        reader.verify()
        return reader

    return newest_usable(output, verified, warn)
