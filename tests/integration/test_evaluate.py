"""`medsd evaluate` as a whole: phantoms, folders, S3, weight files, bad input."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from command import assert_refused, medsd_here
from PIL import Image
from safetensors.torch import save_file

from medsd_ray.data.shards import Sample, ShardWriter
from medsd_ray.data.sources.phantom import phantom_samples
from medsd_ray.errors import InputError
from medsd_ray.evaluation.evaluate import EvaluationOptions, evaluate
from medsd_ray.evaluation.figures.clip_score import clip_score
from medsd_ray.evaluation.networks import classifier, extractors
from medsd_ray.evaluation.protocols import ProtocolOptions
from medsd_ray.storage import open_storage

SIZE = 32
COUNTS = {"train": 110, "validation": 30, "test": 40}
quiet = lambda _: None


def write_shards(root: Path, samples: list[Sample]) -> None:
    rest = iter(samples)
    for split, count in COUNTS.items():
        writer = ShardWriter(open_storage(root / split), 1 << 20, "image", split, size=SIZE)
        for _ in range(count):
            writer.write(next(rest))
        writer.finish()
    open_storage(root).write_json("index.json", {"format": "medsd-shards/1", "splits": list(COUNTS)})


def write_generated(folder: Path, images: list[np.ndarray], prompts: list[str]) -> None:
    folder.mkdir(parents=True)
    entries = []
    for index, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
        Image.fromarray(image).save(folder / f"{index:05d}.png")
        entries.append({"file": f"{index:05d}.png", "prompt": prompt, "seed": 0, "index": index})
    made = {"model": "a-model", "model_fingerprint": "f" * 64, "settings": {"steps": 3}, "images": entries}
    (folder / "generated.json").write_text(json.dumps(made))


@dataclass
class Inputs:
    shards: Path
    generated: Path
    base: Path
    run: Path
    train: list[Sample]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Real phantoms, other phantoms as the generated images, noise as the base's, and a run's record."""
    root = tmp_path_factory.mktemp("evaluate")
    samples = list(phantom_samples(sum(COUNTS.values()), SIZE, seed=1))
    write_shards(root / "shards", samples)
    new = list(phantom_samples(40, SIZE, seed=2))
    write_generated(
        root / "generated", [s.image for s in new if s.image is not None], [s.caption for s in new]
    )
    noise = np.random.default_rng(0).integers(60, 190, (40, SIZE, SIZE), dtype=np.uint8)
    write_generated(root / "base", list(noise), [s.caption for s in new])
    run = root / "run"
    run.mkdir()
    lines = [{"step": s, "loss": 1 / s} for s in range(1, 30)] + [{"step": 29, "validation_loss": 0.1}]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    (run / "result.json").write_text(
        json.dumps({"images_per_second": 12.5, "optimizer_bytes_per_worker": 4096, "world_size": 2})
    )
    (run / "run.yaml").write_text("name: a-run\n")
    return Inputs(root / "shards", root / "generated", root / "base", run, samples[: COUNTS["train"]])


@pytest.fixture(autouse=True, scope="module")
def short_training():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "PASSES", 1600)
        yield


def options_of(inputs: Inputs, out: Path) -> EvaluationOptions:
    return EvaluationOptions(
        str(inputs.shards),
        str(inputs.generated),
        str(out),
        base=str(inputs.base),
        run=str(inputs.run),
        vae="medsd-small",
    )


