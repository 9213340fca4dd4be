"""From an address to a store, and from a store to what Ray takes."""

from __future__ import annotations

import os

from medsd_ray.addresses import canonical, path_of
from medsd_ray.errors import InputError
from medsd_ray.storage.base import Storage
from medsd_ray.storage.folder import FolderStorage
from medsd_ray.storage.s3 import S3Storage, endpoint


def open_storage(url: str | os.PathLike) -> Storage:
    """A store for a folder or an `s3://bucket/prefix` address."""
    text = os.fspath(url)
    if text.startswith("s3://"):
        bucket, _, prefix = canonical(text).removeprefix("s3://").partition("/")
        if not bucket or text.startswith("s3:///"):
            raise InputError(f"{text!r} names no bucket: write s3://bucket/prefix")
        if ".." in prefix.split("/"):
            raise InputError(f"{text!r}: '..' has no meaning in S3; write the prefix itself")
        return S3Storage(bucket, prefix)
    if "://" in text:
        raise InputError(f"{text!r}: only folders and s3:// addresses are known")
    return FolderStorage(path_of(text))


def absolute(store: Storage) -> Storage:
    """The same store for processes that run in another folder."""
    return FolderStorage(store.root.resolve()) if isinstance(store, FolderStorage) else store


def pyarrow_filesystem(store: Storage):
    """(path, filesystem) for Ray's `storage_path` and `storage_filesystem`, with boto3's endpoint and
    credentials.

    The filesystem is None for a folder: Ray then takes the path as it is.
    """
    if isinstance(store, FolderStorage):
        return str(store.root.resolve()), None
    assert isinstance(store, S3Storage)
    import boto3
    from pyarrow.fs import S3FileSystem

    session = boto3.Session()
    credentials = session.get_credentials()
    if credentials is None:
        raise InputError(f"{store.url}: no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    frozen = credentials.get_frozen_credentials()
    filesystem = S3FileSystem(
        access_key=frozen.access_key,
        secret_key=frozen.secret_key,
        session_token=frozen.token,
        endpoint_override=endpoint(),
        region=session.region_name or "us-east-1",
    )
    return f"{store.bucket}/{store.prefix}".rstrip("/"), filesystem
