"""Vision models of transformers, and the encoder of a diffusion model's VAE, as networks of task runs: their
features, and one layer from these to the outputs.
"""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from medsd_ray.documents import json_object
from medsd_ray.errors import InputError
from medsd_ray.models.networks.near_names import unknown_argument
from medsd_ray.models.resolve import NetworkWeights
from medsd_ray.models.weights import quiet_libraries, without_own_code
from medsd_ray.spec.tasks import Network

VISION_PARTS = ("clip", "siglip", "siglip2")
"""Models of images and texts, of which the vision part, with a configuration of its own, is taken."""


class VisionModel(nn.Module):
    """A vision model of transformers; `loaded` are the names of its tensors that its folder has."""

    def __init__(self, model: Any, missing: set[str]):
        super().__init__()
        pooler = getattr(model, "pooler", None)
        if pooler is not None and any(isinstance(part, nn.Linear) for part in pooler.modules()):
            model.pooler = None  # made for one way of pretraining, and random in most folders
        self.model = model
        self.loaded = set(model.state_dict()) - missing
        config = model.config
        self.width = getattr(config, "hidden_size", None) or config.hidden_sizes[-1]
        self.others = _tokens_of_no_patch(model)
        offered = inspect.signature(model.forward).parameters
        self.own = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in offered else {}
        self.side = None if self.own else _fixed_side(model)
        """Height and width of the images that it takes; None where it takes any."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """From images (B, 3, H, W) to a map of features (B, C, h, w) and one vector for each image (B, C)."""
        if self.side:
            size = (self.side, self.side)
            x = functional.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
        output = self.model(pixel_values=x, **self.own)
        features, pooled = output.last_hidden_state, getattr(output, "pooler_output", None)
        first = None
        if features.ndim == 3:
            first, features = self._as_map(features, x.shape[-2], x.shape[-1])
        if pooled is None:
            pooled = features.mean((2, 3)) if first is None else first
        return features, pooled.flatten(1)

    def _as_map(self, tokens: Tensor, height: int, width: int) -> tuple[Tensor | None, Tensor]:
        """The first of the tokens (B, T, C) that stand for no patch, and the others as (B, C, h, w)."""
        patches = tokens.shape[1] - self.others
        rows = round(math.sqrt(patches * height / width))
        grid = tokens[:, self.others :].transpose(1, 2).unflatten(2, (rows, patches // rows))
        return (tokens[:, 0] if self.others else None), grid

    def recomputed(self) -> nn.Module:
        """The part that knows how to compute its activations again in the backward pass."""
        return self.model


def _tokens_of_no_patch(model: nn.Module) -> int:
    """How many tokens a model puts before those of the patches: of the class, of registers."""
    named = {name.rpartition(".")[2]: p for name, p in model.named_parameters()}
    registers = named["register_tokens"].shape[1] if "register_tokens" in named else 0
    return registers + sum(name in named for name in ("cls_token", "class_embedding", "distillation_token"))


def _fixed_side(model: Any) -> int | None:
    """Where a model has position embeddings that it does not interpolate, the side of its images."""
    side = getattr(model.config, "image_size", None)
    interpolates = model.config.model_type.startswith("dinov") or not any(
        "position_embedding" in name for name, _ in model.named_parameters()
    )
    return None if interpolates or not isinstance(side, int) else side


class VaeEncoder(nn.Module):
    """The encoder of a diffusion model's VAE up to its last normalisation, of images in [-1, 1]."""

    side = None

    def __init__(self, vae: Any):
        super().__init__()
        self.width = vae.config.block_out_channels[-1]
        vae.encoder.conv_out = nn.Identity()  # from here on it is about latents
        vae.decoder = vae.quant_conv = vae.post_quant_conv = nn.Identity()
        self.model = vae
        self.loaded = set(vae.state_dict())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """From images (B, 3, H, W) to a map of features (B, C, h, w) and their mean (B, C)."""
        features = self.model.encoder(x)
        return features, features.mean((2, 3))

    def recomputed(self) -> nn.Module:
        """The part that knows how to compute its activations again in the backward pass."""
        return self.model


