"""One form of each address: of two that name the same place, texts that are equal."""

from __future__ import annotations

import posixpath
import re


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
