"""An `s3://bucket/prefix` as a store, by boto3."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from medsd_ray.errors import InputError, RefusedError, RunError, UnreachableError
from medsd_ray.storage.base import FileInfo, Storage
from medsd_ray.storage.folder import whole_file


class S3Storage(Storage):
    """The objects of a bucket below a prefix."""

    def __init__(self, bucket: str, prefix: str, client=None):
        self.bucket, self.prefix = bucket, prefix.strip("/")
        self.url = f"s3://{bucket}/{self.prefix}".rstrip("/")
        self._client = client

    @property
    def client(self):
        """boto3's client, made when it is first needed."""
        if self._client is None:
            import boto3
            from botocore.config import Config

            # Servers other than AWS need path-style addresses and may not know the newer checksum headers.
            config = Config(
                retries={"max_attempts": 5, "mode": "standard"},
                connect_timeout=5,
                read_timeout=60,
                s3={"addressing_style": "path" if endpoint() else "auto"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            )
            # A session of its own: boto3's default one is not safe across threads and keeps the first
            # credentials it saw.
            self._client = boto3.Session().client("s3", config=config)
        return self._client

    def __getstate__(self):  # a boto3 client does not travel to Ray workers; each makes its own
        return self.__dict__ | {"_client": None}

    def _key(self, key: str) -> str:
        if key.startswith("/") or ".." in key.split("/"):  # such a key would leave the folder it is copied to
            raise InputError(f"{key!r} leads out of {self.url}: keys stay below their address")
        return f"{self.prefix}/{key}" if self.prefix else key

    @contextlib.contextmanager
    def _errors(self, key: str = "") -> Iterator[None]:
        """Turns botocore's errors into FileNotFoundError, InputError (bad settings), RefusedError (and so for
        good), UnreachableError or RunError (the server).
        """
        import botocore.exceptions as botocore
        from botocore.parsers import ResponseParserError

        where = f"{self.url}/{key}".rstrip("/")
        try:
            yield
        except botocore.ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code == "NoSuchBucket":
                raise RefusedError(
                    f"{where}: there is no bucket {self.bucket!r}; make it or mend the address"
                ) from error
            if code in ("NoSuchKey", "404", "NotFound"):
                raise FileNotFoundError(where) from error
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status in (401, 403) or code in (
                "ExpiredToken",
                "InvalidToken",
                "XAdminUserNotFound",
            ):  # the last: versitygw
                raise RefusedError(
                    f"{where}: S3 refused the credentials ({code}); check AWS_ACCESS_KEY_ID, "
                    "AWS_SECRET_ACCESS_KEY or your profile, and that they may use this bucket"
                ) from error
            if status == 507:  # of servers other than AWS, which has no end
                raise RefusedError(
                    f"{where}: the S3 server is full ({code}); free some space, or choose another address"
                ) from error
            raise RunError(f"{where}: S3 answered {code or error}") from error
        except (
            botocore.NoCredentialsError,
            botocore.PartialCredentialsError,
            botocore.ProfileNotFound,
        ) as error:
            raise InputError(
                f"{where}: no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from error
        except (botocore.EndpointConnectionError, botocore.ConnectTimeoutError, ValueError) as error:
            # ValueError: an endpoint that is no URL.
            kind = InputError if isinstance(error, ValueError) else UnreachableError
            server = endpoint() or "AWS"
            raise kind(f"{where}: no S3 server answers at {server}; check AWS_ENDPOINT_URL") from error
        except botocore.ParamValidationError as error:
            raise InputError(
                f"{where}: {self.bucket!r} cannot be a bucket's name; mend the address"
            ) from error
        except (botocore.BotoCoreError, ConnectionError) as error:
            raise RunError(f"{where}: {error}") from error
        # What boto3 and we raise on an answer that is cut off, or another program's.
        except (ResponseParserError, AttributeError, LookupError, RecursionError, TypeError) as error:
            raise RunError(
                f"{where}: the answer of {endpoint() or 'AWS'} is not S3's ({type(error).__name__}); try "
                "again, or check AWS_ENDPOINT_URL"
            ) from error

    def read(self, key: str, most: int | None = None) -> bytes:
        with self._errors(key):
            body = self.client.get_object(Bucket=self.bucket, Key=self._key(key))["Body"]
            return body.read() if most is None else body.read(most + 1)

    def write(self, key: str, data: bytes) -> None:
        with self._errors(key):
            self.client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data)

    def download(self, key: str, path: Path, *, parallel: bool = True) -> None:
        from boto3.s3.transfer import TransferConfig

        try:
            with whole_file(path) as part, self._errors(key):
                self.client.download_file(
                    self.bucket, self._key(key), str(part), Config=TransferConfig(use_threads=parallel)
                )
        except FileNotFoundError:
            self._require_bucket(key)
            raise

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
            for page in self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=base, Delimiter="/"
            ):
                folders += [
                    item["Prefix"].removeprefix(base).rstrip("/") for item in page.get("CommonPrefixes", [])
                ]
                for item in page.get("Contents", []):
                    if name := item["Key"].removeprefix(base):
                        files[name] = FileInfo(item["ETag"], item["Size"], item["LastModified"].timestamp())
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

    def sync(self, keys: Iterable[str]) -> None:
        """Nothing to do: S3 answers a write when it is safe."""

    def child(self, path: str) -> Storage:
        return S3Storage(self.bucket, self._key(path), self._client)


def endpoint() -> str | None:
    """The address of the S3 server, from AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL; None for AWS itself."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
