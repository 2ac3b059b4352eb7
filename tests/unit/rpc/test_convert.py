"""Numbers and protobuf's times."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from services.errors import InvalidArgument
from services.rpc.convert import duration, from_duration, from_timestamp, timestamp


@given(st.integers(0, 4_000_000_000_000_000))
def test_a_time_comes_back_to_the_microsecond(microseconds: int) -> None:
    """Seconds since 1970 survive the message with microseconds."""
    message = timestamp(microseconds / 1e6)
    assert message is not None
    assert abs(message.ToMicroseconds() - microseconds) <= 1
    assert from_timestamp(message) == pytest.approx(microseconds / 1e6, abs=2e-6)


def test_no_time_is_no_message() -> None:
    """None stays an unset field."""
    assert timestamp(None) is None


def test_a_time_that_is_none_names_its_field() -> None:
    """A Timestamp beyond the calendar is an invalid argument, not a defect of ours."""
    for bad in (Timestamp(seconds=10**17), Timestamp(nanos=-1), Timestamp(seconds=-(10**17))):
        with pytest.raises(InvalidArgument) as caught:
            from_timestamp(bad, field="since_time")
        assert caught.value.violations[0].field_path == "since_time"


@given(st.floats(0, 365 * 86400))
def test_a_span_comes_back_to_the_microsecond(seconds: float) -> None:
    """Seconds survive the message with microseconds."""
    assert from_duration(duration(seconds), field="x") == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize(
    "bad", [Duration(seconds=-1), Duration(seconds=11), Duration(seconds=10**17), Duration(nanos=-1)]
)
def test_a_span_out_of_range_names_its_field_and_the_range(bad: Duration) -> None:
    """A duration outside of its range is an invalid argument that says the range."""
    with pytest.raises(InvalidArgument) as caught:
        from_duration(bad, field="probe_timeout", high=10)
    assert caught.value.reason == "BAD_DURATION"
    assert caught.value.violations[0].field_path == "probe_timeout"
    assert "between 0s and 10s" in caught.value.message
