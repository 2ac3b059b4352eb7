"""What the containers of a pod may use."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.engines.pods.limits import under


@given(
    limits=st.lists(st.none() | st.floats(0.001, 1e6), min_size=1, max_size=8),
    ceiling=st.floats(0.001, 1e6),
)
def test_limits_stay_under_a_ceiling(limits: list[float | None], ceiling: float) -> None:
    """Under a ceiling all containers have a limit, none a larger one than it had, and together they stay below."""
    made = under(limits, ceiling)
    assert all(limit is not None and limit > 0 for limit in made)
    assert sum(limit or 0 for limit in made) <= ceiling * (1 + 1e-9)
    assert all(was is None or now is None or now <= was for was, now in zip(limits, made, strict=True))
    assert under(limits, None) == limits
