from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError
from storage_contract import StorageContract

from medsd_ray.errors import InputError, RefusedError, RunError
from medsd_ray.storage import FolderStorage, S3Storage, entry_of_bytes, open_storage, sha256_file


class TestFolder(StorageContract):
    @pytest.fixture
    def store(self, tmp_path_factory: pytest.TempPathFactory) -> FolderStorage:
        return FolderStorage(tmp_path_factory.mktemp("store"))


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path):
    store = FolderStorage(tmp_path)
    store.write("a", b"old")
    with pytest.raises(TypeError):
        store.write("a", "not bytes")  # pyright: ignore
    with pytest.raises(FileNotFoundError):
        store.upload(tmp_path / "absent", "a")
    assert store.read("a") == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("call", ["replace", "unlink"])
@pytest.mark.parametrize(
    "number", ["EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "ENAMETOOLONG", "EISDIR", "ENOTDIR"]
)
def test_what_a_file_system_would_answer_again_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str, call: str
):
    store, code = FolderStorage(tmp_path), getattr(errno, number)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(*((os, "replace", refuse) if call == "replace" else (Path, "unlink", refuse)))
    with pytest.raises(RefusedError, match=f"cannot write .*: {os.strerror(code)}; .*another folder"):
        store.write("a", b"new") if call == "replace" else store.delete("a")


def test_what_a_file_system_may_say_once_is_no_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
    with pytest.raises(OSError, match="I/O error"):
        FolderStorage(tmp_path).write("a", b"")


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("AccessDenied", 403, RefusedError),
        ("InvalidAccessKeyId", 403, RefusedError),
        ("ExpiredToken", 400, RefusedError),
        ("NoSuchBucket", 404, RefusedError),
        ("XMinioStorageFull", 507, RefusedError),
        ("SlowDown", 503, RunError),
        ("InternalError", 500, RunError),
    ],
)
def test_what_s3_would_answer_again_is_a_refusal(code: str, status: int, kind: type[Exception]):
    error = ClientError(
        {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}},  # type: ignore[typeddict-item]
        "PutObject",
    )
    with pytest.raises(kind, match="s3://b/p/key"), S3Storage("b", "p")._errors("key"):
        raise error


def test_files_outlast_a_power_cut_before_the_mark_that_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Each file and its folders are synced, then the mark is renamed to its name, then that is synced."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda file: (done.append(os.readlink(f"/proc/self/fd/{file}")), fsync(file))
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(f"-> {b}"), replace(a, b)))
    store = FolderStorage(tmp_path / "out")
    store.write("deep/a", b"1")
    store.mark_complete({"deep/a": entry_of_bytes(b"1")})
    mark, folder = str(tmp_path / "out/COMPLETE"), str(tmp_path / "out")
    before, after = done[: done.index(f"-> {mark}")], done[done.index(f"-> {mark}") :]
    assert {f"{folder}/deep/a", f"{folder}/deep", folder, str(tmp_path)} <= set(before)
    assert {mark, folder} <= set(after)


def test_a_half_written_file_is_not_listed(tmp_path: Path):
    (tmp_path / ".a.12345678.part").write_bytes(b"half")
    assert FolderStorage(tmp_path).list() == []


class _Server:
    """A client of S3 that has every file."""

    def download_file(self, bucket: str, key: str, path: str, Config: object) -> None:
        Path(path).write_bytes(b"abc")


@pytest.mark.parametrize(
    "names",
    [["../x/y"], ["a/../../x"], ["/x"], ["a\0"], ["n" * 300], ["a", "a/b"], ["a/b", "a"]],
)
def test_a_name_that_no_file_below_the_folder_can_have_is_refused(
    tmp_path: Path, names: list[str], monkeypatch: pytest.MonkeyPatch
):
    for store in (S3Storage("bucket", "p", _Server()), FolderStorage(tmp_path / "source")):
        monkeypatch.setattr(store, "complete", lambda: None)
        if isinstance(store, FolderStorage):
            monkeypatch.setattr(store, "file", lambda _: Path(__file__))
        with pytest.raises(InputError):
            store.download_tree(tmp_path / "copies" / "b", names)
        assert not [
            p for p in tmp_path.rglob("*") if p.is_file() and "b" not in p.relative_to(tmp_path).parts
        ]
        assert not (tmp_path / "copies" / "x").exists() and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "error", [TypeError("x"), KeyError("Key"), RecursionError(), ResponseParserError("<")]
)
def test_an_answer_that_is_not_s3_s_is_said(error: Exception):
    with (
        pytest.raises(RunError, match=r"s3://b/p: the answer of .* is not S3's"),
        S3Storage("b", "p")._errors(),
    ):
        raise error


def test_a_deleted_tree_leaves_no_folder(tmp_path: Path):
    (tmp_path / "ray" / "empty" / "below").mkdir(parents=True)
    (tmp_path / "ray" / "run").mkdir()
    (tmp_path / "ray" / "run" / "notes").write_text("")
    (tmp_path / "ray" / "run" / ".notes.12345678.part").write_text("half")
    FolderStorage(tmp_path).delete_tree("ray")
    assert list(tmp_path.iterdir()) == []


def test_a_store_whose_folder_is_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose another folder"):
        FolderStorage(tmp_path / "file").write("a", b"")


def test_a_link_out_of_the_store_is_not_followed(tmp_path: Path):
    (tmp_path / "secret").write_text("s")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="below"):
        FolderStorage(tmp_path / "store").read("link")


def test_addresses(tmp_path: Path):
    folder, s3 = open_storage(tmp_path), open_storage("s3://bucket/a/b/")
    assert isinstance(folder, FolderStorage) and folder.url == str(tmp_path)
    assert isinstance(s3, S3Storage) and (s3.bucket, s3.prefix, s3.url) == (
        "bucket",
        "a/b",
        "s3://bucket/a/b",
    )
    assert open_storage("s3://bucket").url == "s3://bucket"
    for bad in ("s3://", "gs://bucket/a", "http://host/a"):
        with pytest.raises(InputError):
            open_storage(bad)


def test_checksum_is_sha256(tmp_path: Path):
    (tmp_path / "abc").write_text("abc")  # FIPS 180-2, appendix B.1
    assert sha256_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_only_regular_files_are_read(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "here").write_bytes(b"1")
    store = FolderStorage(tmp_path)
    for key, words in {
        "pipe": "not a regular file",
        "zero": "below",
        "circle": "circle",
        "a": "circle",
    }.items():
        for read in (store.read, store.file, lambda key: store.download(key, tmp_path / "copy")):
            with pytest.raises(InputError, match=words):
                read(key)
    for address in (tmp_path / "circle", tmp_path / "a" / "below"):
        with pytest.raises(InputError, match="circle"):
            open_storage(address)
    assert store.list() == ["here"]
    folders, files = store.level()
    assert (folders, list(files)) == ([], ["here"])


def test_a_folder_that_leads_back_to_itself_is_not_entered_again(tmp_path: Path):
    (tmp_path / "runs/one").mkdir(parents=True)
    (tmp_path / "runs/one/up").symlink_to(tmp_path / "runs")
    (tmp_path / "runs/one/self").symlink_to(tmp_path / "runs/one")
    (tmp_path / "runs/other").symlink_to(tmp_path / "runs/one")
    store = FolderStorage(tmp_path)
    assert store.level("runs")[0] == ["one", "other"] and store.level("runs/one")[0] == []
