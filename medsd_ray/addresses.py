"""One form of each address: of two that name the same place, texts that are equal."""

from __future__ import annotations

import errno
import os
import posixpath
import re
from pathlib import Path

from medsd_ray.errors import InputError


def canonical(address: str) -> str:
    """A folder or `s3://bucket/prefix` without what adds nothing: slashes that are doubled or stand at the
    end, and the part `.`; in a folder's address also `..` with the part before it.

    `s3://b//x/`, `s3://b/./x` and `s3://b/x` are one address. Other schemes are left as they are.
    """
    if address.startswith("s3://"):
        parts = (part for part in address.removeprefix("s3://").split("/") if part not in ("", "."))
        return "s3://" + "/".join(parts)
    if not address or re.match(r"\w+://", address):
        return address
    return posixpath.normpath(re.sub(r"^/+", "/", address))


def path_of(address: str | os.PathLike) -> Path:
    """The local path that a user names, `~` replaced; nothing need be there. Every address that is no `s3://`
    becomes a path here.

    Raises InputError for what no file can be named, or where links lead round in a circle.
    """
    text = os.fspath(address)
    if not text.strip():
        raise InputError("an empty address: write a folder or s3://bucket/prefix")
    try:
        parts = [os.fsencode(part) for part in text.split("/")]
        text.encode()  # names of files that are no text come as half characters
        if "\0" in text or max(map(len, parts)) > 255 or sum(map(len, parts)) + len(parts) > 4096:
            raise ValueError
        path = Path(text).expanduser()
        circular = leads_in_a_circle(path)
    except ValueError as error:
        raise InputError(f"{text[:80]!r}: not a name that a file can have; mend it") from error
    except RuntimeError as error:
        raise InputError(f"{text!r}: there is no user of this name; write another path") from error
    if circular:
        raise InputError(f"{text!r}: its links lead round in a circle; write another path")
    return path


def leads_in_a_circle(path: Path) -> bool:
    """Whether a path's links lead round in a circle. Raises ValueError for what no file can be named."""
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def last_part(address: str) -> str:
    """The name of the folder at the end of an address: `runs/unet` -> `unet`."""
    return canonical(address.replace("\\", "/")).rstrip("/").rpartition("/")[2]


def is_absolute_path(address: str) -> bool:
    """Whether an address is a place on this machine, from its root or a user's own folder."""
    return bool(re.match(r"/|~|[A-Za-z]:[\\/]|file://|\\\\", address))


def shown(address: str) -> str:
    """An address as it is written where others see it: of an absolute local path, which may name a person or
    a patient, the last part alone.
    """
    return last_part(address) if is_absolute_path(address) else address