@pytest.fixture(scope="module")
def report(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    out = tmp_path_factory.mktemp("report")
    extra = {"seconds": {"prepare": 1.0}}
    found = evaluate(options_of(inputs, out), extra=extra, say=quiet)
    return found, out


def test_the_figures_tell_new_phantoms_from_noise(report: tuple[dict, Path]):
    found, out = report
    assert found == json.loads((out / "report.json").read_text())
    fid, kid = found["fid"], found["kid"]
    assert fid["extractor"] == "classifier"
    assert fid["generated"] < fid["base"] / 3 and fid["real"] < fid["base"] / 3
    assert fid["generated_below_base"]["holds"] and kid["generated_below_base"]["holds"]
    assert found["prdc"]["generated"]["coverage"] > 0.5 > found["prdc"]["base"]["coverage"]
    for name in ("generated", "real", "base"):
        assert fid[f"{name}_interval"][0] <= fid[name] <= fid[f"{name}_interval"][1]
        assert found["ms_ssim"][name] is not None
    assert found["ms_ssim"]["scales"] == 2
    assert found["memorisation"]["passed"] is True
    assert found["model_fingerprint"] == "f" * 64
    assert (
        found["train"]["images_per_second"] == 12.5 and found["train"]["optimizer_bytes_per_worker"] == 4096
    )
    counts = found["counts"]
    assert (counts["real_train"], counts["real_held_out"], counts["generated"], counts["patients"]) == (
        110,
        40,
        40,
        180,
    )
    vae = found["vae"]
    assert vae["images"] == 40 and vae["psnr"] > 15 and 0.3 < vae["ssim"] < 1 and vae["psnr_std"] > 0
    assert (
        vae["lpips"] is None and "--lpips" in vae["lpips_reason"] and "--vae medsd-small" in found["command"]
    )
    assert fid["by_extractor"]["inception"]["generated"] is None
    assert "--inception" in fid["by_extractor"]["inception"]["generated_reason"]
    assert any("fewer than its" in line for line in found["cautions"])


def test_the_classifier_is_better_on_phantoms_than_on_noise(report: tuple[dict, Path]):
    found = report[0]["classifier"]
    assert found["real_heldout_accuracy"] > 0.7
    assert found["generated_accuracy"] > found["base_accuracy"]
    assert (
        found["generated_accuracy_interval"][0]
        < found["generated_accuracy"]
        < found["generated_accuracy_interval"][1] + 1e-9
    )
    assert report[0]["insertion"]["accuracy"] == found["generated_accuracy"]


def test_the_page_is_one_file_with_the_pictures(report: tuple[dict, Path]):
    _, out = report
    page = (out / "report.html").read_text()
    assert sorted(p.name for p in out.iterdir()) == ["COMPLETE", "report.html", "report.json"]
    assert page.count("data:image/png") > 60 and page.count("data:image/svg") >= 5
    assert not re.search(r"https?://", re.sub(r"data:[^\"]+", "", page))
    assert "Before adaptation" in page and "Prepare" in page and "a-run" in page


def test_the_same_evaluation_is_not_done_twice(report: tuple[dict, Path], inputs: Inputs):
    said: list[str] = []
    again = evaluate(options_of(inputs, report[1]), say=said.append)
    assert again == report[0]
    assert "already there" in said[0]


def test_copies_of_training_images_are_flagged_and_fail_the_check(inputs: Inputs, tmp_path: Path, s3: str):
    """Through S3, and without base, run or known prompts: those figures are null with their reasons."""
    rng, (one, other) = np.random.default_rng(0), inputs.train[5:7]
    assert one.image is not None and other.image is not None
    noised = np.clip(other.image + rng.normal(0, 5, other.image.shape), 0, 255).astype(np.uint8)
    new = [s.image for s in phantom_samples(10, SIZE, seed=3) if s.image is not None]
    write_generated(tmp_path / "generated", [*new, one.image, noised], ["an unknown prompt"] * 12)
    found = evaluate(
        EvaluationOptions(str(inputs.shards), str(tmp_path / "generated"), f"{s3}/report"), say=quiet
    )
    assert found["memorisation"]["passed"] is False
    flagged = {(f["file"], f["neighbour"]) for f in found["memorisation"]["flagged"]}
    assert flagged == {("00010.png", one.key), ("00011.png", other.key)}
    store = open_storage(f"{s3}/report")
    assert store.complete() is not None and store.read_json("report.json") == found
    assert b"flagged" in store.read("report.html")
    assert "caption" in found["classifier"]["generated_accuracy_reason"]
    assert "--base" in found["fid"]["base_reason"] and "--run" in found["train"]["images_per_second_reason"]


def test_plain_folders_give_what_they_can(inputs: Inputs, tmp_path: Path):
    for name, seed in (("real", 4), ("made", 5)):
        (tmp_path / name).mkdir()
        for sample in phantom_samples(8, 48 if name == "real" else SIZE, seed=seed):
            Image.fromarray(np.asarray(sample.image)).save(tmp_path / name / f"{sample.key}.png")
    found = evaluate(
        EvaluationOptions(str(tmp_path / "real"), str(tmp_path / "made"), str(tmp_path / "out")), say=quiet
    )
    assert found["fid"]["generated"] is None and "no training split" in found["fid"]["generated_reason"]
    assert found["memorisation"]["passed"] is None and found["memorisation"]["passed_reason"]
    assert found["ms_ssim"]["generated"] is not None
    assert any("48x48 were resized" in line for line in found["cautions"])


def test_a_protocol_has_a_section_of_its_own(inputs: Inputs, tmp_path: Path):
    """roentgen without a weight file: each is named, its figure null, and what needs none is computed."""
    (tmp_path / "real").mkdir()
    for sample in phantom_samples(8, SIZE, seed=4):
        Image.fromarray(np.asarray(sample.image)).save(tmp_path / "real" / f"{sample.key}.png")
    write_generated(
        tmp_path / "made",
        [np.asarray(s.image) for s in phantom_samples(8, SIZE, seed=5)],
        ["<b>one", "two"] * 4,
    )
    roentgen = EvaluationOptions(
        str(tmp_path / "real"),
        str(tmp_path / "made"),
        str(tmp_path / "out"),
        protocol=ProtocolOptions("roentgen"),
    )
    found = evaluate(roentgen, say=quiet)
    figures = {(one["figure"], one["features"]): one for one in found["protocol"]["figures"]}
    assert figures["fid", "clip"]["value"] is None and "--clip" in figures["fid", "clip"]["value_reason"]
    assert figures["ms_ssim", None]["value"] > 0 and figures["ms_ssim", None]["pairs"] == 12
    assert (
        any("--xrv" in line for line in found["protocol"]["deviations"])
        and "--protocol roentgen" in found["command"]
    )
    assert "Protocol: roentgen" in (tmp_path / "out" / "report.html").read_text()
    words = (
        "evaluate",
        "--real",
        tmp_path / "real",
        "--generated",
        tmp_path / "made",
        "--out",
        tmp_path / "other",
    )
    assert_refused(medsd_here(*words, "--rad-dino", tmp_path), "--protocol")
    assert_refused(medsd_here(*words, "--protocol", "none-such"), "none-such")


def test_features_from_weight_files(tmp_path: Path):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torchxrayvision.models import DenseNet

    class Untrained(FeatureExtractorInceptionV3):
        def load_state_dict(self, *args, **kwargs):
            """Keeps the random weights, to be saved in the published file's layout."""

    torch.manual_seed(0)
    torch.save({}, tmp_path / "empty.pth")
    torch.save(Untrained("x", ["2048"], str(tmp_path / "empty.pth")).state_dict(), tmp_path / "inception.pth")
    network = DenseNet()
    save_file(network.state_dict(), tmp_path / "xrv.safetensors")
    torch.save(network, tmp_path / "xrv.pt")  # a whole module, as torchxrayvision publishes
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 1), dtype=np.uint8)
    inception = extractors.inception(tmp_path / "inception.pth")
    assert inception(pixels).shape == (2, 2048)
    assert "NOT the published weights" in inception.description
    plain, whole = (extractors.xrv(tmp_path / name)(pixels) for name in ("xrv.safetensors", "xrv.pt"))
    assert plain.shape == (2, 1024)
    np.testing.assert_array_equal(plain, whole)
    with pytest.raises(InputError, match="not torch-fidelity's Inception"):
        extractors.inception(tmp_path / "xrv.safetensors")


