"""Messages that many watchers are told alike are made once, by the first of them that gets there.

The message for a pod of one container takes 35 µs to make, of the 100 µs that telling one watcher takes; it grows with
the pod.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from services.rpc.watch import Event

T = TypeVar("T")
M = TypeVar("M")


class Shared(Generic[T, M]):
    """The last `size` messages; `make` builds one. They must not be changed by who gets them."""

    def __init__(self, make: Callable[[Event[T]], M], *, size: int = 64) -> None:
        self._make = make
        self._size = size
        self._made: dict[tuple[int, str, int], tuple[T | None, M]] = {}
        """By type, token and identity of the item; the item is kept too, so that its identity is not another's."""

    def of(self, event: Event[T]) -> M:
        """The message for this event."""
        key = (event.type, event.token, id(event.item))
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = (event.item, self._make(event))
            if len(self._made) > self._size:
                del self._made[next(iter(self._made))]
        return found[1]
