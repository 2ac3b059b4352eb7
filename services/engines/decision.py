"""What a deploy has to do, from what is recorded and what the backend has: a pure table."""

from __future__ import annotations

from dataclasses import dataclass

from services.engines.engine import ChangeAction, Observation
from services.engines.records import Phase, Record
from services.errors import AlreadyExists
from services.identity import hash_label

EARLIER_MAX = 64
"""Contents that are remembered for objects updated in place; then they are made anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The steps of one deploy."""

    action: ChangeAction
    destroy: bool = False
    """Something is in the way and goes first (volumes stay)."""
    update: bool = False
    """What runs is changed, not recreated."""
    adopt: bool = False
    """It already runs; only its record was lost."""


NONE = Decision(action=ChangeAction.NONE)
ADOPT = Decision(action=ChangeAction.NONE, adopt=True)
CREATE = Decision(action=ChangeAction.CREATE)
RECREATE = Decision(action=ChangeAction.CREATE, destroy=True)
UPDATE = Decision(action=ChangeAction.UPDATE_IN_PLACE, update=True)
REPLACE = Decision(action=ChangeAction.REPLACE, destroy=True)


def decide(
    *,
    workload_id: str,
    record: Record | None,
    observation: Observation | None,
    digest: str,
    scaled_to_zero: bool,
    allow_replace: bool,
    in_place: bool = False,
) -> Decision:
    """The decision; raises AlreadyExists when other content is there and may not be replaced.

    `in_place`: the engine can bring the recorded content to the wanted one, or add what has gone of it, without
    recreating all of it.
    """
    if record is not None and not record.phase.is_made:
        # An interrupted creation or a removal that was never finished: nobody may rely on what is left of it.
        return RECREATE
    runs_this = _runs(record, observation, digest) or (scaled_to_zero and _has_nothing(observation))
    if record is not None and record.canonical_digest == digest:
        return _again(record, observation, runs_this=runs_this, in_place=in_place)
    if observation is None and (record is None or not record.scaled_to_zero):
        return CREATE
    if record is None and observation is not None and hash_label(digest) == observation.ownership.manifest_hash:
        return ADOPT if runs_this else RECREATE
    if allow_replace:
        return UPDATE if in_place and record is not None and _can_be_updated(record, observation) else REPLACE
    raise AlreadyExists(
        f"workload {workload_id} exists with other content; set allow_replace, or remove it first",
        reason="WORKLOAD_EXISTS",
        metadata={"workload_id": workload_id},
    )


def _again(record: Record, observation: Observation | None, *, runs_this: bool, in_place: bool) -> Decision:
    """The content that was asked for before is asked for again; what is whole of it runs on."""
    if record.phase is Phase.UPDATING and (observation is not None or record.scaled_to_zero):
        return UPDATE
    if runs_this:
        return NONE
    if observation is None:
        return CREATE
    lost_some = bool(observation.components) and bool(record.missing(observation))
    return UPDATE if lost_some and in_place and _can_be_updated(record, observation) else RECREATE


def _runs(record: Record | None, observation: Observation | None, digest: str) -> bool:
    if observation is None or not observation.components or (record is not None and record.missing(observation)):
        return False
    label = observation.ownership.manifest_hash
    return label == hash_label(digest) or bool(record and record.canonical_digest == digest and record.made_of(label))


def _can_be_updated(record: Record, observation: Observation | None) -> bool:
    """Whether what is there is what was recorded: an update in place trusts it."""
    if record.phase not in (Phase.DEPLOYED, Phase.UPDATING) or len(record.earlier_hashes) >= EARLIER_MAX:
        return False
    if _has_nothing(observation):
        return record.scaled_to_zero
    return observation is not None and record.made_of(observation.ownership.manifest_hash)


def _has_nothing(observation: Observation | None) -> bool:
    return observation is None or not observation.components
