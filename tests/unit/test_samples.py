"""The sample specs are complete and true: each field stands there, and what is called a default is one."""

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from medsd_ray.spec import RunSpec, load_run

SAMPLE = Path(__file__).parents[2] / "k8s/samples/run.yaml"


def test_the_sample_run_loads():
    assert load_run(SAMPLE).components.trained == ["text_encoder", "unet"]


def _fields(model: type[BaseModel], values: dict, path: str = ""):
    for name, field in model.model_fields.items():
        kind = field.annotation
        yield f"{path}{name}", name in values
        inner = values.get(name)
        if isinstance(kind, type) and issubclass(kind, BaseModel) and isinstance(inner, dict):
            yield from _fields(kind, inner, f"{path}{name}.")


def test_the_sample_shows_every_field():
    missing = [path for path, shown in _fields(RunSpec, yaml.safe_load(SAMPLE.read_text())) if not shown]
    assert not missing


@pytest.mark.parametrize(
    "line", [line for line in SAMPLE.read_text().splitlines() if "# default" in line and ": " in line.partition("#")[0]]
)
def test_what_the_sample_calls_a_default_is_one(line):
    key, _, value = line.partition("#")[0].strip().partition(": ")
    if "default null:" in line or "default 0;" in line:
        return  # the comment itself names a default other than the value shown
    minimal = RunSpec.model_validate(
        {
            "name": "x",
            "data": {"train": "t"},
            "components": {"unet": "full"},
            "training": {"max_steps": 1, "global_batch_size": 1},
            "output": "o",
        }
    )
    found = list(_values(minimal.model_dump(mode="json"), key))
    assert yaml.safe_load(value) in found, f"{key}: sample says {value}, the spec {found}"


def _values(tree: dict, key: str):
    for name, value in tree.items():
        if name == key:
            yield value
        if isinstance(value, dict):
            yield from _values(value, key)
