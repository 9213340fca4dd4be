"""One way to read and write, for data and checkpoints alike: a plain folder or `s3://bucket/prefix`.

Settings for S3 are the standard AWS ones (environment, `~/.aws`); `AWS_ENDPOINT_URL` points at any S3 server.
A write appears under its name whole or not at all: folders write to a hidden file and rename it, S3 puts
objects atomically. A multi-file output is complete when its `COMPLETE` file is there: it is written last and
holds each file's size and SHA-256.
"""

from medsd_ray.storage.base import (
    COMPLETE,
    FileInfo,
    Storage,
    entry_of_bytes,
    entry_of_file,
    sha256_file,
    to_json,
)
from medsd_ray.storage.folder import FolderStorage
from medsd_ray.storage.opening import absolute, open_storage, pyarrow_filesystem
from medsd_ray.storage.regular_file import IrregularError, OutsideError, path_below, regular_file
from medsd_ray.storage.s3 import S3Storage

__all__ = [
    "COMPLETE",
    "FileInfo",
    "FolderStorage",
    "IrregularError",
    "OutsideError",
    "S3Storage",
    "Storage",
    "absolute",
    "entry_of_bytes",
    "entry_of_file",
    "open_storage",
    "path_below",
    "pyarrow_filesystem",
    "regular_file",
    "sha256_file",
    "to_json",
]
