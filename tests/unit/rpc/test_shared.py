"""A message for many watchers is made once."""

from __future__ import annotations

from services.rpc.shared import Shared
from services.rpc.watch import Event, EventType


def change(number: int, item: str) -> Event[str]:
    """The event of this number."""
    return Event(type=EventType.UPDATED, token=f"e1:{number}", item=item)


def test_who_is_told_the_same_gets_the_same_message() -> None:
    """Events of one change make one message; another change, type or item makes another."""
    made: list[Event[str]] = []
    shared = Shared[str, int](lambda event: made.append(event) or len(made))  # type: ignore[func-returns-value]
    item, other = "it" * 50, "other"
    assert [shared.of(change(1, item)), shared.of(change(1, item)), shared.of(change(2, item))] == [1, 1, 2]
    first, second = (Event(type=EventType.SNAPSHOT, token="", item=each) for each in (item, other))
    assert [shared.of(first), shared.of(second), shared.of(first)] == [3, 4, 3]


def test_only_the_last_messages_are_kept() -> None:
    """What falls out is made anew when somebody comes late."""
    made: list[Event[str]] = []
    shared = Shared[str, int](lambda event: made.append(event) or len(made), size=2)  # type: ignore[func-returns-value]
    assert [shared.of(change(number, "x")) for number in (1, 2, 3, 3, 2, 1)] == [1, 2, 3, 3, 2, 4]
