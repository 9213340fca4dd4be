"""The learning curves of a study's trials, of which a page gets those that it has not seen."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from medsd_ray.dashboard.cached_files import CachedFiles, join
from medsd_ray.dashboard.curves import LIMIT, Curve, downsample, series
from medsd_ray.dashboard.run import METRICS
from medsd_ray.runs.progress import VALIDATED, read_records

NAMES = ("validation_loss", "loss", *VALIDATED)


READERS = 16
"""Threads that read metrics.jsonl files at the same time."""


MOST_POINTS_IN_ALL = 60_000
"""Of all curves together: a chart of these draws quickly without a GPU."""
FEWEST_POINTS = 40
"""Of each curve, however many trials there are."""


ENDED = ("done", "stopped", "failed")


READ_LIMIT_S = 1.0
"""How long one answer may look for curves; what it has not reached comes with the next."""


class CurveStore:
    """The curves of one study. Each change gets a number, so that a page that names the last one it saw gets
    what came after.
    """

    def __init__(self, files: CachedFiles, at: str):
        self.files, self.at = files, at
        self.boot, self.number = secrets.token_hex(4), 0
        self.curves: dict[
            str, tuple[str, int, dict[str, Curve]]
        ] = {}  # trial -> (stamp, number, name -> curve)
        self._lock = threading.Lock()

    def since(self, trials: list[dict[str, Any]], name: str, version: str | None) -> dict[str, Any]:
        """Curves `name` that are new since `version`. `ready` of `wanted` trials have been read."""
        wanted = [trial for trial in trials if trial["status"] != "pending"]
        with self._lock:
            ready = self._refresh(wanted)
            boot, _, seen = (version or "").partition(".")
            after = int(seen) if boot == self.boot and seen.isdecimal() else 0
            limit = max(FEWEST_POINTS, min(LIMIT, MOST_POINTS_IN_ALL // max(1, len(wanted))))
            new = {
                key: _at_most(limit, found[name])
                for key, (_, at, found) in self.curves.items()
                if at > after and name in found
            }
            return {
                "version": f"{self.boot}.{self.number}",
                "whole": after == 0,
                "limit": limit,
                "ready": ready,
                "wanted": len(wanted),
                "curves": new,
            }

    def _refresh(self, trials: list[dict[str, Any]], clock: Callable[[], float] = time.monotonic) -> int:
        """Reads what changed, for READ_LIMIT_S at most. Returns how many trials are as on storage."""
        stale = [trial for trial in trials if self._stale(trial)]
        ready, started = len(trials) - len(stale), clock()
        with ThreadPoolExecutor(READERS, thread_name_prefix="curves") as pool:
            for first in range(0, len(stale), READERS):
                if clock() - started > READ_LIMIT_S:
                    break
                some = stale[first : first + READERS]
                for trial, (stamp, curves) in zip(some, pool.map(self._read, some), strict=True):
                    self._keep(trial["id"], stamp, curves)
                    ready += 1
        return ready

    def _stale(self, trial: dict[str, Any]) -> bool:
        """A trial that has ended does not change; one that runs is looked at each time."""
        known = self.curves.get(trial["id"])
        return known is None or trial["status"] not in ENDED or known[0] != _mark(trial)

    def _read(self, trial: dict[str, Any]) -> tuple[str, dict[str, Curve]]:
        folder = join(self.at, f"trials/{trial['id']}")
        if trial["status"] in ENDED:
            try:
                return _mark(trial), series(read_records(self.files.store.read(join(folder, METRICS))), NAMES)
            except FileNotFoundError:
                return _mark(trial), {}
        here = self.files.level(folder)[1]
        stamp = here[METRICS].stamp if METRICS in here else None
        found = self.files.get(
            join(folder, METRICS), stamp, lambda data: series(read_records(data), NAMES), "trial"
        )
        return stamp or "", found or {}

    def _keep(self, name: str, stamp: str, curves: dict[str, Curve]) -> None:
        known = self.curves.get(name)
        if known is None or known[0] != stamp:
            same = known is not None and known[2] == curves
            if not same:
                self.number += 1
            self.curves[name] = (stamp, known[1] if known and same else self.number, curves)


def _at_most(limit: int, curve: Curve) -> Curve:
    return downsample(curve["steps"], curve["values"], limit) | {"of": curve["of"]}


def _mark(trial: dict[str, Any]) -> str:
    return f"{trial['status']}/{trial['steps']}/{trial['seconds']}"
