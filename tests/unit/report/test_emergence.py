"""What the Emergence section shows is what the traces and the tables hold."""

import base64
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from planted_measures import planted_tables
from synthetic_suite import TEXTS, quickstart_like, write_suite

from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.records import Run, Suite
from moe_emergence.analysis.shares import share_rows
from moe_emergence.analysis.similarity import similarity_rows
from moe_emergence.analysis.specialisation import FIRST_CHOICE, information_rows
from moe_emergence.analysis.tables import Tables
from moe_emergence.analysis.traces import read_trace, trace_steps
from moe_emergence.errors import AnalysisError
from moe_emergence.report import emergence as section
from moe_emergence.report.emergence import emergence
from moe_emergence.report.emergence_findings import findings
from moe_emergence.report.emergence_steps import ABSENT, domain_counts, hundredths, step_payload
from moe_emergence.report.scripts import _inline, own_script
from moe_emergence.report.verdicts import corrected_share, share_with_interval

STEPS = (0, 1, 4)
HALF = 0.005


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    planted = quickstart_like(steps=4, looks=STEPS, seeds=(42, 43))
    chosen = replace(planted, arms=(planted.arms[0], planted.arms[1], planted.arms[3], planted.arms[2]))
    return read_suite(write_suite(tmp_path_factory.mktemp("emergence"), chosen))


@pytest.fixture(scope="module")
def tables(suite: Suite) -> Tables:
    last = {(run.arm, run.seed): read_trace(run, run.last_step) for run in suite.runs}
    return replace(planted_tables(suite), shares=share_rows(suite, last), information=information_rows(suite))


@pytest.fixture(scope="module")
def shown(suite: Suite, tables: Tables) -> dict[str, Any]:
    found = emergence(suite, tables)
    assert found is not None
    return found


def run_of(suite: Suite, arm: str, seed: int = 42) -> Run:
    return next(run for run in suite.runs if (run.arm, run.seed) == (arm, seed))


def unpacked(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype=kind)


def test_every_seed_of_every_arm_with_experts_at_every_traced_step(shown: dict[str, Any]) -> None:
    assert shown["arms"] == ["moe", "top2", "no_lb"]
    assert shown["seeds"] == [42, 43]
    runs = [(run["name"], run["seed"]) for run in shown["runs"]]
    assert runs == [(arm, seed) for arm in ("moe", "top2", "no_lb") for seed in (42, 43)]
    assert [[step["step"] for step in run["steps"]] for run in shown["runs"]] == [list(STEPS)] * 6
    assert [(arm["experts"], arm["slots"], arm["layers"]) for arm in shown["runs"][1:3]] == [(8, 1, [2, 3]), (8, 2, [2, 3])]  # fmt: skip # noqa: E501
    assert shown["versus"] == "no_lb"  # the arm that nothing balances, not the next one


@pytest.mark.parametrize("name", ["moe", "top2"])
def test_routes_come_back_as_the_trace_has_them(suite: Suite, shown: dict[str, Any], name: str) -> None:
    for arm in shown["runs"]:
        if arm["name"] == name:
            check_routes(run_of(suite, name, arm["seed"]), arm)


def check_routes(run: Run, arm: dict[str, Any]) -> None:
    for step in arm["steps"]:
        trace = read_trace(run, step["step"])
        rows = [row for domain in range(3) for row in np.flatnonzero(trace.domain == domain)[:2]]
        places = np.concatenate([np.flatnonzero(trace.document == row) for row in rows])
        np.testing.assert_allclose(unpacked(step["loss"], "<u2") / 100, trace.loss[places], atol=HALF)
        for layer, found in zip(trace.layers, step["layers"], strict=True):
            experts = unpacked(found["experts"], "u1").reshape(len(places), -1)
            np.testing.assert_array_equal(experts, layer.experts[places])
            if run.config.moe.top_k > 1:
                weights = unpacked(found["weights"], "u1").reshape(len(places), -1) / 100
                np.testing.assert_allclose(weights, layer.weights[places], atol=HALF)
                assert found["margins"] is None
            else:  # straight through: 1 whatever the router thinks, so the page has how sure it was instead
                assert (layer.weights[places] == 1).all()
                assert found["weights"] is None
                np.testing.assert_allclose(unpacked(found["margins"], "u1") / 100, layer.margin[places], atol=HALF)
            np.testing.assert_allclose(unpacked(found["entropy"], "<u2") / 100, layer.entropy[places], atol=HALF)


