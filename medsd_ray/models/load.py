"""A model's components in memory, from any address that `resolve` knows. Weights come from safetensors, never pickles."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from medsd_ray.errors import InputError
from medsd_ray.models import swap
from medsd_ray.models.methods import described, way
from medsd_ray.models.resolve import CARD, FOLDERS, check_bases, describe_checkpoint, model_fingerprint, resolve
from medsd_ray.models.swap import SwappedEncoder
from medsd_ray.storage import Storage

__all__ = ["Components", "load_components", "model_fingerprint", "sampling_scheduler", "save_pipeline", "token_ids"]

MODULES = ("vae", "text_encoder", "unet")


@dataclass
class Components:
    """Stable Diffusion's parts, float32 on the CPU. `scheduler` is the noise schedule that training and encoding use;
    `tokenizer` makes captions into what `text_encoder` reads, `model_max_length` tokens."""

    vae: AutoencoderKL
    text_encoder: CLIPTextModel | SwappedEncoder
    tokenizer: CLIPTokenizer  # a swapped encoder has its own kind
    unet: UNet2DConditionModel
    scheduler: DDPMScheduler

    def modules(self) -> dict[str, nn.Module]:
        """The parts that have weights and were loaded, by name."""
        return {name: module for name in MODULES if (module := getattr(self, name)) is not None}

    def for_inference(self, use_gpu: bool) -> None:
        """Moves all parts to this process's GPU if asked, and the weights of convolutions to the memory format in which they are
        fastest. Not for weights in training, which an optimizer holds as they lie. Raises InputError where there is no GPU.
        """
        if use_gpu and not torch.cuda.is_available():
            raise InputError("no GPU on this machine; leave --use-gpu out")
        for module in self.modules().values():
            module.to("cuda" if use_gpu else None, memory_format=torch.channels_last)  # type: ignore[call-overload]


def load_components(model: str, *, raw: bool = False, only: tuple[str, ...] | None = None) -> Components:
    """Loads a model, in evaluation mode.

    `model` is `medsd-small`, a pipeline folder, a run's output or checkpoint, `s3://` of those, or a hub name. Of a
    checkpoint come the moving averages (EMA) of its trained weights, with `raw` the weights themselves; the checkpoints
    it was trained from always give their averages, as they did to the training. `only` names the components to load;
    the others are None. Raises InputError where a part is missing, damaged or of another layout.
    """
    resolved = resolve(model)
    check_bases(resolved)
    loaded = _load_folder(resolved.folder, only or FOLDERS)
    for store in resolved.checkpoints:
        _overlay(loaded, store, raw=raw and store is resolved.checkpoints[-1])
    return loaded


def save_pipeline(components: Components, folder: Path) -> None:
    """Writes a plain StableDiffusionPipeline folder (safetensors) whose scheduler samples with DPM-Solver++.

    One with a swapped text encoder has it beside the pipeline, see swap.py.
    """
    folder = Path(folder)
    _quiet()
    swapped = isinstance(components.text_encoder, SwappedEncoder)
    StableDiffusionPipeline(
        vae=components.vae,
        text_encoder=None if swapped else components.text_encoder,  # type: ignore[arg-type]
        tokenizer=None if swapped else components.tokenizer,  # type: ignore[arg-type]
        unet=components.unet,
        scheduler=sampling_scheduler(components.scheduler, DPMSolverMultistepScheduler),
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)
    if isinstance(components.text_encoder, SwappedEncoder):
        return swap.save(components.text_encoder, components.tokenizer, folder)
    # transformers 5 reads both names, transformers 4 only those of Stable Diffusion's own files.
    text_encoder = folder / "text_encoder" / "model.safetensors"
    weights = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(text_encoder).items()}
    save_file(weights, text_encoder, metadata={"format": "pt"})


def token_ids(tokenizer: Any, captions: list[str]) -> Tensor:
    """(B, L) int64: the captions' tokens, cut and padded to the tokenizer's length."""
    length = tokenizer.model_max_length
    return tokenizer(captions, padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids


def sampling_scheduler(noise: DDPMScheduler, kind: type) -> Any:
    """A sampler of class `kind` for the noise schedule and prediction type of `noise`."""
    schedule = (
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "trained_betas",
        "prediction_type",
        "rescale_betas_zero_snr",
    )
    chosen = {name: noise.config[name] for name in schedule}
    # Trailing steps begin at the last training step, so that what sampling starts from is what training saw there
    # (Lin et al. 2024, arXiv 2305.08891, sec. 3.3).
    chosen |= {
        "rescale_betas_zero_snr": noise.config["rescale_betas_zero_snr"],
        "timestep_spacing": "trailing",
        "steps_offset": 1,
    }
    if kind is not DPMSolverMultistepScheduler:
        chosen["clip_sample"] = False  # latents are not bounded by 1
    return kind(**chosen)


def _load_folder(folder: Path, only: tuple[str, ...]) -> Components:
    _check_layout(folder)
    _quiet()
    clip: Callable[[Path], Any] = lambda path: _weights(CLIPTextModel, path, "model", dtype=torch.float32)
    swapped = (folder / "text_encoder" / swap.PROJECTION).is_file()
    load: dict[str, Callable[[Path], Any]] = {
        "vae": lambda path: _weights(AutoencoderKL, path, "diffusion_pytorch_model", torch_dtype=torch.float32),
        "text_encoder": swap.load if swapped else clip,
        "tokenizer": swap.load_tokenizer if swapped else CLIPTokenizer.from_pretrained,
        "unet": lambda path: _weights(UNet2DConditionModel, path, "diffusion_pytorch_model", torch_dtype=torch.float32),
        "scheduler": _load_scheduler,
    }
    parts: dict[str, Any] = {field.name: None for field in fields(Components)}
    for name in only:
        path = folder / name
        if not path.is_dir():
            raise InputError(f"{folder}: there is no {name} folder in this pipeline; copy or convert the model whole")
        try:
            parts[name] = load[name](path)
        except InputError:
            raise
        except Exception as error:  # whatever diffusers, transformers and safetensors raise on damaged files
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{path}: cannot be loaded, is it damaged? copy it anew ({type(error).__name__}: {reason})"
            ) from error
    return Components(**parts)


def _quiet() -> None:
    """Libraries' progress bars and remarks off: what is wrong with a model is told by InputError."""
    for logging in (diffusers_logging, transformers_logging):
        logging.disable_progress_bar()
        logging.set_verbosity_error()


