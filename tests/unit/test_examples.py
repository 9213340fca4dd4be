"""The examples load as a user's files do, and each has a README whose commands are checked in test_docs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from medsd_ray.data.prepare import prepare
from medsd_ray.data.shards import list_splits
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.operator.subject import read_runtime, read_subject
from medsd_ray.spec.load import load_run, load_study
from medsd_ray.spec.objects import API_VERSION, PLURALS

EXAMPLES = Path(__file__).parents[2] / "examples"
FOLDERS = sorted(path for path in EXAMPLES.iterdir() if path.is_dir())
FILES = sorted(EXAMPLES.rglob("*.yaml"))


def name_of(path: Path) -> str:
    return path.relative_to(EXAMPLES).as_posix()


def load_object(values: dict[str, Any]) -> None:
    """As the operator reads it from the API server, which fills in the namespace and gives it a uid."""
    assert values["apiVersion"] == API_VERSION
    if values["kind"] == "Runtime":
        read_runtime(values)
        return
    assert values["kind"] in PLURALS
    values["metadata"] |= {"namespace": "imaging", "uid": "0"}
    assert read_subject(values).refusal is None
    components = values["spec"].get("run", {}).get("components", {})
    assert all(isinstance(how, dict) for how in components.values()), "an object has the long form alone"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_an_example_loads(path: Path):
    values = yaml.safe_load(path.read_text())
    if "kind" in values:
        load_object(values)
    elif "space" in values:
        load_study(path)
    else:
        load_run(path)


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_each_example_says_how_it_is_run(folder: Path):
    readme = (folder / "README.md").read_text()
    assert len(readme.splitlines()) < 20
    for path in folder.glob("*.yaml"):
        assert f"examples/{name_of(path)}" in readme
    assert f"({folder.name})" in (EXAMPLES / "README.md").read_text()


@pytest.mark.parametrize(
    ("folder", "splits"), [("custom-data", "0.5,0.25,0.25"), ("textual-inversion", "1,0,0")]
)
def test_the_examples_images_can_be_prepared(folder: str, splits: str, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("MEDSD_PSEUDONYM_KEY", "a key of the tests")
    prepare(SourceRequest(str(EXAMPLES / folder / "xrays"), size=64), str(tmp_path / "shards"), splits=splits)
    assert list_splits(str(tmp_path / "shards"))[0] == "train"
