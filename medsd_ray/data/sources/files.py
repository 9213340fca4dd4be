"""The image files that a table names, below one folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from medsd_ray.addresses import path_of
from medsd_ray.data.sources.frames import Frames
from medsd_ray.data.sources.image_files import SUFFIXES, frames_to_take, open_image, orientation
from medsd_ray.data.sources.masks import MaskFile, mask_file
from medsd_ray.data.sources.regular import check_file
from medsd_ray.data.sources.source import BadSample
from medsd_ray.data.sources.table import Table, normal_name
from medsd_ray.errors import InputError

Shown = tuple[np.ndarray, tuple[str, ...]]
"""The pixels of an image, uint8, (height, width[, 3]), and what is odd about its file."""


@dataclass(frozen=True)
class ImageFile:
    """A file that a row names, before its pixels are read."""

    name: str
    """Tells it from all others in the source."""
    size: int
    """Bytes: a file of another size is another one."""
    read: Callable[[int], Shown]
    """Reads the image of this number, from 0; raises BadSample."""
    orientation: Callable[[int], int] = lambda _: 1
    """How its EXIF turns the image of this number (`image_files.orientation`); raises BadSample."""
    taken: Sequence[int] = (0,)
    """The numbers of its images that are taken."""
    count: int = 1
    """How many images it holds."""
    values: Mapping[str, str] = field(default_factory=dict)
    """What the file itself says, as a row's columns do; where both do, the row's counts."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels from the file itself."""
    path: str | None = None
    """What `--patient-regex` looks at, where it is not the name."""
    warnings: tuple[str, ...] = ()
    """What the user should look at before the image is shared."""


class Images(Protocol):
    """Where the images are that a table's rows name."""

    @property
    def fields(self) -> Sequence[str]:
        """What the files themselves may say (`ImageFile.values`), which counts as columns do."""
        ...

    def find(self, name: str) -> ImageFile:
        """The image of a row. Raises BadSample where it cannot be used."""
        ...

    def mask(self, name: str) -> MaskFile:
        """A mask that a row names. Raises BadSample where it is missing."""
        ...

    def left_out(self, table: Table) -> str | None:
        """A line of how many images no cell of the table names; None where there are none."""
        ...


def existing_folder(source: str, option: str = "SOURCE") -> Path:
    """SOURCE, or what another option names, as a local folder. Raises InputError where it is none."""
    if "://" in source:
        raise InputError(f"{source}: sources are read from a local folder; copy it here first")
    folder = path_of(source)
    if folder.is_file():
        raise InputError(f"{source}: a file, where a folder is read; give the folder as {option}")
    if not folder.is_dir():
        raise InputError(f"{source}: there is no such folder; mend {option}")
    return folder


class NamedFiles:
    """The files below a folder, by the names that a table gives them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._spellings: dict[Path, dict[str, str]] = {}

    def find(self, name: str) -> Path:
        """The regular file. Raises BadSample where it is missing or the name leads out, by a link too."""
        pure = PurePosixPath(normal_name(name))
        if pure.is_absolute() or ".." in pure.parts:
            raise BadSample("leads out of the folder; keep images below it, and name them from there")
        try:
            path = self._spelled(pure)
        except (OSError, ValueError) as error:  # a name that no file can have
            raise BadSample("not the name of a file; mend the row") from error
        check_file(self.folder, path)
        return path

    def _spelled(self, pure: PurePosixPath) -> Path:
        """The path as the file system spells it."""
        path = self.folder / pure
        if path.exists():
            return path
        at = self.folder
        for part in pure.parts:
            if not (at / part).exists():
                part = self._spelling(at).get(part, part)
            at /= part
        return at

    def _spelling(self, folder: Path) -> dict[str, str]:
        """Composed name -> name, of what is in a folder."""
        if folder not in self._spellings:
            names = os.listdir(folder) if folder.is_dir() else []
            self._spellings[folder] = {normal_name(name): name for name in names}
        return self._spellings[folder]

    def relative(self, path: Path) -> str:
        """The one name of a file below the folder, in a table and out of it."""
        return normal_name(path.relative_to(self.folder).as_posix())


class FolderImages:
    """PNG, JPEG, TIFF and BMP files below a folder, as `Images`."""

    fields: Sequence[str] = ()

    def __init__(self, folder: Path, frames: Frames | None):
        self.files = NamedFiles(folder)
        self.frames: Frames | None = frames

    def find(self, name: str) -> ImageFile:
        """See `Images`."""
        path = self.files.find(name)
        taken, count = frames_to_take(path, self.frames)
        several = self.frames is not None

        def read(number: int) -> Shown:
            return open_image(path, number if several else None), ()

        turned = partial(orientation, path)
        return ImageFile(self.files.relative(path), path.stat().st_size, read, turned, taken, count)

    def mask(self, name: str) -> MaskFile:
        """See `Images`."""
        return mask_file(self.files.find(name))

    def left_out(self, table: Table) -> str | None:
        """See `Images`."""
        return left_out("images", table, map(self.files.relative, image_files(self.files.folder)))


def left_out(kind: str, table: Table, files: Iterator[str]) -> str | None:
    """A line of how many files a table does not name; None where it names all."""
    named = table.names()
    count = sum(name not in named for name in files)
    return f"{count} {kind} are left out: {table.name} has no row for them" if count else None


def image_files(folder: Path) -> Iterator[Path]:
    """The images below a folder, by their names; no links are followed, and nothing hidden is looked at."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                path = Path(parent, name)
                if not path.is_symlink():
                    yield path
