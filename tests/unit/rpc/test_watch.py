"""The feed behind every watch: snapshot, SYNCED, changes, BOOKMARK, resume, and the end of the slow."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from services.errors import Aborted, InvalidArgument, OutOfRange, Unavailable
from services.rpc.watch import Event, EventType, Feed

SNAPSHOT, SYNCED, ADDED = EventType.SNAPSHOT, EventType.SYNCED, EventType.ADDED
UPDATED, REMOVED, BOOKMARK = EventType.UPDATED, EventType.REMOVED, EventType.BOOKMARK


class Item:
    """Something of which it can be seen whether it is still kept."""


Watch = AsyncGenerator[Event[str], None]


def a_feed(**limits: Any) -> Feed[str]:
    """A feed that has nothing yet."""
    return Feed(epoch="e1", **limits)


async def take(watch: Watch, count: int) -> list[tuple[EventType, str | None]]:
    """The next events, without their tokens."""
    return [(event.type, event.item) for event in [await anext(watch) for _ in range(count)]]


async def test_a_watch_begins_with_what_is_there_and_goes_on_with_what_changes() -> None:
    """Snapshot, SYNCED, then each change once and in order."""
    feed = a_feed()
    feed.put("a", "1")
    watch = feed.watch()
    assert await take(watch, 2) == [(SNAPSHOT, "1"), (SYNCED, None)]
    assert feed.put("b", "2")
    assert feed.put("a", "3")
    assert feed.remove("b")
    assert await take(watch, 3) == [(ADDED, "2"), (UPDATED, "3"), (REMOVED, "2")]
    await watch.aclose()


async def test_what_happens_during_the_snapshot_comes_after_it() -> None:
    """The snapshot is of one moment; a change while it is being read follows SYNCED."""
    feed = a_feed()
    feed.put("a", "1")
    feed.put("b", "2")
    watch = feed.watch()
    assert await take(watch, 1) == [(SNAPSHOT, "1")]
    feed.put("b", "3")
    assert await take(watch, 3) == [(SNAPSHOT, "2"), (SYNCED, None), (UPDATED, "3")]
    await watch.aclose()


def test_what_is_equal_is_no_change() -> None:
    """Putting an equal item, or removing what is not there, changes nothing and moves no token."""
    feed = a_feed()
    feed.put("a", "1")
    token = feed.token
    assert not feed.put("a", "1")
    assert not feed.remove("b")
    assert feed.token == token
    assert feed.items() == {"a": "1"}
    assert (feed.get("a"), feed.get("b")) == ("1", None)


async def test_the_last_word_about_what_is_removed_can_be_given() -> None:
    """A removal tells the item as it was, or the last item given, and the reason."""
    feed = a_feed()
    feed.put("a", "1")
    watch = feed.watch(skip_snapshot=True)
    assert await take(watch, 1) == [(SYNCED, None)]
    feed.remove("a", last="gone", reason="Evicted")
    event = await anext(watch)
    assert (event.type, event.item, event.reason) == (REMOVED, "gone", "Evicted")
    await watch.aclose()


async def test_a_watch_resumes_exactly_after_its_token() -> None:
    """What came after the token comes first, each change once; what came before does not come again."""
    feed = a_feed()
    first = feed.watch()
    feed.put("a", "1")
    await take(first, 1)
    feed.put("b", "2")
    token = feed.token
    await first.aclose()
    feed.put("c", "3")
    feed.remove("a")
    again = feed.watch(resume_token=token)
    assert await take(again, 3) == [(ADDED, "3"), (REMOVED, "1"), (SYNCED, None)]
    feed.put("d", "4")
    assert await take(again, 1) == [(ADDED, "4")]
    await again.aclose()


@pytest.mark.parametrize("token", ["e0:1", "e1:4", "e1:0", ":1"])
async def test_where_it_cannot_resume_it_says_out_of_range(token: str) -> None:
    """A token of another run, of the future, or older than the log ends in OUT_OF_RANGE."""
    feed = a_feed(log_size=2)
    for number in range(3):
        feed.put("a", str(number))
    with pytest.raises(OutOfRange) as caught:
        await anext(feed.watch(resume_token=token))
    assert caught.value.reason == "RESUME_TOO_OLD"
    assert await take(feed.watch(resume_token="e1:1"), 2) == [(UPDATED, "1"), (UPDATED, "2")]


@pytest.mark.parametrize("token", ["e1", "e1:", "e1:x", "e1:-1", "e1:1.5", "e1:" + "9" * 5000, "::"])
async def test_what_is_no_token_is_an_invalid_argument(token: str) -> None:
    """Text that is none of our tokens is refused as such."""
    with pytest.raises(InvalidArgument) as caught:
        await anext(a_feed().watch(resume_token=token))
    assert caught.value.reason == "BAD_RESUME_TOKEN"


async def test_a_slow_watcher_is_cut_and_can_resume() -> None:
    """A watcher with more than `buffer` changes to read is ABORTED; others go on; it resumes without a loss."""
    feed = a_feed(buffer=3)
    slow, quick = feed.watch(), feed.watch()
    token = (await anext(slow)).token
    await take(quick, 1)
    for number in range(3):
        feed.put("a", str(number))
        await take(quick, 1)
    assert await take(slow, 1) == [(ADDED, "0")]
    for number in range(3, 6):
        feed.put("a", str(number))
        await take(quick, 1)
    with pytest.raises(Aborted) as caught:
        await anext(slow)
    assert caught.value.reason == "SLOW_CONSUMER"
    again = feed.watch(resume_token=token)
    assert [item for _type, item in await take(again, 6)] == ["0", "1", "2", "3", "4", "5"]
    await quick.aclose()
    await again.aclose()


async def test_nobody_is_slow_because_everything_changed_at_once() -> None:
    """All items may change twice in one moment, whatever the buffer; a change more is one too many."""
    feed = a_feed(buffer=1)
    for name in "abcde":
        feed.put(name, "0")
    quick, slow = feed.watch(skip_snapshot=True), feed.watch(skip_snapshot=True)
    await take(quick, 1)
    await take(slow, 1)
    for number in ("1", "2"):
        for name in "abcde":
            feed.put(name, number)
    assert len(await take(quick, 10)) == 10
    feed.put("a", "3")
    assert await take(quick, 1) == [(UPDATED, "3")]
    with pytest.raises(Aborted):
        await anext(slow)
    await quick.aclose()


async def test_who_is_cut_while_reading_the_snapshot_is_kept_nothing_of_it() -> None:
    """The rest of a snapshot that nobody reads is let go of when its watcher is cut, and the watcher is told."""
    feed: Feed[Item] = Feed(epoch="e1", buffer=1)
    for name in ("a", "b"):
        feed.put(name, Item())
    watch = feed.watch()
    await anext(watch)
    second = weakref.ref(feed.items()["b"])
    for _ in range(2):
        feed.put("c", Item())
    feed.remove("b")
    for _ in range(3000):  # more than the log of changes holds
        feed.put("c", Item())
    assert second() is None
    with pytest.raises(Aborted) as caught:
        await anext(watch)
    assert caught.value.reason == "SLOW_CONSUMER"


async def test_silence_is_broken_by_bookmarks_that_can_be_resumed_from() -> None:
    """When nothing that is wanted happens, a BOOKMARK moves the token on, though unwanted changes come and go."""
    feed = a_feed(bookmark_seconds=0.01)
    watch = feed.watch(match=lambda item: item == "wanted")
    await anext(watch)
    feed.put("a", "other")
    event = await anext(watch)
    assert (event.type, event.item, event.token) == (BOOKMARK, None, feed.token)
    feed.put("b", "wanted")
    again = feed.watch(resume_token=event.token, match=lambda item: item == "wanted")
    assert await take(again, 2) == [(ADDED, "wanted"), (SYNCED, None)]
    await watch.aclose()
    await again.aclose()


async def test_unwanted_changes_do_not_put_off_the_bookmark() -> None:
    """A steady stream of changes that this watcher does not want cannot keep its bookmark away."""
    feed = a_feed(bookmark_seconds=0.05)
    watch = feed.watch(match=lambda _item: False)
    await anext(watch)
    pending = asyncio.ensure_future(anext(watch))
    numbers = 0
    async with asyncio.timeout(5):
        while not pending.done():
            numbers += 1
            feed.put("a", str(numbers))
            await asyncio.sleep(0)
    assert (await pending).type is BOOKMARK
    await watch.aclose()


async def test_a_watch_of_one_item_sees_that_item_alone() -> None:
    """A watch by key has that item's snapshot and changes, resumes, and is not woken for any other."""
    feed = a_feed(buffer=2)
    feed.put("a", "1")
    feed.put("b", "1")
    watch = feed.watch(key="a")
    assert await take(watch, 1) == [(SNAPSHOT, "1")]
    token = (await anext(watch)).token
    for number in range(2, 9):
        feed.put("b", str(number))  # more than its buffer holds, and none of its business
    feed.put("a", "2")
    feed.remove("a")
    assert await take(watch, 2) == [(UPDATED, "2"), (REMOVED, "2")]
    await watch.aclose()
    again = feed.watch(resume_token=token, key="a")
    assert await take(again, 3) == [(UPDATED, "2"), (REMOVED, "2"), (SYNCED, None)]
    await again.aclose()
    assert await take(feed.watch(key="a"), 1) == [(SYNCED, None)]


