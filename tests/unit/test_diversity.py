from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.image import MultiScaleStructuralSimilarityIndexMeasure

from medsd_ray.evaluation.figures import diversity


def test_scales_are_the_published_ones_where_they_fit_and_sum_to_one():
    assert diversity.scales(256) == pytest.approx(np.array(diversity.BETAS) / sum(diversity.BETAS))
    assert len(diversity.scales(64)) == 3
    assert sum(diversity.scales(64)) == pytest.approx(1)
    assert diversity.scales(8) == ()


@pytest.mark.parametrize("size", [12, 16, 64, 161, 176])
def test_every_choice_of_scales_runs(size: int):
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 1), dtype=np.uint8)
    assert 0 <= diversity.similarity(pixels, ["a", "a"], ["1", "2"], 0).mean < 0.5


def test_similarity_is_that_of_pairs_with_one_caption_and_two_patients():
    rng = np.random.default_rng(0)
    a, b, c = (rng.integers(0, 256, (64, 64, 1), dtype=np.uint8) for _ in range(3))
    pixels = np.stack([a, a, b, c])
    found = diversity.similarity(pixels, ["x", "x", "y", "y"], ["1", "2", "3", "3"], 0)
    assert (found.pairs, found.prompts) == (1, 1)  # b and c are of one patient
    assert found.mean == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(ValueError, match="no two images"):
        diversity.similarity(pixels, ["a", "b", "c", "d"], list("1234"), 0)


def test_with_all_scales_it_is_torchmetrics_value():
    rng = np.random.default_rng(1)
    one = rng.integers(0, 256, (192, 192, 1), dtype=np.uint8)
    other = np.clip(one.astype(int) + rng.integers(-40, 41, one.shape), 0, 255).astype(np.uint8)
    found = diversity.similarity(np.stack([one, other]), ["x", "x"], ["1", "2"], 0)
    metric = MultiScaleStructuralSimilarityIndexMeasure(data_range=1.0)
    tensors = (torch.from_numpy(i).permute(2, 0, 1)[None].float() / 255 for i in (one, other))
    assert found.mean == pytest.approx(metric(*tensors).item(), abs=1e-3)
