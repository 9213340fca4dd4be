"""What every store promises. A subclass gives the fixture `store`: an empty Storage."""

from __future__ import annotations

import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medsd_ray.errors import InputError
from medsd_ray.storage import COMPLETE, Storage, entry_of_file


class StorageContract:
    def test_what_is_written_is_read(self, store: Storage):
        store.write("a/b.bin", b"\x00\xff")
        store.write("a/b.bin", b"newer")
        store.write("empty", b"")
        assert store.read("a/b.bin") == b"newer"
        assert store.read("empty") == b""
        store.write_json("a/c.json", {"ä": [1, None]})
        assert store.read_json("a/c.json") == {"ä": [1, None]}

    @pytest.mark.parametrize("size", [0, 1, 20 * 2**20 + 1])  # the last is a multipart upload on S3
    def test_files_go_up_and_come_down(self, store: Storage, tmp_path: Path, size: int):
        source = tmp_path / "source"
        source.write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
        store.upload(source, "deep/er/file.bin")
        store.download("deep/er/file.bin", tmp_path / "new" / "target")
        assert entry_of_file(tmp_path / "new" / "target") == entry_of_file(source)
        assert [p.name for p in (tmp_path / "new").iterdir()] == ["target"]

    def test_what_is_absent_is_said_to_be(self, store: Storage, tmp_path: Path):
        assert store.list() == []
        assert not store.exists("nothing")
        with pytest.raises(FileNotFoundError):
            store.read("nothing")
        with pytest.raises(FileNotFoundError):
            store.download("nothing", tmp_path / "target")
        assert list(tmp_path.iterdir()) == []
        store.delete("nothing")
        store.delete_tree("nothing")
        assert store.complete() is None

    def test_list_takes_any_prefix_and_is_sorted(self, store: Storage):
        for key in ("b/2", "b/1", "bb/1", "a", "b/c/d"):
            store.write(key, b"")
        assert store.list() == ["a", "b/1", "b/2", "b/c/d", "bb/1"]
        assert store.list("b/") == ["b/1", "b/2", "b/c/d"]
        assert store.list("b") == ["b/1", "b/2", "b/c/d", "bb/1"]
        assert store.list("b/c/") == ["b/c/d"]
        assert store.list("x/") == []

    def test_list_goes_past_a_page(self, store: Storage):
        with ThreadPoolExecutor(
            8
        ) as pool:  # S3 answers with 1000 keys at a time; a store is shared by threads
            list(pool.map(lambda index: store.write(f"many/{index:04d}", b""), range(1005)))
        assert len(store.list("many/")) == 1005

    def test_level_is_one_folder_with_stamps(self, store: Storage):
        for key in ("a", "b/1", "b/c/d", "bb/1", "b/e/f/g"):
            store.write(key, b"1")
        folders, files = store.level()
        assert (folders, list(files)) == (["b", "bb"], ["a"])
        folders, files = store.level("b")
        assert (folders, list(files)) == (["c", "e"], ["1"])
        assert abs(files["1"].modified - time.time()) < 600
        store.write("b/1", b"2")
        assert store.level("b")[1]["1"].stamp != files["1"].stamp
        assert store.child("b").level("c") == store.level("b/c")
        assert store.level("nothing") == ([], {})
        with pytest.raises(InputError):
            store.level("b/../..")

    def test_exists_means_a_file(self, store: Storage):
        store.write("folder/file", b"")
        assert store.exists("folder/file")
        assert not store.exists("folder")

    def test_delete_tree_takes_its_own_and_the_mark_first(
        self, store: Storage, monkeypatch: pytest.MonkeyPatch
    ):
        for key in ("step-1/a", "step-1/b/c", f"step-1/{COMPLETE}", "step-10/a"):
            store.write(key, b"")
        deleted = []
        delete = store.delete
        monkeypatch.setattr(store, "delete", lambda key: (deleted.append(key), delete(key)))
        store.delete_tree("step-1")
        assert deleted[0] == f"step-1/{COMPLETE}"
        assert store.list() == ["step-10/a"]

    def test_a_child_is_the_same_tree_seen_from_below(self, store: Storage):
        store.child("a").child("b").write("c", b"1")
        assert store.list() == ["a/b/c"]
        assert store.child("a/b").list() == ["c"]
        assert store.child("a").url == store.url + "/a"

    def test_a_tree_is_complete_when_all_of_it_is_there(self, store: Storage, tmp_path: Path, monkeypatch):
        source = tmp_path / "source"
        (source / "sub").mkdir(parents=True)
        (source / "a").write_text("A")
        (source / "sub" / "b").write_text("B")

        order = []
        write = store.write
        monkeypatch.setattr(store, "write", lambda key, data: (order.append(store.list()), write(key, data)))
        store.upload_tree(source)

        assert order == [["a", "sub/b"]]  # COMPLETE came last
        assert store.complete() == {
            "a": entry_of_file(source / "a"),
            "sub/b": entry_of_file(source / "sub" / "b"),
        }
        store.download_tree(tmp_path / "copy")
        assert (tmp_path / "copy" / "sub" / "b").read_text() == "B"

    def test_an_upload_that_fails_leaves_no_mark(self, store: Storage, tmp_path: Path, monkeypatch):
        (tmp_path / "a").write_text("A")
        (tmp_path / "b").write_text("B")
        upload = store.upload

        def fails_at_b(path: Path, key: str) -> None:
            if key == "b":
                raise OSError("the cable was pulled")
            upload(path, key)

        monkeypatch.setattr(store, "upload", fails_at_b)
        with pytest.raises(OSError, match="cable"):
            store.upload_tree(tmp_path)
        assert store.complete() is None

    def test_a_changed_file_is_noticed(self, store: Storage, tmp_path: Path):
        (tmp_path / "source").mkdir()
        (tmp_path / "source" / "a").write_text("A")
        store.upload_tree(tmp_path / "source")
        store.write("a", b"B")
        with pytest.raises(InputError, match="checksum"):
            store.download_tree(tmp_path / "copy")
        assert not (tmp_path / "copy" / "a").exists()

    @pytest.mark.parametrize("key", ["../outside", "a/../../outside", "/etc/hostname"])
    def test_keys_stay_below_their_store(self, store: Storage, tmp_path: Path, key: str):
        for act in (
            lambda: store.write(key, b"x"),
            lambda: store.read(key),
            lambda: store.delete(key),
            lambda: store.download(key, tmp_path / "target"),
        ):
            with pytest.raises(InputError, match="below"):
                act()

    def test_it_travels_to_other_processes(self, store: Storage):
        store.write("a", b"1")  # a client was made
        assert pickle.loads(pickle.dumps(store)).read("a") == b"1"
