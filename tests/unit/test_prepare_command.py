"""The command that shards record: with it the same source makes them again."""

from __future__ import annotations

import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import typer.main
from PIL import Image

from medsd_ray.cli.main import app
from medsd_ray.data.prepare import asked_of_source, command_of, prepare
from medsd_ray.data.pseudonyms import KEY_VARIABLE
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.data.splits import parse_shares
from medsd_ray.storage import open_storage

COMMANDS: Any = typer.main.get_command(app)
PREPARE = COMMANDS.commands["prepare"]
WITHOUT_EFFECT = {"skip_bad"}
"""Options that say how a command ends, not what it writes."""
ALL = SourceRequest(
    "/home/jane roe/in",
    size=64,
    seed=7,
    images="/home/jane roe/images",
    reports="/home/jane roe/reports.zip",
    views=("PA", "AP supine"),
    uncertain="positive",
    image_column="the path",
    caption_column="a text",
    caption="A {view} chest X-ray, it's {finding}.",
    patient_column="the person",
    patient_regex=r"(p\d+)/",
    yes_split=True,
    label_columns=("site of $it", "b"),
    yes_labels=("c",),
    mask_columns=("lungs", "Heart (left)"),
    boxes="/home/jane roe/boxes.csv",
    domain_column="hospital",
    frames="all",
    sites=("C", "A"),
    visits=2,
)
PLAN: dict[str, Any] = {
    "source": ALL.kind,
    "size": ALL.size,
    "shard_size": 12345,
    "splits": parse_shares("0.8333333333333,0,0.1666666666667"),
    "seed": ALL.seed,
    "split_by": ALL.patient_column,
    "fit": "pad",
    **asked_of_source(ALL),
}


def read(command: str) -> dict[str, Any]:
    """What each option, by the name of its parameter, is in a command."""
    words = shlex.split(command)
    assert words[:2] == ["medsd", "prepare"]
    return PREPARE.make_context("prepare", words[2:]).params


def test_the_request_of_this_test_sets_every_field():
    default = SourceRequest("")
    assert [f.name for f in fields(ALL) if getattr(ALL, f.name) == getattr(default, f.name)] == ["kind"]


def test_every_option_that_changes_the_shards_is_in_their_command():
    command = command_of(PLAN, ALL)
    found, default = read(command), read("medsd prepare SOURCE DEST")
    unset = {name for name, value in default.items() if found[name] == value} - {"source", "dest"}
    assert unset == WITHOUT_EFFECT | {"kind"} and "jane" not in command
    same = ("size", "seed", "uncertain", "image_column", "caption_column", "caption", "patient_column")
    same += ("patient_regex", "yes_split", "domain_column", "frames")
    assert {name: found[name] for name in same} == {name: getattr(ALL, name) for name in same}
    lists = {"view": ALL.views, "label_column": ALL.label_columns, "yes_label": ALL.yes_labels}
    lists |= {"mask_column": ALL.mask_columns, "site": ALL.sites}
    assert {name: sorted(found[name]) for name in lists} == {
        name: sorted(value) for name, value in lists.items()
    }
    assert (found["images"], found["reports"], found["boxes"]) == ("IMAGES", "REPORTS", "BOXES")
    assert (found["shard_size"], found["fit"]) == ("12345", "pad")
    assert parse_shares(found["splits"]) == PLAN["splits"]


def test_options_that_are_not_given_are_not_in_it():
    found = read(command_of({**PLAN, **dict.fromkeys(asked_of_source(ALL))}, replace(ALL, boxes=None)))
    assert found["boxes"] is None and found["mask_column"] in (None, [], ()) and found["images"] == "IMAGES"


def test_shards_record_their_boxes_and_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(KEY_VARIABLE, "a key for this test")
    (tmp_path / "images").mkdir()
    Image.effect_noise((16, 16), 90).save(tmp_path / "images/a.png")
    (tmp_path / "table.csv").write_text("image,report,patient_id\na.png,A text.,7\n")
    (tmp_path / "boxes.csv").write_text("image,finding,x,y,w,h\na.png,mass,2,2,8,8\n")
    asked = SourceRequest(
        str(tmp_path / "table.csv"),
        size=16,
        images=str(tmp_path / "images"),
        boxes=str(tmp_path / "boxes.csv"),
    )
    prepare(asked, str(tmp_path / "out"), splits="1,0,0")
    command = open_storage(str(tmp_path / "out")).read_json("index.json")["command"]
    assert command == (
        "medsd prepare SOURCE DEST --kind folder --shard-size 67108864 --size 16 --patient-column patient_id "
        "--images IMAGES --boxes BOXES --splits 1,0,0 --seed 0"
    )
