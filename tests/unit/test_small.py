import torch
from transformers import CLIPTokenizer

from medsd_ray.base_model.architecture import IMAGE_SIZE, LATENT_CHANNELS, TEXT_LENGTH, build_small


def test_the_small_model_has_stable_diffusions_layout_and_shapes():
    parts = build_small(0)
    images = torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    latents = parts.vae.encode(images).latent_dist.mean
    assert latents.shape == (2, LATENT_CHANNELS, 8, 8)
    assert parts.vae.decode(latents).sample.shape == images.shape
    ids = parts.tokenizer(["a chest x-ray"] * 2, padding="max_length", return_tensors="pt").input_ids
    hidden = parts.text_encoder(ids)[0]
    assert hidden.shape == (2, TEXT_LENGTH, parts.unet.config.cross_attention_dim)
    assert parts.unet(latents, torch.tensor([1, 999]), hidden).sample.shape == latents.shape


def test_the_seed_decides_the_weights_and_leaves_torchs_own_state_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, same, other = build_small(0), build_small(0), build_small(1)
    assert torch.equal(torch.get_rng_state(), before)
    for name in ("vae", "unet", "text_encoder"):
        weights = [
            torch.cat([p.flatten() for p in getattr(c, name).parameters()]) for c in (one, same, other)
        ]
        assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_the_tokenizer_keeps_radiology_words_whole_and_loses_no_text(tmp_path):
    tokenizer = build_small(0).tokenizer
    assert tokenizer.tokenize("Small left pleural effusion") == [
        "small</w>",
        "left</w>",
        "pleural</w>",
        "effusion</w>",
    ]
    unknown = "qzx7 naïve"  # no word of the list: falls apart into bytes, and comes back
    ids = tokenizer(unknown, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids).split() == unknown.split() or tokenizer.decode(ids).replace(
        " ", ""
    ) == unknown.replace(" ", "")
    tokenizer.save_pretrained(tmp_path)
    assert (
        CLIPTokenizer.from_pretrained(tmp_path)("a chest x-ray").input_ids
        == tokenizer("a chest x-ray").input_ids
    )
    assert len(tokenizer("word " * 100, truncation=True).input_ids) == TEXT_LENGTH
