"""Killed at random moments, over and over, a run ends as if nothing had happened."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from harness import FINISHED, KILLED, Runs, checkpoints, digest, recorded_steps

from moe_emergence.config import RunConfig

SHARE = 0.7
"""Kill times are uniform up to this share of an undisturbed run's duration, and up to more after idle attempts."""
STUCK = 12
"""Kills in a row without a new checkpoint that make a run a failure."""
INSIDE = 0.15
"""Least share of kills that fall inside a save."""
AIMED = 0.2
"""While fewer than this share have fallen inside a save, kills wait for a save and fall at a random moment of it."""


@dataclass
class Tally:
    """What a campaign of kills came to."""

    equal: int = 0
    runs: int = 0
    kills: int = 0
    inside: int = 0
    phases: dict[str, int] = field(default_factory=dict)

    def kill(self, phase: str) -> None:
        self.kills += 1
        self.inside += phase == "save"
        self.phases[phase] = self.phases.get(phase, 0) + 1

    def __str__(self) -> str:
        where = ", ".join(f"{count} in {phase}" for phase, count in sorted(self.phases.items()))
        return f"kills: {self.equal} of {self.runs} runs bit-equal, {self.kills} SIGKILLs ({where})"


@pytest.mark.timeout(1500)
def test_killed_runs_end_bit_equal(
    runs: Runs, forty: dict[str, RunConfig], folders: Iterator[Path], full: bool, figure: Callable[[str], None]
) -> None:
    """60 runs and 300 kills (6 and 30 in the short form), 15 % of them inside a save."""
    tally, draw = Tally(), random.Random(2026)
    wanted_runs, wanted_kills = (60, 300) if full else (6, 30)
    configs = list(forty.items())
    while tally.runs < wanted_runs or tally.kills < wanted_kills:
        name, config = configs[tally.runs % len(configs)]
        folder = next(folders)
        until_finished(runs, config, folder, draw, tally)
        tally.runs += 1
        assert digest(folder) == runs.whole(config), f"{name}: {tally}"
        tally.equal += 1
    figure(str(tally))
    assert tally.inside >= INSIDE * tally.kills, "the kills inside a save are too few to prove anything"


def until_finished(runs: Runs, config: RunConfig, folder: Path, draw: random.Random, tally: Tally) -> None:
    """Start the run again after every kill, until it finishes.

    Raises:
        AssertionError: it ends in another way, or gets no further in many attempts.
    """
    duration, progress, idle = runs.duration(config), None, 0
    while True:
        kill = {"kill_after": draw.uniform(0, SHARE * duration * (1 + idle))}  # longer where the machine is busy
        if tally.inside < AIMED * (tally.kills + 1):
            kill["kill_in_save"] = draw.uniform(0.0001, 0.02)
        outcome = runs.zygote.train(config, folder, **kill)
        if outcome.status == FINISHED:
            return
        outcome.check(KILLED)
        tally.kill(outcome.phase)
        now = (len(recorded_steps(folder)), [path.name for path in checkpoints(folder)])
        idle = idle + 1 if now == progress else 0
        progress = now
        assert idle < STUCK, f"no progress in {STUCK} attempts: {now}"
