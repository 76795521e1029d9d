"""The geometry null: hidden states against the model's own MLP inputs, planted gates, clusters, and nothing to find."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score
from synthetic_suite import PlantedSuite, probe, quickstart_like, write_suite
from transformers import GPT2Config, GPT2LMHeadModel

from moe_emergence.analysis import hidden_states
from moe_emergence.analysis.hidden_states import dense_hidden_states, geometry, geometry_rows
from moe_emergence.analysis.reading import read_suite
from moe_emergence.analysis.traces import read_trace
from moe_emergence.data.blocks import Probe
from moe_emergence.errors import AnalysisError

DOMAIN = np.repeat([0, 1, 2], 12)
DOCUMENT = np.repeat(np.arange(36), 100)
WIDTH = 6


def states(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(DOCUMENT), WIDTH)).astype(np.float32)


def test_states_are_what_the_mlp_is_given() -> None:
    """Against the residual stream worked through the block's own norms, document by document and without padding."""
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=3, n_head=2, resid_pdrop=0.5)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    tokens = np.random.default_rng(0).integers(0, 50, (20, 12)).astype(np.uint16)
    length = np.random.default_rng(1).integers(1, 13, 20).astype(np.int32)
    none = np.zeros(20, dtype=np.int32)
    found = dense_hidden_states(
        model, Probe(tokens=tokens, length=length, document=none, domain=none, start=none, texts=()), [2, 0]
    )
    assert set(found) == {0, 2}
    expected = {0: [], 2: []}
    for row, size in zip(tokens.astype(np.int64), length, strict=True):
        with torch.no_grad():
            streams = model(torch.from_numpy(row[None, :size]), output_hidden_states=True).hidden_states
            for layer, parts in expected.items():
                block = model.transformer.h[layer]
                attended = streams[layer] + block.attn(block.ln_1(streams[layer]))[0]
                parts.append(block.ln_2(attended)[0].numpy())
    for layer, parts in expected.items():
        assert found[layer].shape == (length.sum(), 8)
        assert found[layer] == pytest.approx(np.concatenate(parts), abs=1e-5)
    assert not any(block.mlp._forward_pre_hooks for block in model.transformer.h)
    with pytest.raises(AnalysisError, match=r"blocks 0 to 2; asked for \[3\]"):
        dense_hidden_states(
            model, Probe(tokens=tokens, length=length, document=none, domain=none, start=none, texts=()), [3]
        )


def test_a_gate_on_these_states_is_found_by_the_probe() -> None:
    """The expert is the largest of 4 linear functions, one of the features a thousand times the others."""
    hidden = states()
    hidden[:, 0] *= 1000
    gate = np.random.default_rng(1).normal(size=(WIDTH, 4)) / np.array([1000, 1, 1, 1, 1, 1])[:, None]
    probe_, clusters = geometry(hidden, (hidden @ gate).argmax(1), DOCUMENT, DOMAIN, 4)
    assert probe_.predictor == "linear probe"
    assert probe_.accuracy > 0.93
    assert probe_.accuracy_interval.low > probe_.chance
    assert 0.7 * probe_.maximum < probe_.information <= probe_.maximum
    assert clusters.accuracy < probe_.accuracy
    assert probe_.domain_information < 0.05


def test_clusters_are_found_by_k_means_and_tell_the_domain() -> None:
    """Four far clusters; domain 0 keeps to the first, 1 to the second, 2 to the others; the expert is the cluster's."""
    rng = np.random.default_rng(2)
    cluster = np.where(DOMAIN[DOCUMENT] < 2, DOMAIN[DOCUMENT], 2 + rng.integers(0, 2, len(DOCUMENT)))
    hidden = states() + 20 * np.eye(WIDTH, dtype=np.float32)[cluster]
    for found in geometry(hidden, np.array([3, 1, 0, 2])[cluster], DOCUMENT, DOMAIN, 4):
        assert (found.accuracy, found.accuracy_interval.low) == pytest.approx((1, 1))
        assert found.information == pytest.approx(found.maximum)
        assert found.normalised == pytest.approx(1)
        assert found.domain_information == pytest.approx(math.log2(3))
        assert found.chance == pytest.approx(1 / 3, abs=0.01)


def test_experts_that_know_nothing_of_the_states_are_at_chance() -> None:
    experts = np.random.default_rng(3).choice(4, p=[0.4, 0.3, 0.2, 0.1], size=len(DOCUMENT))
    for found in geometry(states(), experts, DOCUMENT, DOMAIN, 4):
        assert found.accuracy == pytest.approx(found.chance, abs=0.04)
        assert found.information_interval.low < 0.01
        assert found.information < 0.01
    for found in geometry(states(), np.full(len(DOCUMENT), 2), DOCUMENT, DOMAIN, 4):
        assert (found.accuracy, found.chance, found.maximum, found.information, found.normalised) == (1, 1, 0, 0, 0)


