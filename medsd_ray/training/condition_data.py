"""What the conditions of a run find in its data: before a worker starts, and without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from medsd_ray.data.domains import of_domain
from medsd_ray.data.latents import read_labels
from medsd_ray.data.mixture import SourceMix, SourceSplit
from medsd_ray.data.shards import Index, open_split
from medsd_ray.data.sources.near_names import near_name
from medsd_ray.errors import InputError
from medsd_ray.models.facts import latent_factor
from medsd_ray.spec.conditions import LONGEST_VALUE, MOST_VALUES, Condition, ConditionSettings, number_of
from medsd_ray.spec.run import RunSpec
from medsd_ray.storage import Storage
from medsd_ray.training.checked_run import ConditionMeta, LatentMeta
from medsd_ray.training.sources import FoundSource


def check_conditions(
    run: RunSpec, sources: Sequence[FoundSource], validation: SourceMix | None, latents: LatentMeta | None
) -> ConditionMeta | None:
    """The conditions with all that the data decide; None where the run has none.

    Args:
        run: The run.
        sources: Of its training samples.
        validation: Of its validation samples.
        latents: What all of them are.

    Raises:
        InputError: A source has no sample with the label or mask that a condition takes, or one whose number
            is none or out of its range.
    """
    if not run.conditions or latents is None:
        return None
    held_out = [_opened(source) for source in validation.sources] if validation else []
    resolved, samples = {}, {}
    for name, condition in run.conditions.items():
        counts = Counter()
        for one in sources:
            counts += _counted(name, condition, one)
        samples[name] = counts.total()
        if not counts:
            raise _absent(name, condition, sources)
        for one in held_out if condition.kind == "number" else ():
            _counted(name, condition, one)
        values = condition.values or sorted(counts) if condition.kind == "category" else []
        if len(values) > MOST_VALUES or any(len(value) > LONGEST_VALUE for value in values):
            raise InputError(
                f"conditions.{name}: {len(values)} values of {condition.field or name}, where a category has "
                f"{MOST_VALUES} at most, each of {LONGEST_VALUE} characters; name those that count as values"
            )
        if absent := [value for value in values if value not in counts]:
            raise InputError(
                f"conditions.{name}.values: no training sample whose {condition.field or name} is "
                f"{absent[0]!r}; there are {', '.join(sorted(counts))}"
            )
        samples[name] = sum(counts[value] for value in values) if values else counts.total()
        resolved[name] = condition.model_copy(update={"field": condition.field or name, "values": values})
    factor = latent_factor(run.model)
    height, width = (side * factor for side in latents.sample_size)
    settings = ConditionSettings(conditions=resolved, image_size=(height, width), latent_factor=factor)
    return ConditionMeta(settings, samples)


def _opened(source: SourceSplit) -> FoundSource:
    store, index = open_split(source.address, source.split)
    return FoundSource(store.url, source, store, of_domain(index, source.domain, store.url))


def _counted(name: str, condition: Condition, found: FoundSource) -> Counter[str]:
    """How many samples of a source have the condition, by value. Raises InputError where a number is none or
    out of its range.
    """
    field = condition.field or name
    if condition.kind == "mask":
        there = found.index.meta.get("masks", {}).get(field, 0)
        return Counter({"": there} if there else {})
    counts = _label_counts(found.store, found.index, field)
    if condition.range:
        lowest, highest = condition.range
        wrong = {value: count for value, count in counts.items() if not _in_range(condition, value)}
        if wrong:
            raise InputError(
                f"{found.where}: {sum(wrong.values())} samples whose {field} is no number from {lowest:g} to "
                f"{highest:g}, such as {min(wrong)[:40]!r}; mend conditions.{name}.range or the data"
            )
    return counts


def _in_range(condition: Condition, value: str) -> bool:
    try:
        number_of(condition, value)
    except ValueError:
        return False
    return True


def _label_counts(store: Storage, index: Index, field: str) -> Counter[str]:
    """How often each value of a label occurs, but for the empty one. The index counts those of few values
    alone.
    """
    counted = index.meta.get("labels", {}).get(field)
    if counted is None and "labels" in index.meta:
        labels = (one for shard in index.shards for one in read_labels(store, shard.name))
        counted = Counter(str(one[field]) for one in labels if field in one)
    return Counter({value: count for value, count in (counted or {}).items() if value.strip()})


def _absent(name: str, condition: Condition, sources: Sequence[FoundSource]) -> InputError:
    field, where = condition.field or name, ", ".join(one.where for one in sources)
    if any("labels" not in one.index.meta for one in sources):
        return InputError(
            f"{where}: latents of an earlier version, which know no labels and masks; encode again for "
            f"conditions.{name}"
        )
    if condition.kind == "mask":
        known = {mask for one in sources for mask in one.index.meta.get("masks", {})}
        advice = "prepare with --mask-column or --boxes"
    else:
        known = {label for one in sources for label in _labels(one)}
        advice = "prepare with --label-column"
    near = near_name(field, known)
    hint = f"did you mean {near}?" if near else f"there are {', '.join(sorted(known)) or 'none'}"
    kind = "mask" if condition.kind == "mask" else "label"
    return InputError(
        f"{where}: no {kind} {field!r} for conditions.{name}; {hint} set conditions.{name}.field, or {advice}"
    )


def _labels(found: FoundSource) -> set[str]:
    """The labels that a source's samples have."""
    shards = found.index.shards[:1]  # the samples of a source have the same columns
    read = {label for shard in shards for one in read_labels(found.store, shard.name) for label in one}
    return read | set(found.index.meta.get("labels", {}))
