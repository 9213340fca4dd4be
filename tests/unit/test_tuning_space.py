"""From a space to combinations, and from a combination to the runs that it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from specs import changed

from medsd_ray.spec import plan
from medsd_ray.spec.load import parse_run, parse_study
from medsd_ray.spec.space import Dimension, apply, combinations, fill, holds, in_form_of, ordered
from medsd_ray.spec.study import StudySpec
from medsd_ray.tuning.addresses import absolute
from medsd_ray.tuning.preparation import latent_sets

LORA = {"method": "lora", "lora": {"rank": 4}}
STUDY: dict[str, Any] = {
    "name": "grid",
    "output": "s3://bucket/grid",
    "shards": "s3://bucket/shards",
    "run": {"training": {"max_steps": 100, "global_batch_size": 8}, "resources": {"num_workers": 2}},
    "vae": {"max_steps": 10, "global_batch_size": 8, "learning_rate": 5e-4},
    "space": {
        "components.vae": ["frozen", "decoder"],
        "components.unet": ["frozen", "full", LORA],
        "components.text_encoder": ["frozen", "full"],
        "components.unet.learning_rate": {"choice": [1e-4, 1e-3], "when": {"components.unet": ["lora"]}},
    },
}


@pytest.fixture
def study() -> StudySpec:
    return parse_study(STUDY)


def test_every_combination_comes_once_and_conditions_hold(study: StudySpec):
    found = list(combinations(study.space))
    assert len(found) == 2 * 2 * (1 + 1 + 2)
    assert all(found.count(one) == 1 for one in found)
    for one in found:
        assert ("components.unet.learning_rate" in one) == (one["components.unet"] == LORA)


def test_a_dimension_whose_condition_is_inactive_itself_is_inactive():
    study = parse_study(
        changed(STUDY, {"space": {
            "training.ema.decay": {"choice": [0.5], "when": {"components.unet.learning_rate": [1e-4]}},
            **STUDY["space"],
        }})
    )  # fmt: skip
    assert ordered(study.space)[-1] == "training.ema.decay"
    for one in combinations(study.space):
        assert ("training.ema.decay" in one) == (one.get("components.unet.learning_rate") == 1e-4)


def test_ranges_stand_at_their_ends_and_are_filled_by_who_chooses():
    space = {"training.learning_rate": {"loguniform": [1e-5, 1e-3]}, "components.unet": ["full", "lora"]}
    study = parse_study(
        changed(STUDY, {"space": space, "vae": None, "search": {"searcher": "random", "num_samples": 2}})
    )
    assert {one["training.learning_rate"] for one in combinations(study.space, end=0)} == {1e-5}
    assert {one["training.learning_rate"] for one in combinations(study.space, end=1)} == {1e-3}
    assert fill(study.space, lambda path, dimension: path) == {path: path for path in space}


def test_a_method_keeps_the_templates_other_settings_of_its_component():
    template = {
        "components": {"unet": {"learning_rate": 4e-4}, "text_encoder": "full"},
        "training": {"max_steps": 1},
    }
    found = apply(
        template,
        {"components.text_encoder.learning_rate": 1e-5, "components.unet": LORA, "training.log_every": 3},
    )
    assert found["components"]["unet"] == LORA | {"learning_rate": 4e-4}
    assert found["components"]["text_encoder"] == {"method": "full", "learning_rate": 1e-5}
    assert found["training"] == {"max_steps": 1, "log_every": 3}
    assert template["components"] == {"unet": {"learning_rate": 4e-4}, "text_encoder": "full"}, (
        "the template is not changed"
    )
    with pytest.raises(ValueError, match=r"training.max_steps has no fields"):
        apply(template, {"training.max_steps.x": 1})


def test_a_condition_may_name_a_method_or_a_whole_value(study: StudySpec):
    dimension = study.space["components.unet.learning_rate"]
    assert holds(dimension, {"components.unet": LORA}) and holds(dimension, {"components.unet": "lora"})
    assert not holds(dimension, {"components.unet": "full"}) and not holds(dimension, {})
    whole = dimension.model_copy(update={"when": {"components.unet": [LORA]}})
    assert holds(whole, {"components.unet": LORA}) and not holds(whole, {"components.unet": "lora"})


def test_a_trials_run_starts_from_its_vae_and_that_vaes_latents(study: StudySpec):
    one = {"components.vae": "decoder", "components.unet": "full", "components.text_encoder": "frozen"}
    stage, run = plan.vae_run(study, one), plan.trial_run(study, one, 3, "0007")
    assert stage and run
    assert stage.components.trained == ["vae"] and stage.data.train == study.shards
    assert stage.training.learning_rate == 5e-4 and stage.resources.num_workers == 2
    assert stage.output.startswith("s3://bucket/grid/vae/decoder-")
    assert run.model == stage.output and run.seed == 3 and run.output == "s3://bucket/grid/trials/0007"
    assert run.components.trained == ["unet"] and run.name == "grid-0007"
    assert run.data.train == "s3://bucket/grid/latents/" + stage.output.rpartition("/")[2]
    frozen = plan.trial_run(study, one | {"components.vae": "frozen"}, 3, "0007")
    assert frozen and frozen.model == "medsd-small" and "/latents/frozen-" in frozen.data.train


@pytest.mark.parametrize(
    ("batch", "micro", "times", "wanted"),
    [(8, None, 2, 4), (8, None, 3, 4), (8, 4, 2, 2), (6, None, 2, 3), (2, None, 2, 2), (8, None, 1, 2)],
)
def test_the_vae_has_the_workers_of_several_trials_where_its_batch_allows(
    study: StudySpec, batch: int, micro: int | None, times: int, wanted: int
):
    stage = plan.vae_run(study, {"components.vae": "decoder", "components.unet": "full"})
    assert stage and stage.resources.num_workers == 2
    training = stage.training.model_copy(update={"global_batch_size": batch, "micro_batch_size": micro})
    stage = stage.model_copy(update={"training": training})
    wide = plan.widened(stage, times)
    assert wide.resources.num_workers == wanted
    assert parse_run(wide.model_dump(mode="json"), "run") == wide, "it is a run that may be asked for"


def test_nothing_to_train_is_no_run(study: StudySpec):
    one = {"components.vae": "frozen", "components.unet": "frozen", "components.text_encoder": "frozen"}
    assert plan.trial_run(study, one, 0, "0000") is None and plan.vae_run(study, one) is None


def test_latents_are_shared_by_all_with_the_same_vae_and_no_other(study: StudySpec):
    by_vae: dict[str, set[str]] = {}
    for one in combinations(study.space):
        by_vae.setdefault(one["components.vae"], set()).add(plan.latents(study, one))
    assert [len(where) for where in by_vae.values()] == [1, 1] and not by_vae["frozen"] & by_vae["decoder"]
    other = study.model_copy(update={"vae": study.vae and study.vae.model_copy(update={"max_steps": 11})})
    one = {"components.vae": "decoder", "components.unet": "full"}
    assert plan.latents(other, one) != plan.latents(study, one), "another training of the VAE is another VAE"


def test_each_way_is_encoded_once_with_texts_where_a_text_encoder_is_frozen(study: StudySpec):
    found = latent_sets(study, list(combinations(study.space)))
    assert [one["components.vae"] for one, _ in found] == ["frozen", "decoder"]
    assert [texts for _, texts in found] == [True, True]
    trained = parse_study(changed(STUDY, {"space": STUDY["space"] | {"components.text_encoder": ["full"]}}))
    assert [texts for _, texts in latent_sets(trained, None)] == [False, False]
    first = [one for one in combinations(study.space) if one["components.vae"] == "frozen"][:1]
    assert len(latent_sets(study, first)) == 1, "a way that no trial takes is not made"


@pytest.mark.parametrize(("given", "wanted"), [(None, 20), (5, 5)])
def test_asha_has_a_validation_loss_at_its_first_look(given: int | None, wanted: int):
    changes = {"search": {"scheduler": "asha", "grace_steps": 20}, "run.training.validate_every": given}
    study = parse_study(changed(STUDY, changes))
    run = plan.trial_run(study, {"components.unet": "full"}, 0, "0000")
    assert run and run.training.validate_every == wanted


def test_pbt_has_a_checkpoint_at_each_look():
    changes = {
        "space": {"training.learning_rate": {"loguniform": [1e-5, 1e-3]}}, "vae": None,
        "run.components": {"unet": "full"},
        "search": {"searcher": "random", "num_samples": 2, "scheduler": "pbt", "interval_steps": 30},
    }  # fmt: skip
    run = plan.trial_run(parse_study(changed(STUDY, changes)), {"training.learning_rate": 1e-4}, 0, "0000")
    assert run and run.training.validate_every == run.checkpoint.every_steps == 30


def test_folders_are_named_from_the_root_wherever_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("base", "radbert"):
        (tmp_path / name).mkdir()
    swap = {"method": "swap", "swap": {"model": "radbert"}}
    space = {"components.text_encoder": [swap, "full"], "model": ["base", "medsd-small", "hub/name"]}
    changes = {
        "space": space,
        "vae": None,
        "output": "out",
        "shards": "s3://b/s",
        "run.prior": {"data": "class"},
    }
    found = absolute(parse_study(changed(STUDY, changes)))
    assert (found.output, found.shards) == (str(tmp_path / "out"), "s3://b/s")
    assert found.run["prior"]["data"] == str(tmp_path / "class")
    assert found.space["model"].choice == [str(tmp_path / "base"), "medsd-small", "hub/name"]
    encoders = found.space["components.text_encoder"].choice
    assert encoders == [{"method": "swap", "swap": {"model": str(tmp_path / "radbert")}}, "full"]


def test_values_that_an_earlier_version_took_for_texts_are_those_of_the_space():
    space = {
        "training.learning_rate": Dimension(choice=[1e-4, 1e-3]),
        "components.unet": Dimension(choice=["full", {"method": "lora", "lora": {"rank": 4}}]),
        "training.weight_decay": Dimension(uniform=(0.0, 0.1)),
    }
    params = {
        "training.learning_rate": "1e-4",
        "components.unet": {"method": "lora", "lora": {"rank": 4}},
        "training.weight_decay": 0.05,
        "gone": "x",
    }
    assert in_form_of(space, params) == params | {"training.learning_rate": 1e-4}
