"""YAML and JSON: runs, studies, jobs of pods, reader studies, and what is written on a command line."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any, get_args

import yaml
from fuzz.campaign import Reader
from fuzz.children import holds
from fuzz.mutations import ODD_VALUES, damaged, odd_document, odd_json
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from specs import GOOD, RUN, changed

from medsd_ray.documents import parse_json, parse_yaml, to_yaml
from medsd_ray.driver.job import load_job
from medsd_ray.papers.experiment import load_paper
from medsd_ray.reader_study.study import open_study
from medsd_ray.spec.load import dump_run, dump_study, load_run, load_study, parse_run, parse_study
from medsd_ray.spec.paper import Size
from medsd_ray.spec.values import set_value

RUNS = [{"name": "r"} | changed(RUN, changes) for changes in GOOD]
STUDY: dict[str, Any] = {
    "name": "grid",
    "output": "s3://bucket/study",
    "shards": "s3://bucket/shards",
    "run": {
        "training": {"max_steps": 100, "global_batch_size": 8},
        "components": {"unet": {"method": "full"}},
    },
    "space": {
        "components.unet": {"choice": ["full", "lora"]},
        "components.unet.learning_rate": [1e-5, 1e-3],
    },
    "metric": "validation_loss",
    "mode": "min",
}
PAPER: dict[str, Any] = {
    "title": "T",
    "citation": "C",
    "link": "https://arxiv.org/abs/1",
    "read": "all",
    "inferred": "nothing",
    "settings": {"small": {"count": 8}, "full": {"count": 80}},
    "steps": [
        {"drawn": "prepare {count} s --kind phantom", "data": "prepare {data} s"},
        "tune {here}/x.yaml",
    ],
    "claims": [
        {
            "claim": "a",
            "reported": "b",
            "expected": "higher",
            "of": {"figure": "fid", "study": "s", "where": {"a": "{count}"}, "pick": "best"},
            "than": 0.5,
        }
    ],
}
JOB = {"attempt": 1, "run": RUNS[0]}
READER_STUDY = {
    "format": "medsd-reader-study/1",
    "seed": 0,
    "width": 8,
    "height": 8,
    "images": ["0123456789abcdef"],
}
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn", "Co"]), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), inner, max_size=4)
    ),
    max_leaves=12,
)
"""What a document may hold; PyYAML refuses control characters of a text."""


def _yaml(value: Any) -> bytes:
    return yaml.safe_dump(value, allow_unicode=True, sort_keys=False).encode("utf-8", "surrogatepass")


def _odd_yaml(*values: Any) -> SearchStrategy[bytes]:
    """A YAML file of odd values, or of damaged bytes."""
    valid = [_yaml(value) for value in values]
    dumped = st.sampled_from(values).flatmap(odd_document).map(_yaml)
    return st.one_of(dumped, dumped, damaged(valid))


def _files(name: str, data: SearchStrategy[bytes]) -> SearchStrategy[dict[str, bytes]]:
    return data.map(lambda one: {name: one})


def read_run(folder: Path) -> None:
    """A run that is taken is written and read back as the same run, by values and by YAML."""
    run = load_run(folder / "run.yaml")
    holds(parse_run(parse_yaml(dump_run(run))) == run, "a run is read back as it was written")


def read_study(folder: Path) -> None:
    study = load_study(folder / "study.yaml")
    holds(parse_study(parse_yaml(dump_study(study))) == study, "a study is read back as it was written")


def read_paper(folder: Path) -> None:
    """The steps of one that is taken have no braces of a setting left."""
    paper = load_paper(folder / "x.steps.yaml")
    for size in get_args(Size):
        for given in ({"here": "/h"}, {"here": "/h", "data": "/d"}):
            holds(all(map(str, paper.commands(size, given))), "a step has words")
        holds(len(paper.claims_of(size)) == len(paper.claims), "each claim is there")


def read_job(folder: Path) -> None:
    holds(load_job(folder / "job.yaml").attempt >= 1, "attempts count from 1")


def read_override(folder: Path) -> None:
    """`--set`: the values below the path are those of the YAML after the sign; others stay."""
    values = copy.deepcopy(RUNS[1])
    before = copy.deepcopy(values)
    text = (folder / "set.txt").read_bytes().decode("utf-8", "surrogateescape")
    set_value(values, text)
    first = text.partition("=")[0].split(".")[0]
    holds({k: v for k, v in values.items() if k != first} == {k: v for k, v in before.items() if k != first},
          "an override leaves other fields as they are")  # fmt: skip
    parse_run(values)


def read_yaml(folder: Path) -> None:
    """Plain values come back from the YAML that is made of them."""
    value = parse_yaml((folder / "any.yaml").read_bytes())
    holds(_same(parse_yaml(to_yaml(value)), value), "YAML is read back as it was written")


def read_plain(folder: Path) -> None:
    """As `read_yaml`; what PyYAML and JSON wrote is no reason for a refusal."""
    value = parse_json((folder / "value.json").read_bytes())
    holds(_same(parse_yaml(to_yaml(value)), value), "values are read back from YAML as they were written")


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return True
    if isinstance(a, dict) and isinstance(b, dict):
        return list(map(repr, a)) == list(map(repr, b)) and all(map(_same, a.values(), b.values()))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and a == b


def read_reader_study(folder: Path) -> None:
    study = open_study(folder)
    holds(study.images == ("0123456789abcdef",), "only images of the study's folder are its images")
    holds(study.width > 0 and study.height > 0, "images have a size")
    study.image(study.images[0])


def _plain_files() -> SearchStrategy[dict[str, bytes]]:
    return PLAIN.map(lambda value: {"value.json": json.dumps(value).encode()})


def _overrides() -> SearchStrategy[bytes]:
    path = st.sampled_from(
        ["training.max_steps", "components.unet", "name", "components.unet.lora.rank", "a.b.c", "."]
    )
    drawn = st.tuples(path, ODD_VALUES).map(
        lambda pair: f"{pair[0]}={pair[1]}".encode("utf-8", "surrogatepass")
    )
    return drawn | damaged(
        [b"training.max_steps=4", b"components.unet=lora", b"training.adam_betas=[0.9, 0.99]"]
    )


YAMLS = [_yaml(RUNS[1]), b"a: &x [1, 2]\nb: *x\n<<: {c: 2020-01-01}\n"]
READERS = [
    Reader("run.yaml", _files("run.yaml", _odd_yaml(*RUNS)), read_run, 80),
    Reader("study.yaml", _files("study.yaml", _odd_yaml(STUDY)), read_study, 60),
    Reader("NAME.steps.yaml", _files("x.steps.yaml", _odd_yaml(PAPER)), read_paper),
    Reader("job.yaml", _files("job.yaml", _odd_yaml(JOB)), read_job),
    Reader("overrides", _files("set.txt", _overrides()), read_override),
    Reader("YAML", _files("any.yaml", damaged(YAMLS)), read_yaml),
    Reader("plain values", _plain_files(), read_plain),
    Reader(
        "reader study",
        odd_json(READER_STUDY).map(lambda one: {"study.json": one, "images/0123456789abcdef.png": b"x"}),
        read_reader_study,
        30,
    ),
]  # fmt: skip