def test_what_is_kept_is_what_two_decimals_say() -> None:
    kept = hundredths(np.array([0.0, 0.12499, 0.9951, 12.3449, np.nan, 9e9, -1.0]))
    assert kept.tolist() == [0, 12, 100, 1234, ABSENT, ABSENT - 1, 0]


def test_shares_of_the_last_step_are_the_table_s(suite: Suite, tables: Tables, shown: dict[str, Any]) -> None:
    domains = list(suite.domains)
    rows = [row for row in tables.shares if row.seed == 42]
    assert len(rows) == 3 * 2 * 3 * 8
    for row in rows:
        arm = next(arm for arm in shown["runs"] if arm["name"] == row.arm)
        counts = arm["steps"][-1]["layers"][arm["layers"].index(row.layer)]["counts"][domains.index(row.domain)]
        assert counts[row.expert] == row.assignments
        assert counts[row.expert] / sum(counts) == pytest.approx(row.share, abs=1e-12)


def test_information_and_drift_of_every_step_are_the_tables(suite: Suite, tables: Tables, shown: dict[str, Any]) -> None:  # fmt: skip # noqa: E501
    seen = 0
    for arm in shown["runs"]:
        for step in arm["steps"]:
            run = run_of(suite, arm["name"], arm["seed"])
            drifts = list(similarity_rows(run, read_trace(run, step["step"])))
            for number, layer in zip(arm["layers"], step["layers"], strict=True):
                key = (arm["name"], arm["seed"], step["step"], number, "first choice")
                row = next(r for r in tables.information if (r.arm, r.seed, r.step, r.layer, r.counted) == key)
                found = layer["information"]
                assert found["value"] == row.corrected / row.maximum
                assert (found["low"], found["high"]) == (row.low_share, row.high_share)
                assert (found["fresh"] is None) == (step["step"] == 1)
                mean = np.mean([row.drift for row in drifts if row.layer == number])
                assert layer["drift"]["value"] == pytest.approx(mean)
                seen += 1
    assert seen == 6 * 3 * 2


def test_a_collapsed_router_has_hot_and_dead_experts_and_few_effective_ones(shown: dict[str, Any]) -> None:
    free = next(arm for arm in shown["runs"] if arm["name"] == "no_lb")
    last, first = free["steps"][-1]["layers"][0], free["steps"][0]["layers"][0]
    load = np.array(last["counts"]).sum(0) / np.sum(last["counts"])
    assert last["hot"] == [expert for expert in range(8) if load[expert] > 1 / 8 + 3 / 7 * (1 - 1 / 8)] == [5]
    assert last["dead"] == [expert for expert in range(8) if load[expert] < 0.1 / 8] != []
    used = load[load > 0]
    assert last["effective"]["value"] == pytest.approx(float(np.exp(-(used * np.log(used)).sum())))
    assert first["hot"] == first["dead"] == []


def test_the_text_is_of_the_first_documents_and_only_what_was_classified_has_classes(shown: dict[str, Any]) -> None:
    names = [document["name"] for document in shown["documents"]]
    assert names == ["code/0", "code/1", "math/0", "math/1", "prose/0", "prose/1"]
    assert [document["start"] for document in shown["documents"]] == [80 * place for place in range(6)]
    second = TEXTS["code"].replace("{number}", "1")
    assert second.startswith("".join(shown["documents"][1]["texts"]).rstrip())
    assert shown["documents"][1]["classes"][0] == "keyword"
    assert [document["classes"] is None for document in shown["documents"]] == [False, False, *[True] * 4]


def test_a_run_still_going_is_shown_as_far_as_it_came(suite: Suite, tables: Tables) -> None:
    ended = [run for run in suite.runs if run.seed == 42 and run.arm == "moe"]
    going = replace(run_of(suite, "no_lb"), last_step=1)
    half = replace(suite, runs=tuple(ended), going=(going,))
    none = replace(tables, information=tuple(row for row in tables.information if row.arm == "moe"))
    found = emergence(half, none)
    assert found is not None
    assert [(run["name"], run["going"]) for run in found["runs"]] == [("moe", False), ("no_lb", True)]
    assert [step["step"] for step in found["runs"][1]["steps"]] == [0, 1]
    row = next(r for r in tables.information if (r.arm, r.seed, r.step, r.layer) == ("no_lb", 42, 1, 2))
    assert found["runs"][1]["steps"][1]["layers"][0]["information"]["value"] == row.corrected / row.maximum


