"""The orchestrator, killed by -9 before and after each row of the flow's table, goes on where the record says."""

from __future__ import annotations

import pytest

from services.orchestrator.flow import TABLE, Outcome
from services.orchestrator.model import Step
from tests.crash.node import CrashNode
from tests.crash.rows import BESIDES, ROLLBACK, SCENES
from tests.crash.walk import MOMENTS, walk


def test_each_row_of_the_table_has_a_scene() -> None:
    """A new row without a way to crash in it fails here."""
    assert set(SCENES) == set(TABLE)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("row", sorted(TABLE), ids=lambda row: f"{row[0]}-{row[1]}")
def test_killed_at_a_row(node: CrashNode, row: tuple[Step, Outcome], moment: str) -> None:
    """One copy or none as the record says, no orphan, the announcement as it should be, and a retry finds it."""
    walk(node, SCENES[row], service="orchestrator", point=f"{row[0]}:{row[1]} {moment}")


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("point", BESIDES)
def test_killed_beside_the_table(node: CrashNode, point: str, moment: str) -> None:
    """The same where an engine's name becomes durable before it is called, and where the provider is told."""
    walk(node, BESIDES[point], service="orchestrator", point=f"{point} {moment}")


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("point", ROLLBACK)
def test_killed_in_a_rollback(node: CrashNode, point: str, moment: str) -> None:
    """A rollback by request is carried out once, and its retry goes no further back."""
    walk(node, ROLLBACK[point], service="orchestrator", point=f"{point} {moment}", name=f"back-{point}-{moment}")
