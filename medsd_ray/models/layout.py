"""Whether a pipeline folder has the layout that medsd trains, told from its JSON files alone.

That layout is Stable Diffusion 1.x and 2.x: one CLIP text encoder, a U-Net that takes the text by
cross-attention and nothing else, and a VAE. Read before torch is imported and before weights are fetched.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from medsd_ray.documents import json_object
from medsd_ray.errors import InputError
from medsd_ray.spec.conditions import CONDITIONS, parse_settings

CARD = "model_index.json"
PROJECTION = "projection.safetensors"
"""In the folder of a text encoder that an earlier run has swapped, which diffusers knows no class for."""
CONDITIONS_FILE = f"{CONDITIONS}/config.json"
"""Says which conditions the U-Net of a pipeline takes, where it takes some."""

FAMILIES = {
    r"StableDiffusionXL": "Stable Diffusion XL",
    r"StableDiffusion3": "Stable Diffusion 3",
    r"StableCascade|Wuerstchen": "Stable Cascade",
    r"StableDiffusion\w*Upscale": "a Stable Diffusion upscaler",
    r"StableDiffusion\w*Inpaint": "Stable Diffusion for inpainting",
    r"StableDiffusionInstructPix2Pix|StableDiffusionDepth2Img|StableDiffusionGLIGEN": "an editing model",
    r"StableDiffusionImageVariation|StableUnCLIP|UnCLIP": "a model of image embeddings",
    r"StableVideoDiffusion": "Stable Video Diffusion",
    r"StableAudio|AudioLDM|MusicLDM": "an audio model",
    r"LatentConsistency": "a latent consistency model",
    r"Flux": "Flux",
    r"PixArt": "PixArt",
    r"Sana": "Sana",
    r"HunyuanDiT": "Hunyuan-DiT",
    r"Kandinsky": "Kandinsky",
    r"AuraFlow": "AuraFlow",
    r"Lumina": "Lumina",
    r"QwenImage": "Qwen-Image",
    r"HiDream": "HiDream",
    r"Kolors": "Kolors",
    r"IF[A-Z]": "DeepFloyd IF",
    r"AltDiffusion": "AltDiffusion",
    r"LDM|VQDiffusion": "an earlier latent diffusion model",
}
"""What the class of a pipeline begins with, in diffusers, and the family's name."""

CLASSES = {"vae": "AutoencoderKL", "text_encoder": "CLIPTextModel", "unet": "UNet2DConditionModel"}
FOREIGN = {
    "transformer": "a transformer in the U-Net's place",
    "text_encoder_2": "a second text encoder",
    "text_encoder_3": "a third text encoder",
    "image_encoder": "an image encoder",
    "prior": "a prior",
    "controlnet": "a ControlNet",
    "vqvae": "another kind of VAE",
}
"""Parts of a pipeline that training would leave out in silence."""
MEND = (
    "medsd trains the layout of Stable Diffusion 1.x and 2.x alone, so choose a model of it: one "
    "CLIPTextModel, a UNet2DConditionModel, an AutoencoderKL"
)


def check_layout(read: Callable[[str], bytes], where: str) -> None:
    """Refuses a pipeline of another layout, by its name.

    Args:
        read: Gives a file of the pipeline by its name, such as `unet/config.json`; raises FileNotFoundError.
        where: The pipeline, as the message names it.

    Raises:
        InputError: There is no model_index.json, it is damaged, or the layout is another.
    """
    try:
        card = json_object(read(CARD))
        found = {name: part[1] for name, part in card.items() if isinstance(part, list)}
    except FileNotFoundError as error:
        raise InputError(f"{where}: no {CARD} here; give a pipeline folder in diffusers' layout") from error
    except (ValueError, IndexError) as error:
        raise InputError(f"{where}/{CARD} is damaged; copy it anew") from error
    given = _json(read, CONDITIONS_FILE)
    beside = parse_settings(given, f"{where}/{CONDITIONS_FILE}").mask_channels if given else 0
    if reason := _of_card(card, found) or _of_unet(_config(read, "unet"), _config(read, "vae"), beside):
        raise InputError(f"{where}: {reason}; {MEND}")
    for name, expected in CLASSES.items():
        if (
            name not in found
            or found[name] == expected
            or (name == "text_encoder" and _is_swapped(read, found))
        ):
            continue
        raise InputError(f"{where}: its {name} is a {found[name]}, not a {expected}; {MEND}")


def _of_card(card: dict[str, Any], found: dict[str, Any]) -> str | None:
    """Why a model_index.json is of another layout."""
    kind = str(card.get("_class_name", ""))
    if family := next((name for start, name in FAMILIES.items() if re.match(start, kind)), None):
        return f"this is {family} ({kind})"
    extra = (f"it has {words} ({name})" for name, words in FOREIGN.items() if found.get(name))
    return next(extra, None)


def _of_unet(unet: dict[str, Any], vae: dict[str, Any], beside: int) -> str | None:
    """Why a U-Net takes more than latents, a timestep, one text and `beside` channels of conditions."""
    if kind := unet.get("addition_embed_type"):
        return f"its U-Net takes more than text (addition_embed_type {kind}), as Stable Diffusion XL's does"
    takes, makes = unet.get("in_channels"), vae.get("latent_channels")
    if takes is not None and makes is not None and takes != makes + beside:
        return f"its U-Net takes {takes} channels where its VAE makes {makes}, as one for inpainting does"
    return None


def _config(read: Callable[[str], bytes], part: str) -> dict[str, Any]:
    """A part's config.json, as `_json` reads it."""
    return _json(read, f"{part}/config.json")


def _json(read: Callable[[str], bytes], name: str) -> dict[str, Any]:
    """A JSON file; empty where it is absent or damaged, of which loading says more."""
    try:
        return json_object(read(name))
    except (FileNotFoundError, ValueError):
        return {}


def _is_swapped(read: Callable[[str], bytes], found: dict[str, Any]) -> bool:
    if found["text_encoder"] is not None:
        return False
    try:
        read(f"text_encoder/{PROJECTION}")
    except FileNotFoundError:
        return False
    return True
