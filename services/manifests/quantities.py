"""Reads amounts of CPU, memory and time as Kubernetes, Compose and the beemesh annotations write them.

A number means the same everywhere; a suffix may not: `64M` is 64,000,000 bytes in Kubernetes, `64m` is 64 MiB in
Compose and 0.064 bytes in Kubernetes. So Compose has a function of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal

Amount = str | int | float

_QUANTITY = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]|[eE][+-]?[0-9]{1,3})?")
_BYTES = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+) ?([kmgtpe]?b)", re.IGNORECASE)
_COMPOSE = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+) ?([bkmgtp]?)(?:i?b)?", re.IGNORECASE)
_DURATION = re.compile(r"(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:ns|us|µs|ms|s|m|h))+")
_DURATION_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|ms|s|m|h)")
_MAX_LENGTH = 64

_SCALE: Mapping[str, Decimal] = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    **{prefix: Decimal(1000) ** power for power, prefix in enumerate("kMGTPE", start=1)},
    **{f"{prefix}i": Decimal(1024) ** power for power, prefix in enumerate("KMGTPE", start=1)},
}
_DECIMAL_BYTES = {f"{prefix}b": 1000**power for power, prefix in enumerate(["", *"kmgtpe"])}
_BINARY = {prefix: 1024**power for power, prefix in enumerate("bkmgtp")}
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_MAX_BYTES = 2**63 - 1
_MAX_CORES = 1_000_000


def quantity(value: Amount) -> Decimal:
    """A Kubernetes quantity: `500m`, `4Gi`, `1e3`, 0.5. Raises ValueError."""
    number, suffix = _split(value)
    if suffix[:1] in ("e", "E") and len(suffix) > 1 and suffix != "Ei":
        return number.scaleb(int(suffix[1:]))
    return number * _SCALE[suffix]


def cpu(value: Amount) -> float:
    """Cores: `500m` is 0.5, `2.0` and 2 are 2.0. Raises ValueError."""
    cores = quantity(value)
    if cores < 0:
        raise ValueError(f"{_shown(value)} is negative; an amount of CPU is a number of cores such as 2, 0.5 or 500m")
    if cores > _MAX_CORES:
        raise ValueError(f"{_shown(value)} is more CPU than any machine has")
    return float(cores)


def memory(value: Amount) -> int:
    """Bytes, rounded up: `4Gi` is 4 × 2^30, `4GB` and `4gb` are 4 × 10^9, `64M` is 64 × 10^6. Raises ValueError."""
    if isinstance(value, str) and len(value) <= _MAX_LENGTH and (match := _BYTES.fullmatch(value)):
        return _whole(Decimal(match[1]) * _DECIMAL_BYTES[match[2].lower()], value)
    return _whole(quantity(value), value)


def compose_memory(value: Amount) -> int:
    """Bytes as Compose counts them, in powers of 1024: `64m`, `64mb` and `64MiB` are 64 × 2^20. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, str):
        return memory(value)
    match = _COMPOSE.fullmatch(value) if len(value) <= _MAX_LENGTH else None
    if match is None:
        raise ValueError(f"{_shown(value)} is not an amount of memory; write one such as 64m or 2gb")
    return _whole(Decimal(match[1]) * _BINARY[match[2].lower() or "b"], value)


def duration(value: Amount) -> float:
    """Seconds: `30s`, `1m30s`, `1.5h`, `250ms`; a bare number is seconds. Raises ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value >= 0 and math.isfinite(value):
            return float(value)
    elif isinstance(value, str) and len(value) <= _MAX_LENGTH and _DURATION.fullmatch(value):
        return math.fsum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(value))
    raise ValueError(f"{_shown(value)} is not a duration; write one such as 30s, 1m30s or 250ms")


def _split(value: Amount) -> tuple[Decimal, str]:
    if isinstance(value, str) and len(value) <= _MAX_LENGTH and (match := _QUANTITY.fullmatch(value)):
        return Decimal(match[1]), match[2] or ""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return Decimal(str(value)), ""
    raise ValueError(f"{_shown(value)} is not a quantity; write one such as 2, 500m, 64Mi or 4Gi")


def _whole(amount: Decimal, value: Amount) -> int:
    if amount < 0:
        raise ValueError(f"{_shown(value)} is negative; an amount of memory is a number of bytes such as 64Mi or 4Gi")
    if amount > _MAX_BYTES:
        raise ValueError(f"{_shown(value)} is more than 2^63 bytes")
    return int(amount.to_integral_value(ROUND_CEILING))


def _shown(value: object) -> str:
    text = str(value)
    return f'"{text}"' if len(text) <= _MAX_LENGTH else f'"{text[:_MAX_LENGTH]}…"'
