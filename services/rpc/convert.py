"""Between Python numbers and protobuf's well-known types: times are seconds since 1970 (UTC), spans are seconds."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from services.errors import FieldViolation, InvalidArgument


def timestamp(seconds: float | None) -> Timestamp | None:
    """A Timestamp with microseconds; None for None, so that the field stays unset."""
    if seconds is None:
        return None
    result = Timestamp()
    result.FromMicroseconds(round(seconds * 1e6))
    return result


def from_timestamp(value: Timestamp, *, field: str = "time") -> float:
    """Seconds since 1970; raises InvalidArgument naming the field when it is no valid time."""
    try:
        return value.ToMicroseconds() / 1e6
    except ValueError:
        message = "is not a time between the years 1 and 9999"
        violation = FieldViolation(field_path=field, message=message)
        raise InvalidArgument(f"{field} {message}", reason="BAD_TIME", violations=[violation]) from None


def duration(seconds: float) -> Duration:
    """A Duration with microseconds."""
    result = Duration()
    result.FromMicroseconds(round(seconds * 1e6))
    return result


def from_duration(value: Duration, *, field: str, low: float = 0.0, high: float = 365 * 86400.0) -> float:
    """Seconds, within [low, high]; raises InvalidArgument naming the field otherwise."""
    seconds = value.seconds + value.nanos / 1e9
    if not low <= seconds <= high:
        message = f"must be between {low:g}s and {high:g}s, not {seconds:g}s"
        raise InvalidArgument(
            f"{field} {message}",
            reason="BAD_DURATION",
            violations=[FieldViolation(field_path=field, message=message)],
        )
    return seconds
