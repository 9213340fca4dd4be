"""Named protocols: which images they choose, what they compute, and what they say where something is
missing.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim

from medsd_ray.data.shards import ShardWriter
from medsd_ray.data.sources.phantom import phantom_samples
from medsd_ray.errors import InputError
from medsd_ray.evaluation.estimates import Missing
from medsd_ray.evaluation.figures import distances, diversity
from medsd_ray.evaluation.figures.protocol import LoadedProtocol, load_protocol, protocol_section
from medsd_ray.evaluation.figures.protocol_images import by_finding, first_of_each, select_images, square
from medsd_ray.evaluation.figures.reidentification import pixel_distance, reidentify
from medsd_ray.evaluation.figures.sets import Sets
from medsd_ray.evaluation.inputs import ImageSet
from medsd_ray.evaluation.networks.extractors import Extractor, clip_images, rad_dino
from medsd_ray.evaluation.networks.siamese import SiameseNetwork, load_siamese
from medsd_ray.evaluation.networks.weights import local_path
from medsd_ray.evaluation.prompts import write_prompts
from medsd_ray.evaluation.protocols import PROTOCOLS, ProtocolOptions, Reidentification
from medsd_ray.storage import open_storage

SIZE = 32
quiet = lambda _: None


def images(
    captions: list[str], labels: list[str | None] | None = None, seed: int = 0, name: str = "i"
) -> ImageSet:
    pixels = np.random.default_rng(seed).integers(0, 256, (len(captions), SIZE, SIZE, 1), dtype=np.uint8)
    keys = [f"{name}{i}" for i in range(len(captions))]
    return ImageSet(pixels, keys, captions, keys, labels or [None] * len(captions))


def grey(name: str) -> Extractor:
    """Four means of an image as its features."""
    quarters = lambda p: np.stack([p[:, i::2, j::2].mean((1, 2, 3)) for i in (0, 1) for j in (0, 1)], axis=1)
    return Extractor(name, 4, f"the {name} of a test", quarters)


def given(name: str, **extractors: Extractor | Missing) -> LoadedProtocol:
    protocol = PROTOCOLS[name]
    named = {
        n: extractors.get(n.replace("-", "_"), Missing(f"no {n}")) for n in (*protocol.fid, *protocol.prdc)
    }
    return LoadedProtocol(protocol, named, Missing("no encoder"), Missing("no siamese network"), None)


def rows_of(found: dict[str, Any], **wanted: Any) -> list[dict[str, Any]]:
    return [one for one in found["figures"] if all(one.get(name) == value for name, value in wanted.items())]


def value_of(found: dict[str, Any], **wanted: Any) -> Any:
    (one,) = rows_of(found, **wanted)
    return one["value"]


def test_the_registry_says_what_the_papers_say():
    roentgen, bench = PROTOCOLS["roentgen"], PROTOCOLS["chexgenbench"]
    assert (roentgen.images, roentgen.per_prompt, roentgen.fid) == (5000, 4, ("inception", "clip", "xrv"))
    assert roentgen.ms_ssim is not None and (roentgen.ms_ssim.prompts, roentgen.ms_ssim.images) == (2000, 4)
    assert bench.fid == bench.kid == ("inception", "rad-dino") and bench.prdc == ("rad-dino",)
    assert (
        bench.reidentification == Reidentification(prompts=2000, images=10)
        and bench.unique_real
        and bench.per_finding
    )


def test_the_first_image_of_each_prompt():
    assert first_of_each(["a", "b", "a", " b ", "", "c", ""]) == [0, 1, 4, 5, 6]


def test_roentgen_takes_the_first_of_four_and_says_what_is_short():
    generated = images([f"prompt {i % 6}" for i in range(24)])
    real, some, deviations = select_images(PROTOCOLS["roentgen"], images(["x"] * 10), generated, 0)
    assert some.keys == [f"i{i}" for i in range(6)] and len(real) == 10
    assert deviations == ["it asks for 5000 images a side; there are 10 real and 6 generated"]
    few = replace(PROTOCOLS["roentgen"], images=4)
    real, some, deviations = select_images(few, images(["x"] * 10), generated, 0)
    assert (len(real), len(some), deviations) == (4, 4, [])


def test_chexgenbench_takes_one_image_of_each_unique_test_caption():
    held_out = images(["a", "b", "a", "c"])
    real, generated, deviations = select_images(
        PROTOCOLS["chexgenbench"], held_out, images(["b", "a", "b", "z"], name="g"), 0
    )
    assert real.captions == ["a", "b", "c"] and generated.keys == ["g0", "g1"]
    assert (
        len(deviations) == 2 and "1 images are left out" in deviations[0] and "of 3 unique" in deviations[1]
    )


def test_findings_are_those_of_the_real_image_with_the_prompt():
    real = images(["a", "b", "c"], ["Mass|Effusion", "Effusion", None])
    found = by_finding(real, images(["c", "a", "b"]))
    assert found == [("Effusion", [0, 1], [1, 2]), ("Mass", [0], [1])]


def test_figures_are_those_of_the_chosen_images_and_a_missing_extractor_stops_no_other():
    held_out = images(
        [f"c{i % 12}" for i in range(16)], ["Mass" if i % 2 else "No Finding" for i in range(16)]
    )
    generated = images([f"c{i % 12}" for i in range(20)], seed=1)
    sets = Sets(None, None, held_out, generated, None, "held out")
    dino = grey("rad-dino")
    found = protocol_section(given("chexgenbench", rad_dino=dino), sets, Missing("none given"), 0, quiet)
    x, y = dino(held_out.pixels[:12]), dino(generated.pixels[:12])
    assert value_of(found, figure="fid", features="rad-dino", finding=None) == pytest.approx(
        distances.frechet_distance(x, y)
    )
    assert value_of(found, figure="kid", features="rad-dino", finding=None) == pytest.approx(
        distances.kernel_distance(x, y)
    )
    assert value_of(found, figure="density", finding=None) == pytest.approx(
        distances.prdc(x, y, 5)["density"]
    )
    mass = value_of(found, figure="fid", features="rad-dino", finding="Mass")
    assert mass == pytest.approx(distances.frechet_distance(x[1::2], y[1::2]))
    (absent,) = rows_of(found, figure="fid", features="inception", finding=None)
    assert (
        absent["value"] is None
        and absent["value_reason"] == "no inception"
        and "inception: no inception" in found["deviations"]
    )
    assert found["extractors"] == {"rad-dino": "the rad-dino of a test"}
    assert rows_of(found, figure="pixel_distance_min")[0]["value_reason"] == "none given"
    assert rows_of(found, figure="alignment", finding="Mass")[0]["value_reason"] == "no encoder"
    assert found["asks"]["reidentification"] == {"prompts": 2000, "images": 10}


def test_ms_ssim_is_over_all_six_pairs_of_each_prompts_four():
    generated = images([f"p{i % 3}" for i in range(14)], seed=2)  # the third prompt has four, the others five
    sets = Sets(None, None, images(["x"] * 6), generated, None, "held out")
    found = protocol_section(given("roentgen", inception=grey("inception")), sets, Missing("none"), 0, quiet)
    (one,) = rows_of(found, figure="ms_ssim")
    assert (one["prompts"], one["pairs"]) == (3, 18)
    betas = diversity.scales(SIZE)
    expected = [
        float(
            ms_ssim(
                *(torch.from_numpy(generated.pixels[[i]]).permute(0, 3, 1, 2) / 255 for i in pair),
                data_range=1.0,
                betas=betas,
            )
        )
        for start in range(3)
        for pair in combinations(range(start, 12, 3), 2)
    ]
    assert one["value"] == pytest.approx(np.mean(expected), abs=1e-5)
    assert any("2000 prompts of 4" in line for line in found["deviations"])
    assert any("scales" in line for line in found["deviations"])


def test_inputs_of_xrv_are_cut_to_squares_not_squeezed():
    wide = np.arange(2 * 4 * 8, dtype=np.uint8).reshape(2, 4, 8, 1)
    np.testing.assert_array_equal(square(wide), wide[:, :, 2:6])
    np.testing.assert_array_equal(square(wide.transpose(0, 2, 1, 3)), wide.transpose(0, 2, 1, 3)[:, 2:6])


# --- re-identification


def test_pixels_are_compared_as_floats():
    """In uint8, 10 - 250 is 16 and a difference of 16 squares to 0."""
    dark, bright = (np.full((4, 4, 1), level, np.uint8) for level in (10, 250))
    assert pixel_distance(dark, bright) == pixel_distance(bright, dark) == 240
    assert pixel_distance(dark, dark + np.uint8(16)) == 16


def test_every_seed_counts_and_the_nearest_is_the_copy():
    train = images(["a", "b", "a"])
    seeds = images(["a", "b"] * 3 + ["unknown"], seed=1)
    seeds.pixels[0] = train.pixels[0]  # the first seed of `a` is a copy, the later ones are not
    deviations: list[str] = []
    dino = grey("rad-dino")
    rows = reidentify(Reidentification(2000, 10), Missing("no siamese"), dino, train, seeds, deviations)
    found = {one["figure"]: one for one in rows}
    far = {i: pixel_distance(train.pixels[i % 2], seeds.pixels[i]) for i in range(6)}
    assert far[0] == 0.0
    assert found["pixel_distance_min"]["value"] == pytest.approx((0 + min(far[1], far[3], far[5])) / 2)
    assert found["pixel_distance_mean"]["value"] == pytest.approx(np.mean(list(far.values())))
    assert found["latent_distance_min"]["value"] < found["latent_distance_mean"]["value"]
    assert found["reidentification_score_max"]["value"] is None
    assert found["pixel_distance_min"]["prompts"] == 2 and found["pixel_distance_min"]["generated"] == 6
    assert len(deviations) == 1 and "2 of them with fewer seeds" in deviations[0]
    none = reidentify(Reidentification(1, 1), Missing("no"), dino, train, images(["z"]), [])
    assert all(
        one["value"] is None and "is a caption of a training image" in one["value_reason"] for one in none
    )


@pytest.fixture(scope="module")
def siamese_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("siamese") / "siamese.safetensors"
    save_file(SiameseNetwork().state_dict(), path)
    return path


def test_the_siamese_network_is_that_of_the_weights(siamese_file: Path, tmp_path: Path):
    network = load_siamese(siamese_file)
    pair = images(["a", "b"])
    features = network.features(pair.pixels)
    score = network.scores(features[:1], features[1:])
    with torch.inference_mode():
        x = torch.nn.functional.interpolate(
            torch.from_numpy(pair.pixels).permute(0, 3, 1, 2).float().expand(-1, 3, -1, -1) / 255,
            size=(224, 224),
            mode="bilinear", antialias=True,
        )  # fmt: skip
        a, b = torch.sigmoid(network.network.model(x)).unbind(0)
        expected = torch.sigmoid(network.network.fc_end((a - b).abs()))
    assert score == pytest.approx(expected.numpy(), abs=1e-5)
    same = network.scores(features, features)
    assert same == pytest.approx(torch.sigmoid(network.network.fc_end.bias).item())
    torch.save({"fc_end.weight": torch.zeros(1, 5)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="not a siamese ResNet-50"):
        load_siamese(tmp_path / "other.pth")


# --- extractors from folders and S3


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(folder)
    BitImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(
        folder
    )
    return folder


def test_rad_dino_from_a_folder_and_from_s3(
    dino_folder: Path, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MEDSD_CACHE", str(tmp_path / "cache"))
    pixels = images(["a"] * 3).pixels
    local = rad_dino(dino_folder)
    features = local(pixels)
    assert features.shape == (3, 16) and local.dimensions == 16 and not np.allclose(features[0], features[1])
    store = open_storage(f"{s3}/dino")
    for path in dino_folder.iterdir():
        store.upload(path, path.name)
    remote = rad_dino(local_path(f"{s3}/dino"))
    np.testing.assert_array_equal(remote(pixels), features)
    store.write("weights.pth", b"abc")
    assert local_path(f"{s3}/dino/weights.pth").read_bytes() == b"abc"
    with pytest.raises(InputError, match="no weights here"):
        local_path(f"{s3}/absent")
    with pytest.raises(InputError, match="not a DINOv2"):
        rad_dino(tmp_path)


def test_clip_images_are_the_projected_features(tmp_path: Path):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    from medsd_ray.base_model.architecture import build_tokenizer

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer = build_tokenizer()
    text = small | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 32,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = small | {"image_size": 32, "patch_size": 16}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    model.save_pretrained(tmp_path)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(processor, tokenizer).save_pretrained(tmp_path)
    pixels = images(["a"] * 2).pixels
    found = clip_images(tmp_path)
    assert (
        found(pixels).shape == (2, 12) and found.dimensions == 12 and "NOT CLIP ViT-B/32" in found.description
    )
    with torch.inference_mode():
        values = processor(images=[np.repeat(p, 3, -1) for p in pixels], return_tensors="pt").pixel_values
        expected = model.eval().visual_projection(model.vision_model(values).pooler_output)
    np.testing.assert_allclose(found(pixels), expected.numpy(), atol=1e-5)


def test_loading_names_what_was_not_given():
    found = load_protocol(
        ProtocolOptions("chexgenbench"), {"inception": Missing("no --inception"), "xrv": Missing("x")}, None
    )
    assert "--rad-dino" in str(found.extractors["rad-dino"]) and "--siamese" in str(found.siamese)
    assert "--alignment" in found.alignment and set(found.extractors) == {"inception", "rad-dino"}
    with pytest.raises(InputError, match="choose roentgen or chexgenbench"):
        load_protocol(ProtocolOptions("other"), {}, None)


# --- prompts


def test_prompts_of_a_protocol(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for split, seed in (("train", 1), ("test", 2)):
        writer = ShardWriter(open_storage(tmp_path / "shards" / split), 1 << 20, "image", split)
        for sample in phantom_samples(20, 16, seed=seed):
            writer.write(replace(sample, caption=sample.caption + f" \n({split})"))
        writer.finish()
    open_storage(tmp_path / "shards").write_json(
        "index.json", {"format": "medsd-shards/1", "splits": ["train", "test"]}
    )
    shards, out = str(tmp_path / "shards"), tmp_path / "prompts.txt"
    found = write_prompts("chexgenbench", shards, out)
    assert out.read_text().splitlines() == found == list(dict.fromkeys(found)) and all(
        "(test)" in line for line in found
    )
    assert f"--num-images {len(found)} " in capsys.readouterr().out
    assert write_prompts("roentgen", shards, out) == found
    assert f"--num-images {4 * len(found)} " in capsys.readouterr().out
    train = write_prompts("chexgenbench", shards, out, reidentify=True)
    assert (
        all("(train)" in line for line in train)
        and f"--num-images {10 * len(train)} " in capsys.readouterr().out
    )
    with pytest.raises(InputError, match="no re-identification"):
        write_prompts("roentgen", shards, out, reidentify=True)
