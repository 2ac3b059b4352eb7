"""podman's exec stream, taken apart without waiting for more than there is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.engines.engine import LogSource
from services.engines.podman.exec import Demultiplexer
from services.errors import Internal

SOURCES = {1: LogSource.STDOUT, 2: LogSource.STDERR}
FRAMES = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40)), max_size=6)


def framed(source: int, data: bytes) -> bytes:
    """One frame."""
    return bytes([source, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


@given(FRAMES, st.data())
def test_the_streams_come_apart_however_they_are_cut(frames: list[tuple[int, bytes]], data: st.DataObject) -> None:
    """All bytes of each stream, in order."""
    wire = b"".join(framed(source, text) for source, text in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=5)))
    pieces = Demultiplexer(tty=False)
    seen = {LogSource.STDOUT: b"", LogSource.STDERR: b""}
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        for piece in pieces.feed(wire[start:end]):
            seen[piece.source] += piece.data
    for number, source in SOURCES.items():
        assert seen[source] == b"".join(text for of, text in frames if of == number)


def test_a_part_of_a_frame_is_not_held_back() -> None:
    """An answer to a prompt must not wait for a full frame."""
    pieces = Demultiplexer(tty=False)
    assert [piece.data for piece in pieces.feed(framed(1, b"0123456789")[:12])] == [b"0123"]


def test_a_terminals_stream_has_no_frames() -> None:
    """It is one stream, as it is."""
    assert [piece.data for piece in Demultiplexer(tty=True).feed(b"\x01\x02\x03")] == [b"\x01\x02\x03"]


def test_what_is_no_frame_is_an_error() -> None:
    """It is never taken for output."""
    with pytest.raises(Internal):
        list(Demultiplexer(tty=False).feed(b"HTTP/1.1 500 oops"))
