"""Which of the workloads in the view a list asks for, and its pages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from services.engines.engine import WorkloadState
from services.engines.view import Workload
from services.errors import FieldViolation, InvalidArgument
from services.rpc.listing import parse_filter

_FILTER_FIELDS = ("state", "manifest_id", "workload_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Which workloads are wanted, and which page of them."""

    filter: str = ""
    """`field=value` joined by AND over state, manifest_id and workload_id."""
    manifest_id: str = ""
    states: frozenset[WorkloadState] = frozenset()
    """Empty: all."""
    page_size: int = 0
    page_token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of workloads."""

    workloads: Sequence[Workload]
    next_page_token: str
    resume_token: str
    """A watch from here misses nothing."""


def matcher(listing: Listing) -> Callable[[Workload], bool]:
    """Whether a workload is asked for; raises InvalidArgument(BAD_FILTER)."""
    terms = parse_filter(listing.filter, fields=_FILTER_FIELDS)
    states: Collection[WorkloadState] = listing.states or frozenset(WorkloadState)
    named = frozenset({_state(terms["state"])}) if "state" in terms else frozenset(WorkloadState)

    def wanted(item: Workload) -> bool:
        return (
            item.state in states
            and item.state in named
            and item.workload_id == terms.get("workload_id", item.workload_id)
            and item.manifest_id == terms.get("manifest_id", item.manifest_id)
            and item.manifest_id == (listing.manifest_id or item.manifest_id)
        )

    return wanted


def _state(text: str) -> WorkloadState:
    try:
        return WorkloadState[text.upper().removeprefix("WORKLOAD_STATE_")]
    except KeyError:
        known = ", ".join(state.name for state in WorkloadState)
        raise InvalidArgument(
            f"filter: unknown state {text!r}; known: {known}",
            reason="BAD_FILTER",
            violations=[FieldViolation(field_path="filter", message=f"unknown state {text!r}; known: {known}")],
        ) from None
