"""The small base model's architecture: Stable Diffusion's parts in its folder layout, sized for two CPU
cores.

64x64 images become 8x8 latents of 8 channels; the U-Net has two levels with cross-attention to a CLIP-layout
text encoder of 32 tokens. `build_small` gives it with random weights; `base_model/pretrain.py` trains what
ships as `medsd-small`.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from medsd_ray.models.components import Components

IMAGE_SIZE = 64
LATENT_CHANNELS = 8
TEXT_WIDTH = 96
TEXT_LENGTH = 32
VOCABULARY = Path(__file__).parent / "vocabulary.txt"


def build_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer (byte-level BPE) whose merges are learnt from a list of radiology words and base
    captions.

    Any text is representable: words outside the list fall apart into shorter pieces.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    bpe = Tokenizer(
        models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token="<|endoftext|>")
    )
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
        min_frequency=1,
        initial_alphabet=alphabet + [f"{c}</w>" for c in alphabet],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    # Longer words count for more, so that whole words become tokens before rare letter pairs do.
    bpe.train_from_iterator((line for line in VOCABULARY.read_text().splitlines() if line), trainer)
    model = json.loads(bpe.to_str())["model"]
    vocabulary = {token: number for number, token in enumerate(alphabet + [f"{c}</w>" for c in alphabet])}
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        files[0].write_text(json.dumps(vocabulary, ensure_ascii=False))
        files[1].write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n")
        Path(folder, "tokenizer_config.json").write_text(
            json.dumps(
                {
                    "tokenizer_class": "CLIPTokenizer",
                    "model_max_length": TEXT_LENGTH,
                    "pad_token": "<|endoftext|>",
                }
            )
        )
        return CLIPTokenizer.from_pretrained(folder, model_max_length=TEXT_LENGTH)


def build_vae() -> AutoencoderKL:
    """8 pixels to a latent's side: 64x64x3 to 8x8x8."""
    # diffusers annotates its lists of blocks as tuples of one element
    blocks: Any = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (16, 32, 64, 96),
    }
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT_CHANNELS,
        sample_size=IMAGE_SIZE,
        layers_per_block=1,
        norm_num_groups=8,
        **blocks,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """(B, 32) tokens to (B, 32, 96)."""
    special: Any = {  # transformers annotates them as what any tokenizer may have
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            projection_dim=TEXT_WIDTH,
            **special,
        )
    )


def build_unet() -> UNet2DConditionModel:
    """Latents (B, 8, 8, 8) in two levels, with cross-attention to the text at both."""
    return UNet2DConditionModel(
        sample_size=IMAGE_SIZE // 8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(64, 128),
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=16,
    )


def build_scheduler() -> DDPMScheduler:
    """Stable Diffusion's noise schedule, for v-prediction."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        steps_offset=1,
    )


def build_small(seed: int) -> Components:
    """The architecture with random weights drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = build_tokenizer()
        return Components(
            vae=build_vae(),
            text_encoder=build_text_encoder(tokenizer),
            tokenizer=tokenizer,
            unet=build_unet(),
            scheduler=build_scheduler(),
        )
