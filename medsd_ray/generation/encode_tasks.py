"""What a worker of `encode` is told: the shards that are left to do, one at a time."""

from __future__ import annotations

from dataclasses import dataclass

from medsd_ray.data.shards import Shard

NOTES = ".progress"


@dataclass(frozen=True)
class Task:
    """A shard of images, the `number`th of its split."""

    split: str
    number: int
    shard: Shard

    @property
    def note(self) -> str:
        return note_name(self.number)


def note_name(number: int) -> str:
    """The file that says that a shard is done, in the split's output."""
    return f"{NOTES}/shard-{number:05d}.json"
