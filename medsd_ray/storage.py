"""One way to read and write, for data and checkpoints alike: a plain folder or `s3://bucket/prefix`.

Settings for S3 are the standard AWS ones (environment, `~/.aws`); `AWS_ENDPOINT_URL` points at any S3 server.
A write appears under its name whole or not at all: folders write to a hidden file and rename it, S3 puts objects
atomically. A multi-file output is complete when its `COMPLETE` file is there: it is written last and holds each
file's size and SHA-256.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from medsd_ray.errors import InputError, RunError

COMPLETE = "COMPLETE"
_CHUNK = 1 << 20


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True)
class FileInfo:
    stamp: str  # changes when the file does
    modified: float  # seconds since 1970


class Storage(ABC):
    """A tree of files under one address. Keys are relative POSIX paths."""

    url: str

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The file's bytes. Raises FileNotFoundError where there is none."""

    @abstractmethod
    def write(self, key: str, data: bytes) -> None: ...

    @abstractmethod
    def download(self, key: str, path: Path, *, parallel: bool = True) -> None:
        """Copies to `path`, which appears whole; not `parallel` for a caller that copies several files at a time itself.

        Raises FileNotFoundError where the key is absent.
        """

    @abstractmethod
    def upload(self, path: Path, key: str) -> None: ...

    @abstractmethod
    def list(self, prefix: str = "") -> list[str]:
        """Keys of all files whose key starts with `prefix`, sorted."""

    @abstractmethod
    def level(self, folder: str = "") -> tuple[list[str], dict[str, FileInfo]]:
        """Names of the folders and of the files right in one folder, without what is below them; empty where it is absent."""

    @abstractmethod
    def exists(self, key: str) -> bool: ...

    @abstractmethod
    def delete(self, key: str) -> None:
        """Removes one file; no error where it is absent."""

    @abstractmethod
    def child(self, path: str) -> Storage: ...

    # --- what every store shares

    def read_json(self, key: str):
        return json.loads(self.read(key))

    def write_json(self, key: str, value) -> None:
        self.write(key, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())

    def delete_tree(self, prefix: str) -> None:
        """Removes all under `prefix/`, its COMPLETE mark first, so that a half-deleted tree is never taken for whole."""
        base = prefix.rstrip("/") + "/"
        keys = self.list(base)
        for key in sorted(keys, key=lambda k: k != base + COMPLETE):
            self.delete(key)

    def mark_complete(self, files: dict[str, dict]) -> None:
        """Writes the COMPLETE mark: `{name: {"bytes": int, "sha256": str}}` of every file of this output."""
        self.write_json(COMPLETE, {"files": files})

    def complete(self) -> dict[str, dict] | None:
        """The files of a finished output, or None where it is not finished."""
        try:
            return self.read_json(COMPLETE)["files"]
        except FileNotFoundError:
            return None

    def upload_tree(self, folder: Path) -> None:
        """Copies a folder here, COMPLETE last."""
        files = {}
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            key = path.relative_to(folder).as_posix()
            if key != COMPLETE:
                self.upload(path, key)
                files[key] = describe(path)
        self.mark_complete(files)

    def download_tree(self, folder: Path, keys: Iterable[str] | None = None) -> None:
        """Copies all files (or `keys`) to a local folder; those named in COMPLETE are checked against it."""
        known = self.complete() or {}
        for key in self.list() if keys is None else keys:
            target = folder / key
            self.download(key, target)
            if key in known and sha256_file(target) != known[key]["sha256"]:
                target.unlink()
                raise InputError(f"{self.url}/{key}: its checksum differs from COMPLETE's; copy or make it anew")


