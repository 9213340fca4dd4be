"""A module's weights from its folder: safetensors, whole, and never a pickle."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffusers.utils import logging as diffusers_logging
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from medsd_ray.documents import json_object
from medsd_ray.errors import InputError


def quiet_libraries() -> None:
    """Libraries' progress bars and remarks off: what is wrong with a model is told by InputError."""
    for logging in (diffusers_logging, transformers_logging):
        logging.disable_progress_bar()
        logging.set_verbosity_error()


@contextlib.contextmanager
def without_own_code(path: Path | str) -> Iterator[None]:
    """Says in words of ours that a model needs code of its own. What loads it in the block is called with
    `trust_remote_code=False`: without it, transformers would ask on the terminal whether to run the code.
    """
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise InputError(
            f"{path}: this model brings code of its own (auto_map in its configuration), which medsd never "
            "runs; choose one whose architecture transformers has"
        ) from error


def load_module(kind: Any, path: Path, stem: str, **options) -> nn.Module:
    """A module from a component's folder, all its weights present. Half precision files serve where no others
    are.
    """
    try:
        json_object((path / "config.json").read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no config.json; copy or convert the model whole") from error
    except ValueError as error:  # diffusers takes a text in its place for a hub name, and asks the hub for it
        raise InputError(f"{path}/config.json is damaged; copy it anew") from error
    plain, half = (list(path.glob(f"{stem}{variant}*.safetensors")) for variant in ("", ".fp16"))
    if not plain:
        if list(path.glob("*.bin")):
            raise InputError(
                f"{path}: only pickled weights here, which may run code; convert them to safetensors"
            )
        raise InputError(f"{path}: there is no {stem}.safetensors; copy or convert the model whole")
    variant = "fp16" if set(half) == set(plain) else None
    # diffusers' and transformers' own classes, which run no code of a folder.
    module, info = kind.from_pretrained(
        path,
        use_safetensors=True,
        local_files_only=True,
        variant=variant,
        output_loading_info=True,
        **options,
    )
    if missing := sorted(info["missing_keys"]):
        raise InputError(f"{path}: {len(missing)} weights are missing, such as {missing[0]}; copy it anew")
    return module.eval()


def load_partial_state(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Loads `weights` into a module, which keeps all others that it has.

    Raises RuntimeError for another shape, KeyError for a weight that the module lacks.
    """
    unexpected = module.load_state_dict(weights, strict=False).unexpected_keys
    if unexpected:
        raise KeyError(unexpected[0])
