"""What a call was refused with, as the domain error that any client of ours would see."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest

from services.errors import BeemeshError
from services.rpc.errors import translated


async def refusal(call: Awaitable[Any] | AsyncIterator[Any]) -> BeemeshError:
    """The error that a call, or a stream on its way, ends with; fails when there is none."""
    with pytest.raises(BeemeshError) as caught:
        await _finish(call)
    return caught.value


async def _finish(call: Awaitable[Any] | AsyncIterator[Any]) -> None:
    with translated():
        if isinstance(call, AsyncIterator):
            async for _ in call:
                pass
        else:
            await call
