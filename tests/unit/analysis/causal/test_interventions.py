"""What interventions do where the answer is known: equal experts, planted ones, nothing to choose from."""

import numpy as np
import pytest
import torch

from moe_emergence.analysis.causal import forward
from moe_emergence.analysis.causal.effects import Origin
from moe_emergence.analysis.causal.forward import batches
from moe_emergence.analysis.causal.interventions import NEXT, SWAP, ZERO, ancestors_of, drawn_numbers
from moe_emergence.analysis.causal.knockout import documents_of, knockout_matrix, survey
from moe_emergence.analysis.causal.regret import regret_rows, regret_sums
from moe_emergence.analysis.causal.rerouting import only_experts, other_gates, rerouted
from moe_emergence.analysis.causal.retention import (
    kept_counts,
    measured_half,
    retained_losses,
    retention_rows,
    usage_order,
)
from moe_emergence.analysis.causal.specificity import specificity
from moe_emergence.errors import AnalysisError


def origin_of(docs) -> Origin:
    return Origin(arm="moe", seed=0, step=1, domains=("a", "b"), domain=docs.domain, predicted=docs.predicted)


def test_equal_experts_can_stand_for_each_other_exactly(make_subject, probe) -> None:
    subject, docs = make_subject(perturbation=0.0), documents_of(probe)
    surveyed = survey(subject, docs)
    found = knockout_matrix(subject, docs, surveyed, (NEXT, SWAP, ZERO), None)["change"]
    assert (found[:2] == 0).all()
    assert (found[2] != 0).any()
    assert specificity(origin_of(docs), found[0, 0], permutations=99).p == 1
    sums = regret_sums(subject, docs)["regret"]
    assert (sums[:, :3] == 0).all()
    rows = list(regret_rows(origin_of(docs), (0, 2), sums, 1 / 4))
    assert all((row.regret, row.ceiling, row.p) == (0, 0, 1) for row in rows)
    assert all((row.best_share, row.worst_share) == pytest.approx((row.chance_share,) * 2) for row in rows)
    retained = retained_losses(subject, docs, surveyed)["retained"]
    assert np.nanmax(np.abs(retained)) < 1e-4  # no difference but of rounding


def test_an_expert_that_matters_to_one_domain_is_found(make_subject, probe) -> None:
    """Domain a has tokens up to 20, b those above, told apart by dimension 0, which the head does not see. In layer 2
    expert 3 alone gives anything: it gets the tokens of b, and makes tokens of b likelier by dimension 1."""
    subject, docs = make_subject(), documents_of(probe)
    probe.tokens[:12], probe.tokens[12:] = probe.tokens[:12] % 20 + 1, probe.tokens[12:] % 19 + 21
    moe, model = subject.layers[2], subject.model
    sign = torch.where(torch.arange(40) > 20, 1.0, -1.0)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        model.transformer.wte.weight[:, 0] = 9 * sign
        model.lm_head.weight[:, 0], model.lm_head.weight[:, 1] = 0, sign
        moe.router.gate.weight.zero_()[3, 0] = 9
        for parameter in moe.experts.parameters():
            parameter.zero_()
        moe.experts.down_proj_bias[3, 1] = 5
    surveyed = survey(subject, docs)
    assert surveyed.counts[1, :12, 3].sum() == 0
    assert surveyed.counts[1, 12:, 3].sum() == probe.length[12:].sum()
    for intervention in (ZERO, NEXT):
        change = knockout_matrix(subject, docs, surveyed, (intervention,), None)["change"][0]
        assert (change[1, :, :12] == 0).all()
        found = specificity(origin_of(docs), change[1], permutations=199)
        assert (found.expert, found.domain) == (3, 1)
        assert found.p == 1 / 200
        assert found.tested.interval.low > 0.1


def test_where_every_expert_is_chosen_nothing_can_be_rerouted(make_subject, probe) -> None:
    subject, docs = make_subject(top_k=4), documents_of(probe)
    found = knockout_matrix(subject, docs, survey(subject, docs), (NEXT, SWAP, ZERO), None)["change"]
    assert np.isnan(found[:2]).all()
    assert not np.isnan(found[2]).any()
    with pytest.raises(AnalysisError, match="all 4 are"):
        regret_sums(subject, docs)


def test_no_expert_left_is_refused(make_subject, probe) -> None:
    subject = make_subject()
    seen = subject.observe(next(batches(probe, np.arange(4))))
    with pytest.raises(AnalysisError, match="none of the 4"):
        rerouted(subject.layers[0].router, seen.layers[0].route, torch.zeros(4, dtype=torch.bool))


