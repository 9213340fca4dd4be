"""Another text encoder in the place of Stable Diffusion's: c = LayerNorm(P·f(y)), P learnt to the cross-attention's width.

As Chambon et al. 2022 (arXiv 2210.04133) try with encoders of the medical domain: f is any transformers encoder with its
own tokenizer, frozen or trained with P. A folder of such a pipeline has f in `text_encoder/` as transformers' AutoModel
reads it, P and the norm in `text_encoder/projection.safetensors`, and no text encoder in model_index.json, as diffusers
knows no such class: its StableDiffusionPipeline loads with `text_encoder=None, tokenizer=None` and takes `prompt_embeds`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from medsd_ray.errors import InputError
from medsd_ray.models.resolve import ENCODER_FILES, resolve_encoder
from medsd_ray.models.ways import Weights, lay_over, seeded
from medsd_ray.spec import Swap
from medsd_ray.storage import sha256_file

if TYPE_CHECKING:
    from medsd_ray.models.load import Components

PROJECTION = "projection.safetensors"
LONGEST = 8192  # tokenizers that know no limit say 10^30


class SwappedEncoder(nn.Module):
    """f, P and the norm; called as CLIPTextModel is. Tokens `pad_id` are masked in f, not in the result, as with CLIP."""

    def __init__(self, encoder: Any, pad_id: int, width: int):
        super().__init__()
        self.encoder, self.pad_id = encoder, pad_id
        self.projection = nn.Linear(encoder.config.hidden_size, width)
        self.norm = nn.LayerNorm(width)

    @property
    def config(self) -> Any:
        return self.encoder.config

    @property
    def dtype(self) -> torch.dtype:
        return self.projection.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.projection.weight.device

    def gradient_checkpointing_enable(self, options: dict[str, Any]) -> None:
        self.encoder.gradient_checkpointing_enable(options)

    def forward(self, input_ids: Tensor, attention_mask: None = None) -> tuple[Tensor]:
        """(B, L) int64 -> ((B, L, width),). The mask follows from the ids."""
        return (self.norm(self.projection(_hidden(self.encoder, input_ids, self.pad_id))),)


def _hidden(encoder: Any, ids: Tensor, pad_id: int) -> Tensor:
    """(B, L) -> (B, L, hidden size)."""
    return encoder(input_ids=ids, attention_mask=(ids != pad_id).long()).last_hidden_state


def adapt(components: Components, name: str, how: Any, seed: int) -> None:
    """The swapped encoder and its tokenizer; P and the norm are trained, and f where the spec says so."""
    encoder, tokenizer = _of_spec(how.swap)
    width: Any = components.unet.config["cross_attention_dim"]
    module = seeded(seed, lambda: SwappedEncoder(encoder, tokenizer.pad_token_id, width))
    encoder.requires_grad_(how.swap.train).train(how.swap.train)
    components.text_encoder, components.tokenizer = module, tokenizer


def fold(components: Components, name: str, how: Any, weights: Weights) -> None:
    encoder, tokenizer = _of_spec(how.swap)
    if components.text_encoder is not None:
        module = SwappedEncoder(encoder, tokenizer.pad_token_id, len(weights["projection.bias"]))
        lay_over(module, weights)
        components.text_encoder = module.eval()
    if components.tokenizer is not None:
        components.tokenizer = tokenizer


def source(how: Any) -> str:
    """SHA-256 over the encoder's files."""
    folder = resolve_encoder(how.swap.model)
    sums = {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if ENCODER_FILES.fullmatch(path.name)}
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()


def _of_spec(swap: Swap) -> tuple[Any, Any]:
    """Encoder and tokenizer, in evaluation mode. Raises InputError for what is no text encoder."""
    folder = resolve_encoder(swap.model)
    try:
        tokenizer, encoder = load_tokenizer(folder), _load_encoder(folder)
    except InputError:
        raise
    except Exception as error:  # whatever transformers and safetensors raise on what they cannot read
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{swap.model}: not a text encoder with safetensors weights and a tokenizer, as AutoModel reads them "
            f"({type(error).__name__}: {reason}); convert it or choose another"
        ) from error
    tokenizer.model_max_length = swap.max_length or tokenizer.model_max_length
    if tokenizer.model_max_length > LONGEST:
        raise InputError(f"{swap.model}: its tokenizer knows no greatest length; set components.text_encoder.swap.max_length")
    if tokenizer.pad_token_id is None:
        raise InputError(f"{swap.model}: its tokenizer has no padding token; choose another encoder")
    _try_out(swap, encoder, tokenizer)
    return encoder, tokenizer


def load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _load_encoder(folder: Path) -> Any:
    """Without its pooler, whose output no token sees. Raises InputError where weights are missing."""
    from transformers import AutoModel

    encoder, info = AutoModel.from_pretrained(
        folder, use_safetensors=True, local_files_only=True, dtype=torch.float32, output_loading_info=True
    )
    if missing := sorted(key for key in info["missing_keys"] if not key.startswith("pooler.")):
        raise InputError(f"{folder}: {len(missing)} weights are missing, such as {missing[0]}; copy it anew")
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    return encoder.eval()


@torch.no_grad()
def _try_out(swap: Swap, encoder: Any, tokenizer: Any) -> None:
    length = tokenizer.model_max_length
    ids = tokenizer([""], padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids
    try:
        shape = tuple(_hidden(encoder, ids, tokenizer.pad_token_id).shape)
        if shape != (1, length, encoder.config.hidden_size):
            raise ValueError(f"its last hidden state is of shape {shape}")
    except Exception as error:  # each model has its own way to fail on input that it does not know
        raise InputError(
            f"{swap.model}: gives no hidden state for each of {length} tokens ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:120]}); choose a text encoder, or a smaller swap.max_length"
        ) from error


def save(module: SwappedEncoder, tokenizer: Any, folder: Path) -> None:
    """Writes text_encoder/ and tokenizer/ of a pipeline's folder."""
    module.encoder.save_pretrained(folder / "text_encoder", safe_serialization=True)
    own = {name: value for name, value in module.state_dict().items() if not name.startswith("encoder.")}
    save_file(own, folder / "text_encoder" / PROJECTION, metadata={"pad_token_id": str(module.pad_id)})
    tokenizer.save_pretrained(folder / "tokenizer")


def load(folder: Path) -> SwappedEncoder:
    """What `save` wrote to text_encoder/, in evaluation mode."""
    with safe_open(folder / PROJECTION, framework="pt") as file:
        own, pad_id = {name: file.get_tensor(name) for name in file.keys()}, int(file.metadata()["pad_token_id"])  # noqa: SIM118
    module = SwappedEncoder(_load_encoder(folder), pad_id, len(own["projection.bias"]))
    lay_over(module, own)
    return module.eval()
