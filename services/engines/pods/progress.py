"""How far a pull has come, in words, from what the backend reports of each layer. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MB = 1_000_000
_DONE = frozenset({"Download complete", "Pull complete", "Already exists"})


class Progress:
    """One pull. A layer's size is told when its download begins, so the total may grow."""

    def __init__(self, reference: str) -> None:
        self._reference = reference
        self._layers: dict[str, tuple[int, int]] = {}
        """Bytes here and in all, by layer."""
        self.text = f"pulling image {reference}"

    def take(self, step: Mapping[str, Any]) -> bool:
        """Count one of the backend's lines, which are docker's; whether there is something new to say."""
        before, layer = self.text, str(step.get("id") or "")
        detail = step.get("progressDetail") or {}
        total = self._layers.get(layer, (0, 0))[1]
        if detail.get("total"):
            self._layers[layer] = (int(detail.get("current") or 0), int(detail["total"]))
        elif step.get("status") in _DONE and layer:
            self._layers[layer] = (total, total)
        self.text = self._words()
        return self.text != before

    def _words(self) -> str:
        here = sum(layer[0] for layer in self._layers.values())
        total = sum(layer[1] for layer in self._layers.values())
        known = f": {here / _MB:.1f} of {total / _MB:.1f} MB" if total else ""
        return f"pulling image {self._reference}{known}"
