"""The CRDs without an API server: the files are fresh, the schemas structural, the validators' half of
tests/specs.py. tests/cluster/test_schema.py asks a real API server.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from specs import BAD, GOOD, RUN, changed

from medsd_ray.errors import InputError
from medsd_ray.spec import crds
from medsd_ray.spec.images import GUIDANCE_SCALE, SCHEDULER, SEED, STEPS, Sampling
from medsd_ray.spec.load import parse_run
from medsd_ray.spec.objects import FineTuneSpec
from medsd_ray.spec.rules import Rule, SpecModel
from medsd_ray.spec.run import RunSpec
from medsd_ray.spec.study import StudySpec
from medsd_ray.spec.values import describe_errors


def nodes(schema: dict[str, Any]):
    yield schema
    for inner in schema.get("properties", {}).values():
        yield from nodes(inner)
    for name in ("items", "additionalProperties"):
        if name in schema:
            yield from nodes(schema[name])


def root(kind: crds.Kind) -> dict[str, Any]:
    return crds.crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def test_the_files_are_what_the_models_say(capsys: pytest.CaptureFixture[str]):
    assert crds.main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(crds, "ROOT", tmp_path)
    monkeypatch.setattr(crds, "FOLDERS", (tmp_path / "crds",))
    assert crds.main(["--check"]) == 1  # absent
    assert crds.main([]) == 0 and crds.main(["--check"]) == 0
    capsys.readouterr()
    (tmp_path / "crds/finetunes.yaml").write_text("kind: Old")
    assert crds.main(["--check"]) == 1
    line = capsys.readouterr().err
    assert line == "crds/finetunes.yaml: not what the models say; run `make crds`\n"


@pytest.mark.parametrize("kind", crds.KINDS, ids=lambda kind: kind.name)
def test_schemas_are_structural_and_bounded(kind: crds.Kind):
    for node in nodes(root(kind)):
        if node == {"x-kubernetes-preserve-unknown-fields": True}:  # a value of any type
            continue
        assert node["type"] in ("object", "array", "string", "integer", "number", "boolean")
        assert not {"$ref", "anyOf", "title", "prefixItems"} & set(node)
        assert "additionalProperties" not in node or "properties" not in node
        assert node.get("default", 0) is not None
        if node["type"] == "string":
            assert "maxLength" in node or "enum" in node, node
        if node["type"] == "array":
            assert "maxItems" in node, node
        if node["type"] == "object":
            known = {"properties", "maxProperties", "x-kubernetes-preserve-unknown-fields"} & set(node)
            assert known or node == {"type": "object"}, node  # the latter is metadata


@pytest.mark.parametrize("kind", crds.KINDS, ids=lambda kind: kind.name)
def test_the_yaml_has_no_anchors(kind: crds.Kind):
    assert not [token for token in yaml.scan(crds.render(kind)) if isinstance(token, yaml.AnchorToken)]


def test_a_run_or_study_in_an_object_has_no_name_of_its_own():
    run = root(crds.KINDS[1])["properties"]["spec"]["properties"]["run"]
    assert set(RunSpec.model_fields) - set(run["properties"]) == {"name"}
    assert run["required"] == ["data", "training", "output"]
    study = root(crds.KINDS[2])["properties"]["spec"]["properties"]["study"]
    assert set(StudySpec.model_fields) - set(study["properties"]) == {"name"}
    assert study["required"] == ["output", "shards", "run"]


def test_what_an_attempt_was_made_from_is_held_and_the_rest_is_not():
    rules = root(crds.KINDS[1])["x-kubernetes-validations"]
    held = {rule["fieldPath"].removeprefix(".spec.") for rule in rules if "fieldPath" in rule}
    assert held == {"runtime", "pool", "queue", "priorityClassName", "run", "report"}
    assert held | FineTuneSpec.mutable == set(FineTuneSpec.model_fields)


def test_settings_of_images_have_the_same_bounds_wherever_they_are_written():
    finetune, study, evaluation = (root(kind)["properties"]["spec"]["properties"] for kind in crds.KINDS[1:])
    settings = study["study"]["properties"]["evaluation"]["properties"]
    for report in (finetune["report"]["properties"], evaluation["report"]["properties"]):
        assert report["guidanceScale"] == settings["guidance_scale"]
        assert report["steps"] == settings["steps"]
    for name in ("guidance_scale", "scheduler", "steps"):
        assert settings[name]["default"] == getattr(Sampling(), name)
    for setting in (GUIDANCE_SCALE, STEPS, SEED):
        found = settings[setting.name]
        assert (found["minimum"], found["maximum"]) == (setting.lowest, setting.highest)
        for value in (setting.lowest, setting.highest):
            setting.check(value)
    assert tuple(settings["scheduler"]["enum"]) == SCHEDULER.choices


class Part(SpecModel):
    size: int = 3
    note: str | None = None


class Whole(SpecModel):
    """Of
    two lines."""

    part: Part = Part()
    other: Part | None = Part(size=4)
    absent: Part | None = None
    choice: Literal["a", "bc"] | None = None
    pair: tuple[float, float] = (1.0, 2.0)
    rules = (
        Rule("self.part.size > 0", "too small", lambda whole: whole.part.size > 0),
        Rule(
            "!has(self.absent)",
            "absent must be absent",
            lambda whole: whole.absent is None,
            lambda whole: f"absent is of size {whole.absent.size}",
        ),
    )


def test_how_models_become_schemas():
    part = {
        "type": "object",
        "properties": {
            "size": {"type": "integer", "default": 3},
            "note": {"type": "string", "nullable": True},
        },
    }
    assert crds.schema(Whole) == {
        "description": "Of two lines.",
        "type": "object",
        "properties": {
            "part": part | {"default": {"size": 3}},
            "other": part | {"default": {"size": 4}, "nullable": True},
            "absent": part | {"nullable": True},
            "choice": {"type": "string", "nullable": True, "pattern": "^(a|bc)$", "maxLength": 2},
            "pair": {
                "type": "array",
                "default": [1.0, 2.0],
                "minItems": 2,
                "maxItems": 2,
                "items": {"type": "number"},
            },
        },
        "x-kubernetes-validations": [
            {"rule": "self.part.size > 0", "message": "too small"},
            {"rule": "!has(self.absent)", "message": "absent must be absent"},
        ],
    }


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"part": {"size": 0}}, "too small"),
        ({"absent": {"size": 7}}, "absent is of size 7"),
        ({"part": {"size": 0}, "absent": {}}, "too small"),
    ],
)
def test_a_model_says_the_first_of_its_rules_that_does_not_hold(values: dict[str, Any], words: str):
    with pytest.raises(ValidationError) as caught:
        Whole.model_validate(values)
    assert describe_errors(caught.value, Whole, "a whole") == words


def test_each_rule_of_a_run_is_broken_by_one_of_the_runs_that_python_and_the_api_server_refuse():
    rules = [rule for model in _models(RunSpec) for rule in model.rules]
    assert len(rules) == 39
    for rule in rules:
        assert any(words in rule.message for _, words in BAD), rule.message


def _models(model: type[SpecModel]):
    """The model and all that its fields hold, however deep."""
    yield model
    for field in model.model_fields.values():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, SpecModel):
                yield from _models(kind)


@pytest.mark.parametrize("kind", crds.KINDS, ids=lambda kind: kind.name)
def test_every_field_says_what_it_is(kind: crds.Kind):
    """`kubectl explain` shows nothing else of it."""
    silent = [path for path, schema in _properties(root(kind)) if not schema.get("description")]
    assert silent == ["metadata", "spec"]  # Kubernetes' own; the object's description is its spec's


def _properties(schema: dict[str, Any], path: str = ""):
    """Each field of a schema, however deep, with its path."""
    for name, inner in schema.get("properties", {}).items():
        yield f"{path}{name}", inner
        yield from _properties(inner, f"{path}{name}.")
    for name, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if name in schema:
            yield from _properties(schema[name], f"{path.rstrip('.')}{mark}.")


class Union(BaseModel):
    x: int | str


class Mixed(BaseModel):
    x: tuple[int, str]


class Constant(BaseModel):
    x: Literal["only"]


@pytest.mark.parametrize("model", [Union, Mixed, Constant])
def test_what_no_structural_schema_can_say_is_an_error(model: type[BaseModel]):
    with pytest.raises(ValueError, match="structural schema"):
        crds.schema(model)


@pytest.mark.parametrize("changes", GOOD, ids=str)
def test_good_runs_are_taken(changes: dict[str, Any]):
    parse_run({"name": "x", **changed(RUN, changes)})


@pytest.mark.parametrize(("changes", "words"), BAD, ids=lambda value: str(value)[:60])
def test_bad_runs_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError) as caught:
        parse_run({"name": "x", **changed(RUN, changes)})
    assert words in str(caught.value)
