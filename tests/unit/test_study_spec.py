"""What a study says, and what is refused in one line that names the wrong path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from specs import changed

from medsd_ray.errors import InputError
from medsd_ray.spec import plan
from medsd_ray.spec.crds import schema
from medsd_ray.spec.load import dump_study, load_study, parse_study
from medsd_ray.spec.space import combinations
from medsd_ray.spec.study import StudySpec

STUDY: dict[str, Any] = {
    "name": "chambon",
    "output": "studies/chambon",
    "shards": "shards",
    "run": {"training": {"max_steps": 100, "global_batch_size": 8}, "resources": {"num_workers": 2}},
    "space": {"components.unet": ["frozen", "full", "lora"]},
}
DRAWN = {
    "search": {"searcher": "random", "num_samples": 4},
    "space": {"training.learning_rate": {"loguniform": [1e-5, 1e-3]}},
}
PBT = {
    **DRAWN,
    "run.components": {"unet": "full"},
    "search": {"searcher": "random", "num_samples": 4, "scheduler": "pbt", "interval_steps": 20},
}
VAE = {
    "vae": {"max_steps": 10, "global_batch_size": 8},
    "space": {"components.vae": ["frozen", "decoder"], "components.unet": ["full"]},
}

ASHA_OF_ENCODERS = VAE | {
    "search": {"scheduler": "asha", "grace_steps": 10},
    "space": {"components.vae": ["full"], "components.unet": ["full"]},
}


TASK: dict[str, Any] = {
    "run.classifier": {"network": {"library": "monai", "name": "DenseNet121"}},
    "space": {"classifier.loss": ["cross_entropy", "focal"]},
    "metric": "auroc",
}
SOURCES = [[{"shards": "a"}], [{"shards": "a"}, {"shards": "b", "kind": "generated", "weight": 0.5}]]


def with_space(**space: Any) -> dict[str, Any]:
    return {"space": {path.replace("__", "."): value for path, value in space.items()}}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        VAE,
        DRAWN | {"run.components": {"unet": "full"}},
        PBT,
        {"space": {}, "run.components": {"unet": "full"}},
        {"seeds": [0, 1, 2], "budget": {"max_trials": 5, "max_hours": 0.5}},
        {"search": {"scheduler": "asha", "grace_steps": 10}},
        {"metric": "fid", "evaluation": {"num_images": 10, "prompts": ["a"]}},
        TASK,
        TASK | {"space": {"data.sources": SOURCES}, "evaluation": {"split": "validation"}},
        with_space(
            components__text_encoder=[
                {"method": "textual_inversion", "tokens": [{"token": "<a>", "initializer": "a"}]},
                "full",
            ]
        ),
        # a condition on a dimension that comes later in the file
        {
            "space": {
                "components.text_encoder.learning_rate": {
                    "choice": [1e-4, 1e-5],
                    "when": {"components.unet": ["lora"]},
                },
                "components.unet": [{"method": "lora", "lora": {"rank": 4}}, "full"],
            }
        },
    ],
)
def test_a_good_study_is_read_back_as_it_was(tmp_path: Path, changes: dict[str, Any]):
    study = parse_study(changed(STUDY, changes))
    (tmp_path / "study.yaml").write_text(dump_study(study))
    assert load_study(tmp_path / "study.yaml") == study


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"run.training.max_stps": 3},
            "components.unet=frozen: training.max_stps is not a field of a run; did you mean max_steps?",
        ),
        (with_space(components__unet=["full", "frull"]), "components.unet=frull: components.unet.method"),
        (with_space(components__unte=["full"]), "components.unte is not a field of a run"),
        (with_space(components__unet__lr=[1, 2]), "components.unet.lr is not a field of a run"),
        (
            with_space(components__unet=["full"], training__max_steps=[10, 0]),
            "training.max_steps=0: training.max_steps",
        ),
        (
            DRAWN | with_space(components__unet=["full"], training__learning_rate={"uniform": [0.5, 1.5]}),
            "1.5: training.learn",
        ),
        ({"run.training.global_batch_size": 3}, "training.global_batch_size (3) is not a multiple"),
        (with_space(components__unet=["frozen"]), "frozen in every combination"),
        (with_space(seed=[1, 2]), "space.seed: the study gives this field; see seeds"),
        (with_space(data__train=["a"]), "space.data.train: the study gives this field; see shards"),
        ({"run.output": "x"}, "run.output: the study gives this field; see output"),
        (with_space(name__x__y=[1]), "space.name.x.y"),
        (
            with_space(training__max_steps__x=[1], components__unet=["full"]),
            "x: training.max_steps has no fields",
        ),
        (
            {"space": {"components.unet": {"choice": ["full"], "uniform": [1, 2]}}},
            "one of choice, uniform and loguniform",
        ),
        ({"space": {"components.unet": {}}}, "one of choice, uniform and loguniform"),
        (
            {"space": {"components.unet": {"choice": ["full"], "when": {"components.vae": ["full"]}}}},
            "vae is not a dimension",
        ),
        (DRAWN | {"search": {}}, "space.training.learning_rate: a grid takes choices alone"),
        (
            DRAWN | {"space": {"training.learning_rate": {"loguniform": [0, 1]}}},
            "loguniform: the first number must be above 0",
        ),
        (
            DRAWN | {"space": {"training.learning_rate": {"uniform": [2, 1]}}},
            "uniform: the first number must be below",
        ),
        ({"search": {"searcher": "tpe"}}, "num_samples is needed by random and tpe"),
        ({"search": {"scheduler": "asha"}}, "grace_steps is needed by asha"),
        ({"search": {"scheduler": "pbt", "interval_steps": 3}}, "set searcher to random"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "seeds: one is there twice"),
        ({"metric": "beauty"}, "metric"),
        ({"vae": {"max_steps": 10, "global_batch_size": 8}}, "vae: no combination adapts the VAE"),
        ({**VAE, "vae": None}, "vae is missing"),
        ({"evaluation": {"num_images": 1}}, "evaluation.num_images"),
        (
            {"evaluation": {"guidance_scale": 0.5}},
            "evaluation.guidance_scale: Input should be greater than or equal to 1",
        ),
        ({"evaluation": {"guidance_scale": 100.5}}, "evaluation.guidance_scale"),
        ({"evaluation": {"steps": 1001}}, "evaluation.steps"),
        ({"evaluation": {"scheduler": "euler"}}, "evaluation.scheduler"),
        ({"evaluation": {"seed": 2**31}}, "evaluation.seed"),
        ({"colour": "red"}, "colour is not a field of a study; remove it"),
        (
            {"search": {"max_concurent": 2}},
            "search.max_concurent is not a field of a study; did you mean max_concurrent?",
        ),
        (
            {"space": {"training.learning_rate": {"chioce": [1e-4]}}},
            "space.training.learning_rate.chioce is not a field of a study; did you mean choice?",
        ),
        (PBT | {"seeds": [0, 1]}, "seeds: pbt takes one"),
        (PBT | with_space(components__unet=["full", "lora"]), "space.components.unet: pbt changes numbers"),
        (
            PBT | {"space": {"objective.noise_offset": {"uniform": [0, 0.1]}}},
            "space.objective.noise_offset: pbt compares",
        ),
        (ASHA_OF_ENCODERS, "space.components.vae: asha compares validation losses"),
    ],
)  # fmt: skip
def test_a_bad_study_is_refused_in_one_line(changes: dict[str, Any], words: str):
    with pytest.raises(InputError) as error:
        parse_study(changed(STUDY, changes), "STUDY.yaml")
    assert words in str(error.value) and str(error.value).startswith("STUDY.yaml: "), error.value
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metric": "fid"}, "a study of classifier is judged by one of accuracy, auroc.*not by fid"),
        ({"search": {"scheduler": "asha", "grace_steps": 10}}, "asha compares validation losses"),
        ({"vae": {"max_steps": 1, "global_batch_size": 8}}, "vae: a classifier has none"),
        ({"run.classifier": {"label": "view"}, "space": {}}, "run.classifier: give it a network"),
        ({"space": {"classifier.network.name": ["Wrong", ""]}}, "name is needed by monai"),
        ({"run.seed": 3}, "the study gives this field"),
    ],
)
def test_a_bad_study_of_a_task_is_refused_in_one_line(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words) as refused:
        parse_study(changed(STUDY, TASK | changes))
    assert "\n" not in str(refused.value)


def test_the_trials_of_a_task_are_runs_on_the_studys_shards_or_on_their_own():
    study = parse_study(changed(STUDY, TASK))
    runs = [plan.trial_run(study, one, 7, "0003") for one in combinations(study.space)]
    assert [run and run.classifier and run.classifier.loss for run in runs] == ["cross_entropy", "focal"]
    assert runs[0] and runs[0].data.train == "shards" and runs[0].seed == 7
    assert runs[0].output == "studies/chambon/trials/0003" and runs[0].components is None
    assert plan.methods(study, {}) == {"classifier": "full"} and plan.vae_run(study, {}) is None
    assert (
        study.direction == "max" and parse_study(changed(STUDY, TASK | {"metric": "ece"})).direction == "min"
    )
    study = parse_study(changed(STUDY, TASK | {"space": {"data.sources": SOURCES}}))
    run = plan.trial_run(study, {"data.sources": SOURCES[1]}, 0, "0000")
    assert run and run.data.train is None and run.data.sources
    assert [source.weight for source in run.data.sources] == [None, 0.5]


def test_conditions_may_not_go_round_in_a_circle():
    space = {
        "components.unet": {"choice": ["full"], "when": {"components.text_encoder": ["full"]}},
        "components.text_encoder": {"choice": ["full"], "when": {"components.unet": ["full"]}},
    }
    with pytest.raises(InputError, match="round in a circle"):
        parse_study(STUDY | {"space": space})


def test_too_many_combinations_are_refused_soon():
    space = {
        f"training.{name}": list(range(1, 17))
        for name in ("max_steps", "log_every", "validate_every", "warmup_steps")
    }
    values = changed(
        STUDY, {"space": space, "run.components": {"unet": "full"}, "run.training.max_steps": 100}
    )
    values["space"]["training.max_steps"] = list(range(100, 116))
    with pytest.raises(InputError, match="more than 4096 combinations"):
        parse_study(values)


def test_the_metric_says_what_is_better_unless_told_otherwise():
    assert parse_study(STUDY).direction == "max"
    assert parse_study(STUDY | {"metric": "kid"}).direction == "min"
    assert parse_study(STUDY | {"metric": "kid", "mode": "max"}).direction == "max"


def test_it_has_a_structural_schema_with_bounds():
    found = schema(StudySpec)
    assert found["properties"]["space"]["maxProperties"] == 32
    choice = found["properties"]["space"]["additionalProperties"]["properties"]["choice"]
    assert choice["maxItems"] == 64 and choice["items"] == {"x-kubernetes-preserve-unknown-fields": True}
    assert found["properties"]["run"]["x-kubernetes-preserve-unknown-fields"] is True


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("training.learning_rate", [1e-4, 1e-4]),
        ("training.learning_rate", [1e-4, 1e-5, "0.0001"]),
        ("training.max_steps", [100, 100.0]),
        ("components.unet", ["full", {"method": "full"}]),
        ("components.unet", ["lora", "full", "lora"]),
        ("training.ema", [None, None]),
    ],
)
def test_a_value_twice_is_refused(path: str, values: list[Any]):
    space = {"components.unet": ["full"], path: values}
    with pytest.raises(InputError, match=rf"space\.{path}: .* is there twice"):
        parse_study(changed(STUDY, {"space": space}))


@pytest.mark.parametrize("value", [True, 1, 1.5, [1], float("nan")])
def test_a_component_s_value_of_another_type_is_refused(value: Any):
    run = STUDY["run"] | {"components": {"unet": {"method": "lora", "lora": {"rank": 4}}}}
    with pytest.raises(InputError, match=r"run with components\.unet=.*: components\.unet"):
        parse_study(changed(STUDY, {"run": run, "space": {"components.unet": [value]}}))


@pytest.mark.parametrize(
    "same",
    [
        ["full", {"method": "full", "learning_rate": None}],
        ["full", {"method": "full", "learning_rate": 1e-4}],
        ["lora", {"method": "lora", "lora": {"rank": 16}}],
    ],
)
def test_two_combinations_that_are_one_run_are_refused(same: list[Any]):
    with pytest.raises(InputError, match=r"space: components\.unet=(full|lora) and .* are the same run"):
        parse_study(changed(STUDY, {"space": {"components.unet": same}}))


def test_combinations_that_are_runs_of_their_own_are_taken():
    ranges = {"training.learning_rate": {"loguniform": [1e-5, 1e-3]}, "components.unet": ["full", "lora"]}
    assert parse_study(changed(STUDY, DRAWN | {"space": ranges}))
    frozen = {"components.unet": ["frozen", "full"], "training.learning_rate": [1e-4, 1e-3]}
    assert parse_study(changed(STUDY, {"space": frozen}))


def test_numbers_in_any_form_are_one_value(tmp_path: Path):
    path = tmp_path / "STUDY.yaml"
    text = yaml.safe_dump(STUDY).replace(
        "components.unet:", "training.learning_rate: [%s]\n  components.unet:"
    )
    path.write_text(text % "1e-4, 1.0e-5, 0.001")
    assert load_study(path).space["training.learning_rate"].choice == [1e-4, 1e-5, 1e-3]
    path.write_text(text % "1e-4, 0.0001, 1.0e-4")
    with pytest.raises(InputError, match=r"learning_rate: 0\.0001 is there twice"):
        load_study(path)


TUNING = Path(__file__).parents[2] / "tuning"


@pytest.mark.parametrize(
    "path",
    sorted(set(TUNING.glob("*.yaml")) - set(TUNING.glob("*.steps.yaml"))),  # which are no studies
    ids=lambda path: path.stem,
)
def test_each_shipped_study_loads_and_is_commented(path: Path):
    study = load_study(path)
    assert study.name == path.stem
    lines = path.read_text().splitlines()
    assert sum("#" in line for line in lines) > len(lines) / 5
    assert yaml.safe_load(dump_study(study))
