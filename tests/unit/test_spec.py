from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from medsd_ray.errors import InputError
from medsd_ray.spec.components import Method
from medsd_ray.spec.load import dump_run, load_run, parse_run

RUN = {
    "name": "xrays",
    "data": {"train": "s3://bucket/latents"},
    "components": {"unet": "full", "text_encoder": {"method": "full", "learning_rate": 1e-5}},
    "training": {"max_steps": 100, "global_batch_size": 8},
    "output": "runs/xrays",
}
A, B = {"shards": "s3://bucket/a"}, {"shards": "s3://bucket/b"}


def run_with(path: str, value) -> dict:
    """RUN with one field set, such as run_with("training.max_steps", 3)."""
    values = copy.deepcopy(RUN)
    *parents, last = path.split(".")
    inner = values
    for parent in parents:
        inner = inner.setdefault(parent, {})
    inner[last] = value
    return values


def refusal(values: dict) -> str:
    with pytest.raises(InputError) as caught:
        parse_run(values, source="RUN.yaml")
    line = str(caught.value)
    assert line.startswith("RUN.yaml: ") and "\n" not in line
    return line


def test_the_short_form_of_a_component():
    run = parse_run(RUN)
    assert run.components.unet.method is Method.full and run.components.unet.learning_rate is None
    assert run.components.text_encoder.learning_rate == 1e-5
    assert run.components.vae.method is Method.frozen
    assert run.components.trained == ["text_encoder", "unet"]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("trainin", {}, "trainin is not a field of a run; did you mean training?"),
        (
            "training.learning_rat",
            1e-4,
            "training.learning_rat is not a field of a run; did you mean learning_rate?",
        ),
        (
            "components.unet",
            {"method": "lora", "lora": {"rnak": 4}},
            "lora.rnak is not a field of a run; did you mean rank?",
        ),
        ("training.zzz", 1, "training.zzz is not a field of a run; remove it or mend its spelling"),
        (
            "training.global_batch_size",
            0,
            "training.global_batch_size: Input should be greater than or equal to 1",
        ),
        ("training.global_batch_size", 7, "not a multiple of resources.num_workers"),
        ("training.micro_batch_size", 0, "training.micro_batch_size"),
        ("training.micro_batch_size", 3, "does not divide"),
        ("training.max_steps", "many", "training.max_steps"),
        ("training.warmup_steps", 100, "must be below max_steps"),
        ("training.zero_stage", 4, "training.zero_stage"),
        ("training.precision", "fp8", "training.precision"),
        ("training.learning_rate", 0, "training.learning_rate"),
        (
            "training",
            {"max_steps": 9, "global_batch_size": 8, "zero_stage": 2, "offload": {"parameters": True}},
            "offload.parameters needs zero_stage 3",
        ),
        ("training.sample_every", 10, "needs sample_prompts"),
        ("components", {}, "every component is frozen"),
        ("components.vae", "scratch", "run of its own"),
        (
            "components.unet",
            "decoder",
            "unet.method: Input should be 'frozen', 'full', 'scratch', 'lora' or 'cross_attention'",
        ),
        ("components.text_encoder", "swap", "components.text_encoder: swap: {model: ...} is needed"),
        ("name", "Not a name", "name"),
        ("seed", -1, "seed"),
        ("data", {}, "data: give train or sources, one of the two"),
        ("data.sources", [{"shards": "a"}], "data: give train or sources, one of the two"),
        ("data", {"sources": [A, A | {"weight": 2}]}, "data: sources name the same shards and domain twice"),
        ("data", {"sources": [A | {"weight": 0}]}, "data.sources.0.weight: Input should be greater than 0"),
        ("data", {"sources": [A | {"kind": "drawn"}]}, "data.sources.0.kind"),
        (
            "data",
            {"sources": [A | {"domains": 1}]},
            "data.sources.0.domains is not a field of a run; did you",
        ),
        ("data", {"sources": [A | {"weight": 1}]}, "leave it out of one real source"),
        ("data", {"sources": [A | {"kind": "generated"}, B | {"weight": 1}]}, "leave it out of one real"),
        ("data", {"sources": [A], "balance": "domain"}, "needs sources that each name their domain"),
        (
            "data",
            {"sources": [A | {"domain": "a"}, B | {"domain": "b", "weight": 1}], "balance": "domain"},
            "sources: with balance: domain a weight counts samples",
        ),
        ("data.balance", "domain", "needs sources that each name their domain"),
        (
            "data",
            {"sources": [A | {"domain": "a"}, B | {"domain": "b", "weight": 1}], "balance": "domain"},
            "leave it out of one real source there",
        ),
        ("objective.prediction_type", "x0", "objective.prediction_type"),
        ("objective.conditioning_dropout", 1.0, "objective.conditioning_dropout"),
    ],
)
def test_what_is_wrong_is_named(path: str, value, words: str):
    values = run_with(path, value)
    values.setdefault("resources", {})["num_workers"] = 2
    assert words in refusal(values)


