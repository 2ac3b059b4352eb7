"""Docker's frames, lines, places in logs, and cursors."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.engines.docker_api.frames import (
    Line,
    Lines,
    Position,
    known_position,
    nanoseconds,
    read_cursor,
    write_cursor,
)
from services.engines.engine import LogSource
from services.errors import Internal, InvalidArgument

STAMP = b"2026-01-02T03:04:05.123456789Z "
TIME = 1767323045123456789


def frame(payload: bytes, stream: int = 1) -> bytes:
    """As docker sends it."""
    return bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


@given(cuts=st.lists(st.integers(0, 200), max_size=12))
def test_lines_are_read_however_the_stream_is_cut(cuts: list[int]) -> None:
    """The same lines come out wherever the chunks end; a frame without a line's end is part of a line."""
    whole = frame(STAMP + b"one\n") + frame(STAMP + b"two words\n", 2) + frame(STAMP + b"part") + frame(STAMP + b"\n")
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    lines = Lines(tty=False)
    found = [line for start, end in pairwise(edges) for line in lines.feed(whole[start:end])]
    assert [(line.source, line.text, line.partial) for line in found] == [
        (LogSource.STDOUT, "one", False),
        (LogSource.STDERR, "two words", False),
        (LogSource.STDOUT, "part", True),
        (LogSource.STDOUT, "", False),
    ]
    assert {line.nanoseconds for line in found} == {TIME}


@given(cuts=st.lists(st.integers(0, 100), max_size=8))
def test_a_terminals_lines_have_no_frames(cuts: list[int]) -> None:
    """They end with the line's end alone."""
    whole = STAMP + b"one\r\n" + STAMP + b"two\r\n"
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    lines = Lines(tty=True)
    found = [line for start, end in pairwise(edges) for line in lines.feed(whole[start:end])]
    assert [(line.source, line.text) for line in found] == [(LogSource.STDOUT, "one"), (LogSource.STDOUT, "two")]


def test_bad_utf_8_is_replaced_and_said() -> None:
    """A line is never lost for its bytes."""
    (line,) = Lines(tty=False).feed(frame(STAMP + b"a\xffb\n"))
    assert (line.text, line.lossy) == ("a�b", True)


def test_what_is_no_log_is_an_error() -> None:
    """A frame of a stream that does not exist."""
    with pytest.raises(Internal):
        list(Lines(tty=False).feed(frame(b"x", 7)))


@pytest.mark.parametrize(
    ("stamp", "time"),
    [
        (b"2026-01-02T03:04:05.123456789Z", TIME),
        (b"2026-01-02T03:04:05.5Z", TIME // 10**9 * 10**9 + 500_000_000),
        (b"2026-01-02T03:04:05Z", TIME // 10**9 * 10**9),
        (b"yesterday", 0),
    ],
)
def test_times_are_read_to_the_nanosecond(stamp: bytes, time: int) -> None:
    """As docker writes them; 0 for what is none."""
    assert nanoseconds(stamp) == time


def test_a_place_counts_the_lines_of_one_time() -> None:
    """So that reading again since then skips exactly those that were seen."""
    at = Position()
    seen = []
    for time in (5, 5, 7, 7, 7, 9):
        line = Line(source=LogSource.STDOUT, nanoseconds=time, text="", partial=False, lossy=False)
        at = at.after(line)
        seen.append((at.nanoseconds, at.count))
    assert seen == [(5, 1), (5, 2), (7, 1), (7, 2), (7, 3), (9, 1)]
    assert Position(TIME, 1).since == "1767323045.123456789"


@given(
    st.dictionaries(st.text("0123456789abcdef", min_size=64, max_size=64), st.tuples(st.integers(0), st.integers(0)))
)
def test_cursors_come_back(places: dict[str, tuple[int, int]]) -> None:
    """Whatever positions they hold, by container."""
    positions = {name: Position(*at) for name, at in places.items()}
    back = read_cursor(write_cursor(positions))
    short = {name[:12] for name in positions}
    if len(short) == len(positions):
        assert all(known_position(back, name) == at for name, at in positions.items())
    assert known_position(back, "z" * 64) is None


@pytest.mark.parametrize(
    "cursor",
    ["x", "e30x", "WzFd", "eyJhIjpbLTEsMF19", "eyJhIjpbMV19", "a" * 9000, "eyJhIjpbSW5maW5pdHksMF19", "W1tb" * 1000],
)
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    """With BAD_CURSOR."""
    with pytest.raises(InvalidArgument) as caught:
        read_cursor(cursor)
    assert caught.value.reason == "BAD_CURSOR"
