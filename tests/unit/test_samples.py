"""The sample specs are complete and true: each field stands there, and what is called a default is one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from medsd_ray.spec import crds
from medsd_ray.spec.load import load_run
from medsd_ray.spec.objects import API_VERSION, EvaluationSpec, FineTuneSpec, StudyJobSpec
from medsd_ray.spec.run import RunSpec
from medsd_ray.spec.runtime import RuntimeSpec
from medsd_ray.spec.tasks import TASKS

FOLDER = Path(__file__).parents[2] / "k8s/samples"
KINDS = {
    "runtime.yaml": RuntimeSpec,
    "finetune.yaml": FineTuneSpec,
    "study.yaml": StudyJobSpec,
    "evaluation.yaml": EvaluationSpec,
}
# `# default`, `# default; words`, `# default: words`, or, where the sample shows another value, `# default 0;
# words`
DEFAULT = re.compile(r"# default(?: ([^\s;:]+))?(?=[;:]|$)")


class Field(NamedTuple):
    path: str
    line: str
    value: Any
    schema: dict[str, Any]


def schema_of(name: str) -> dict[str, Any]:
    """Of what the sample says, from its spec down; a run in an object has no name."""
    if name == "run.yaml":
        return crds.schema(RunSpec)
    (kind,) = (kind for kind in crds.KINDS if kind.spec is KINDS[name])
    return crds.crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]


def shown(name: str) -> Iterator[Field | str]:
    """Each field of the sample, and the path of each that it lacks."""
    text = (FOLDER / name).read_text()
    node = yaml.compose(text)
    if name in KINDS:
        (node,) = (value for key, value in node.value if key.value == "spec")
    yield from _fields(node, schema_of(name), text.splitlines())


def _fields(
    node: yaml.Node, schema: dict[str, Any], lines: list[str], path: str = ""
) -> Iterator[Field | str]:
    if isinstance(node, yaml.SequenceNode) and node.value and "properties" in schema["items"]:
        node, schema = node.value[0], schema["items"]  # the first item shows all
    if not isinstance(node, yaml.MappingNode) or "properties" not in schema:
        return
    found = {key.value for key, _ in node.value}
    yield from (f"{path}{name}" for name in schema["properties"] if name not in found)
    for key, value in node.value:
        name, inner = f"{path}{key.value}", schema["properties"][key.value]
        yield Field(name, lines[key.start_mark.line], _plain(value), inner)
        yield from _fields(value, inner, lines, f"{name}.")


def _plain(node: yaml.Node) -> Any:
    return yaml.safe_load(yaml.serialize(node))


def default_of(schema: dict[str, Any]) -> Any:
    """The whole default, as the API server fills it in."""
    default = schema.get("default")
    if not isinstance(default, dict) or "properties" not in schema:
        return default
    filled = {key: default_of(inner) for key, inner in schema["properties"].items() if "default" in inner}
    return filled | default


@pytest.mark.parametrize("name", ["run.yaml", *KINDS])
def test_a_sample_shows_every_field(name: str):
    assert not [lacking for lacking in shown(name) if isinstance(lacking, str)]


@pytest.mark.parametrize("name", ["run.yaml", *KINDS])
def test_what_a_sample_calls_a_default_is_one(name: str):
    fields = [field for field in shown(name) if isinstance(field, Field)]
    called = 0
    for field in fields:
        if said := DEFAULT.search(field.line):
            called += 1
            expected = yaml.safe_load(said[1]) if said[1] else field.value
            assert default_of(field.schema) == expected, f"{name}: {field.path}"
    assert called >= 15


def test_the_sample_run_loads():
    assert list(load_run(FOLDER / "run.yaml").methods) == ["text_encoder", "unet"]


@pytest.mark.parametrize("task", TASKS)
def test_the_sample_of_a_task_run_loads_and_shows_every_field_of_its_task(task: str):
    path = FOLDER / f"{task}.yaml"
    assert list(load_run(path).methods) == [task]
    (node,) = (value for key, value in yaml.compose(path.read_text()).value if key.value == task)
    schema = crds.schema(RunSpec)["properties"][task]
    fields = list(_fields(node, schema, path.read_text().splitlines()))
    assert not [lacking for lacking in fields if isinstance(lacking, str)]
    for field in fields:
        if isinstance(field, Field) and (said := DEFAULT.search(field.line)):
            expected = yaml.safe_load(said[1]) if said[1] else field.value
            assert default_of(field.schema) == expected, f"{task}: {field.path}"


@pytest.mark.parametrize("name", KINDS)
def test_the_sample_objects_are_valid(name: str):
    value = yaml.safe_load((FOLDER / name).read_text())
    assert value["apiVersion"] == API_VERSION
    assert [kind.spec for kind in crds.KINDS if kind.name == value["kind"]] == [KINDS[name]]
    spec = value["spec"]
    for named in {"run", "study"} & set(spec):
        spec[named]["name"] = value["metadata"]["name"]
    KINDS[name].model_validate(spec)


def test_the_sample_finetune_is_the_sample_run():
    run = yaml.safe_load((FOLDER / "run.yaml").read_text())
    value = yaml.safe_load((FOLDER / "finetune.yaml").read_text())
    assert {"name": value["metadata"]["name"], **value["spec"]["run"]} == run
