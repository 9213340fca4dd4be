"""How much memory all images that are being decoded at once may take.

Decoding runs on several threads, and one large radiograph takes as much as a hundred small ones. Whoever
decodes says beforehand how many bytes it will take, and waits until there is room for it; what is larger than
the whole room goes alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

ROOM = 2**30
"""Bytes."""


class DecodingRoom:
    """Memory that threads share.

    A thread takes a part of it by `reserve` and gives back all that it took at the end of its `visit`.
    """

    def __init__(self, size: int) -> None:
        self.size, self.taken = size, 0
        self._changed, self._visit = threading.Condition(), threading.local()

    @contextmanager
    def visit(self) -> Iterator[None]:
        """Within this, the thread's reservations are kept."""
        self._visit.held = 0
        try:
            yield
        finally:
            with self._changed:
                self.taken -= self._visit.held
                self._visit.held = None
                self._changed.notify_all()

    def reserve(self, count: int) -> None:
        """Waits until `count` more bytes fit beside what others hold. Outside of a visit, where
        nobody else decodes, it does nothing.

        A thread that holds some already does not wait, since two that wait for each other would do so for
        ever.
        """
        held = getattr(self._visit, "held", None)
        if held is None:
            return
        with self._changed:
            self._changed.wait_for(lambda: held or not self.taken or self.taken + count <= self.size)
            self.taken += count
            self._visit.held += count


decoding_room = DecodingRoom(ROOM)
"""The one of this process."""
