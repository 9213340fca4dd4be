"""The learning rate as a pure function of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math


def learning_rate_factor(step: int, warmup_steps: int, max_steps: int) -> float:
    """What the peak learning rate is multiplied by at `step` (0 is the first): linear warm-up, then cosine.

    Warm-up takes `warmup_steps` steps and ends at 1; the cosine (Loshchilov & Hutter 2017, arXiv 1608.03983,
    eq. 5, one cycle) ends just above 0 at the last step, so that no step is spent at a rate of zero.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (max_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * progress))