def test_code_in_a_weight_file_does_not_run(tmp_path: Path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"features.conv0.weight": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match="read safely"):
        extractors.xrv(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_clip_score_of_a_local_model(tmp_path: Path):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    from medsd_ray.base_model.architecture import build_tokenizer

    tokenizer = build_tokenizer()
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = small | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 32,
        "eos_token_id": tokenizer.eos_token_id,
    }
    CLIPModel(
        CLIPConfig(text_config=text, vision_config=small | {"image_size": 32, "patch_size": 16})
    ).save_pretrained(tmp_path)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 1), dtype=np.uint8)
    mean, deviation = clip_score(
        str(tmp_path), pixels, ["a lung", "no lung", "a much longer text of a lung " * 9]
    )
    assert 0 <= mean <= 100 and deviation >= 0
    with pytest.raises(InputError, match="no such folder"):
        clip_score(str(tmp_path / "absent"), pixels, ["a"] * 3)


def test_bad_input_is_one_clear_line(inputs: Inputs, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    broken, latent, unfinished = tmp_path / "broken", tmp_path / "latent", tmp_path / "unfinished"
    broken.mkdir()
    whole = (inputs.generated / "00000.png").read_bytes()
    (broken / "cut.png").write_bytes(whole[: len(whole) // 2])
    write_generated(unfinished, [np.zeros((SIZE, SIZE), np.uint8)] * 2, ["a", "b"])
    (unfinished / "00001.png").unlink()
    ShardWriter(open_storage(latent / "train"), 1 << 20, "latent", "train").finish()
    open_storage(latent).write_json("index.json", {"splits": ["train"]})
    good = (str(inputs.shards), str(inputs.generated))
    for real, made, options, words in [
        (good[0], str(tmp_path / "empty"), {}, "no images here"),
        (good[0], str(broken), {}, "cut.png: a damaged image"),
        (good[0], str(unfinished), {}, "00001.png: named in generated.json but not there"),
        (str(latent), good[1], {}, "latent shards"),
        (str(tmp_path / "empty"), good[1], {}, "neither shards"),
        (*good, {"inception": str(tmp_path / "absent.pth")}, "no such weight file"),
        (*good, {"run": str(tmp_path / "empty")}, "neither metrics.jsonl nor result.json"),
    ]:
        with pytest.raises(InputError, match=words) as caught:
            evaluate(EvaluationOptions(real, made, str(tmp_path / "out"), **options), say=quiet)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
