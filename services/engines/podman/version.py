"""podman's version as numbers, for the places where versions behave differently."""

from __future__ import annotations

import re

OLDEST = (4, 0)
"""The first with the API that the engine speaks."""


def parse(text: str) -> tuple[int, ...]:
    """`4.3.1` and `5.0.0-rc1` as (4, 3, 1) and (5, 0, 0); () when it is no version."""
    match = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in match.groups() if part is not None) if match else ()
