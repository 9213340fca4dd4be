"""The storage contract on a real S3 server, and what is said when the server, bucket or keys are wrong."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from storage_contract import StorageContract

from medsd_ray.errors import InputError
from medsd_ray.storage import S3Storage, open_storage, pyarrow_filesystem


class TestS3(StorageContract):
    @pytest.fixture
    def store(self, s3: str) -> S3Storage:
        store = open_storage(s3)
        assert isinstance(store, S3Storage)
        return store


def every_call(url: str, tmp_path: Path):
    """Each way to touch a store, as (name, call) with a fresh client."""
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "big").write_bytes(bytes(9 * 2**20))
    yield "read", lambda: open_storage(url).read("a")
    yield "write", lambda: open_storage(url).write("a", b"x")
    yield "upload", lambda: open_storage(url).upload(tmp_path / "file", "a")
    yield "multipart upload", lambda: open_storage(url).upload(tmp_path / "big", "a")
    yield "download", lambda: open_storage(url).download("a", tmp_path / "target")
    yield "list", lambda: open_storage(url).list()
    yield "exists", lambda: open_storage(url).exists("a")
    yield "delete", lambda: open_storage(url).delete("a")
    yield "complete", lambda: open_storage(url).complete()


def assert_each_is_refused(url: str, tmp_path: Path, *words: str) -> None:
    for name, call in every_call(url, tmp_path):
        with pytest.raises(InputError) as caught:
            call()
        line = str(caught.value)
        assert "\n" not in line and url in line, (name, line)
        for word in words:
            assert word in line, (name, line)


def test_a_missing_bucket_is_named(s3: str, tmp_path: Path):
    assert_each_is_refused("s3://medsd-no-such-bucket/data", tmp_path, "no bucket 'medsd-no-such-bucket'")


def test_a_bucket_name_that_cannot_be_is_named(s3: str, tmp_path: Path):
    assert_each_is_refused("s3://No_Such Bucket!/data", tmp_path, "No_Such Bucket!")


def test_a_wrong_secret_is_said(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert_each_is_refused(s3, tmp_path, "refused the credentials", "AWS_SECRET_ACCESS_KEY")


def test_an_unknown_key_is_said(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    assert_each_is_refused(s3, tmp_path, "refused the credentials", "AWS_ACCESS_KEY_ID")


def test_no_credentials_are_said(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert_each_is_refused(s3, tmp_path, "no S3 credentials")
    with pytest.raises(InputError, match="no S3 credentials"):
        pyarrow_filesystem(open_storage(s3))


def test_no_server_is_said_soon(s3: str, monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        start = time.monotonic()
        with pytest.raises(InputError, match=f"no S3 server answers at {endpoint}"):
            open_storage(s3).list()
        assert time.monotonic() - start < 15


def test_an_endpoint_that_is_no_address_is_said(s3: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "not an address")
    with pytest.raises(InputError, match="AWS_ENDPOINT_URL"):
        open_storage(s3).list()


def test_ray_gets_the_same_server(s3: str):
    open_storage(s3).write("a", b"1")
    path, filesystem = pyarrow_filesystem(open_storage(s3))
    with filesystem.open_input_file(f"{path}/a") as file:
        assert file.read() == b"1"
