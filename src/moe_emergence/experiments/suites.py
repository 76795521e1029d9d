"""Suites: arms that differ from their baselines in declared fields only."""

import difflib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from moe_emergence.config import MoEConfig, RunConfig, flat
from moe_emergence.errors import ConfigError
from moe_emergence.experiments.presets import PRESETS

_NAMES = ("name", "question")
_Row = tuple[str, str | None, tuple[str, ...]]
"""An arm's preset, its baseline, and the fields it may change."""
_QUICKSTART: tuple[_Row, ...] = (
    ("dense", None, ()),
    ("moe", "dense", ("moe",)),
    ("no_lb", "moe", ("moe.balance_coef",)),
    ("top2", "moe", ("moe.top_k",)),
    ("oracle", "moe", ("moe.router",)),
)
_BALANCING: tuple[_Row, ...] = (
    ("moe", None, ()),
    ("moe_blocks", "moe", ("moe.balance_window",)),
    ("moe_sequence", "moe", ("moe.balance_window",)),
    ("moe_ema", "moe", ("moe.balance_window",)),
    ("loss_free", "moe", ("moe.balance_coef", "moe.bias_rate")),
)
_NULLS: tuple[_Row, ...] = (
    ("moe", None, ()),
    ("frozen", "moe", ("moe.router",)),
    ("hash", "moe", ("moe.router",)),
    ("round_robin", "moe", ("moe.router",)),
)
_INITIALISATION: tuple[_Row, ...] = (
    ("moe", None, ()),
    ("centroids", "moe", ("moe.gate_init",)),
    ("drop_upcycled", "moe", ("moe.reinit_share",)),
)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One condition: a run, the arm it is compared with, and the fields in which the two may differ."""

    config: RunConfig
    baseline: str | None = None
    may_change: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.config.name


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Arms that answer one question together.

    Raises:
        ConfigError: an arm differs from its baseline in a field it does not declare, or in none at all; two arms have
            one name, or a baseline is no arm.
    """

    name: str
    question: str
    arms: tuple[Arm, ...]
    conclusive: bool = True
    """False for a first look: too short for conclusions."""
    note: str = ""

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ConfigError(f"suite {self.name} has two arms called {twice[0]!r}: give each a name of its own")
        for arm in self.arms:
            changed = self.changes(arm)
            undeclared = [name for name in changed if not _declared(name, arm.may_change)]
            if undeclared:
                before, after = changed[undeclared[0]]
                raise ConfigError(
                    f"suite {self.name}: arm {arm.name} differs from {arm.baseline} in {undeclared[0]} ({before!r} "
                    f"there, {after!r} here), but declares {_only(arm.may_change)}: make them equal, or declare it"
                )
            if arm.baseline is not None and not changed:
                raise ConfigError(f"suite {self.name}: arm {arm.name} is the same as its baseline {arm.baseline}")

    def arm(self, name: str) -> Arm:
        """The arm of that name.

        Raises:
            ConfigError: there is none.
        """
        found = {arm.name: arm for arm in self.arms}
        if name not in found:
            raise ConfigError(f"suite {self.name} has no arm {name!r}; its arms are {', '.join(found)}")
        return found[name]

    def only(self, names: Sequence[str]) -> "Suite":
        """The suite with these arms alone, in its own order; an arm whose baseline is left out is compared with none.

        Raises:
            ConfigError: there is no such arm; names those that there are.
        """
        wanted = {self.arm(name).name for name in names}
        kept = [arm for arm in self.arms if arm.name in wanted]
        arms = tuple(arm if arm.baseline in wanted else replace(arm, baseline=None) for arm in kept)
        return replace(self, arms=arms)

    def changes(self, arm: Arm) -> dict[str, tuple[Any, Any]]:
        """Dotted field to (baseline's value, this arm's), for every field in which the two differ."""
        if arm.baseline is None:
            return {}
        theirs, ours = flat(self.arm(arm.baseline).config), flat(arm.config)
        names = [name for name in theirs | ours if name not in _NAMES]
        return {n: (theirs.get(n), ours.get(n)) for n in names if theirs.get(n) != ours.get(n)}

    def override(self, changes: Mapping[str, Any]) -> "Suite":
        """The suite with dotted fields set in every arm but those that declare them as their own difference.

        `moe.…` passes over arms without experts.

        Raises:
            ConfigError: there is no such field; names the nearest.
        """
        known = ["moe", *flat(RunConfig(moe=MoEConfig()))]
        for name in changes:
            if name not in known:
                raise ConfigError(f"there is no field {name}{did_you_mean(name, known)}")
        return replace(
            self, arms=tuple(replace(arm, config=_with(arm.config, _shared(changes, arm))) for arm in self.arms)
        )