def test_sources_stand_in_the_place_of_train():
    domains = [
        A | {"domain": "x"},
        A | {"domain": "y"},
        B | {"domain": "x", "kind": "generated", "weight": 0.5},
    ]
    data = parse_run(RUN | {"data": {"sources": domains, "balance": "domain"}}).data
    assert list(data.all_sources) == [f"data.sources.{number}.shards" for number in range(3)]
    assert [source.weight for source in data.sources] == [None, None, 0.5]
    assert {name: one.shards for name, one in parse_run(RUN).data.all_sources.items()} == {
        "data.train": "s3://bucket/latents"
    }


def test_every_wrong_field_is_named_at_once():
    line = refusal({**RUN, "nonsense": 1, "training": {"max_steps": 0}})
    assert (
        "nonsense" in line
        and "training.max_steps" in line
        and "training.global_batch_size is missing" in line
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "RUN.yaml"
    path.write_text(yaml.safe_dump(RUN))
    return path


def test_an_override_of_no_field_names_the_near_one(file: Path):
    with pytest.raises(
        InputError, match=r"training\.max_step is not a field of a run; did you mean max_steps\?"
    ):
        load_run(file, ["training.max_step=3"])


def test_overrides(file: Path):
    run = load_run(
        file,
        [
            "training.zero_stage=3",
            "training.learning_rate=1e-5",  # a string to YAML 1.1, a number to us
            "training.ema=null",
            "training.sample_prompts=[a chest x-ray]",
            "components.unet.learning_rate=0.001",  # meets the short form
            "objective.snr_gamma=null",
            "output=s3://bucket/run",
        ],
    )
    assert (run.training.zero_stage, run.training.learning_rate, run.training.ema) == (3, 1e-5, None)
    assert run.training.sample_prompts == ["a chest x-ray"]
    assert (run.components.unet.method, run.components.unet.learning_rate) == (Method.full, 0.001)
    assert run.objective.snr_gamma is None
    assert run.output == "s3://bucket/run"


@pytest.mark.parametrize(
    "override", ["training.zero_stage", "=3", "", "name=[", "training.no_such=1", "name.first=x"]
)
def test_overrides_that_are_wrong(file: Path, override: str):
    with pytest.raises(InputError) as caught:
        load_run(file, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "", "- 1", "just words", "name: \0", "a: *nowhere"])
def test_files_that_are_no_run(file: Path, text: str):
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        load_run(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_key_that_is_there_twice_is_refused_with_both_lines(file: Path):
    text = file.read_text()
    file.write_text(text + "training:\n  max_steps: 10\n  global_batch_size: 8\n")
    first = text[: text.index("training:")].count("\n") + 1
    with pytest.raises(InputError, match=f"'training' is there twice, on lines {first} and"):
        load_run(file)
    file.write_text(text)
    with pytest.raises(InputError, match="'a' is there twice, on line 1"):
        load_run(file, ["components={a: 1, a: 2}"])


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "field",
    [
        "training.weight_decay", "training.gradient_clipping", "training.learning_rate", "training.ema.decay",
        "objective.snr_gamma", "objective.noise_offset", "objective.conditioning_dropout",
        "vae_objective.kl_weight", "vae_objective.edge_weight",
    ],
)  # fmt: skip
def test_numbers_that_are_none_are_refused(field: str, number: float):
    assert field in refusal(run_with(field, number))
    for betas in ([number, 0.9], [0.9, number]):
        assert "training.adam_betas" in refusal(run_with("training.adam_betas", betas))
    assert "alpha" in refusal(run_with("components.unet", {"method": "lora", "lora": {"alpha": number}}))
    assert "prior.weight" in refusal(run_with("prior", {"data": "x", "weight": number}))


@pytest.mark.parametrize("text", ["1e-4", "0.0001", "1.0e-4", "1E-04"])
def test_a_number_in_any_form_is_a_number(file: Path, text: str):
    assert load_run(file, [f"training.learning_rate={text}"]).training.learning_rate == 1e-4


def test_a_file_that_cannot_be_read(tmp_path: Path):
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(InputError, match=str(path)):
            load_run(path)
    (tmp_path / "binary").write_bytes(b"\x80\xff")
    with pytest.raises(InputError, match="not text in UTF-8"):
        load_run(tmp_path / "binary")


def test_yaml_can_make_no_objects(file: Path):
    file.write_text("name: !!python/object/apply:os.getcwd []")
    with pytest.raises(InputError, match="not YAML"):
        load_run(file)


def test_a_run_survives_being_written(tmp_path: Path):
    values = run_with("training.sample_prompts", ["Überguss: links", "a, b"])
    values["training"] |= {"offload": {"optimizer": True}, "ema": None, "adam_betas": [0.9, 0.95]}
    run = parse_run(values)
    (tmp_path / "again.yaml").write_text(dump_run(run))
    assert load_run(tmp_path / "again.yaml") == run