def _check_layout(folder: Path) -> None:
    try:
        card = json.loads((folder / CARD).read_text())
        classes = {name: card[name][1] for name in MODULES if name in card}
        if classes.get("text_encoder", "") is None and (folder / "text_encoder" / swap.PROJECTION).is_file():
            del classes["text_encoder"]
    except FileNotFoundError as error:
        raise InputError(f"{folder}: no {CARD} here; give a pipeline folder in diffusers' layout") from error
    except (ValueError, TypeError, IndexError, KeyError) as error:
        raise InputError(f"{folder}/{CARD} is damaged; copy it anew") from error
    expected = {"vae": "AutoencoderKL", "text_encoder": "CLIPTextModel", "unet": "UNet2DConditionModel"}
    for name, found in classes.items():
        if found != expected[name]:
            raise InputError(f"{folder}: its {name} is a {found}, not a {expected[name]}; only Stable Diffusion 1.x and 2.x fit")


def _weights(kind: Any, path: Path, stem: str, **options) -> nn.Module:
    """A module from a component's folder, all its weights present. Half precision files serve where no others are."""
    if not (path / "config.json").is_file():
        raise InputError(f"{path}: there is no config.json; copy or convert the model whole")
    plain, half = (list(path.glob(f"{stem}{variant}*.safetensors")) for variant in ("", ".fp16"))
    if not plain:
        if list(path.glob("*.bin")):
            raise InputError(f"{path}: only pickled weights here, which may run code; convert them to safetensors")
        raise InputError(f"{path}: there is no {stem}.safetensors; copy or convert the model whole")
    variant = "fp16" if set(half) == set(plain) else None
    module, info = kind.from_pretrained(
        path, use_safetensors=True, local_files_only=True, variant=variant, output_loading_info=True, **options
    )
    if missing := sorted(info["missing_keys"]):
        raise InputError(f"{path}: {len(missing)} weights are missing, such as {missing[0]}; copy it anew")
    return module.eval()


def _load_scheduler(path: Path) -> DDPMScheduler:
    """The noise schedule of a scheduler of any kind; settings that only sampling knows are left out."""
    config: Any = DDPMScheduler.load_config(path)
    known = inspect.signature(DDPMScheduler.__init__).parameters
    kept: Any = {name: config[name] for name in known if name in config}
    return DDPMScheduler(**kept | {"clip_sample": False})


def _overlay(components: Components, store: Storage, raw: bool) -> None:
    """Lays a checkpoint's trained weights, and what it says of its objective, over the model it was trained from."""
    from medsd_ray.training.checkpoint import load_weights

    description = describe_checkpoint(store)
    for name, weights in load_weights(store, raw=raw).items():
        how = described(description, name)
        method = way(name, how)
        if getattr(components, name) is None and not (name == "text_encoder" and components.tokenizer is not None):
            continue
        recorded = description.get("fingerprints", {}).get(name)
        if method.source and recorded not in (None, method.source(how)):
            raise InputError(f"{store.url}: what its {name} was trained with has changed since; bring back the earlier files")
        try:
            method.fold(components, name, how, weights)
        except RuntimeError as error:  # shapes differ
            raise InputError(
                f"{store.url}: its {name} does not fit {description['model']}, which it names as its base"
            ) from error
        except KeyError as error:
            raise InputError(f"{store.url}: its {name} has weights that its base model lacks, such as {error.args[0]}") from error
    if components.scheduler is not None and (prediction_type := description.get("prediction_type")):
        components.scheduler.register_to_config(prediction_type=prediction_type)
    if components.vae is not None and (scaling_factor := description.get("scaling_factor")):
        components.vae.register_to_config(scaling_factor=scaling_factor)