def _only(fields: tuple[str, ...]) -> str:
    return f"only {', '.join(fields)}" if fields else "nothing"


def _shared(changes: Mapping[str, Any], arm: Arm) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if name not in arm.may_change or name == "moe"}


def _declared(name: str, allowed: tuple[str, ...]) -> bool:
    return any(name == field or name.startswith(f"{field}.") for field in allowed)


def _with(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """All fields of a group at once: two may be valid only together."""
    groups: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, value in changes.items():
        group, _, field = name.rpartition(".")
        groups[group][field] = value
    config = replace(config, **groups.pop("", {}))
    parts = {group: getattr(config, group) for group in groups}
    return replace(config, **{g: replace(part, **groups[g]) for g, part in parts.items() if part is not None})


def did_you_mean(given: str, known: list[str]) -> str:
    """`; did you mean X?`, when something known is near."""
    near = difflib.get_close_matches(given, known, n=1)
    return f"; did you mean {near[0]}?" if near else f": choose from {', '.join(known)}"


def _arms(rows: tuple[_Row, ...], prefix: str = "") -> tuple[Arm, ...]:
    return tuple(
        Arm(
            config=PRESETS[prefix + name](),
            baseline=None if baseline is None else prefix + baseline,
            may_change=may_change,
        )
        for name, baseline, may_change in rows
    )


QUESTION = "Do experts copied from one MLP specialise by domain, and what does load balancing do to it?"


CHOSEN = (
    "The rate is the one that suits dense best; gate multiplier and z are those of the lowest LM loss of moe at a max "
    "violation below 1, and among equals of the most domain information; chosen on dev documents and other seeds "
    "(docs/decisions/011-pilot.md)."
)


INFORMED_NULL = (
    "The arm centroids starts with a gate that already tells domains apart. It is called specialised only for what it "
    "has beyond other untrained gates of the same start (docs/decisions/013-informed-start.md)."
)


def quickstart() -> Suite:
    """Five arms of the embedded base: minutes on a laptop."""
    return Suite(name="quickstart", question=QUESTION, arms=_arms(_QUICKSTART), note=CHOSEN)


def full_size() -> Suite:
    """The same five arms of GPT-2 small, at the published settings: a GPU and hours."""
    return Suite(name="gpt2", question=QUESTION, arms=_arms(_QUICKSTART, "gpt2_"))


def balancing() -> Suite:
    """Five ways to balance. Expect domain information in the order moe_sequence, moe_blocks, moe, and even loads in all
    but, for so few steps of its bias, loss_free."""
    return Suite(
        name="balancing",
        question="How does the way of balancing bear on specialisation?",
        arms=_arms(_BALANCING),
        note=CHOSEN,
    )


def initialisation() -> Suite:
    """Three arms of the embedded base: a random gate over copied experts, an informed gate, and experts that start
    apart. Expect domain information of centroids highest at step 0 and falling; whether any arm ends beyond its
    untrained gates is the question."""
    return Suite(
        name="initialisation",
        question="Does it help experts to specialise if the gate or the experts start apart?",
        arms=_arms(_INITIALISATION),
        note=f"{CHOSEN} {INFORMED_NULL}",
    )


def nulls() -> Suite:
    """Three routers that learn nothing, beside `moe`. Expect none of them to be called specialised: round_robin shows 0
    bits above its null, frozen what untrained gates show, hash what the vocabulary gives away."""
    return Suite(
        name="nulls",
        question="What do experts show whose routers learn nothing?",
        arms=_arms(_NULLS),
        note=CHOSEN,
    )


SUITES = {
    "quickstart": quickstart,
    "gpt2": full_size,
    "balancing": balancing,
    "nulls": nulls,
    "initialisation": initialisation,
}
"""Every suite by name."""

FAST = {
    "training.steps": 12,
    "training.evaluations": 3,
    "data.dev_blocks": 4,
    "data.test_blocks": 8,
    "data.probe_tokens": 9000,
    "data.wide_probe_tokens": 30_000,
}


def suite_named(name: str) -> Suite:
    """The suite of that name.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    if name not in SUITES:
        raise ConfigError(f"there is no suite {name!r}{did_you_mean(name, list(SUITES))}")
    return SUITES[name]()


def fast(suite: Suite) -> Suite:
    """A first look in minutes: every arm cut to a few steps, and said to be too short for conclusions."""
    shorter = suite.override(FAST)
    return replace(
        shorter,
        name=f"{suite.name}-fast",
        conclusive=False,
        note=f"cut to {FAST['training.steps']} steps by --fast: too short for conclusions",
    )
