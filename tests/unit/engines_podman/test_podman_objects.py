"""Podman's volumes are listed, though one of them goes meanwhile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.engines.podman.http import Refusal, Reply, UnixHttp
from services.engines.podman.objects import Objects

LABELS = {"a": "1"}
GONE = Reply(status=500, headers={}, body=b'{"message": "no volume with name x found in database: no such volume"}')
LISTED = Reply(status=200, headers={}, body=json.dumps([{"Name": "y", "Labels": LABELS}]).encode())
BROKEN = Reply(status=500, headers={}, body=b'{"message": "database is locked"}')


def answering(monkeypatch: pytest.MonkeyPatch, *replies: Reply) -> list[Reply]:
    """Podman answers with these, one after the other; those that are left."""
    left = list(replies)

    async def call(*_: Any, **__: Any) -> Reply:
        return left.pop(0)

    monkeypatch.setattr(UnixHttp, "call", call)
    return left


async def test_volumes_are_listed_though_one_goes_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Podman 4.3 fails when one that it lists has just been removed: it is asked again."""
    left = answering(monkeypatch, GONE, GONE, LISTED)
    assert [volume["Name"] for volume in await Objects(Path("/nowhere")).volumes(LABELS)] == ["y"]
    assert left == []


@pytest.mark.parametrize("replies", [[BROKEN], [GONE] * 5])
async def test_what_is_wrong_for_good_is_told(monkeypatch: pytest.MonkeyPatch, replies: list[Reply]) -> None:
    """Another failure at once, and this one after a few times."""
    left = answering(monkeypatch, *replies)
    with pytest.raises(Refusal):
        await Objects(Path("/nowhere")).volumes(LABELS)
    assert left == []