async def test_the_bookmark_of_one_item_moves_on_with_the_others() -> None:
    """The token of a watch by key stays good, however much happens to other items meanwhile."""
    feed = a_feed(bookmark_seconds=0.01, log_size=2)
    watch = feed.watch(key="a")
    await anext(watch)
    for number in range(5):
        feed.put("b", str(number))
    event = await anext(watch)
    assert (event.type, event.token) == (BOOKMARK, feed.token)
    await watch.aclose()


async def test_a_closed_feed_ends_its_watches() -> None:
    """Closing ends every watch, running or new, with Unavailable."""
    feed = a_feed()
    watch = feed.watch()
    await anext(watch)
    feed.put("a", "1")
    feed.close()
    for ended in (watch, feed.watch()):
        with pytest.raises(Unavailable) as caught:
            await anext(ended)
        assert caught.value.reason == "SERVICE_STOPPING"


async def test_who_left_costs_nothing() -> None:
    """A watcher that has gone is not written to: its unread changes are not kept."""
    feed = a_feed()
    watch = feed.watch()
    await anext(watch)
    watching = feed.watchers
    await watch.aclose()
    assert (watching, feed.watchers) == (1, 0)


def test_an_epoch_with_a_colon_is_refused() -> None:
    """Tokens are parsed at the colon."""
    with pytest.raises(ValueError, match="colon"):
        Feed(epoch="a:b")


