"""`generate` over Ray workers and S3: the same files however they are made, and going on where it stopped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image
from tiny import tiny_components

from medsd_ray.base_model.architecture import build_small
from medsd_ray.data.sources.folder import scan
from medsd_ray.data.sources.request import SourceRequest
from medsd_ray.errors import InputError
from medsd_ray.generation.generate import generate
from medsd_ray.models.export import export
from medsd_ray.models.resolve import model_fingerprint
from medsd_ray.models.save import save_pipeline
from medsd_ray.spec.images import Sampling
from medsd_ray.storage import open_storage

PLAN = {
    "prompts": ["a chest x-ray", "The heart is enlarged."],
    "num_images": 13,
    "seed": 4,
    "sampling": Sampling(steps=2),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("models") / "small"
    save_pipeline(build_small(0), folder)
    return str(folder)


def pixels(url) -> dict[str, bytes]:
    store = open_storage(str(url))
    return {key: store.read(key) for key in store.list() if key.endswith(".png")}


def test_two_workers_and_any_batch_size_make_the_same_files(ray_cluster, s3, model, tmp_path):
    generate(model, str(tmp_path / "one"), **PLAN, batch_size=16)
    generate(model, f"{s3}/two", **PLAN, batch_size=3, num_workers=2)
    files = pixels(tmp_path / "one")
    assert len(files) == 13 and files == pixels(f"{s3}/two")
    picture = Image.open(tmp_path / "one" / "00003.png")
    expected = {
        "prompt": "The heart is enlarged.",
        "seed": "4",
        "index": "3",
        "model": Path(model).name,
        "steps": "2",
    }
    assert expected.items() <= picture.text.items() and "research use only" in picture.text["notice"]
    assert picture.text["model_fingerprint"] == model_fingerprint(model)
    found = scan(SourceRequest(str(tmp_path / "one")))
    assert not found.problems and len({record.patient for record in found.records}) == 13
    assert found.records[3].read().caption == "The heart is enlarged."
    plan = open_storage(f"{s3}/two").read_json("generated.json")
    assert plan["images"][3] == {
        "file": "00003.png",
        "prompt": "The heart is enlarged.",
        "seed": 4,
        "index": 3,
    }


def test_generation_goes_on_where_it_stopped(model, tmp_path, capsys):
    out, options = tmp_path / "out", PLAN | {"num_images": 4}
    generate(model, str(out), **options)
    whole = pixels(out)
    for name in ("COMPLETE", "00001.png"):
        (out / name).unlink()
    kept = os.stat(out / "00002.png").st_mtime_ns
    generate(model, str(out), **options)
    assert pixels(out) == whole and os.stat(out / "00002.png").st_mtime_ns == kept
    capsys.readouterr()
    generate(model, str(out), **options)
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(InputError, match="another images, seed"):
        generate(model, str(out), **options | {"seed": 5})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match="not empty"):
        generate(model, str(tmp_path / "mine"), **options)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_images": 0},
        {"prompts": []},
        {"num_workers": 0},
        {"batch_size": 0},
        {"seed": -1},
    ],
)
def test_wrong_settings_write_nothing(model, tmp_path, wrong):
    with pytest.raises(InputError):
        generate(model, str(tmp_path / "out"), **PLAN | wrong)
    assert not (tmp_path / "out").exists()


def test_model_and_images_on_s3(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSD_CACHE", str(tmp_path / "cache"))
    address, options = f"{s3}/models/tiny", PLAN | {"num_images": 3}
    save_pipeline(tiny_components(), tmp_path / "tiny")
    for path in sorted((tmp_path / "tiny").rglob("*")):
        if path.is_file():  # without a COMPLETE mark, as `aws s3 cp --recursive` leaves a model
            open_storage(address).upload(path, path.relative_to(tmp_path / "tiny").as_posix())
    generate(address, f"{s3}/images", **options)
    generate(str(tmp_path / "tiny"), str(tmp_path / "local"), **options)
    assert (
        pixels(f"{s3}/images").keys()
        == pixels(tmp_path / "local").keys()
        == open_storage(f"{s3}/images").complete().keys() - {"generated.json", "metadata.csv"}
    )
    assert model_fingerprint(address) == model_fingerprint(str(tmp_path / "tiny"))
    assert len(list((tmp_path / "cache" / "models").iterdir())) == 1
    open_storage(address).upload(tmp_path / "tiny" / "vae" / "config.json", "unet/config.json")
    with pytest.raises(InputError, match="U-Net"):  # the model changed, so the copy in the cache is not used
        generate(address, f"{s3}/more", **options)
    with pytest.raises(InputError, match="no bucket"):
        generate("s3://medsd-no-such-bucket/model", f"{s3}/more", **options)
    with pytest.raises(InputError, match="no export"):
        export(address, f"{s3}/exported")
