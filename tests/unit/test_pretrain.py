"""The base model's training in small: it goes on from its saves, and writes a folder that loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medsd_ray.base_model import pretrain
from medsd_ray.models.load import load_components

IMAGES, STEPS = 8, 2


def fit(work: Path, loss_of: Callable[[nn.Module, int], Tensor]) -> dict[str, Tensor]:
    """Four steps of a module with one weight matrix, whose loss is `loss_of(module, step)`."""
    work.mkdir(exist_ok=True)
    torch.manual_seed(0)
    module = nn.Linear(2, 2)
    return pretrain.fit("linear", module, lambda step, rng: loss_of(module, step), 4, 0.1, work, seed=0)


def test_a_second_run_goes_on_from_the_last_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(pretrain, "SAVE_EVERY", 1)

    def loss(module: nn.Module, step: int) -> Tensor:
        return (module(torch.ones(1, 2)) - step).square().sum()

    def stops(module: nn.Module, step: int) -> Tensor:
        if step == 2:
            raise KeyboardInterrupt
        return loss(module, step)

    whole = fit(tmp_path / "whole", loss)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "stopped", stops)
    resumed = fit(tmp_path / "stopped", loss)
    assert "linear: going on from step 2" in capsys.readouterr().out
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_the_model_that_is_written_loads_and_a_second_run_writes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(pretrain, "VAE_BATCH", 2)
    monkeypatch.setattr(pretrain, "UNET_BATCH", 2)
    folders = [tmp_path / "first", tmp_path / "again"]
    for out in folders:
        pretrain.pretrain(out, tmp_path / "work", 0, images=IMAGES, vae_steps=STEPS, unet_steps=STEPS)
    printed = capsys.readouterr().out
    assert all(f"{name}: going on from step {STEPS}" in printed for name in ("vae", "unet"))
    first, again = (load_components(str(out)) for out in folders)
    assert first.vae.config["scaling_factor"] > 0
    for name, module in first.modules().items():
        weights = again.modules()[name].state_dict()
        assert all(torch.equal(value, weights[key]) for key, value in module.state_dict().items()), name
    card = (folders[0] / "README.md").read_text()
    assert f"on {IMAGES} images" in card and f"VAE {STEPS} steps" in card
