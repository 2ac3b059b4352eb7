"""Long texts are read beside the loop, one after the other and within a limit; short ones at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from services.errors import InvalidArgument, ResourceExhausted
from services.manifests import parse
from services.manifests.reader import Reader

LONG = "x" * 10_000


@pytest.fixture
def reader() -> Iterator[Reader]:
    """One with room for two texts."""
    with Reader(waiting_max=2) as reader:
        yield reader


@pytest.mark.parametrize(("text", "beside"), [("a: 1", False), (LONG, True), ("a: &a 1", True)])
async def test_only_what_may_take_long_is_read_in_another_thread(reader: Reader, text: str, beside: bool) -> None:
    """A short text needs no thread; an anchor may make much of little."""
    assert (await reader.read(text, threading.get_ident) != threading.get_ident()) is beside


async def test_the_loop_goes_on_while_a_long_text_is_read(reader: Reader) -> None:
    """Reading that waits for the loop comes to its end: the loop is free."""
    freed = threading.Event()
    reading = asyncio.ensure_future(reader.read(LONG, lambda: freed.wait(30)))
    await asyncio.sleep(0)
    freed.set()
    assert await reading is True


async def test_what_is_wrong_with_a_long_text_is_told_as_ever(reader: Reader) -> None:
    """The refusal comes out of the thread as it is."""
    with pytest.raises(InvalidArgument) as caught:
        await reader.read(LONG, lambda: parse(f"kind: {LONG}"))
    assert caught.value.violations[0].line == 1


async def test_more_long_texts_than_there_is_room_for_are_refused(reader: Reader) -> None:
    """The third is told to come again; one that is given up makes room, and so does one that is done."""
    freed = threading.Event()
    first, second = (asyncio.ensure_future(reader.read(LONG, lambda: freed.wait(30))) for _ in range(2))
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted) as caught:
        await reader.read(LONG, lambda: None)
    assert (caught.value.reason, caught.value.retry_after) == ("TOO_MANY_MANIFESTS", 1.0)
    second.cancel()
    await asyncio.wait([second])
    third = asyncio.ensure_future(reader.read(LONG, lambda: "third"))
    freed.set()
    assert (await first, await third) == (True, "third")
    assert await reader.read(LONG, lambda: "again") == "again"
