"""Textual inversion (Gal et al. 2022, arXiv 2208.01618, eq. 2): v* = argmin E‖ε - ε_θ(z_t, t, c(y; v))‖².

Each new word of the spec has one embedding v, the only thing that is trained; captions y of the data use the
words, any number of them together. Where the paper puts one word into fixed sentences, here the sentences are
the data's own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from medsd_ray.errors import InputError
from medsd_ray.models.components import Components
from medsd_ray.models.methods.adaptation import Files, Weights, freeze


class NewWords(nn.Module):
    """A token embedding whose `weight` (V, D) is frozen; ids from V on are of `rows` (n, D), which are
    trained.
    """

    def __init__(self, embedding: nn.Embedding, rows: Tensor):
        super().__init__()
        self.weight, self.rows = embedding.weight, nn.Parameter(rows)
        self.first = embedding.num_embeddings

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) -> (B, L, D)."""
        known = functional.embedding(ids.clamp(max=self.first - 1), self.weight)
        new = functional.embedding((ids - self.first).clamp(min=0), self.rows)
        return torch.where((ids >= self.first)[..., None], new, known)


def adapt(components: Components, name: str, settings: Any, seed: int) -> None:
    """New words for the tokenizer; their rows start from the mean embedding of their initializer's tokens."""
    encoder, tokenizer = freeze(components.text_encoder).train(), components.tokenizer
    embedding: Any = encoder.get_input_embeddings()  # type: ignore[operator]
    rows = []
    for new_word in settings.tokens:
        ids = tokenizer(new_word.initializer, add_special_tokens=False).input_ids
        if not ids:
            raise InputError(
                f"components.text_encoder.tokens: {new_word.token}'s initializer has no word that the "
                "tokenizer knows"
            )
        rows.append(embedding.weight.detach()[ids].mean(dim=0))
    _add_words(tokenizer, [new_word.token for new_word in settings.tokens], embedding.num_embeddings)
    encoder.set_input_embeddings(NewWords(embedding, torch.stack(rows)))  # type: ignore[operator]


def merge(components: Components, name: str, settings: Any, weights: Weights) -> None:
    """The rows become the last of the encoder's own embedding, its words the tokenizer's own."""
    (rows,) = weights.values()
    encoder: Any = components.text_encoder
    if components.tokenizer is not None:
        words = [new_word.token for new_word in settings.tokens]
        _add_words(
            components.tokenizer,
            words,
            None if encoder is None else encoder.get_input_embeddings().num_embeddings,
        )
    if encoder is not None:
        weight = torch.cat([encoder.get_input_embeddings().weight.detach(), rows])
        encoder.set_input_embeddings(nn.Embedding.from_pretrained(weight, freeze=False))
        encoder.config.vocab_size = len(weight)


def files(name: str, settings: Any, weights: Weights) -> Files:
    """Each word's embedding (1, D) in diffusers' format, which has one word to a file."""
    (rows,) = weights.values()
    names = ["learned_embeds.safetensors"]
    if len(settings.tokens) > 1:
        names = [f"learned_embeds-{new_word.token.strip('<>')}.safetensors" for new_word in settings.tokens]
    return {
        file: {new_word.token: row[None].clone()}
        for file, new_word, row in zip(names, settings.tokens, rows, strict=True)
    }


def _add_words(tokenizer: Any, words: list[str], first: int | None) -> None:
    """Raises InputError where a word is known already, or would not have the ids from `first` on."""
    if known := sorted(set(words) & tokenizer.get_vocab().keys()):
        raise InputError(
            f"components.text_encoder.tokens: the model's tokenizer knows {known[0]} already; choose "
            "another word"
        )
    tokenizer.add_tokens(words)
    if first is not None and tokenizer.convert_tokens_to_ids(words) != list(range(first, first + len(words))):
        raise InputError(
            "components.text_encoder: it has more embeddings than its tokenizer has words; choose another "
            "method"
        )
