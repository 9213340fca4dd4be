"""Rows of image shards, as `prepare` writes them: a tar with a sample's PNG, labels and masks."""

from __future__ import annotations

from collections import OrderedDict
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from medsd_ray.data.latents import OPEN_SHARDS
from medsd_ray.data.shard_png import read_png
from medsd_ray.data.tar import Member, members
from medsd_ray.data.targets import Targets
from medsd_ray.errors import InputError


class ImageReader:
    """Pixels of image shards, and what `targets` reads beside them. Where the samples lie in the newest
    shards is kept, not the samples.
    """

    def __init__(self, targets: Targets | None = None) -> None:
        self.targets = targets
        self._open: OrderedDict[Path, list[list[Member]]] = OrderedDict()

    def row(self, path: Path, row: int) -> dict[str, Tensor]:
        """Reads one sample.

        Args:
            path: The shard's local file.
            row: The number of the sample in it, from 0.

        Returns:
            `pixel_values`: (3, height, width) float32 in [-1, 1], grayscale repeated; and the targets' own.

        Raises:
            InputError: The file is no tar, or the sample is damaged or not there.
        """
        if path not in self._open:
            self._open[path] = [list(sample) for _, sample in groupby(members(path), lambda m: m.key)]
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(path)
        if row >= (count := len(self._open[path])):
            raise InputError(
                f"{path}: {count} images, though its index says that there are more; prepare again"
            )
        wanted = [member for member in self._open[path][row] if self._wants(member.extension)]
        with path.open("rb") as file:
            fields = {member.extension: _read(file, member) for member in wanted}
        try:
            if "png" not in fields:
                raise ValueError("its png is missing")
            found = {"pixel_values": _scaled(torch.from_numpy(read_png(fields["png"])))}
            return found | (self.targets.row(fields) if self.targets else {})
        except ValueError as error:
            raise InputError(f"{path}: image {row} cannot be read ({error}); run prepare again") from error

    def _wants(self, extension: str) -> bool:
        return extension == "png" or bool(self.targets and self.targets.wants(extension))


def _read(file: BinaryIO, member: Member) -> bytes:
    file.seek(member.offset)
    return file.read(member.size)


def _scaled(values: Tensor) -> Tensor:
    """(height, width) or (height, width, 3) of uint8 -> (3, height, width) float32 in [-1, 1]."""
    # In place: this is most of what a worker does for an image. Gray is scaled once and repeated as a view,
    # which the batch then copies.
    scaled = values.float().div_(127.5).sub_(1)
    return scaled.expand(3, -1, -1) if scaled.ndim == 2 else scaled.permute(2, 0, 1)
