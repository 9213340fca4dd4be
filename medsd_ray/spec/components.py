"""How each component of the model is adapted: the VAE, the text encoder and the U-Net."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field, model_validator

from medsd_ray.spec.rules import Rule, SpecModel
from medsd_ray.spec.types import Address, LearningRate, Text, keyed


class Method(StrEnum):
    """How a component is adapted; `models/methods/registry.py` says which component knows which."""

    frozen = "frozen"
    full = "full"  # all weights, from the model's own
    scratch = "scratch"  # all weights, from a new random start
    decoder = "decoder"  # the VAE's decoder alone, so that encoded latents stay valid
    lora = "lora"  # low-rank updates of the attention's projections
    cross_attention = "cross_attention"  # the U-Net's attention to the text alone
    swap = "swap"  # another text encoder, through a learnt projection
    textual_inversion = "textual_inversion"  # embeddings of new tokens alone
    concat = "concat"  # of conditions: masks are channels beside the noisy latents


class Lora(SpecModel):
    """Low-rank adaptation (Hu et al. 2022, arXiv 2106.09685): W + alpha/rank·B·A, see
    models/methods/lora.py.
    """

    rank: int = Field(default=16, ge=1, le=1024, description="rank of the update B·A")
    alpha: float = Field(default=16.0, gt=0, le=1e6, description="the update is scaled by alpha / rank")


class Swap(SpecModel):
    """Another text encoder in place of the model's own, see models/methods/swap.py."""

    model: Address = Field(
        description="any transformers AutoModel with its tokenizer: folder, s3:// or hub name; checkpoints "
        "refer to it"
    )
    max_length: int | None = Field(
        default=None, ge=1, le=8192, description="tokens of a caption; the tokenizer's own where absent"
    )
    train: bool = Field(
        default=False, description="fine-tune the encoder too; else the projection alone is trained"
    )


class Token(SpecModel):
    """A new word of textual inversion (Gal et al. 2022, arXiv 2208.01618), see
    models/methods/textual_inversion.py.
    """

    token: str = Field(
        max_length=64, pattern=r"^<[a-z0-9_-]+>$", description="as it stands in captions and prompts"
    )
    initializer: Text = Field(min_length=1, description="words whose mean embedding it starts from")


class Component(SpecModel):
    """One part of the pipeline. In RUN.yaml `unet: full` is short for `unet: {method: full}`; a Kubernetes
    object has the long form alone.
    """

    method: Method = Field(default=Method.frozen, description="how the component is adapted")
    learning_rate: LearningRate | None = Field(
        default=None, description="peak; the training's own where absent"
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value):
        return {"method": value} if isinstance(value, str) else value

    @property
    def trained(self) -> bool:
        return self.method is not Method.frozen


LORA_RULE = Rule(
    "!has(self.lora) || self.method == 'lora'",
    "lora holds settings of the method lora alone; set method to lora, or leave them out",
    lambda component: component.lora is None or component.method == Method.lora,
)


class Vae(Component):
    """The autoencoder between images and latents; it is adapted in a run of its own, on image shards."""

    method: Literal[Method.frozen, Method.decoder, Method.full, Method.scratch] = Field(
        default=Method.frozen,
        description="frozen; decoder: its decoder alone, so that encoded latents stay valid; full: all "
        "weights; scratch: all weights, from a new random start",
    )


class Unet(Component):
    """The network that denoises latents."""

    method: Literal[Method.frozen, Method.full, Method.scratch, Method.lora, Method.cross_attention] = Field(
        default=Method.frozen,
        description="frozen; full: all weights; scratch: all weights, from a new random start; lora: "
        "low-rank updates of the attention's projections; cross_attention: its attention to the text alone",
    )
    lora: Lora | None = Field(
        default=None, description="settings of the method lora; its defaults where absent"
    )

    rules = (LORA_RULE,)


class TextEncoder(Component):
    """The network that turns a caption into what the U-Net attends to."""

    method: Literal[
        Method.frozen, Method.full, Method.scratch, Method.lora, Method.swap, Method.textual_inversion
    ] = Field(
        default=Method.frozen,
        description="frozen; full: all weights; scratch: all weights, from a new random start; lora: "
        "low-rank updates of the attention's projections; swap: another encoder, through a learnt "
        "projection; textual_inversion: embeddings of new tokens alone",
    )
    lora: Lora | None = Field(
        default=None, description="settings of the method lora; its defaults where absent"
    )
    swap: Swap | None = Field(default=None, description="the encoder of the method swap")
    tokens: list[Token] = Field(
        default=[],
        max_length=32,
        description="the new words of the method textual_inversion",
        json_schema_extra=keyed("token"),
    )

    rules = (
        LORA_RULE,
        Rule(
            "has(self.swap) == (self.method == 'swap')",
            "swap: {model: ...} is needed by the method swap, and by no other",
            lambda encoder: (encoder.swap is not None) == (encoder.method is Method.swap),
        ),
        Rule(
            "(size(self.tokens) > 0) == (self.method == 'textual_inversion')",
            "tokens are needed by the method textual_inversion, and by no other",
            lambda encoder: bool(encoder.tokens) == (encoder.method is Method.textual_inversion),
        ),
    )

    @model_validator(mode="after")
    def _no_token_twice(self):
        """The API server has no rule for this: it checks the list's keys (`keyed`), and says the same."""
        tokens = [token.token for token in self.tokens]
        if repeated := sorted({token for token in tokens if tokens.count(token) > 1}):
            raise ValueError(f"tokens: Duplicate value: {repeated[0]}")
        return self


class Components(SpecModel):
    """How each component is adapted; one that is left out is frozen."""

    vae: Vae = Vae()
    text_encoder: TextEncoder = TextEncoder()
    unet: Unet = Unet()

    rules = (
        Rule(
            "self.vae.method != 'frozen' || self.text_encoder.method != 'frozen' || self.unet.method != "
            "'frozen'",
            "every component is frozen: set vae, text_encoder or unet to be trained",
            lambda components: bool(components.trained),
        ),
        Rule(
            "self.vae.method == 'frozen' || (self.text_encoder.method == 'frozen' && self.unet.method == "
            "'frozen')",
            "the vae is adapted in a run of its own: freeze text_encoder and unet here, then encode, "
            "then train them",
            lambda components: not components.vae.trained or components.trained == ["vae"],
        ),
    )

    @property
    def trained(self) -> list[str]:
        """The names of the components that are not frozen."""
        return [name for name in COMPONENTS if getattr(self, name).trained]


COMPONENTS = tuple(Components.model_fields)
"""The components' names: vae, text_encoder, unet; also in checkpoints, studies and a pipeline's folder."""
