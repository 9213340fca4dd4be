"""Names for patients and samples that only the holder of a key can lead back: HMAC-SHA256 (RFC 2104).

The same patient gets the same pseudonym under the same key, whatever the data set. The key is never written
to a shard.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from medsd_ray.errors import InputError

KEY_VARIABLE = "MEDSD_PSEUDONYM_KEY"
SHORTEST_KEY = 16
DIGITS = 24  # 96 bits: no two patients of any data set meet


class Pseudonyms:
    """Pseudonyms under one key."""

    def __init__(self, key: bytes):
        self._key = key

    def of(self, purpose: str, value: str) -> str:
        """24 hexadecimal digits for an identifier; other purposes give unrelated pseudonyms of the same
        value.
        """
        return hmac.new(self._key, f"{purpose}\0{value}".encode(), hashlib.sha256).hexdigest()[:DIGITS]

    @property
    def key_name(self) -> str:
        """Tells one key from another without giving it away."""
        return self.of("key", "")[:8]


def key_file() -> Path:
    """Where a key is kept that no variable gives: below `$XDG_CONFIG_HOME`, else `~/.config`."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "medsd" / "pseudonym.key"


def load_key() -> bytes:
    """The key in MEDSD_PSEUDONYM_KEY, else in `key_file()`, which is made with random digits where it is
    absent.

    Raises:
        InputError: The key is too short, or others may read its file, or it cannot be read.
    """
    if given := os.environ.get(KEY_VARIABLE):
        return _checked(given.encode(), KEY_VARIABLE)
    path = key_file()
    try:
        if not path.exists():
            _create(path)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise InputError(f"{path}: others may read this key of the pseudonyms; chmod 600 {path}")
        return _checked(path.read_bytes().strip(), str(path))
    except OSError as error:
        raise InputError(
            f"{path}: no key for pseudonyms here ({error.strerror}); set {KEY_VARIABLE}"
        ) from error


def _checked(key: bytes, where: str) -> bytes:
    if len(key) < SHORTEST_KEY:
        raise InputError(
            f"{where}: a key of {len(key)} characters can be guessed; give {SHORTEST_KEY} or more, at random"
        )
    return key


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32) + "\n")
        os.link(fresh, path)  # whole or not at all; where another process was quicker, its key stands
    except FileExistsError:
        pass
    finally:
        fresh.unlink(missing_ok=True)
