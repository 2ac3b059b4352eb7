"""Frames between engine and worker come through whole, and nothing unbounded does."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.engines.wasm import frames
from services.engines.wasm.frames import BadFrame, Frame, packed, read_frame

FACTS = st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers()))


@given(st.lists(st.tuples(FACTS, st.binary(max_size=2000)), max_size=5))
def test_frames_come_through_as_they_were(sent: list[tuple[dict[str, object], bytes]]) -> None:
    """One after the other, until the stream ends."""
    stream = io.BytesIO(b"".join(packed(facts, body) for facts, body in sent))
    assert [read_frame(stream.read) for _ in sent] == [Frame(facts, body) for facts, body in sent]
    assert read_frame(stream.read) is None


@given(st.integers(min_value=0))
def test_a_frame_that_is_cut_is_the_end(at: int) -> None:
    """Wherever."""
    whole = packed({"a": 1}, b"body")
    assert read_frame(io.BytesIO(whole[: at % len(whole)]).read) is None


@pytest.mark.parametrize(
    "data",
    [
        frames.SIZES.pack(frames.HEAD_MAX + 1, 0),
        frames.SIZES.pack(0, frames.BODY_MAX + 1),
        frames.SIZES.pack(1, 0) + b"x",
        frames.SIZES.pack(2, 0) + b"[]",
    ],
)
def test_nonsense_is_refused(data: bytes) -> None:
    """Sizes beyond the limit before anything is read, and a head that is no mapping."""
    with pytest.raises(BadFrame):
        read_frame(io.BytesIO(data).read)


def test_what_is_too_large_is_not_sent() -> None:
    """The limit holds on both sides."""
    with pytest.raises(BadFrame):
        packed({}, b"x" * (frames.BODY_MAX + 1))
