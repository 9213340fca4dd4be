"""The CRDs, written from the pydantic models: `python -m medsd_ray.spec.crds` writes k8s/crds and the chart's
copy.

A CRD's schema is structural: no references, no unions. The API server then fills in defaults, refuses what is
out of bounds, and checks the models' CEL rules; fields that no schema has are dropped, or refused under
strict validation.
"""

from __future__ import annotations

import argparse
import copy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from medsd_ray.spec.objects import (
    GROUP,
    PLURALS,
    VERSION,
    EvaluationSpec,
    FineTuneSpec,
    Job,
    StudyJobSpec,
)
from medsd_ray.spec.runtime import RuntimeSpec
from medsd_ray.spec.status import Status
from medsd_ray.spec.types import DNS_LABEL

ROOT = Path(__file__).parents[2]


FOLDERS = (ROOT / "k8s/crds", ROOT / "helm/medsd/files/crds")


HEADER = "# Written by `make crds` from medsd_ray/spec; do not edit.\n"

Schema = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    name: str
    short: str
    scope: str
    spec: type[BaseModel]
    columns: tuple[
        tuple[str, str, str, int], ...
    ]  # name, type, path, priority: from 1 on in `kubectl get -o wide` alone
    status: type[BaseModel] | None = None

    @property
    def plural(self) -> str:
        return PLURALS.get(self.name, f"{self.name.lower()}s")


_PHASE = ("Phase", "string", ".status.phase", 0)


_STAGE = ("Stage", "string", ".status.progress.stage", 0)


_MESSAGE = ("Message", "string", ".status.message", 1)


_AGE = ("Age", "date", ".metadata.creationTimestamp", 0)

KINDS = (
    Kind("Runtime", "mrt", "Cluster", RuntimeSpec, (("Image", "string", ".spec.image", 0), _AGE)),
    Kind(
        "FineTune",
        "ft",
        "Namespaced",
        FineTuneSpec,
        (
            _PHASE,
            _STAGE,
            ("Step", "integer", ".status.progress.step", 0),
            ("Total", "integer", ".status.progress.totalSteps", 0),
            ("Loss", "number", ".status.progress.loss", 0),
            ("Images/s", "number", ".status.progress.imagesPerSecond", 0),
            ("Left", "string", ".status.progress.timeLeft", 0),
            _MESSAGE,
            _AGE,
        ),
        Status,
    ),
    Kind(
        "Study",
        "st",
        "Namespaced",
        StudyJobSpec,
        (
            _PHASE,
            ("Done", "integer", ".status.progress.step", 0),
            ("Trials", "integer", ".status.progress.totalSteps", 0),
            ("Metric", "string", ".spec.study.metric", 0),
            ("Best", "number", ".status.progress.best", 0),
            ("Left", "string", ".status.progress.timeLeft", 0),
            _MESSAGE,
            _AGE,
        ),
        Status,
    ),
    # Not `ev`: that is core's events, and kubectl would warn of it at each `kubectl get ev`.
    Kind("Evaluation", "eval", "Namespaced", EvaluationSpec, (_PHASE, _STAGE, _MESSAGE, _AGE), Status),
)


def crd(kind: Kind) -> Schema:
    """The whole CustomResourceDefinition."""
    columns = [
        {"name": name, "type": type_, "jsonPath": path} | ({"priority": priority} if priority else {})
        for name, type_, path, priority in kind.columns
    ]
    version = {"name": VERSION, "served": True, "storage": True, "additionalPrinterColumns": columns}
    version["schema"] = {"openAPIV3Schema": _root(kind)}
    if kind.status:
        version["subresources"] = {"status": {}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}", "labels": {"app.kubernetes.io/name": "medsd"}},
        "spec": {
            "group": GROUP,
            "scope": kind.scope,
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": [kind.short],
                "categories": ["medsd"],
            },
            "versions": [version],
        },
    }


def _root(kind: Kind) -> Schema:
    spec = schema(kind.spec)
    for named in ("run", "study"):
        if named in spec["properties"]:  # its name is the object's own
            del spec["properties"][named]["properties"]["name"]
            spec["properties"][named]["required"].remove("name")
    properties = {"metadata": {"type": "object"}, "spec": spec}
    if kind.status:
        properties["status"] = schema(kind.status)
    return {
        "description": spec.pop("description"),
        "type": "object",
        "properties": properties,
        "required": ["spec"],
        "x-kubernetes-validations": [_NAME_RULE, *_transitions(kind.spec)],
    }


_NAME_RULE = {
    "rule": f"self.metadata.name.matches('{DNS_LABEL}')",
    "message": "metadata.name must be a DNS label: at most 63 of a-z, 0-9 and -, no dots",
}


def _transitions(spec: type[BaseModel]) -> list[Schema]:
    """What an attempt was made from stays as it is while there is one."""
    if not issubclass(spec, Job):
        return []
    free = (
        "!has(oldSelf.status) || !has(oldSelf.status.phase) || "
        "oldSelf.status.phase in ['Pending', 'Suspended']"
    )
    return [
        {
            "rule": f"{free} || (has(self.spec.{name}) == has(oldSelf.spec.{name}) && "
            f"(!has(self.spec.{name}) || self.spec.{name} == oldSelf.spec.{name}))",
            "message": "cannot change once started; set spec.suspend to true, wait for the phase "
            "Suspended, then change it",
            "fieldPath": f".spec.{name}",
            "reason": "FieldValueForbidden",
        }
        for name in spec.model_fields
        if name not in spec.mutable
    ]


