"""Rows of image shards, as `prepare` writes them: a tar with a PNG file a sample."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor

from medsd_ray.data.latents import OPEN_SHARDS
from medsd_ray.data.shard_png import read_png
from medsd_ray.data.tar import Member, members
from medsd_ray.errors import InputError


class ImageReader:
    """Pixels of image shards. Where the images lie in the newest shards is kept, not the images."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, list[Member]] = OrderedDict()

    def row(self, path: Path, row: int) -> dict[str, Tensor]:
        """Reads one image.

        Args:
            path: The shard's local file.
            row: The number of the image in it, from 0.

        Returns:
            `pixel_values`: (3, height, width) float32 in [-1, 1], grayscale repeated.

        Raises:
            InputError: The file is no tar, or the image is damaged or not there.
        """
        if path not in self._open:
            self._open[path] = [member for member in members(path) if member.extension == "png"]
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(path)
        if row >= (count := len(self._open[path])):
            raise InputError(
                f"{path}: {count} images, though its index says that there are more; prepare again"
            )
        member = self._open[path][row]
        with path.open("rb") as file:
            file.seek(member.offset)
            data = file.read(member.size)
        try:
            values = torch.from_numpy(read_png(data))
        except ValueError as error:
            raise InputError(f"{path}: image {row} cannot be read ({error}); run prepare again") from error
        scaled = (
            values.float().div_(127.5).sub_(1)
        )  # in place: this is most of what a worker does for an image
        # Gray is scaled once and repeated as a view, which the batch then copies.
        return {"pixel_values": scaled.expand(3, -1, -1) if scaled.ndim == 2 else scaled.permute(2, 0, 1)}
