"""The section of an exported model's card that says how a plain diffusers pipeline samples with its drift."""

from __future__ import annotations

from medsd_ray.models.drift import Drift

_SECTION = """
## Drift

Its noise has the mean {delta:g} (Latent Drifting, arXiv 2412.20651){chosen}. `medsd generate "this folder"`
takes it into account; a plain pipeline does by these lines:

    import torch
    noise = torch.randn(1, {shape})
    delta = {delta:g}
{lines}    pipeline({prompt}, latents=noise + delta{callback}).images[0]
"""

_PER_STEP = """\
    def drift(pipeline, step, timestep, tensors):
        return {"latents": tensors["latents"] + delta}
"""

_SCALED = """\
    scheduler = pipeline.scheduler
    step = scheduler.step
    def drifted(output, timestep, *args, **kwargs):
        return step(output + delta{factor}, timestep, *args, **kwargs)
    scheduler.step = drifted
"""


def drift_section(drift: Drift, prediction_type: str, shape: tuple[int, ...], swapped: bool) -> str:
    """The section; empty where there is no drift. `shape` is of the latents (C, h, w)."""
    if not drift.delta:
        return ""
    factor = "" if prediction_type == "epsilon" else " * scheduler.alphas_cumprod[int(timestep)] ** 0.5"
    lines = {"per_step": _PER_STEP, "scaled_by_sigma": _SCALED.replace("{factor}", factor)}
    return _SECTION.format(
        delta=drift.delta,
        shape=", ".join(map(str, shape)),
        chosen=f", chosen with {drift.steps} denoising steps" if drift.steps else "",
        lines=lines.get(drift.where, ""),
        callback=", callback_on_step_end=drift" if drift.where == "per_step" else "",
        prompt='prompt_embeds=embed("a chest x-ray"), negative_prompt_embeds=embed("")'
        if swapped
        else '"a chest x-ray"',
    )