@pytest.mark.parametrize("planted", [0.4, 0.8])
def test_a_planted_share_is_recovered(planted: float) -> None:
    """That share of the tokens goes to the cluster's expert, the rest to any of 4."""
    rng = np.random.default_rng(4)
    cluster = rng.integers(0, 4, len(DOCUMENT))
    hidden = states() + 20 * np.eye(WIDTH, dtype=np.float32)[cluster]
    experts = np.where(rng.random(len(cluster)) < planted, cluster, rng.integers(0, 4, len(cluster)))
    truth = planted + (1 - planted) / 4
    for found in geometry(hidden, experts, DOCUMENT, DOMAIN, 4):
        assert found.accuracy == pytest.approx(truth, rel=0.05)
        assert found.accuracy_interval.low < truth < found.accuracy_interval.high


def test_information_is_scikit_learn_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is predicted on the tested half, as many tokens of each domain."""
    seen = []
    judge = hidden_states._judged

    def spy(predictor, experts, predicted, group, *rest):
        seen.append((experts, predicted, group))
        return judge(predictor, experts, predicted, group, *rest)

    monkeypatch.setattr(hidden_states, "_judged", spy)
    hidden = states(5)
    experts = (hidden[:, 0] > 0) + 2 * (hidden[:, 1] > 0)
    found = geometry(hidden, experts, DOCUMENT, DOMAIN, 4, tokens=len(DOCUMENT))
    for one, (own, predicted, group) in zip(found, seen, strict=True):
        assert len(own) == one.tokens == len(DOCUMENT) // 2
        assert one.normalised == pytest.approx(normalized_mutual_info_score(own, group), abs=1e-10)
        assert one.accuracy == pytest.approx((own == predicted).mean(), abs=1e-10)
        assert one.chance == pytest.approx(np.bincount(own).max() / len(own), abs=1e-10)


def test_no_document_is_in_both_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """States that hold nothing but which document it is, and documents that each keep to an expert: fitting to single
    tokens would tell every one of them."""
    hidden = np.eye(36, dtype=np.float32)[DOCUMENT]
    experts = np.random.default_rng(6).permutation(np.arange(36) % 4)[DOCUMENT]
    probe_, _ = geometry(hidden, experts, DOCUMENT, DOMAIN, 4)
    assert probe_.accuracy < 0.5
    assert probe_.documents == 6


def test_the_same_seed_gives_the_same_numbers_and_few_tokens_are_drawn_evenly() -> None:
    hidden, experts = states(7), np.random.default_rng(8).integers(0, 4, len(DOCUMENT))
    first, again, other = (geometry(hidden, experts, DOCUMENT, DOMAIN, 4, tokens=900, seed=s) for s in (0, 0, 1))
    assert first == again
    assert first != other
    assert 350 < first[0].tokens < 550


def test_wrong_input() -> None:
    experts = np.zeros(len(DOCUMENT), dtype=np.int64)
    with pytest.raises(AnalysisError, match="domain 1 has 3 documents"):
        geometry(states(), experts, DOCUMENT, np.repeat([0, 1], [33, 3]), 4)
    with pytest.raises(AnalysisError, match=r"they have \[3600\] and 0 are to be drawn"):
        geometry(states(), experts, DOCUMENT, np.zeros_like(DOMAIN), 4, tokens=0)


def test_rows(tmp_path: Path) -> None:
    arm = next(arm for arm in quickstart_like().arms if arm.name == "top2")
    planted = PlantedSuite(arms=(replace(arm, baseline=None, changes={}),), steps=4, looks=(0, 4))
    (run,) = read_suite(write_suite(tmp_path, planted)).runs
    trace = read_trace(run, 4)
    assert len(trace.token_id) == probe(planted).length.sum()
    hidden = np.random.default_rng(9).normal(size=(len(trace.token_id), WIDTH))
    rows = list(geometry_rows(run, trace, {2: hidden, 3: hidden}))
    assert [(row.layer, row.predictor) for row in rows] == [
        (layer, predictor) for layer in (2, 3) for predictor in ("linear probe", "k-means")
    ]
    again = geometry(hidden, trace.layers[1].experts[:, 0], trace.document, trace.domain, 8)[0]
    assert (rows[2].accuracy, rows[2].low, rows[2].domain_high) == (
        again.accuracy, again.information_interval.low, again.domain_interval.high
    )  # fmt: skip
    assert rows[2].information_share == pytest.approx(rows[2].information / rows[2].maximum)
    with pytest.raises(
        AnalysisError, match=r"layer 3 of the trace's 2880 tokens are needed; got tokens by layer \{2: 2880\}"
    ):
        list(geometry_rows(run, trace, {2: hidden}))
    with pytest.raises(AnalysisError, match=r"got tokens by layer \{2: 7\}"):
        list(geometry_rows(run, trace, {2: hidden[:7]}))
    assert list(geometry_rows(run, replace(trace, domain=np.arange(len(trace.domain)).clip(0, 1)), {})) == []
