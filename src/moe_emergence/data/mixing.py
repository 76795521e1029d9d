"""Blocks drawn in stated shares of the domains: what a base is trained on, where arms take as many of each."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from moe_emergence.errors import ConfigError


def parse_mix(mix: str, domains: Sequence[str]) -> dict[str, float]:
    """`prose=90,code=5,math=5` as shares that sum to 1; an empty mix gives every domain the same.

    Raises:
        ConfigError: a domain that is not there, named twice or left out, or a share that is no number above 0.
    """
    if not mix:
        return dict.fromkeys(domains, 1 / len(domains))
    parts = [part.partition("=") for part in mix.split(",")]
    named = [name.strip() for name, _, _ in parts]
    if sorted(named) != sorted(domains):
        raise ConfigError(
            f"mix must name every domain once ({', '.join(domains)}), as in {_example(domains)}; got {mix!r}"
        )
    weights = {name: _weight(value, mix) for name, (_, _, value) in zip(named, parts, strict=True)}
    return {domain: weights[domain] / sum(weights.values()) for domain in domains}


def _weight(value: str, mix: str) -> float:
    try:
        weight = float(value)
    except ValueError:
        weight = math.nan
    if not (weight > 0 and math.isfinite(weight)):
        raise ConfigError(f"mix must give every domain a number above 0; got {value.strip()!r} in {mix!r}")
    return weight


def _example(domains: Sequence[str]) -> str:
    return ",".join(f"{domain}={90 if number == 0 else 5}" for number, domain in enumerate(domains))


def mixed_rows(
    domain: NDArray[np.int32], shares: Mapping[int, float], *, seed: int, step: int, batch_size: int
) -> NDArray[np.int64]:
    """Rows of the blocks that make the batch of `step` (from 0): a function of its arguments alone.

    An epoch is as long as the domain that is scarcest for its share lasts; of the others it takes as many blocks as
    their shares ask for, and the next epoch goes on where it stopped, so that no block of a domain comes again before
    all of them were seen.

    Args:
        domain: [blocks] the domain of each block.
        shares: domain to its share of the blocks, all above 0.
    """
    own = {number: np.flatnonzero(domain == number) for number in shares}
    longest = min(len(own[number]) / share for number, share in shares.items())
    taken = {number: max(1, int(share * longest)) for number, share in shares.items()}
    size = sum(taken.values())
    rows = []
    for place in range(step * batch_size, (step + 1) * batch_size):
        number, rank = _epoch(tuple(taken.items()), seed, place // size)[place % size]
        rounds, at = divmod(place // size * taken[number] + rank, len(own[number]))
        rows.append(own[number][_order(seed, number, rounds, len(own[number]))[at]])
    return np.array(rows)


@lru_cache(maxsize=4)
def _epoch(taken: tuple[tuple[int, int], ...], seed: int, epoch: int) -> list[tuple[int, int]]:
    """(domain, which of the epoch's blocks of it) in the order in which an epoch visits them."""
    places = [(number, rank) for number, count in taken for rank in range(count)]
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(len(places))
    return [places[place] for place in order]


@lru_cache(maxsize=16)
def _order(seed: int, domain: int, rounds: int, blocks: int) -> NDArray[np.int64]:
    key = np.random.SeedSequence([seed, domain, rounds]).generate_state(2, np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(blocks)
