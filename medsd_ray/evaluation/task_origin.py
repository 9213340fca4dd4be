"""What a task run learnt from, held against the images that judge it."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from medsd_ray.data.domains import of_domain
from medsd_ray.data.shards import Index, open_split
from medsd_ray.errors import InputError
from medsd_ray.evaluation.task_samples import JudgedSplit
from medsd_ray.models.networks.task_run import TaskRun
from medsd_ray.spec.data import Data
from medsd_ray.training.sources import mixture_fingerprint


@dataclass(frozen=True)
class Learnt:
    """`said`: what is known of the patients that a run learnt from and of those that judge it, in a sentence;
    `domains`: those that it learnt from, None where that is not known.
    """

    said: str
    domains: frozenset[str] | None

    def has(self, domain: str) -> bool | None:
        """Whether the run learnt from a domain; None where that is not known."""
        return None if self.domains is None else domain in self.domains


def learnt_from(run: TaskRun, judges: JudgedSplit) -> Learnt:
    """Compares the run's own fingerprint of its data with what these shards would have given it. Raises
    InputError where it learnt from the split that judges.
    """
    try:
        data = Data.model_validate(run.description["spec"]["data"])
    except (KeyError, TypeError, ValidationError):
        return Learnt("What the run learnt from is not recorded.", None)
    recorded = run.description.get("fingerprints", {}).get("data")
    if _fingerprint(data, judges.index, judges.url) == recorded:
        raise InputError(
            f"{judges.url}: the run learnt from this very split ({judges.split}); give shards with a split "
            "that it has not seen"
        )
    named = frozenset(source.domain for source in data.sources if source.domain is not None)
    domains = named if data.sources and all(source.domain for source in data.sources) else None
    try:
        _, beside = open_split(judges.url, "train")
    except InputError:
        beside = None
    if beside is not None and _fingerprint(data, beside, judges.url) == recorded:
        if data.train is not None:
            domains = frozenset(beside.meta.get("domains", {})) or None
        return Learnt("The run learnt from the train split of these shards: from other patients.", domains)
    return Learnt(
        "The run did not learn from these shards alone: nothing here says whether a patient who judges it is "
        "among those that it learnt from.",
        domains,
    )


def _fingerprint(data: Data, index: Index, where: str) -> str | None:
    """Of the run's data, if all of its sources were of this split; None where they cannot be."""
    try:
        return mixture_fingerprint(
            data, [of_domain(index, source.domain, where) for source in data.all_sources.values()]
        )
    except InputError:
        return None
