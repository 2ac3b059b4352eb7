"""Soaks: the same over and over, drawn at random, and all compared after each round.

`make soak SOAK=… SEED=… ROUNDS=… SECONDS=…`; SOAK is `kills` (services of a node killed at random, on mock) or `mixed`
(ten requests at once over docker and podman), or both, one after the other. A failure says how to replay it: the same
seed draws the same requests, victims and moments; what happens in between is the processes' own.
"""

from __future__ import annotations

import argparse
import math
import random
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest

from tests.crash.node import CrashNode
from tests.crash.zygote import Zygote
from tests.harness.mixed import Backends, mixed_node
from tests.harness.processes import short_directory
from tests.soak.mixed import MixedSoak
from tests.soak.soak import Soak

_TELL_EVERY = 50
_REST_EVERY = 10
"""After so many rounds all is removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is soaked."""

    seed: int
    rounds: int
    seconds: float

    def said(self, name: str) -> str:
        """As it can be asked for again."""
        return f"SOAK={name} SEED={self.seed} ROUNDS={self.rounds} SECONDS={self.seconds:g}"


def kills(limits: Limits) -> int:
    """Kill services of a node at random, again and again."""
    with Zygote() as zygote, short_directory() as place, CrashNode(zygote, place) as node:
        soak = Soak(node, random.Random(limits.seed))

        def play() -> str:
            drawn = soak.draw()
            try:
                soak.play(drawn)
            except Exception as error:
                raise RoundFailed(str(drawn), soak.log_tail()) from error
            return f"{sum(soak.kills.values())} kills"

        if failed := run("kills", limits, play):
            return failed
    say(f"  killed: {_counted(soak.kills)}; {soak.reached} times at a point that was drawn")
    say(f"  asked: {_counted(soak.verbs)}")
    return 0


def mixed(limits: Limits) -> int:
    """Ten requests at once over docker and podman, with removals between."""
    with Backends() as backends, mixed_node(backends, engines="podman,docker") as node:
        soak = MixedSoak(node, random.Random(limits.seed))
        played = 0

        def play() -> str:
            nonlocal played
            drawn = soak.draw()
            try:
                soak.play(drawn)
                played += 1
                if played == 1 or played % _REST_EVERY == 0:
                    soak.rest()
            except Exception as error:
                raise RoundFailed(str(drawn), node.node.log_tail()) from error
            return f"{sum(soak.asked.values())} requests"

        if failed := run("mixed", limits, play):
            return failed
        try:
            soak.rest()
        except AssertionError:
            say(traceback.format_exc())
            return 1
    say(f"  asked: {_counted(soak.asked)}; {soak.busy} times again, for a backend was too busy; nothing is left")
    return 0


SOAKS: Mapping[str, tuple[Callable[[Limits], int], int]] = {"kills": (kills, 1000), "mixed": (mixed, 100)}
"""Each with its rounds where nobody says how many."""


class RoundFailed(Exception):
    """A round was not as it should be: what was drawn, and what the services wrote last."""

    def __init__(self, drawn: str, log: str) -> None:
        super().__init__(drawn)
        self.log = log


def main() -> int:
    """Soak, and say what was done; 1 when something is not as it should be."""
    parser = argparse.ArgumentParser(prog="soak", description="The same over and over, at random.")
    parser.add_argument("names", nargs="*", metavar="SOAK", help=f"of {', '.join(SOAKS)}; none: all")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    parser.add_argument("--rounds", type=int, help="of each; default 1000 kills, 100 mixed")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no round of each after so many")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(SOAKS):
        parser.error(f"no soak is named {', '.join(sorted(unknown))}; there are {', '.join(SOAKS)}")
    failed = 0
    for name in asked.names or SOAKS:
        soak, rounds = SOAKS[name]
        limits = Limits(seed=asked.seed, rounds=asked.rounds or rounds, seconds=asked.seconds)
        say(f"soak: {limits.said(name)}")
        try:
            failed |= soak(limits)
        except pytest.skip.Exception as left_out:
            say(f"soak: {name} is left out: {left_out}")
        except pytest.fail.Exception as missing:
            say(f"soak: {name} cannot be: {missing}")
            failed = 1
    return failed


def run(name: str, limits: Limits, play: Callable[[], str]) -> int:
    """Round after round, until one fails or it is enough; `play` says what was done so far."""
    began = time.monotonic()
    number, done = 0, "nothing"
    while number < limits.rounds and time.monotonic() - began < limits.seconds:
        number += 1
        try:
            done = play()
        except RoundFailed as failure:  # whatever it is, how to see it again is said
            say(failure.log)
            say("".join(traceback.format_exception(failure.__cause__)))
            say(f"soak: FAILED in round {number}: {failure}")
            say(f"replay with: make soak SOAK={name} SEED={limits.seed} ROUNDS={number}")
            return 1
        if number % _TELL_EVERY == 0:
            say(f"soak: {number} rounds, {done}")
    say(f"soak: {number} rounds of {name} with {done} in {time.monotonic() - began:.0f} s, all well")
    return 0


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def say(text: str) -> None:
    """To whoever watches, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
