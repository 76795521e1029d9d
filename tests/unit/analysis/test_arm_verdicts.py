"""One verdict an arm and layer over its seeds: planted truths, by hand, and where seeds are few or missing."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted_measures import row_of
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from synthetic_suite import PlantedArm, PlantedSuite, spread, write_suite

from moe_emergence.analysis.arm_verdicts import arm_verdict_rows, fresh_means, holm_over_arms
from moe_emergence.analysis.causal.specificity import SpecificityDraws, SpecificityRow
from moe_emergence.analysis.information import domain_information
from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.records import Suite
from moe_emergence.analysis.specialisation import UNTESTED, information_rows, verdict_rows
from moe_emergence.analysis.statistics import holm
from moe_emergence.analysis.traces import read_trace
from moe_emergence.config import MoEConfig
from moe_emergence.errors import AnalysisError

SPECIALISTS = np.stack([spread(8, {0: 0.4, 1: 0.3}), spread(8, {2: 0.5}), spread(8, {4: 0.35, 5: 0.2})])
ALIKE = np.tile(spread(8, {1: 0.4, 5: 0.3}), (3, 1))


def arm(name: str, shares: np.ndarray, fresh: float = 0.3) -> PlantedArm:
    return PlantedArm(name=name, moe=MoEConfig(), shares={2: shares, 3: shares}, fresh=fresh)


def written(folder: Path, *arms: PlantedArm, seeds: tuple[int, ...] = (42, 43, 44)) -> Suite:
    return read_suite(write_suite(folder, PlantedSuite(arms=arms, seeds=seeds, steps=4, looks=(0, 4))))


def drawn(suite: Suite, value: float = 1.0, layers: tuple[int, ...] = (2, 3)) -> list[SpecificityDraws]:
    """What rerouting told of every run: `value`, where dealt domains give 0 to 0.998."""
    null = tuple(number / 1000 for number in range(999))
    return [
        SpecificityDraws(arm=run.arm, seed=run.seed, step=run.last_step, layer=layer, mean_value=value, null=null)
        for run in suite.runs
        for layer in layers
    ]


def rows_of(suite: Suite, draws: list[SpecificityDraws] | None = None):
    last = {(run.arm, run.seed): read_trace(run, run.last_step) for run in suite.runs}
    return arm_verdict_rows(suite, information_rows(suite), last, drawn(suite) if draws is None else draws)


def test_planted_routing_by_domain_is_found_and_nothing_is_not(tmp_path: Path) -> None:
    suite = written(tmp_path, arm("learned", SPECIALISTS), arm("fresh", 0.6 * SPECIALISTS + 0.4 / 8, 1.4))
    rows = rows_of(suite)
    assert [(row.arm, row.layer, row.seeds) for row in rows] == [
        ("learned", 2, 3), ("learned", 3, 3), ("fresh", 2, 3), ("fresh", 3, 3),
    ]  # fmt: skip
    assert [row.verdict for row in rows] == 2 * ["learned specialisation"] + 2 * [
        "no evidence of learned specialisation"
    ]
    assert all(row.p_permutation_arms < 0.05 for row in rows), "domains matter in both; learned they are in one"


def test_the_estimate_is_the_mean_over_seeds_with_the_lowest_and_the_highest(tmp_path: Path) -> None:
    suite = written(tmp_path, arm("only", SPECIALISTS))
    information = information_rows(suite)
    for row in rows_of(suite):
        runs = [known for known in information if (known.step, known.layer) == (4, row.layer)]
        by_value = sorted(runs, key=lambda known: known.corrected)
        assert row.plug_in == pytest.approx(np.mean([known.plug_in for known in runs]))
        assert (row.seed_low, row.lowest_seed) == (by_value[0].corrected, by_value[0].seed)
        assert (row.seed_high, row.highest_seed) == (by_value[-1].corrected, by_value[-1].seed)
        assert row.low < row.corrected < row.high
        assert row.corrected_share == pytest.approx(row.corrected / np.log2(3))
        assert row.high - row.low < np.mean([known.high - known.low for known in runs]), (
            "three seeds tell more than one"
        )


def test_of_one_seed_it_is_the_verdict_of_the_run(tmp_path: Path) -> None:
    suite = written(tmp_path, arm("only", 0.55 * SPECIALISTS + 0.45 / 8, 0.8), seeds=(42,))
    information = information_rows(suite)
    causes = [
        row_of(SpecificityRow, arm="only", seed=42, step=4, layer=layer, intervention="next", p_holm=0.002)
        for layer in (2, 3)
    ]
    runs = verdict_rows(suite, information, causes)
    for row, run, known in zip(rows_of(suite), runs, [i for i in information if i.step == 4], strict=True):
        assert (row.layer, row.seeds, row.verdict) == (run.layer, 1, run.verdict)
        assert (row.p_permutation, row.p_fresh_end, row.p_fresh_start, row.p_specific) == pytest.approx(
            (run.p_permutation, run.p_fresh_end, run.p_fresh_start, run.p_specific)
        )
        assert row.fresh_high == pytest.approx(run.fresh_end_high)
        assert (row.plug_in, row.corrected, row.low, row.high) == pytest.approx(
            (known.plug_in, known.corrected, known.low, known.high)
        )


def test_a_missing_seed_is_left_out(tmp_path: Path) -> None:
    written(tmp_path, arm("whole", SPECIALISTS), arm("part", SPECIALISTS))
    shutil.rmtree(tmp_path / "part/seed-43")
    rows = rows_of(read_suite(tmp_path))
    assert [(row.arm, row.seeds) for row in rows] == [("whole", 3), ("whole", 3), ("part", 2), ("part", 2)]
    assert {row.verdict for row in rows} == {"learned specialisation"}


def test_seeds_with_other_documents_are_refused(tmp_path: Path) -> None:
    suite = written(tmp_path, arm("only", SPECIALISTS), seeds=(42, 43))
    last = {(run.arm, run.seed): read_trace(run, run.last_step) for run in suite.runs}
    last["only", 43] = replace(last["only", 43], index=last["only", 43].index + 1)
    with pytest.raises(AnalysisError, match=r"seed-43 has other documents in its probe set than .*seed-42"):
        arm_verdict_rows(suite, information_rows(suite), last)


@pytest.mark.parametrize("router", ["frozen", "hash", "round_robin", "domain"])
def test_a_router_that_does_not_learn_has_learned_nothing(router: str, tmp_path: Path) -> None:
    assigned = replace(arm("assigned", SPECIALISTS), moe=MoEConfig(router=router))
    suite = written(tmp_path, assigned, seeds=(42, 43))
    for row in rows_of(suite):
        assert max(row.p_permutation_arms, row.p_fresh_end_arms, row.p_fresh_start_arms, row.p_specific_arms) < 0.05
        assert row.verdict == "no evidence of learned specialisation"
    assert {row.verdict for row in rows_of(suite, [])} == {"no evidence of learned specialisation"}


def test_experts_that_matter_to_no_domain_are_no_specialists(tmp_path: Path) -> None:
    """In layer 3 none is missed by its own domain more than by others."""
    suite = written(tmp_path, arm("learned", SPECIALISTS), arm("other", SPECIALISTS))
    rows = rows_of(suite, drawn(suite, layers=(2,)) + drawn(suite, value=0.5, layers=(3,)))
    assert [(row.layer, row.verdict) for row in rows] == 2 * [
        (2, "learned specialisation"), (3, "no evidence of learned specialisation"),
    ]  # fmt: skip
    assert [row.p_specific for row in rows] == pytest.approx(2 * [0.002, 0.5])
    assert [row.p_specific_arms for row in rows] == pytest.approx(2 * [0.004, 1.0])


@pytest.mark.parametrize("missing", ["all", "one seed", "an earlier step"])
def test_what_was_not_tested_is_not_called_specialised(missing: str, tmp_path: Path) -> None:
    suite = written(tmp_path, arm("learned", SPECIALISTS), arm("nothing", np.full((3, 8), 1 / 8)))
    draws = [row for row in drawn(suite) if row.seed != 43]
    rest = [replace(row, step=row.step - (missing == "an earlier step")) for row in drawn(suite) if row.seed == 43]
    given = {"all": [], "one seed": draws, "an earlier step": draws + rest}[missing]
    rows = rows_of(suite, given)
    assert [row.verdict for row in rows] == 2 * ["learned domain information, experts not tested"] + 2 * [
        "no evidence of learned specialisation"
    ]
    assert {(row.p_specific, row.p_specific_arms) for row in rows} == {(None, None)}
    assert rows_of(suite)[0].verdict == "learned specialisation"


def test_a_single_run_needs_both_too(tmp_path: Path) -> None:
    suite = written(tmp_path, arm("only", SPECIALISTS), seeds=(42,))
    information = information_rows(suite)

    def verdicts(**known: object) -> list[str]:
        cause = {"arm": "only", "seed": 42, "step": 4, "intervention": "next", "p_holm": 0.01} | known
        rows = [row_of(SpecificityRow, layer=layer, **cause) for layer in (2, 3)]
        return [row.verdict for row in verdict_rows(suite, information, rows)]

    assert verdicts() == 2 * ["learned specialisation"]
    assert verdicts(p_holm=0.05) == 2 * ["no evidence of learned specialisation"]
    for other in ({"step": 0}, {"intervention": "ancestor"}, {"seed": 43}):
        assert verdicts(**other) == 2 * ["learned domain information, experts not tested"]


def test_nothing_is_said_without_experts_or_domains_to_tell_apart(tmp_path: Path) -> None:
    assert rows_of(written(tmp_path / "dense", PlantedArm(name="dense"))) == ()
    one = PlantedSuite(arms=(arm("only", SPECIALISTS[:1]),), domains=("code",), steps=4, looks=(0, 4))
    assert rows_of(read_suite(write_suite(tmp_path / "one", one))) == ()


def test_holm_over_arms_by_hand() -> None:
    """Four arms may be wrong at first; three once the only test of b is passed."""
    p_values, arms = np.array([0.01, 0.02, 0.012, 0.3, 1.0]), ["a", "a", "b", "c", "d"]
    assert holm_over_arms(p_values, arms) == pytest.approx([0.04, 0.06, 0.048, 0.6, 1.0])
    one_each = np.array([0.04, 0.01, 0.02])
    assert holm_over_arms(one_each, ["a", "b", "c"]).tolist() == holm(one_each).tolist()
    assert holm_over_arms(one_each, ["a", "a", "a"]).tolist() == one_each.tolist(), "one arm is one family already"
    assert holm_over_arms(np.array([]), []).tolist() == []


def test_fresh_gates_are_drawn_one_a_seed() -> None:
    gates = np.arange(8.0).reshape(4, 2)
    assert fresh_means([gates]) is gates
    means = fresh_means([gates, 10 * gates], draws=4_000)
    assert {tuple(row) for row in means.tolist()} == {
        tuple(((first + 10 * second) / 2).tolist()) for first in gates for second in gates
    }, "each seed's gate on its own, both layers of one gate"
    assert fresh_means([gates, gates], seed=1).tolist() == fresh_means([gates, gates], seed=1).tolist()


def test_permutations_are_the_same_in_all_seeds(tmp_path: Path) -> None:
    """Three copies of one run say no more against permuted documents than one does."""
    suite = written(tmp_path, arm("only", 0.05 * SPECIALISTS + 0.95 / 8))
    information = information_rows(suite)
    trace = read_trace(suite.runs[0], 4)
    rows = arm_verdict_rows(suite, information, {(run.arm, run.seed): trace for run in suite.runs})
    single = verdict_rows(suite, information)
    for row, alone, layer in zip(rows, single[:2], trace.layers, strict=True):
        assert row.plug_in == pytest.approx(float(domain_information(layer.first_choice, trace.domain)))
        assert row.p_permutation == pytest.approx(alone.p_permutation)


def informed_arm(name: str, informed: float | None) -> PlantedArm:
    moe = MoEConfig(gate_init="centroids")
    return PlantedArm(name=name, moe=moe, shares={2: SPECIALISTS, 3: SPECIALISTS}, fresh=0.3, informed=informed)


@pytest.mark.parametrize("seeds", [(42,), (42, 43, 44)])
def test_an_informed_start_is_learned_only_beyond_informed_gates(tmp_path: Path, seeds: tuple[int, ...]) -> None:
    """Both are far beyond small random gates; one shows no more than k-means alone does."""
    arms = informed_arm("further", 0.5), informed_arm("given", 1.0)
    suite = written(tmp_path, *arms, arm("plain", SPECIALISTS), seeds=seeds)
    rows = rows_of(suite)
    by_arm = {name: [row for row in rows if row.arm == name] for name in ("further", "given", "plain")}
    assert {row.verdict for row in by_arm["given"]} == {"no evidence of learned specialisation"}
    assert all(row.p_fresh_end > 0.05 and row.p_fresh_start > 0.05 for row in by_arm["given"])
    assert all(row.p_permutation_arms < 0.05 for row in by_arm["given"])
    if len(seeds) > 1:  # of one seed 39 gates and three arms are too few
        assert {row.verdict for name in ("further", "plain") for row in by_arm[name]} == {"learned specialisation"}
    for name in ("further", "given"):
        assert all(row.fresh_high > by_arm["plain"][0].fresh_high for row in by_arm[name]), "the stricter set's end"
    single = verdict_rows(suite, information_rows(suite))
    assert {row.verdict for row in single if row.arm == "given"} == {"no evidence of learned specialisation"}
    assert {row.verdict for row in single if row.arm == "further"} == {UNTESTED}, "runs that were not rerouted"


def test_an_informed_start_without_informed_gates_is_refused(tmp_path: Path) -> None:
    suite = written(tmp_path, informed_arm("only", None), seeds=(42,))
    with pytest.raises(AnalysisError, match=r"holds no informed_gates\.2 in its \.safetensors"):
        rows_of(suite)


def test_informed_gates_of_another_shape_are_refused(tmp_path: Path) -> None:
    suite = written(tmp_path, informed_arm("only", 0.5), seeds=(42,))
    path = suite.runs[0].folder / "traces" / "step-000004.safetensors"
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    save_file(tensors | {"informed_gates.3": tensors["informed_gates.3"][:, :, :5].copy()}, path, metadata)
    with pytest.raises(AnalysisError, match=r"'informed_gates\.3' must be .*\[…, 36, 8\]; found \[39, 36, 5\]"):
        read_trace(suite.runs[0], 4)