# --- pydantic's JSON schema -> a structural schema


class _Generator(GenerateJsonSchema):
    def model_schema(self, schema) -> Schema:
        found = super().model_schema(schema)
        rules = [{"rule": rule.cel, "message": rule.message} for rule in getattr(schema["cls"], "rules", ())]
        return found | ({"x-kubernetes-validations": rules} if rules else {})

    def encode_default(self, dft: Any) -> Any:
        """Whole, though the API server fills a model's own defaults into {}: it checks a default by CEL as it
        stands here.
        """
        return (
            dft.model_dump(mode="json", exclude_none=True)
            if isinstance(dft, BaseModel)
            else super().encode_default(dft)
        )


# In the order in which they are written; any other word of pydantic's would be lost, and is an error.
_WORDS = (
    *("description", "type", "format", "nullable", "default", "enum", "pattern", "minLength", "maxLength"),
    *("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "minItems", "maxItems", "maxProperties"),
    *("x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-preserve-unknown-fields"),
    *("items", "additionalProperties", "properties", "required", "x-kubernetes-validations"),
)


def schema(model: type[BaseModel]) -> Schema:
    """The structural OpenAPI v3.0 schema of a model. Raises ValueError for what such a schema cannot say."""
    found = model.model_json_schema(schema_generator=_Generator)
    return _structural(found, found.pop("$defs", {}))


def _structural(node: Schema, definitions: dict[str, Schema]) -> Schema:
    node = _nullable(_resolved(node, definitions), definitions)
    node.pop("title", None)
    node.pop("propertyNames", None)  # a bound on keys has no word there; the operator checks them
    for bound in ("Minimum", "Maximum"):
        if f"exclusive{bound}" in node:  # a number in JSON schema, a flag in OpenAPI 3.0
            node[bound.lower()], node[f"exclusive{bound}"] = node[f"exclusive{bound}"], True
    if "prefixItems" in node:
        kinds = node.pop("prefixItems")
        if any(kind != kinds[0] for kind in kinds):
            raise ValueError(f"a tuple of several types has no structural schema: {kinds}")
        node["items"] = kinds[0]
    if node.get("additionalProperties") is True:
        node["x-kubernetes-preserve-unknown-fields"] = node.pop("additionalProperties")
    elif node.get("additionalProperties") is False:
        del node["additionalProperties"]  # a structural schema is closed as it is
    for name in ("items", "additionalProperties"):
        if name in node:
            node[name] = _structural(node[name], definitions)
    if "properties" in node:
        node["properties"] = {
            name: _structural(field, definitions) for name, field in node["properties"].items()
        }
    if "description" in node:
        node["description"] = " ".join(node["description"].split())
    if unknown := set(node) - set(_WORDS):
        raise ValueError(f"no structural schema for {sorted(unknown)}: {node}")
    return {word: node[word] for word in _WORDS if word in node}


def _resolved(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """The node with its $ref replaced; what it says itself, such as its description, goes before what is
    referred to.
    """
    if "$ref" not in node:
        return dict(node)
    target = copy.deepcopy(definitions[node["$ref"].rpartition("/")[2]])  # a copy, or YAML writes anchors
    return target | {word: value for word, value in node.items() if word != "$ref"}


def _nullable(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """X | None as a nullable X; to CEL's has() a null is absent. Without `nullable` the API server would
    still drop nulls on creation, but refuse them in server-side apply.
    """
    if "anyOf" not in node:
        return node
    kinds = [kind for kind in node.pop("anyOf") if kind != {"type": "null"}]
    if len(kinds) != 1:
        raise ValueError(f"a union has no structural schema: {kinds}")
    if node.get("default") is None:
        node.pop("default", None)
    found: Schema = {**_resolved(kinds[0], definitions), "nullable": True, **node}
    if "enum" in found:  # the API server takes no null for one of these, even if null is in the list
        values = found.pop("enum")
        if all(isinstance(value, int) for value in values):
            if sorted(values) != list(range(min(values), max(values) + 1)):
                raise ValueError(f"numbers with gaps have no bounds: {values}")
            found |= {"minimum": min(values), "maximum": max(values)}
        else:
            found |= {"pattern": f"^({'|'.join(values)})$", "maxLength": max(map(len, values))}
    return found


# --- files


def render(kind: Kind) -> str:
    return HEADER + yaml.safe_dump(crd(kind), sort_keys=False, allow_unicode=True, width=130)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m medsd_ray.spec.crds", description="Writes the CRDs.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 where a file is not what would be written"
    )
    check = parser.parse_args(arguments).check
    stale = []
    for path, text in (
        (folder / f"{kind.plural}.yaml", render(kind)) for folder in FOLDERS for kind in KINDS
    ):
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif not path.is_file() or path.read_text() != text:
            stale.append(str(path.relative_to(ROOT)))
    if stale:
        print(f"{', '.join(stale)}: not what the models say; run `make crds`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
