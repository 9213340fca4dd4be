"""A model that is not laid out as Stable Diffusion is refused by its name, before its weights are fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from model_layouts import FLUX, PARTS, SDXL, draw_pipeline

from medsd_ray.errors import InputError
from medsd_ray.models.layout import check_layout
from medsd_ray.models.resolve import SMALL_FOLDER, resolve
from medsd_ray.storage import open_storage


@pytest.mark.parametrize(
    ("kind", "parts", "unet", "said"),
    [
        ("StableDiffusionXLPipeline", SDXL, {}, "this is Stable Diffusion XL (StableDiffusionXLPipeline)"),
        ("StableDiffusionXLImg2ImgPipeline", SDXL, {}, "this is Stable Diffusion XL"),
        ("StableDiffusion3Pipeline", FLUX, {}, "this is Stable Diffusion 3 (StableDiffusion3Pipeline)"),
        ("FluxPipeline", FLUX, {}, "this is Flux (FluxPipeline)"),
        ("PixArtSigmaPipeline", FLUX, {}, "this is PixArt"),
        ("StableDiffusionInpaintPipeline", PARTS, {}, "this is Stable Diffusion for inpainting"),
        ("LatentConsistencyModelPipeline", PARTS, {}, "this is a latent consistency model"),
        ("SomebodysPipeline", SDXL, {}, "it has a second text encoder (text_encoder_2)"),
        ("SomebodysPipeline", FLUX, {}, "it has a transformer in the U-Net's place (transformer)"),
        ("SomebodysPipeline", PARTS, {"addition_embed_type": "text_time"}, "as Stable Diffusion XL's does"),
        ("StableDiffusionPipeline", PARTS, {"in_channels": 9}, "takes 9 channels where its VAE makes 4"),
        (
            "StableDiffusionPipeline",
            PARTS | {"text_encoder": "BertModel"},
            {},
            "its text_encoder is a BertModel, not a CLIPTextModel",
        ),
    ],
)
def test_another_layout_is_refused_by_name(
    tmp_path: Path, kind: str, parts: dict[str, str], unet: dict[str, Any], said: str
):
    folder = draw_pipeline(tmp_path / "m", kind, parts, **unet)
    with pytest.raises(InputError) as caught:
        resolve(str(folder))
    assert said in str(caught.value) and "choose a model" in str(caught.value)


def test_stable_diffusions_own_layouts_are_taken(tmp_path: Path):
    for number, kind in enumerate(("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "Other")):
        folder = draw_pipeline(tmp_path / str(number), kind, PARTS, in_channels=4, addition_embed_type=None)
        assert resolve(str(folder)).folder == folder
    check_layout(lambda name: (SMALL_FOLDER / name).read_bytes(), "medsd-small")


def test_on_s3_another_layout_is_refused_before_its_weights_are_fetched(tmp_path: Path, s3: str):
    folder = draw_pipeline(tmp_path / "m", "FluxPipeline", FLUX)
    (folder / "vae/diffusion_pytorch_model.safetensors").write_bytes(bytes(1000))
    store = open_storage(f"{s3}/flux")
    store.upload_tree(folder)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match="this is Flux"):
        patch.setenv("MEDSD_CACHE", str(tmp_path / "cache"))
        resolve(store.url)
    assert not (tmp_path / "cache").exists()
