"""A damaged checkpoint is found, set aside and said; the run goes on from the one before and ends the same."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import FAILED, Runs, checkpoints, tree

from moe_emergence.config import RunConfig

STEP = 9
FILES = ("config.json", "manifest.json", "model.safetensors", "optimizer.safetensors", "state.json")
Damage = Callable[[Path], None]


def truncated(name: str, share: float) -> Damage:
    def damage(checkpoint: Path) -> None:
        content = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(content[: int(share * len(content))])

    return damage


def flipped(name: str, share: float, bit: int) -> Damage:
    def damage(checkpoint: Path) -> None:
        content = bytearray((checkpoint / name).read_bytes())
        content[int(share * (len(content) - 1))] ^= 1 << bit
        (checkpoint / name).write_bytes(content)

    return damage


def zeroed(name: str) -> Damage:
    return lambda checkpoint: write(checkpoint / name, bytes((checkpoint / name).stat().st_size))


def deleted(name: str) -> Damage:
    return lambda checkpoint: (checkpoint / name).unlink()


def extra(name: str, content: bytes) -> Damage:
    return lambda checkpoint: write(checkpoint / name, content)


def swapped(one: str, two: str) -> Damage:
    return lambda checkpoint: swap(checkpoint / one, checkpoint / two)


def of_the_one_before(name: str) -> Damage:
    def damage(checkpoint: Path) -> None:
        shutil.copy(checkpoint.with_name("step-000006") / name, checkpoint / name)

    return damage


def with_the_one_before(checkpoint: Path) -> None:
    swap(checkpoint, checkpoint.with_name("step-000006"))


def copy_of_the_one_before(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    shutil.copytree(checkpoint.with_name("step-000006"), checkpoint)


def of_a_later_version(checkpoint: Path) -> None:
    values = json.loads((checkpoint / "manifest.json").read_text())
    write(checkpoint / "manifest.json", json.dumps(values | {"format": 99}).encode())


def a_folder_in_place_of(name: str) -> Damage:
    def damage(checkpoint: Path) -> None:
        (checkpoint / name).unlink()
        (checkpoint / name).mkdir()

    return damage


def emptied(checkpoint: Path) -> None:
    for path in checkpoint.iterdir():
        path.unlink()


def swap(one: Path, two: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    two.rename(one)
    aside.rename(two)


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def damages() -> dict[str, Damage]:
    """Sixty ways to damage a checkpoint."""
    draw, found = random.Random(7), dict[str, Damage]()
    for number in range(10):
        name = FILES[number % len(FILES)]
        share = draw.choice([0.0, 0.001, 0.3, 0.9, 0.999])
        found[f"{number} {name} cut to {share}"] = truncated(name, share)
    for number in range(20):
        name, share, bit = FILES[number % len(FILES)], draw.random(), draw.randrange(8)
        found[f"{name} flipped at {share:.4f}, bit {bit}"] = flipped(name, share, bit)
    for name in FILES:
        found[f"{name} zeroed"] = zeroed(name)
        found[f"{name} deleted"] = deleted(name)
        found[f"{name} of the one before"] = of_the_one_before(name)
        found[f"a folder in place of {name}"] = a_folder_in_place_of(name)
    found |= {
        "an extra tensor file": extra("extra.safetensors", b"x"),
        "an extra hidden file": extra(".hidden", b""),
        "model and optimizer swapped": swapped("model.safetensors", "optimizer.safetensors"),
        "state and configuration swapped": swapped("state.json", "config.json"),
        "swapped with the one before": with_the_one_before,
        "a copy of the one before": copy_of_the_one_before,
        "no content in the manifest": extra("manifest.json", b""),
        "an empty object for a manifest": extra("manifest.json", b"{}"),
        "a list for a manifest": extra("manifest.json", b"[]"),
        "a later version": of_a_later_version,
        "an empty folder": emptied,
        "a manifest that is no text": extra("manifest.json", b"\xff\xfe\x00"),
    }
    del found["config.json of the one before"]  # the same bytes
    return found


SHORT = 15


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", [0, 1])
def test_damage_is_found_and_the_one_before_used(
    runs: Runs,
    twelve: RunConfig,
    folders: Iterator[Path],
    full: bool,
    figure: Callable[[str], None],
    part: int,
) -> None:
    """Set aside with its reason, said on stderr, no traceback, and the end is bit-equal."""
    every = list(damages().items())
    assert len(every) >= 60
    chosen = (every if full else every[:: len(every) // SHORT])[part::2]
    missed = [name for name, damage in chosen if not found(runs, twelve, next(folders), name, damage)]
    figure(f"corruptions: {len(chosen) - len(missed)} of {len(chosen)} found, part {part + 1} of 2")
    assert not missed, missed


def found(runs: Runs, config: RunConfig, folder: Path, name: str, damage: Damage) -> bool:
    """Whether the damage was found; that the rest is as promised is asserted."""
    runs.stopped(config, STEP, folder)
    damage(checkpoints(folder)[-1])
    outcome = runs.check_finishes(config, folder)
    aside = folder / "checkpoints" / f"damaged-step-{STEP:06d}"
    if not aside.is_dir():
        return False
    assert (aside / "reason.txt").read_text().strip(), name
    assert f"step-{STEP:06d}" in outcome.error, f"{name}: not said, but only\n{outcome.error}"
    return True


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
def test_where_all_are_damaged_nothing_is_touched(
    runs: Runs, twelve: RunConfig, folders: Iterator[Path], case_of: Callable[[str], None], name: str
) -> None:
    """Refused with the list and the command to start again."""
    case_of("all checkpoints damaged")
    folder = runs.stopped(twelve, STEP, next(folders))
    for checkpoint in checkpoints(folder):
        flipped(name, 0.0, 5)(checkpoint)
    before = tree(folder)
    outcome = runs.zygote.command(twelve, folder).check(FAILED)
    after = tree(folder)
    assert {path: content for path, content in after.items() if path in before} == before
    assert {path for path in after if path not in before and "checkpoints" in path} == set()
    for checkpoint in checkpoints(folder):
        assert checkpoint.name in outcome.error
    assert "same command" in outcome.error
