"""References in commands and variables."""

from __future__ import annotations

import pytest

from services.engines.pods.environment import expand


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)", "1"),
        ("$(A)$(A)", "11"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(NO)", "$(NO)"),
        ("$(A", "$(A"),
        ("$A ${A}", "$A ${A}"),
        ("100$", "100$"),
        ("$(B)", "$(A)"),
    ],
)
def test_expansion_follows_kubernetes(text: str, expanded: str) -> None:
    """`$(NAME)` is replaced once, `$$` escapes, unknown names stay."""
    assert expand(text, {"A": "1", "B": "$(A)"}) == expanded
