"""Log frames, positions and cursors."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.engines.engine import LogSource
from services.engines.podman.frames import Frames, Line, Position, known_position, read_cursor, write_cursor
from services.errors import Internal, InvalidArgument

STAMP = b"2026-01-02T03:04:05Z "
SECOND = 1767323045


def frame(payload: bytes, stream: int = 1) -> bytes:
    """As podman sends it."""
    return bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


@given(cuts=st.lists(st.integers(0, 200), max_size=12))
def test_lines_are_read_however_the_stream_is_cut(cuts: list[int]) -> None:
    """The same lines come out wherever the chunks end."""
    whole = frame(STAMP + b"one\n") + frame(STAMP + b"two words\n", 2) + frame(STAMP + b"part") + frame(STAMP + b"\n")
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    frames = Frames()
    lines = [line for start, end in pairwise(edges) for line in frames.feed(whole[start:end])]
    assert [(line.source, line.text, line.partial) for line in lines] == [
        (LogSource.STDOUT, "one", False),
        (LogSource.STDERR, "two words", False),
        (LogSource.STDOUT, "part", True),
        (LogSource.STDOUT, "", False),
    ]
    assert {line.time for line in lines} == {SECOND}


def test_bad_utf_8_is_replaced() -> None:
    """Bytes that are no UTF-8 become replacement characters, and the line stays a line."""
    (line,) = Frames().feed(frame(STAMP + b"a\xffb\n"))
    assert line.text == "a\ufffdb"


@pytest.mark.parametrize("junk", [b"\x09" + b"\0" * 7, b"\x01\0\0\0\xff\xff\xff\xff"])
def test_what_is_no_log_is_refused(junk: bytes) -> None:
    """A stream that is not framed, or claims a monstrous frame, is an error instead of garbage."""
    with pytest.raises(Internal):
        list(Frames().feed(junk))


def test_positions_count_the_lines_of_a_second() -> None:
    """A position counts the lines of its second, and begins anew with the next."""
    at = Position()
    for time, expected in ((10.0, (10, 1)), (10.9, (10, 2)), (11.0, (11, 1)), (None, (11, 2))):
        at = at.after(Line(source=LogSource.STDOUT, time=time, text="", partial=False))
        assert (at.second, at.count) == expected


@given(
    positions=st.dictionaries(
        st.text("0123456789abcdef", min_size=64, max_size=64),
        st.builds(Position, st.integers(0, 2**40), st.integers(0, 2**40)),
        max_size=8,
    )
)
def test_cursors_say_again_what_was_written(positions: dict[str, Position]) -> None:
    """A cursor is opaque text that gives back each container's position."""
    read = read_cursor(write_cursor(positions))
    assert all(known_position(read, container) == at for container, at in positions.items())
    assert known_position(read, "z" * 64) is None


@pytest.mark.parametrize(
    "cursor", ["x", "é", "bm90IGpzb24=", "WzFd", "eyJhIjogMX0=", "A" * 9000, "eyJhIjpbSW5maW5pdHksMF19", "W1tb" * 1000]
)
def test_a_strange_cursor_is_the_callers_mistake(cursor: str) -> None:
    """What is no cursor of ours is INVALID_ARGUMENT."""
    with pytest.raises(InvalidArgument) as caught:
        read_cursor(cursor)
    assert caught.value.reason == "BAD_CURSOR"
