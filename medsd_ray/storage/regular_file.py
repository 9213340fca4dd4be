"""Files from outside: regular ones, below the folder that they are named in."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from medsd_ray.addresses import leads_in_a_circle
from medsd_ray.errors import InputError


class OutsideError(InputError):
    """A name leads out of its folder."""


class IrregularError(InputError):
    """What a name leads to is no regular file."""


def path_below(folder: Path, name: str) -> Path:
    """Where a name leads to, links followed; nothing need be there.

    Raises OutsideError where that is not below the folder, and InputError where links go round or no file can
    have the name.
    """
    try:
        if leads_in_a_circle(folder / name):
            raise InputError(f"{folder / name}: its links lead round in a circle; remove them")
        path = (folder / name).resolve()
        if path.is_relative_to(folder.resolve()):
            return path
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: {name[:80]!r} is not the name of a file") from error
    raise OutsideError(f"{name!r} leads out of {folder}: keys stay below their folder")


def regular_file(path: Path) -> Path:
    """The same path, where opening it waits for nobody and reading it ends.

    Raises:
        FileNotFoundError: Nothing is there, as where the path leads through a file.
        IsADirectoryError: It is a folder.
        IrregularError: It is a pipe, a device or a socket.
        InputError: No file can have the name, or it may not be looked at.
    """
    try:
        mode = os.stat(path).st_mode
    except NotADirectoryError as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise InputError(f"{str(path)[:200]}: {said}; choose another address") from error
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise IrregularError(f"{path}: not a regular file, but a pipe, a device or a socket; remove it")
    return path