class FolderStorage(Storage):
    def __init__(self, root: Path):
        self.root = root
        self.url = str(root)

    def _path(self, key: str) -> Path:
        path = (self.root / key).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise InputError(f"{key!r} leads out of {self.root}: keys stay below their folder")
        return path

    @contextlib.contextmanager
    def _whole(self, path: Path) -> Iterator[Path]:
        """A hidden name beside `path` that becomes `path` when the block ends well."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            raise InputError(f"cannot write to {path.parent}: {error.strerror}; choose another folder") from error
        part = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.part"
        try:
            yield part
            os.replace(part, path)
        except PermissionError as error:
            raise InputError(f"cannot write {path}: permission denied; choose another folder") from error
        finally:
            part.unlink(missing_ok=True)

    def read(self, key: str) -> bytes:
        return self._path(key).read_bytes()

    def write(self, key: str, data: bytes) -> None:
        with self._whole(self._path(key)) as part:
            part.write_bytes(data)

    def download(self, key: str, path: Path, *, parallel: bool = True) -> None:
        with self._whole(path) as part:
            shutil.copyfile(self._path(key), part)

    def upload(self, path: Path, key: str) -> None:
        with self._whole(self._path(key)) as part:
            shutil.copyfile(path, part)

    def list(self, prefix: str = "") -> list[str]:
        base = self.root / prefix.rpartition("/")[0]
        if not base.is_dir():
            return []
        keys = (p.relative_to(self.root).as_posix() for p in base.rglob("*") if p.is_file())
        return sorted(k for k in keys if k.startswith(prefix) and not k.endswith(".part"))

    def level(self, folder: str = "") -> tuple[list[str], dict[str, FileInfo]]:
        folders, files = [], {}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(self._path(folder)) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry.name)
                elif not entry.name.endswith(".part"):
                    with contextlib.suppress(FileNotFoundError):  # replaced or deleted since it was listed
                        stat = entry.stat()
                        files[entry.name] = FileInfo(f"{stat.st_mtime_ns:x}-{stat.st_size:x}-{stat.st_ino:x}", stat.st_mtime)
        return sorted(folders), files

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def delete(self, key: str) -> None:
        path = self._path(key)
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # an emptied folder goes too; one with files stays
            path.parent.rmdir()

    def delete_tree(self, prefix: str) -> None:
        super().delete_tree(prefix)
        shutil.rmtree(self._path(prefix), ignore_errors=True)  # what a list does not show: empty folders, halves of killed writes

    def child(self, path: str) -> Storage:
        return FolderStorage(self.root / path)


class S3Storage(Storage):
    def __init__(self, bucket: str, prefix: str, client=None):
        self.bucket, self.prefix = bucket, prefix.strip("/")
        self.url = f"s3://{bucket}/{self.prefix}".rstrip("/")
        self._made = client

    @property
    def client(self):
        if self._made is None:
            import boto3
            from botocore.config import Config

            # Servers other than AWS need path-style addresses and may not know the newer checksum headers.
            config = Config(
                retries={"max_attempts": 5, "mode": "standard"},
                connect_timeout=5,
                read_timeout=60,
                s3={"addressing_style": "path" if _endpoint() else "auto"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            )
            # A session of its own: boto3's default one is not safe across threads and keeps the first credentials it saw.
            self._made = boto3.Session().client("s3", config=config)
        return self._made

    def __getstate__(self):  # a boto3 client does not travel to Ray workers; each makes its own
        return self.__dict__ | {"_made": None}

    def _key(self, key: str) -> str:
        if key.startswith("/") or ".." in key.split("/"):  # such a key would leave the folder it is copied to
            raise InputError(f"{key!r} leads out of {self.url}: keys stay below their address")
        return f"{self.prefix}/{key}" if self.prefix else key

    @contextlib.contextmanager
    def _errors(self, key: str = "") -> Iterator[None]:
        """Turns botocore's errors into FileNotFoundError, InputError (bad settings) or RunError (the server)."""
        import botocore.exceptions as botocore

        where = f"{self.url}/{key}".rstrip("/")
        try:
            yield
        except botocore.ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code == "NoSuchBucket":
                raise InputError(f"{where}: there is no bucket {self.bucket!r}; make it or mend the address") from error
            if code in ("NoSuchKey", "404", "NotFound"):
                raise FileNotFoundError(where) from error
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status in (401, 403) or code in ("ExpiredToken", "InvalidToken", "XAdminUserNotFound"):  # the last: versitygw
                raise InputError(
                    f"{where}: S3 refused the credentials ({code}); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY "
                    "or your profile, and that they may use this bucket"
                ) from error
            raise RunError(f"{where}: S3 answered {code or error}") from error
        except (botocore.NoCredentialsError, botocore.PartialCredentialsError, botocore.ProfileNotFound) as error:
            raise InputError(f"{where}: no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from error
        except (botocore.EndpointConnectionError, botocore.ConnectTimeoutError, ValueError) as error:
            endpoint = _endpoint() or "AWS"
            raise InputError(f"{where}: no S3 server answers at {endpoint}; check AWS_ENDPOINT_URL") from error
        except botocore.ParamValidationError as error:
            raise InputError(f"{where}: {self.bucket!r} cannot be a bucket's name; mend the address") from error
        except (botocore.BotoCoreError, ConnectionError) as error:
            raise RunError(f"{where}: {error}") from error

    def read(self, key: str) -> bytes:
        with self._errors(key):
            return self.client.get_object(Bucket=self.bucket, Key=self._key(key))["Body"].read()

    def write(self, key: str, data: bytes) -> None:
        with self._errors(key):
            self.client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data)

    def download(self, key: str, path: Path, *, parallel: bool = True) -> None:
        from boto3.s3.transfer import TransferConfig

        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.part"
        try:
            with self._errors(key):
                self.client.download_file(self.bucket, self._key(key), str(part), Config=TransferConfig(use_threads=parallel))
            os.replace(part, path)
        except FileNotFoundError:
            self._require_bucket(key)
            raise
        finally:
            part.unlink(missing_ok=True)

    def upload(self, path: Path, key: str) -> None:
        from boto3.exceptions import S3UploadFailedError

        with self._errors(key):
            try:
                self.client.upload_file(str(path), self.bucket, self._key(key))
            except S3UploadFailedError as error:  # boto3 wraps the ClientError that says why
                raise error.__cause__ or error.__context__ or RunError(str(error)) from error

    def list(self, prefix: str = "") -> list[str]:
        full, cut = self._key(prefix), len(self.prefix) + 1 if self.prefix else 0
        with self._errors(prefix):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=full)
            keys = [item["Key"][cut:] for page in pages for item in page.get("Contents", [])]
        return sorted(k for k in keys if k and not k.endswith("/"))

    def etags(self) -> dict[str, str]:
        """Each file's ETag: tells one state of a tree without a COMPLETE mark from another."""
        base, cut = self._key(""), len(self.prefix) + 1 if self.prefix else 0
        with self._errors():
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=base)
            return {item["Key"][cut:]: item["ETag"] for page in pages for item in page.get("Contents", [])}

    def level(self, folder: str = "") -> tuple[list[str], dict[str, FileInfo]]:
        base = self._key(folder).strip("/")
        base = base + "/" if base else ""
        folders: list[str] = []
        files: dict[str, FileInfo] = {}
        with self._errors(folder):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=base, Delimiter="/"):
                folders += [item["Prefix"].removeprefix(base).rstrip("/") for item in page.get("CommonPrefixes", [])]
                for item in page.get("Contents", []):
                    if name := item["Key"].removeprefix(base):
                        files[name] = FileInfo(item["ETag"], item["LastModified"].timestamp())
        return sorted(folders), files

    def exists(self, key: str) -> bool:
        try:
            with self._errors(key):
                self.client.head_object(Bucket=self.bucket, Key=self._key(key))
            return True
        except FileNotFoundError:
            self._require_bucket(key)
            return False

    def _require_bucket(self, key: str) -> None:
        """HEAD has no body, so a missing bucket looks like a missing key: ask for the bucket in words."""
        with self._errors(key):
            self.client.list_objects_v2(Bucket=self.bucket, MaxKeys=1)

    def delete(self, key: str) -> None:
        with self._errors(key):
            self.client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def child(self, path: str) -> Storage:
        return S3Storage(self.bucket, self._key(path), self._made)


def describe(path: Path) -> dict:
    """Size in bytes and SHA-256 of a file, as COMPLETE and the shard indexes record them."""
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def open_storage(url: str | os.PathLike) -> Storage:
    """A store for a folder or an `s3://bucket/prefix` address."""
    text = os.fspath(url)
    if text.startswith("s3://"):
        bucket, _, prefix = text.removeprefix("s3://").partition("/")
        if not bucket:
            raise InputError(f"{text!r} names no bucket: write s3://bucket/prefix")
        return S3Storage(bucket, prefix)
    if "://" in text:
        raise InputError(f"{text!r}: only folders and s3:// addresses are known")
    return FolderStorage(Path(text).expanduser())


def absolute(store: Storage) -> Storage:
    """The same store for processes that run in another folder."""
    return FolderStorage(store.root.resolve()) if isinstance(store, FolderStorage) else store


def pyarrow_filesystem(store: Storage):
    """(path, filesystem) for Ray's `storage_path` and `storage_filesystem`, with boto3's endpoint and credentials.

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
        endpoint_override=_endpoint(),
        region=session.region_name or "us-east-1",
    )
    return f"{store.bucket}/{store.prefix}".rstrip("/"), filesystem
