"""Addresses that name one place are equal in their one form."""

from __future__ import annotations

from pathlib import Path

import pytest

from medsd_ray.addresses import canonical, last_part
from medsd_ray.errors import InputError
from medsd_ray.storage import FolderStorage, S3Storage, open_storage

SAME = {
    "s3://b/x": ("s3://b//x", "s3://b/x/", "s3://b/./x", "s3://b///x//", "s3://b/x/."),
    "s3://b/x/y": ("s3://b/x//y", "s3://b//x/./y/"),
    "s3://b": ("s3://b/", "s3://b//"),
    "/data/x": ("/data//x", "/data/x/", "//data/x", "/data/./x", "/data/y/../x"),
    "x/y": ("./x/y", "x//y/", "x/./y", "x/z/../y"),
    "": ("",),
}


def test_addresses_of_one_place_are_equal():
    for one, others in SAME.items():
        assert {canonical(other) for other in (one, *others)} == {one}
    assert len({canonical(one) for one in (*SAME, "s3://b/X", "s3://b/x y", "../x")}) == len(SAME) + 3
    assert canonical("http://host//a/") == "http://host//a/"


def test_a_store_is_at_the_one_form(tmp_path: Path):
    for text in SAME["s3://b/x/y"]:
        store = open_storage(text)
        assert isinstance(store, S3Storage) and store.url == "s3://b/x/y"
    store = open_storage(f"{tmp_path}//a/./b/")
    assert isinstance(store, FolderStorage) and store.url == f"{tmp_path}/a/b"


@pytest.mark.parametrize("text", ["", " ", "s3://", "s3:///x", "s3://b/../x", "gs://b/x"])
def test_what_is_no_address(text: str):
    with pytest.raises(InputError) as caught:
        open_storage(text)
    assert "\n" not in str(caught.value)


def test_last_parts():
    for address, name in {
        "/home/anna/runs/unet/": "unet",
        "runs/unet": "unet",
        "s3://b/x//y/": "y",
        "org/model": "model",
        "medsd-small": "medsd-small",
        "s3://b": "b",
    }.items():
        assert last_part(address) == name
