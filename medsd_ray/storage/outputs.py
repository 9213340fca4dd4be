"""Whose an output is: new, unfinished, complete, or made of something else; and how it becomes complete.

Every long command may be started again on the same output. It then asks what is there: nothing, a part of
the same output, the whole of it, or something that it must not touch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from medsd_ray.errors import InputError
from medsd_ray.storage.base import COMPLETE, Storage, entry_of_bytes


@dataclass(frozen=True)
class New:
    """Nothing is there yet."""


@dataclass(frozen=True)
class Unfinished:
    """A part of the same output is there."""


@dataclass(frozen=True)
class Complete:
    """The same output is there, and whole."""

    record: dict[str, Any]
    """What the file that decides says."""


@dataclass(frozen=True)
class Foreign:
    """Something else is there."""

    record: str | None
    """The file that says so; None where there are files, but no such one."""
    differing: tuple[str, ...] = ()
    """The settings in which it differs; none where `record` is damaged."""


def claim(
    store: Storage,
    settings: Mapping[str, Any],
    record: str,
    *,
    begun: str | None = None,
    settings_of: Callable[[Any], Mapping[str, Any]] = lambda value: value,
    within: Iterable[str] = ("",),
) -> New | Unfinished | Complete | Foreign:
    """Compares what an output holds with what is asked for. Writes nothing.

    Args:
        store: The output.
        settings: All that the output follows from.
        record: The JSON file that holds the settings of what is there.
        begun: The JSON file that is the settings of an unfinished output: then `record` is written last and
            says that the output is whole. Where it is None, COMPLETE says so, and `record` may be there from
            the start.
        settings_of: From what `record` says to the settings in it. Where it raises KeyError or TypeError,
            `record` is another's.
        within: The prefixes under which files without a record are another's.
    """
    for name in filter(None, (record, begun)):
        try:
            value = store.read_json(name)
            recorded = settings_of(value) if name == record else value
            fields = sorted({*settings, *recorded})
            differing = tuple(field for field in fields if recorded.get(field) != settings.get(field))
        except FileNotFoundError:
            continue
        except (AttributeError, KeyError, TypeError, ValueError):
            return Foreign(name)
        if differing:
            return Foreign(name, differing)
        whole = name == record if begun else store.complete() is not None
        return Complete(value) if whole else Unfinished()
    return New() if all(is_empty(store, prefix) for prefix in within) else Foreign(None)


def is_empty(store: Storage, prefix: str = "") -> bool:
    """Whether there is no file under a prefix but what a file manager puts into folders that it shows."""
    return all(left_by_file_manager(key.rpartition("/")[2]) for key in store.list(prefix))


def left_by_file_manager(name: str) -> bool:
    """Whether a file of this name is one that file managers leave behind."""
    return name in (".DS_Store", ".directory", "Thumbs.db", "desktop.ini") or name.startswith("._")


def read_finished(store: Storage, record: str, settings: dict[str, Any]) -> dict[str, Any] | None:
    """What `record`, which has its `settings`, says of a finished output that cannot be gone on with.

    Returns:
        None where `store` is empty.

    Raises:
        InputError: The output is unfinished, or made with other settings.
    """
    found = claim(store, settings, record, settings_of=lambda value: value["settings"])
    if isinstance(found, Complete):
        return found.record
    if isinstance(found, New):
        return None
    if store.complete() is None:
        raise InputError(f"{store.url}: not empty, and not finished; choose another --out or remove this one")
    raise InputError(
        f"{store.url}: holds something made with other settings; choose another --out or remove this one"
    )


def finish(store: Storage, files: Mapping[str, bytes]) -> None:
    """Writes an output's files, and COMPLETE with their checksums after them.

    A COMPLETE of before is taken away first, so that a half-replaced output is never taken for whole.
    """
    store.delete(COMPLETE)
    for name, data in files.items():
        store.write(name, data)
    store.mark_complete({name: entry_of_bytes(data) for name, data in files.items()})