class BackboneNetwork(nn.Module):
    """A backbone, and one layer with random weights from its features to the outputs: of a classifier a
    linear one, of a segmenter a convolution of 1x1, whose map is scaled to the image's size.
    """

    def __init__(self, backbone: VisionModel | VaeEncoder, segments: bool, outputs: int):
        super().__init__()
        self.backbone, self.segments = backbone, segments
        width = backbone.width
        self.head = nn.Conv2d(width, outputs, 1) if segments else nn.Linear(width, outputs)

    @property
    def loaded(self) -> set[str]:
        """The names of the tensors that came with the backbone."""
        return {f"backbone.model.{name}" for name in self.backbone.loaded}

    def forward(self, x: Tensor) -> Tensor:
        """From images (B, 3, H, W) to (B, outputs), or (B, outputs, H, W)."""
        features, pooled = self.backbone(x)
        if not self.segments:
            return self.head(pooled)
        size = (x.shape[-2], x.shape[-1])
        return functional.interpolate(self.head(features), size, mode="bilinear", align_corners=False)


def make_backbone_network(
    settings: Network, segments: bool, outputs: int, source: NetworkWeights
) -> BackboneNetwork:
    """A network of the library transformers on the backbone at `source`, a folder or a pipeline; the head's
    weights are drawn from torch's generator.

    Raises InputError for what is no vision model, for arguments that its configuration does not have, and
    for images that it cannot take.
    """
    quiet_libraries()
    if source.pipeline:
        backbone: VisionModel | VaeEncoder = _vae(settings, source.pipeline)
    else:
        backbone = _vision_model(settings, cast(Path, source.folder))
    return BackboneNetwork(backbone, segments, outputs)


def _vae(settings: Network, pipeline: str) -> VaeEncoder:
    from medsd_ray.models.load import load_components

    if settings.arguments:
        raise InputError("network.arguments: the encoder of a VAE takes none; leave them out")
    return VaeEncoder(load_components(pipeline, only=("vae",)).vae)


def _vision_model(settings: Network, folder: Path) -> VisionModel:
    from transformers import AutoConfig

    own: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        json_object((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder}: no config.json of a model of transformers here; name a folder that "
            "save_pretrained wrote, or the library that the weights are of"
        ) from error
    try:
        with without_own_code(folder):
            config: Any = AutoConfig.from_pretrained(folder, **own)
            config = config.vision_config if config.model_type in VISION_PARTS else config
            _set_arguments(config, settings)
            kind = _kind(config, folder)
            model, info = kind.from_pretrained(
                folder,
                config=config,
                use_safetensors=True,
                output_loading_info=True,
                dtype=torch.float32,
                **own,
            )
        return VisionModel(model.float(), set(info["missing_keys"]))
    except InputError:
        raise
    except Exception as error:  # whatever transformers and safetensors raise on what they cannot read
        raise InputError(
            f"{folder}: not a vision model with safetensors weights, as AutoModel reads them "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); choose another"
        ) from error


def _set_arguments(config: Any, settings: Network) -> None:
    known = config.to_dict()
    for name, value in settings.arguments.items():
        if name not in known:
            raise unknown_argument(f"the configuration of {config.model_type}", name, known)
        setattr(config, name, value)


def _kind(config: Any, folder: Path) -> Any:
    """The class of the bare model, without a head. Raises InputError where it looks at no images."""
    from transformers import MODEL_MAPPING

    kind: Any = MODEL_MAPPING.get(type(config), None)
    if isinstance(kind, tuple):
        kind = kind[0]
    if getattr(kind, "main_input_name", None) != "pixel_values":
        raise InputError(
            f"{folder}: {config.model_type} is no vision model of transformers; name the folder of one, such "
            "as ViT, DINOv2, CLIP, ConvNeXt or Swin"
        )
    return kind