def test_batches_change_nothing(make_subject, probe, monkeypatch) -> None:
    """Not even the draws of `swap`, which documents and positions key."""
    subject, docs = make_subject(layers=(1,)), documents_of(probe)
    whole = knockout_matrix(subject, docs, survey(subject, docs), (SWAP,), None, seed=5)
    monkeypatch.setattr(forward, "BATCH_TOKENS", 60)
    parts = knockout_matrix(subject, docs, survey(subject, docs), (SWAP,), None, seed=5)
    assert parts["change"] == pytest.approx(whole["change"], abs=1e-4)
    assert (parts["affected"] == whole["affected"]).all()
    other = knockout_matrix(subject, docs, survey(subject, docs), (SWAP,), None, seed=6)
    assert np.abs(other["change"] - whole["change"]).max() > 0.1


def test_draws_differ_between_layers_documents_and_positions(probe) -> None:
    batch = next(batches(probe, np.arange(2)))
    first, second = (drawn_numbers(batch, seed=1, layer=layer) for layer in (0, 1))
    assert len(set(first.tolist() + second.tolist())) == 2 * len(first)


def refuse_unchanged(losses: torch.Tensor, before: torch.Tensor) -> None:
    assert not torch.equal(losses, before)
    raise KeyError


def test_all_is_as_before_when_something_fails_inside(make_subject, probe) -> None:
    subject = make_subject()
    seen = subject.observe(next(batches(probe, np.arange(4))))
    before, blocks = seen.losses, subject.model.base_model.h
    gates = {layer: 9 * torch.randn(4, 16) for layer in subject.layers}
    masks = {layer: torch.tensor([True, False, False, False]) for layer in subject.layers}
    with pytest.raises(KeyError), other_gates(subject.layers, gates), only_experts(subject.layers, masks):
        refuse_unchanged(subject.observe(seen.batch).losses, before)
    subject.blocks[2].register_forward_pre_hook(lambda *_: 1 / 0)
    token, change = torch.tensor([1]), torch.ones(1, 16)
    with pytest.raises(ZeroDivisionError):
        subject.loss_changes(seen, 0, token, change)
    assert subject.model.base_model.h is blocks
    subject.blocks[2]._forward_pre_hooks.clear()
    assert torch.equal(subject.observe(seen.batch).losses, before)


def test_gates_that_do_not_fit_are_refused_before_anything_changes(make_subject) -> None:
    subject = make_subject()
    own = [moe.router.gate.weight.clone() for moe in subject.layers.values()]
    for gates, words in (
        ({0: torch.ones(4, 16)}, r"\[0\] do not fit"),
        ({0: own[0], 2: torch.ones(3, 16)}, r"\[3, 16\]"),
    ):
        with pytest.raises(AnalysisError, match=words), other_gates(subject.layers, gates):
            pass
    now = [moe.router.gate.weight for moe in subject.layers.values()]
    assert all(torch.equal(a, b) for a, b in zip(own, now, strict=True))


def test_an_ancestor_of_another_model_is_refused(make_subject) -> None:
    with pytest.raises(AnalysisError, match=r"lacks transformer\.h\.0\.mlp\.c_fc\.weight"):
        ancestors_of(make_subject(), {})


def test_a_dense_model_is_refused(make_subject) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    with pytest.raises(AnalysisError, match="no experts"):
        forward.Subject(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=9)))


@pytest.mark.parametrize(("experts", "counts"), [(1, ()), (4, (1, 2, 3)), (64, (1, 2, 3, 5, 8, 13, 23, 38))])
def test_numbers_of_experts_kept(experts, counts) -> None:
    assert kept_counts(experts) == counts


def test_experts_are_ranked_on_documents_that_are_not_measured() -> None:
    domain = np.repeat([0, 1], 4)
    counts = np.zeros((1, 8, 3), dtype=np.int64)
    ranking = np.setdiff1d(np.arange(8), measured_half(domain))
    counts[0, :] = [9, 5, 1]  # where losses are measured, the order is another
    counts[0, ranking[domain[ranking] == 0]] = [1, 2, 3]
    counts[0, ranking[domain[ranking] == 1]] = [2, 3, 1]
    assert usage_order(counts, domain).tolist() == [[[2, 1, 0]], [[1, 0, 2]]]


def test_retention_rows_by_hand() -> None:
    """Domains a and b of 2 documents, the second of each measured; orders a, b and one random; 2 experts."""
    here = Origin(arm="", seed=0, step=0, domains=("a", "b"), domain=np.repeat([0, 1], 4), predicted=np.full(8, 10))
    measured = measured_half(here.domain)
    retained = np.full((4, 1, 8), np.nan)
    retained[0][:, measured], retained[1][:, measured] = 1.0, 2.0
    retained[2][:, measured], retained[3][:, measured] = 4.0, 6.0
    rows = list(retention_rows(here, 2, retained))
    assert [(r.domain, r.kept, r.subset) for r in rows] == [
        (d, 1, s) for d in ("a", "b") for s in ("own", "other", "random")
    ]
    assert [r.difference for r in rows] == pytest.approx([0.1, 0.2, 0.5, 0.2, 0.1, 0.5])
    assert {r.documents for r in rows} == {2}
