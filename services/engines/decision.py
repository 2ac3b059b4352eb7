"""What a deploy has to do, from what is recorded and what the backend has: a pure table."""

from __future__ import annotations

from dataclasses import dataclass

from services.engines.engine import ChangeAction, Observation
from services.engines.records import Phase, Record
from services.errors import AlreadyExists
from services.identity import hash_label


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The steps of one deploy."""

    action: ChangeAction
    destroy: bool = False
    """Something is in the way and goes first (volumes stay)."""
    adopt: bool = False
    """It already runs; only its record was lost."""


NONE = Decision(action=ChangeAction.NONE)
ADOPT = Decision(action=ChangeAction.NONE, adopt=True)
CREATE = Decision(action=ChangeAction.CREATE)
RECREATE = Decision(action=ChangeAction.CREATE, destroy=True)
REPLACE = Decision(action=ChangeAction.REPLACE, destroy=True)


def decide(
    *,
    workload_id: str,
    record: Record | None,
    observation: Observation | None,
    digest: str,
    scaled_to_zero: bool,
    allow_replace: bool,
) -> Decision:
    """The decision; raises AlreadyExists when other content is there and may not be replaced."""
    runs_this = _runs(observation, digest) or (scaled_to_zero and observation is None)
    if record is not None and record.phase is not Phase.DEPLOYED:
        # An interrupted creation or a removal that was never finished: nobody may rely on what is left of it.
        return RECREATE
    if record is not None and record.canonical_digest == digest:
        if runs_this:
            return NONE
        return CREATE if observation is None else RECREATE
    if observation is None and (record is None or not record.scaled_to_zero):
        return CREATE
    if record is None and observation is not None and hash_label(digest) == observation.ownership.manifest_hash:
        return ADOPT if runs_this else RECREATE
    if allow_replace:
        return REPLACE
    raise AlreadyExists(
        f"workload {workload_id} exists with other content; set allow_replace, or remove it first",
        reason="WORKLOAD_EXISTS",
        metadata={"workload_id": workload_id},
    )


def _runs(observation: Observation | None, digest: str) -> bool:
    return (
        observation is not None
        and bool(observation.components)
        and observation.ownership.manifest_hash == hash_label(digest)
    )
