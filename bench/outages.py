"""Goodput of a run whose workers fail: the closed forms of Young and Daly, and a simulation to hold them
against. Pure.

All times in seconds. A run saves every `interval` seconds of training. `stall` is what training waits for a
save; the save is complete `upload` seconds later, for which the next one waits, and a failure before that
goes back to the one before. After a failure it takes `restart` until training goes on. Failures come at
random, `mtbf` apart on average.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Costs:
    stall: float
    upload: float
    restart: float


def best_interval(costs: Costs, mtbf: float) -> float:
    """Daly 2006 (doi 10.1016/j.future.2004.11.016), eq. 20, whose first term is Young 1974's
    sqrt(2·stall·mtbf); no shorter than an upload takes.
    """
    if costs.stall >= 2 * mtbf:
        return mtbf
    x = costs.stall / (2 * mtbf)
    daly = math.sqrt(2 * costs.stall * mtbf) * (1 + math.sqrt(x) / 3 + x / 9) - costs.stall
    return max(daly, costs.upload)


def expected(costs: Costs, mtbf: float, interval: float) -> float:
    """Useful over all time, by Daly's complete model (eq. 13): mtbf·e^(R/mtbf)·(e^((interval + stall)/mtbf) -
    1) a segment.

    What an upload under way loses is taken as part of the restart, which it is unless failures are as
    frequent as uploads.
    """
    segment = math.expm1((interval + costs.stall) / mtbf)
    return interval / (mtbf * math.exp((costs.restart + costs.upload) / mtbf) * segment)


def expected_of_training(costs: Costs, mtbf: float, interval: float) -> float:
    """The same where no restart fails and failures are `mtbf` of training apart: (mtbf + R)·(e^((interval +
    stall)/mtbf) - 1).
    """
    return interval / ((mtbf + costs.restart + costs.upload) * math.expm1((interval + costs.stall) / mtbf))


def simulate(costs: Costs, mtbf: float, interval: float, segments: int, seed: int) -> float:
    """Useful over all time of one run of `segments` intervals, event by event."""
    times = random.Random(seed)
    clock, failure = 0.0, times.expovariate(1 / mtbf)
    done = saved = 0  # segments trained, and those that a complete checkpoint holds
    complete_at = math.inf  # when the upload under way, of what is done, is complete
    while done < segments:
        waited = 0.0 if math.isinf(complete_at) else complete_at  # a save waits for the one before
        ends = max(clock + interval, waited) + costs.stall
        if complete_at <= min(ends, failure):
            saved, complete_at = done, math.inf
        if failure >= ends:
            clock, done = ends, done + 1
            complete_at = clock + costs.upload
            continue
        clock, done, complete_at = failure, saved, math.inf
        failure = clock + times.expovariate(1 / mtbf)
        while failure < clock + costs.restart:  # a restart may fail too
            clock, failure = failure, failure + times.expovariate(1 / mtbf)
        clock += costs.restart
    return segments * interval / clock