class FeedMachine(RuleBasedStateMachine):
    """Watchers that come, read, leave and resume, against a dict and a list of changes."""

    watches = Bundle("watches")
    keys = st.sampled_from("abc")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.feed: Feed[str] = Feed(epoch="e", log_size=1000, buffer=1000, bookmark_seconds=0.0001)
        self.items: dict[str, str] = {}
        self.changes: list[tuple[EventType, str]] = []

    def run(self, make: Callable[[], Any]) -> Any:
        return self.loop.run_until_complete(make())

    @rule(key=keys, value=st.integers(0, 2))
    def put(self, key: str, value: int) -> None:
        item = f"{key}{value}"
        if self.feed.put(key, item):
            self.changes.append((UPDATED if key in self.items else ADDED, item))
            self.items[key] = item
        else:
            assert self.items[key] == item

    @rule(key=keys)
    def remove(self, key: str) -> None:
        known = self.items.pop(key, None)
        assert self.feed.remove(key) == (known is not None)
        if known is not None:
            self.changes.append((REMOVED, known))

    @rule(target=watches)
    def watch(self) -> dict[str, Any]:
        watch = self.feed.watch()
        held = self.run(lambda: self.drain(watch, SYNCED))
        assert {event.item for event in held[:-1]} == set(self.items.values())
        assert all(event.type is SNAPSHOT for event in held[:-1])
        return {"watch": watch, "read": len(self.changes), "token": held[-1].token}

    @rule(state=watches)
    def read(self, state: dict[str, Any]) -> None:
        *events, bookmark = self.run(lambda: self.drain(state["watch"], BOOKMARK))
        self.check(state, events, bookmark.token)

    @rule(state=watches)
    def resume(self, state: dict[str, Any]) -> None:
        self.run(state["watch"].aclose)
        state["watch"] = self.feed.watch(resume_token=state["token"])
        *events, synced = self.run(lambda: self.drain(state["watch"], SYNCED))
        self.check(state, events, synced.token)

    def check(self, state: dict[str, Any], events: list[Event[str]], token: str) -> None:
        assert [(event.type, event.item) for event in events] == self.changes[state["read"] :]
        state["read"], state["token"] = len(self.changes), token

    async def drain(self, watch: Watch, until: EventType) -> list[Event[str]]:
        found = [await anext(watch)]
        while found[-1].type is not until:
            found.append(await anext(watch))
        return found

    @invariant()
    def items_agree(self) -> None:
        assert self.feed.items() == self.items

    def teardown(self) -> None:
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


TestFeedMachine = FeedMachine.TestCase
TestFeedMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
