"""A function's log keeps its last lines, over restarts, and says what it has dropped."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.engines.engine import LogLine, LogQuery, LogSource
from services.engines.wasm import journal as journals
from services.engines.wasm.journal import Journal
from services.errors import InvalidArgument


def journal(directory: Path) -> Journal:
    """The one in a directory."""
    return Journal(directory / "log", component_id="c")


def write(to: Journal, *texts: str, time: float = 1.0, **fields: object) -> None:
    """Some lines."""
    for text in texts:
        to.write(stream="stdout", text=text.encode(), time=time, **fields)  # type: ignore[arg-type]  # as given


async def read(source: Journal, **query: object) -> list[LogLine]:
    """All lines that fit."""
    batches = source.read(LogQuery(**query), alive=lambda: True)  # type: ignore[arg-type]  # as given
    return [line async for batch in batches for line in batch]


async def test_lines_are_there_again_after_a_restart(tmp_path: Path) -> None:
    """With all that is known of them; a line that a kill has cut is left out, and what follows is whole."""
    first = journal(tmp_path)
    first.write(stream="stderr", text=b"a\xff", time=2.5, partial=True, invocation="i")
    write(first, "b")
    with (tmp_path / "log").open("ab") as file:
        file.write(b'{"number": 3, "ti')
    again = journal(tmp_path)
    write(again, "c")
    lines = await read(journal(tmp_path))
    assert [line.text for line in lines] == ["a\ufffd", "b", "c"]
    assert (lines[0].source, lines[0].time, lines[0].partial) == (LogSource.STDERR, 2.5, True)
    assert (lines[0].lossy, lines[0].invocation_id, lines[1].invocation_id) == (True, "i", "")


async def test_a_query_chooses_lines(tmp_path: Path) -> None:
    """The last ones, those since a time, those after a cursor, those of a stream."""
    source = journal(tmp_path)
    for number in range(5):
        write(source, str(number), time=float(number))
    source.write(stream="stderr", text=b"err", time=5.0)
    assert [line.text for line in await read(source, tail_lines=2)] == ["4", "err"]
    assert await read(source, tail_lines=0) == []
    assert [line.text for line in await read(source, since_time=4.0)] == ["4", "err"]
    assert [line.text for line in await read(source, sources=frozenset({LogSource.STDERR}))] == ["err"]
    third = (await read(source))[2]
    assert [line.text for line in await read(source, resume_cursor=third.cursor)] == ["3", "4", "err"]
    with pytest.raises(InvalidArgument) as caught:
        await read(source, resume_cursor="x")
    assert caught.value.reason == "BAD_CURSOR"


async def test_old_lines_go_and_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line that is left says how many are not; the file does not grow without end."""
    monkeypatch.setattr(journals, "LINES_MAX", 10)
    monkeypatch.setattr(journals, "BYTES_MAX", 1000)
    source = journal(tmp_path)
    write(source, *(str(number) for number in range(100)))
    lines = await read(source)
    assert [line.text for line in lines] == [str(number) for number in range(90, 100)]
    assert [line.dropped_lines for line in lines] == [90] + [0] * 9
    assert [line.text for line in await read(journal(tmp_path))] == [line.text for line in lines]
    assert (tmp_path / "log").stat().st_size <= 3 * 1000
    assert (await read(source, resume_cursor="95"))[0].dropped_lines == 0


async def test_who_follows_hears_every_line_until_the_end(tmp_path: Path) -> None:
    """What was there, what comes, and then the end; several hear the same."""
    source = journal(tmp_path)
    write(source, "a")
    followers = [asyncio.ensure_future(read(source, follow=True)) for _ in range(2)]
    for text in ("b", "c"):
        await asyncio.sleep(0)
        write(source, text)
    await asyncio.sleep(0)
    assert not any(follower.done() for follower in followers)
    source.close()
    assert [[line.text for line in await follower] for follower in followers] == [["a", "b", "c"]] * 2
