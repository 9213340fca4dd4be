"""Outputs and inputs at odd places: one line, and nothing written; a device stays the device that it is."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from medsd_ray.addresses import path_of
from medsd_ray.data.sources.folder import existing_folder
from medsd_ray.errors import InputError
from medsd_ray.evaluation.networks.weights import local_path
from medsd_ray.evaluation.prompts import write_prompts
from medsd_ray.models.resolve import resolve
from medsd_ray.reader_study.assembly import new_study
from medsd_ray.storage import FolderStorage, open_storage
from medsd_ray.storage.folder import make_folder
from medsd_ray.storage.outputs import New, claim

PLACES = {
    "below a file": "file/x/y",
    "a file": "file",
    "a long name": "n" * 300,
    "a long path": "/".join(["n" * 200] * 30),
    "a loop": "loop",
    "below a loop": "loop/x",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return tmp_path


@pytest.mark.parametrize("place", PLACES.values(), ids=list(PLACES))
def test_a_store_at_an_odd_place_reads_nothing_and_refuses_a_write_in_one_line(root: Path, place: str):
    store = FolderStorage(root / place)
    before = sorted(os.walk(root))
    for use in (
        lambda: claim(store, {}, "record.json"),
        lambda: store.exists("a"),
        lambda: store.list(),
        lambda: store.child("train").list("a/"),
    ):
        try:
            assert use() in (New(), False, [])
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 500
    for use in (lambda: store.read("a"), lambda: store.download("a", root / "copy")):
        with pytest.raises((InputError, FileNotFoundError)):
            use()
    for use in (lambda: store.write("a", b"x"), lambda: store.upload(root / "file", "a")):
        with pytest.raises(InputError) as caught:
            use()
        assert "\n" not in str(caught.value)
    assert sorted(os.walk(root)) == before and (root / "file").read_text() == "mine"


def test_what_is_no_file_is_not_replaced_by_one(root: Path):
    """As root, a rename would put a file in the place of /dev/null."""
    os.mkfifo(root / "pipe")
    (root / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
        for name in ("pipe", "socket", "folder"):
            with pytest.raises(InputError, match=f"{name}: it is "):
                FolderStorage(root).write(name, b"x")
            assert not (root / name).is_file()
            with pytest.raises((InputError, FileNotFoundError)):
                FolderStorage(root).read(name)
            assert not FolderStorage(root).exists(name)


@pytest.mark.parametrize("name", ["a long name", "a long path", "a loop", "below a loop"])
def test_an_address_that_no_file_can_have_is_refused_before_anything_is_done(root: Path, name: str):
    address = str(root / PLACES[name])
    for use in (
        open_storage,
        path_of,
        existing_folder,
        resolve,
        local_path,
        lambda out: new_study("", "", out),
    ):
        with pytest.raises(InputError, match=r"not a name that a file can have|links lead round") as caught:
            use(address)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_files_that_no_one_can_make_are_refused():
    for place in ("/proc", "/proc/self", "/proc/x/y"):
        with pytest.raises(InputError, match="cannot write /proc/"):
            FolderStorage(Path(place)).write("medsd-was-here", b"x")
        with pytest.raises(InputError, match="cannot write /proc/"):
            make_folder(Path(place, "medsd-was-here"))


@pytest.mark.parametrize("text", ["a\0b", "~no-such-user-of-this-machine/x", "\udcff", "", " "])
def test_names_that_no_folder_has(text: str):
    with pytest.raises(InputError) as caught:
        open_storage(text)
    assert "\n" not in str(caught.value)
    str(caught.value).encode()


def test_prompts_go_into_a_file(root: Path):
    for out in (root, Path("/"), Path()):
        with pytest.raises(InputError, match="a folder; give --out the name of a text file"):
            write_prompts("chexgenbench", str(root / "absent"), out)
