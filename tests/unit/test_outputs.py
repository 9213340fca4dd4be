"""What is in an output: nothing, a part of what is asked for, the whole of it, or something else."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from medsd_ray.errors import InputError
from medsd_ray.evaluation import measure, versions
from medsd_ray.evaluation.estimates import Missing
from medsd_ray.evaluation.options import EvaluationOptions
from medsd_ray.runs.record import RunRecord
from medsd_ray.storage import COMPLETE, FolderStorage, entry_of_bytes, entry_of_file
from medsd_ray.storage.outputs import (
    Complete,
    Foreign,
    New,
    Unfinished,
    claim,
    finish,
    is_empty,
    read_finished,
)

PLAN = {"model": "medsd-small", "seed": 1}


@pytest.fixture
def store(tmp_path: Path) -> FolderStorage:
    return FolderStorage(tmp_path)


def test_the_mark_decides_where_the_record_is_there_from_the_start(store: FolderStorage):
    assert claim(store, PLAN, "plan.json") == New()
    store.write_json("plan.json", PLAN)
    assert claim(store, PLAN, "plan.json") == Unfinished()
    store.mark_complete({})
    assert claim(store, PLAN, "plan.json") == Complete(PLAN)
    assert claim(store, PLAN | {"seed": 2}, "plan.json") == Foreign("plan.json", ("seed",))
    assert claim(store, PLAN | {"steps": 2}, "plan.json") == Foreign("plan.json", ("steps",))
    assert claim(store, {"seed": 1}, "plan.json") == Foreign("plan.json", ("model",))


def test_the_record_decides_where_it_is_written_last(store: FolderStorage):
    def state(plan: dict[str, Any]):
        return claim(
            store,
            plan,
            "index.json",
            begun=".progress/plan.json",
            settings_of=lambda v: v["plan"],
            within=["a/"],
        )

    store.write("notes.txt", b"of no prefix that counts")
    assert state(PLAN) == New()
    store.write_json(".progress/plan.json", PLAN)
    assert state(PLAN) == Unfinished()
    assert state(PLAN | {"seed": 2}) == Foreign(".progress/plan.json", ("seed",))
    store.write_json("index.json", {"plan": PLAN, "samples": 3})
    assert state(PLAN) == Complete({"plan": PLAN, "samples": 3})


def test_what_file_managers_leave_is_nothing(store: FolderStorage):
    for name in (".DS_Store", "sub/._a.png", "Thumbs.db", "desktop.ini", ".directory"):
        store.write(name, b"x")
    assert is_empty(store) and claim(store, PLAN, "plan.json") == New()
    store.write("sub/.hidden", b"x")
    assert not is_empty(store) and claim(store, PLAN, "plan.json") == Foreign(None)


@pytest.mark.parametrize("text", [b"{", b"[]", b"{}", b'{"settings": 1}'])
def test_a_damaged_record_is_foreign(store: FolderStorage, text: bytes):
    store.write("result.json", text)
    assert claim(store, PLAN, "result.json", settings_of=lambda v: v["settings"]) == Foreign("result.json")


def test_files_without_a_record_are_foreign(store: FolderStorage):
    store.write("a/shard-00000.tar", b"someone's")
    assert claim(store, PLAN, "index.json") == Foreign(None)
    assert claim(store, PLAN, "index.json", within=["a/"]) == Foreign(None)
    assert claim(store, PLAN, "index.json", within=["b/"]) == New()


def test_what_cannot_be_gone_on_with_is_finished_or_refused(store: FolderStorage, tmp_path: Path):
    assert read_finished(store, "result.json", PLAN) is None
    store.write("picture.png", b"half of it")
    with pytest.raises(InputError, match="not empty, and not finished"):
        read_finished(store, "result.json", PLAN)
    store.mark_complete({})
    with pytest.raises(InputError, match="made with other settings"):
        read_finished(store, "result.json", PLAN)
    finish(
        store,
        {"picture.png": b"the whole", "result.json": b'{"settings": {"model": "medsd-small", "seed": 1}}'},
    )
    assert read_finished(store, "result.json", PLAN) == {"settings": PLAN}
    files = ("picture.png", "result.json")
    assert store.complete() == {name: entry_of_file(tmp_path / name) for name in files}
    assert entry_of_bytes(b"the whole") == entry_of_file(tmp_path / "picture.png")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"files": []}', '{"files": {"a": 1}}', '{"files": {"a": {"bytes": 1}}}', "[" * 9999],
)
def test_a_damaged_mark_is_refused_in_one_line(store: FolderStorage, text: str):
    store.write(COMPLETE, text.encode())
    with pytest.raises(InputError, match=f"{store.url}/{COMPLETE}") as caught:
        store.complete()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changed",
    [
        "measure.py",
        "figures/distances.py",
        "networks/extractors.py",
        "report/format.py",
        "report/report.html.j2",
    ],
)
def test_a_report_is_made_anew_where_the_code_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
):
    def checksum() -> str:
        inputs, networks = (
            SimpleNamespace(checksum=lambda: "", manifest={}),
            SimpleNamespace(descriptions=dict),
        )
        options = EvaluationOptions("real", "generated", "out")
        return measure._checksum(
            cast(Any, inputs), Missing("none"), RunRecord(), options, cast(Any, networks)
        )

    room = tmp_path / "evaluation"
    shutil.copytree(Path(measure.__file__).parent, room, ignore=shutil.ignore_patterns("__pycache__"))
    before = checksum()
    monkeypatch.setattr(versions, "__file__", str(room / "versions.py"))
    assert checksum() == before
    with (room / changed).open("a") as file:
        file.write("# another line\n")
    assert checksum() != before
