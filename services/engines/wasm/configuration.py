"""How guests are compiled and run. Compiled code is bound to it; workers load this and little else."""

from __future__ import annotations

STACK_BYTES = 3 << 19
"""Of a guest's native stack; wasmtime gives it 2 MiB in all. Python's recursion limit is reached before it is full."""
OPTIMIZE = "speed"
