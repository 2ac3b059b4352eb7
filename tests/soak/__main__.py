"""Kills services of a node at random, again and again, and compares record, backend and announcement after each.

`make soak SEED=… ROUNDS=… SECONDS=…`. A failure says how to replay it: the same seed draws the same requests, victims
and moments; what happens in between is the processes' own.
"""

from __future__ import annotations

import argparse
import math
import random
import secrets
import sys
import time
import traceback

from tests.crash.node import CrashNode
from tests.crash.zygote import Zygote
from tests.harness.processes import short_directory
from tests.soak.soak import Soak

_TELL_EVERY = 50


def main() -> int:
    """Soak, and say what was done; 1 when something is not as it should be."""
    parser = argparse.ArgumentParser(prog="soak", description="Kill services of a node at random.")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no round after so many")
    asked = parser.parse_args()
    say(f"soak: SEED={asked.seed} ROUNDS={asked.rounds} SECONDS={asked.seconds:g}")
    with Zygote() as zygote, short_directory() as place, CrashNode(zygote, place) as node:
        soak = Soak(node, random.Random(asked.seed))
        return run(soak, seed=asked.seed, rounds=asked.rounds, seconds=asked.seconds)


def run(soak: Soak, *, seed: int, rounds: int, seconds: float) -> int:
    """Round after round, until one fails or it is enough."""
    began = time.monotonic()
    number = 0
    while number < rounds and time.monotonic() - began < seconds:
        number += 1
        drawn = soak.draw()
        try:
            soak.play(drawn)
        except Exception:  # whatever it is, how to see it again is said
            say(soak.log_tail())
            say(traceback.format_exc())
            say(f"soak: FAILED in round {number}: {drawn}")
            say(f"replay with: make soak SEED={seed} ROUNDS={number}")
            return 1
        if number % _TELL_EVERY == 0:
            say(f"soak: {number} rounds, {sum(soak.kills.values())} kills")
    say(f"soak: {number} rounds with {sum(soak.kills.values())} kills in {time.monotonic() - began:.0f} s, all well")
    say(f"  killed: {_counted(soak.kills)}; {soak.reached} times at a point that was drawn")
    say(f"  asked: {_counted(soak.verbs)}")
    return 0


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def say(text: str) -> None:
    """To whoever watches, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
