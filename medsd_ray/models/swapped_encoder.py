"""A text encoder in the place of Stable Diffusion's own, in memory and in a pipeline's folder; see
methods/swap.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from medsd_ray.errors import InputError
from medsd_ray.models.layout import PROJECTION
from medsd_ray.models.weights import load_partial_state, without_own_code


class SwappedEncoder(nn.Module):
    """f, P and the norm; called as CLIPTextModel is. Tokens `pad_id` are masked in f, not in the result, as
    with CLIP.
    """

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
        return (self.norm(self.projection(hidden_states(self.encoder, input_ids, self.pad_id))),)


def hidden_states(encoder: Any, ids: Tensor, pad_id: int) -> Tensor:
    """(B, L) -> (B, L, hidden size)."""
    return encoder(input_ids=ids, attention_mask=(ids != pad_id).long()).last_hidden_state


def load_tokenizer(folder: Path) -> Any:
    """Raises InputError where it needs code of its own."""
    from transformers import AutoTokenizer

    with without_own_code(folder):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def load_encoder(folder: Path) -> Any:
    """Without its pooler, whose output no token sees. Raises InputError where weights are missing, or where
    code of its own is needed.
    """
    from transformers import AutoModel

    with without_own_code(folder):
        encoder, info = AutoModel.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, trust_remote_code=False,
            dtype=torch.float32, output_loading_info=True,
        )  # fmt: skip
    if missing := sorted(key for key in info["missing_keys"] if not key.startswith("pooler.")):
        raise InputError(f"{folder}: {len(missing)} weights are missing, such as {missing[0]}; copy it anew")
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    return encoder.eval()


def save(module: SwappedEncoder, tokenizer: Any, folder: Path) -> None:
    """Writes text_encoder/ and tokenizer/ of a pipeline's folder."""
    module.encoder.save_pretrained(folder / "text_encoder", safe_serialization=True)
    own = {name: value for name, value in module.state_dict().items() if not name.startswith("encoder.")}
    save_file(own, folder / "text_encoder" / PROJECTION, metadata={"pad_token_id": str(module.pad_id)})
    tokenizer.save_pretrained(folder / "tokenizer")


def load(folder: Path) -> SwappedEncoder:
    """What `save` wrote to text_encoder/, in evaluation mode."""
    with safe_open(folder / PROJECTION, framework="pt") as file:
        own = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        pad_id = int(file.metadata()["pad_token_id"])
    module = SwappedEncoder(load_encoder(folder), pad_id, len(own["projection.bias"]))
    load_partial_state(module, own)
    return module.eval()
