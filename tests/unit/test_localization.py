"""Where a model looks: the figures of a map against values known by other means, and the maps themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import tiny_components

from medsd_ray.evaluation.figures.localization import Localizations, blurred, enlarged, thresholded
from medsd_ray.generation.attention_maps import attention_maps, recorded, tokens_of
from medsd_ray.generation.sampling import image_size
from medsd_ray.models.drift import Drift


def square(size: int, top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_a_map_that_is_the_mask_is_perfect_and_its_opposite_is_worst():
    mask = square(16, 4, 4, 6)
    best = Localizations.of(mask[None].astype(np.float32), mask[None])
    assert best.auroc == best.pointing == best.iou == best.miou == 1.0 and best.distance == 0.0
    worst = Localizations.of(1 - mask[None].astype(np.float32), mask[None])
    assert worst.auroc == worst.pointing == 0.0
    assert worst.iou == 36 / 256, "all around the mask is cut out, and the mask in it is filled as a hole"


def test_figures_by_hand():
    """A map of 4x4: its mask is the left half, values 3 and 1 there, 2 and 0 elsewhere, four pixels each."""
    values = np.array([[3, 1, 2, 0]] * 4, np.float32)
    mask = np.array([[True, True, False, False]] * 4)
    found = Localizations.of(values[None], mask[None])
    # Of the pairs (in, out): 3>2, 3>0, 1<2, 1>0.
    assert found.auroc[0] == pytest.approx(3 / 4)
    assert found.pointing[0] == 1.0
    # Means 2 and 1, both variances 1.
    assert found.cnr[0] == pytest.approx(1 / np.sqrt(2))


def test_a_map_is_cut_between_two_gaussians_and_its_holes_are_filled():
    """Two clear levels, -5 and 5 with little noise: the cut is halfway; the midst of the ring is a hole."""
    rng = np.random.default_rng(0)
    ring = square(20, 4, 4, 12) & ~square(20, 8, 8, 4)
    values = np.where(ring, 5.0, -5.0) + 0.1 * rng.standard_normal(ring.shape)
    cut = thresholded(values)
    assert cut is not None and (cut == square(20, 4, 4, 12)).all()


def test_a_map_that_does_not_vary_says_nothing():
    mask = square(8, 2, 2, 3)
    found = Localizations.of(np.ones((1, 4, 4), np.float32), mask[None])
    assert found.auroc == 0.5 and found.iou == 0.0
    assert np.isnan(found.cnr) and np.isnan(found.distance)
    assert np.isnan(found.overall(np.ones((1, 1)))["cnr"]).all()


def test_no_map_of_a_size_is_better_than_the_mask_at_that_size():
    mask = square(16, 3, 5, 5)
    ceiling = Localizations.of(np.zeros((1, 4, 4), np.float32), mask[None]).auroc_of_perfect[0]
    again = Localizations.of(blurred(mask, (4, 4))[None], mask[None]).auroc[0]
    assert ceiling == again and 0.9 < ceiling < 1.0
    assert enlarged(blurred(mask, (16, 16)), (16, 16))[mask].min() == 1.0


def test_the_tokens_of_a_finding_are_those_of_its_words():
    tokenizer = tiny_components().tokenizer
    captions = ["a large left pleural effusion is seen", "PLEURAL EFFUSION", "the heart is large", ""]
    found, named = tokens_of(tokenizer, captions, ["pleural effusion"])
    assert named.tolist() == [True, True, False, False]
    words = tokenizer("pleural effusion", add_special_tokens=False)["input_ids"]
    ids = tokenizer(captions[0], padding="max_length", truncation=True)["input_ids"]
    assert [ids[at] for at in np.flatnonzero(found[0])] == words
    whole = tokenizer(captions[2], add_special_tokens=False)["input_ids"]
    assert found[2].sum() == len(whole) and not found[2][0], "all of the caption's own tokens"
    assert found[3].sum() == 1, "an empty caption has its begin alone"


def drawn(components, count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, *image_size(components), 1), np.uint8)


def test_a_map_is_a_mean_of_the_probabilities_that_a_layer_computes():
    """By hand: softmax(q·k / √d) of each layer of the tokens, before it is enlarged by repeating."""
    components = tiny_components()
    unet, latents = components.unet.eval(), torch.randn(2, 4, *components.sample_size)
    text = torch.randn(2, 5, unet.config["cross_attention_dim"])
    tokens = torch.tensor([[False, True, False, True, False], [True, False, False, False, False]])
    inputs = {}

    def keep(name):
        return lambda module, args, kwargs: inputs.update({name: (module, args[0])})

    hooks = [
        module.register_forward_pre_hook(keep(name), with_kwargs=True)
        for name, module in unet.named_modules()
        if name.endswith("attn2")
    ]
    with torch.no_grad():
        plain = unet(latents, 7, encoder_hidden_states=text).sample
        with recorded(unet, tokens, components.sample_size) as seen:
            looked = unet(latents, 7, encoder_hidden_states=text).sample
        again = unet(latents, 7, encoder_hidden_states=text).sample
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(looked, plain, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(again, plain, atol=0, rtol=0)
    assert len(seen) == len(inputs) > 0
    size = components.sample_size
    for one, (module, hidden) in zip(seen, inputs.values(), strict=True):
        heads = module.heads
        query = module.to_q(hidden).unflatten(-1, (heads, -1)).transpose(1, 2)
        key = module.to_k(text).unflatten(-1, (heads, -1)).transpose(1, 2)
        mean = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1).mean(1)
        for row, which in enumerate(tokens):
            places = mean[row][:, which].mean(-1)
            side = round(places.numel() ** 0.5)
            by_hand = places.view(side, side).repeat_interleave(size[0] // side, 0)
            by_hand = by_hand.repeat_interleave(size[1] // side, 1)
            torch.testing.assert_close(one[row], by_hand, atol=1e-6, rtol=1e-4)


def test_the_map_of_an_image_is_the_same_among_others():
    components = tiny_components()
    pixels, captions = drawn(components, 3), ["one effusion", "no effusion", "effusion"]
    tokens, _ = tokens_of(components.tokenizer, captions, ["effusion"])
    together = attention_maps(components, pixels, captions, tokens, seed=4, indices=[0, 1, 2])
    alone = attention_maps(components, pixels[2:], captions[2:], tokens[2:], seed=4, indices=[2])
    assert (together[2] == alone[0]).all()
    assert together.shape == (3, *components.sample_size) and (together > 0).all()
    other = attention_maps(components, pixels[2:], captions[2:], tokens[2:], seed=5, indices=[2])
    assert (other != alone).any(), "the noise follows from the seed"
    components.drift = Drift(0.1)
    drifted = attention_maps(components, pixels[2:], captions[2:], tokens[2:], seed=4, indices=[2])
    assert (drifted != alone).any(), "it has the mean that the model was trained with"