def test_each_layer_and_seed_has_a_sentence_of_its_own_curves(tables: Tables, shown: dict[str, Any]) -> None:
    found = {(finding["layer"], finding["seed"]): finding for finding in shown["findings"]}
    assert set(found) == {(layer, seed) for layer in (2, 3) for seed in (42, 43)}
    for (layer, seed), finding in found.items():
        rows = [row for row in tables.information if (row.layer, row.seed, row.counted) == (layer, seed, FIRST_CHOICE)]
        top = max((row for row in rows if row.step == 4), key=corrected_share)
        first = next(row for row in rows if (row.arm, row.step) == (top.arm, 0))
        assert finding["where"] == f"layer {layer}, seed {seed}"
        assert finding["text"] == (
            f"Layer {layer}, seed {seed}: most domain information at the end: {top.arm}: {share_with_interval(top)} of "
            f"H(D), from {share_with_interval(first)}"
        )


def test_a_sentence_names_no_seed_where_there_is_one_and_promises_nothing_unmeasured(tables: Tables) -> None:
    rows = [row for row in tables.information if row.counted == FIRST_CHOICE and row.layer == 2]
    second, third = findings(rows, [42], [2, 3])
    assert second["text"].startswith("Layer 2: most domain information at the end: ")
    assert third["text"] == "Layer 3: domain information and drift"


def test_arms_whose_drifts_lie_on_each_other_have_other_dashes(shown: dict[str, Any]) -> None:
    assert [run["dash"] for run in shown["runs"] if run["seed"] == 42] == ["solid", "dash", "dot"]


def test_a_domain_without_documents_has_no_assignments(suite: Suite) -> None:
    trace = read_trace(run_of(suite, "top2"), 4)
    counts = domain_counts(trace, trace.layers[0], 4)
    assert counts.sum(1).tolist() == [12 * 80 * 2] * 3 + [0]


def test_routes_that_would_be_too_large_are_of_fewer_tokens(suite: Suite, tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip # noqa: E501
    monkeypatch.setattr(section, "ROUTE_BYTES", 20_000)
    found = emergence(suite, tables)
    assert found is not None
    assert [document["name"] for document in found["documents"]] == ["code/0", "math/0", "prose/0"]
    packed = [
        text
        for arm in found["runs"]
        for step in arm["steps"]
        for text in (
            step["loss"],
            *(layer[name] for layer in step["layers"] for name in ("experts", "weights", "margins", "entropy")),
        )
        if text is not None
    ]
    assert 16_000 < sum(len(base64.b64decode(text)) for text in packed) <= 20_000


def test_without_measures_a_step_still_has_its_routes(suite: Suite) -> None:
    run = run_of(suite, "moe")
    trace = read_trace(run, trace_steps(run)[0])
    bare = replace(trace, layers=tuple(replace(layer, record=None) for layer in trace.layers))
    made = step_payload(run, bare, np.arange(3), [None, None])
    assert [(layer["information"], layer["drift"]) for layer in made["layers"]] == [(None, None)] * 2
    assert len(unpacked(made["layers"][0]["experts"], "u1")) == 3


def test_a_suite_without_experts_has_none(suite: Suite, tables: Tables) -> None:
    dense = replace(suite, runs=tuple(run for run in suite.runs if run.arm == "dense"))
    assert emergence(dense, tables) is None


def test_the_shades_are_neutral_at_the_uniform_share(shown: dict[str, Any]) -> None:
    middle = shown["shades"][len(shown["shades"]) // 2][0]
    channels = list(bytes.fromhex(middle[1:]))
    assert min(channels) > 235
    ratio = max(8 * max(row) / sum(row) for arm in shown["runs"] for step in arm["steps"] for layer in step["layers"] for row in layer["counts"])  # fmt: skip # noqa: E501
    assert 2 ** shown["limit"] == pytest.approx(ratio)


def test_a_script_that_html_would_end_is_refused() -> None:
    with pytest.raises(AnalysisError, match="</script"):
        _inline("a = '</SCRIPT>'")
    assert own_script().hash.startswith("'sha256-")
