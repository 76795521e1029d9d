"""Interventions, regret, retention and transplants against the whole model run again, document by document.

The oracle knows nothing of replayed blocks, flattened batches or changes of outputs: it puts a loop over single tokens
and slots in the layer's place and takes the loss of the model's own logits.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from moe_emergence.analysis.causal import forward
from moe_emergence.analysis.causal.forward import Subject, batches
from moe_emergence.analysis.causal.interventions import INTERVENTIONS, ancestors_of
from moe_emergence.analysis.causal.knockout import documents_of, dose_response, knockout_matrix, survey
from moe_emergence.analysis.causal.regret import forced_changes, regret_sums
from moe_emergence.analysis.causal.retention import measured_half, random_order, retained_losses, usage_order
from moe_emergence.analysis.causal.transplant import transplanted_losses
from moe_emergence.config import MoEConfig
from moe_emergence.data.blocks import Probe
from moe_emergence.models.gpt2_moe import GPT2MoEForCausalLM
from moe_emergence.models.upcycle import ancestor_state, upcycle
from moe_emergence.moe.layer import MoE
from moe_emergence.moe.reference import reference_route

EXPERTS, SEED = 4, 11
Route = tuple[list[int], list[float]]
Rule = Callable[[int, torch.Tensor, Route], torch.Tensor]
"""(position, what the layer is given there, the layer's own routing) to what it is to give."""


@pytest.fixture
def make(make_dense):
    """A model in double precision whose experts and gates clearly differ, and the MLPs they came from."""

    def make(top_k=1, layers=(0, 2), gate_scale="renormalised", bias=False, **moe):
        dense = make_dense(torch.float64)
        config = MoEConfig(
            layers=layers, num_experts=EXPERTS, top_k=top_k, perturbation=0.5, bias_rate=1e-3 if bias else 0.0, **moe
        )
        model = upcycle(dense, config, seed=3, experts_implementation="eager", gate_scale=gate_scale)
        if bias:
            for layer in Subject(model).layers.values():
                layer.router.expert_bias += torch.tensor([0.0, 0.2, -0.1, 0.05])
        return model, ancestor_state(dense, layers)

    return make


@pytest.fixture
def probe() -> Probe:
    """6 documents of 3 domains with 1 to 6 tokens, in no order of length; the one of 1 token has no loss."""
    return Probe(
        tokens=np.random.default_rng(2).integers(1, 40, (6, 6)).astype(np.uint16),
        length=np.array([5, 6, 1, 4, 3, 2], dtype=np.int32),
        document=np.array([30, 4, 17, 9, 2, 41], dtype=np.int32),
        domain=np.array([0, 1, 1, 2, 0, 2], dtype=np.int32),
        start=np.zeros(6, dtype=np.int32),
        texts=("",) * 6,
    )


@pytest.fixture(autouse=True)
def _several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "BATCH_TOKENS", 12)


def documents(probe: Probe) -> list[torch.Tensor]:
    """Those with a loss."""
    return [torch.from_numpy(t[:n].astype(np.int64)) for t, n in zip(probe.tokens, probe.length, strict=True) if n > 1]


@torch.no_grad()
def losses(model: GPT2MoEForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=ids[None]).logits[0]
    return F.cross_entropy(logits[:-1], ids[1:], reduction="none")


def own_route(moe: MoE, token: torch.Tensor) -> Route:
    indices, weights = reference_route(moe, token)
    return indices.tolist(), weights.tolist()


@torch.no_grad()
def losses_under(model: GPT2MoEForCausalLM, layer: int, ids: torch.Tensor, rule: Rule) -> torch.Tensor:
    """The model's losses with `rule` in the place of one layer."""
    moe = Subject(model).layers[layer]

    def forward(x: torch.Tensor):
        given = [rule(at, token, own_route(moe, token)) for at, token in enumerate(x[0])]
        return torch.stack(given)[None], None

    moe.forward = forward
    hooks, moe.router._forward_hooks = moe.router._forward_hooks, {}
    try:
        last = model.transformer(input_ids=ids[None]).last_hidden_state[0]
        return F.cross_entropy(model.lm_head(last)[:-1], ids[1:], reduction="none")
    finally:
        moe.router._forward_hooks = hooks
        del moe.forward


def mlp(moe: MoE, up, up_bias, down, down_bias, x: torch.Tensor) -> torch.Tensor:
    return moe.experts.act_fn(x @ up + up_bias) @ down + down_bias


def expert(moe: MoE, number: int, x: torch.Tensor) -> torch.Tensor:
    e = moe.experts
    return mlp(moe, e.up_proj[number], e.up_proj_bias[number], e.down_proj[number], e.down_proj_bias[number], x)


def mixed(moe: MoE, x: torch.Tensor, route: Route, instead: dict[int, torch.Tensor] | None = None) -> torch.Tensor:
    total = torch.zeros_like(x)
    for number, weight in zip(*route, strict=True):
        total = total + weight * ((instead or {}).get(number) if number in (instead or {}) else expert(moe, number, x))
    return total


def routed_among(moe: MoE, x: torch.Tensor, allowed: list[int]) -> Route:
    """A token's experts and weights when only some can be chosen, from the definitions."""
    router = moe.router
    logits = (router.gate.weight @ x).tolist()
    probs = torch.softmax(torch.tensor(logits, dtype=torch.float64), 0).tolist()
    bias = [0.0] * EXPERTS if router.expert_bias is None else router.expert_bias.tolist()
    chosen = sorted(allowed, key=lambda i: -(probs[i] + bias[i]))[: router.top_k]
    if router.gate_scale == "probability":
        return chosen, [probs[i] for i in chosen]
    if router.gate_scale == "sigmoid":
        return chosen, [1 / (1 + float(np.exp(-logits[i]))) for i in chosen]
    return chosen, [probs[i] / sum(probs[j] for j in chosen) for i in chosen]


def layer_inputs(model: GPT2MoEForCausalLM, layer: int, ids: torch.Tensor) -> list[torch.Tensor]:
    moe, seen = Subject(model).layers[layer], []
    losses_under(model, layer, ids, lambda at, x, route: (seen.append(x), mixed(moe, x, route))[1])
    return seen


def mean_output(moe: MoE, number: int, inputs: list[list[torch.Tensor]], domains: list[int]) -> torch.Tensor:
    """Mean over domains of the mean over an expert's tokens."""
    by_domain: dict[int, list[torch.Tensor]] = {}
    for given, domain in zip(inputs, domains, strict=True):
        own = [expert(moe, number, x) for x in given if number in own_route(moe, x)[0]]
        by_domain.setdefault(domain, []).extend(own)
    means = [torch.stack(outputs).mean(0) for outputs in by_domain.values() if outputs]
    return torch.stack(means).mean(0) if means else torch.zeros(16, dtype=torch.float64)


def rule_of(
    intervention: str, moe: MoE, number: int, mean: torch.Tensor, ancestor: list[torch.Tensor], document
) -> Rule:
    if intervention == "zero":
        return lambda at, x, route: mixed(moe, x, route, {number: torch.zeros_like(x)})
    if intervention == "next":
        allowed = [i for i in range(EXPERTS) if i != number]
        return lambda at, x, route: mixed(moe, x, routed_among(moe, x, allowed) if number in route[0] else route)
    if intervention == "mean":
        return lambda at, x, route: mixed(moe, x, route, {number: mean})
    if intervention == "ancestor":
        return lambda at, x, route: mixed(moe, x, route, {number: mlp(moe, *ancestor, x)})

    def swapped(at: int, x: torch.Tensor, route: Route) -> torch.Tensor:
        others = [i for i in range(EXPERTS) if i not in route[0]]
        key = np.random.Philox(key=[SEED, int(document)], counter=[0, 0, 0, moe.router.layer_idx])
        drawn = np.random.Generator(key).random(at + 1)[at]
        return mixed(moe, x, route, {number: expert(moe, others[int(drawn * len(others))], x)})

    return swapped


CASES = [
    {"top_k": 1},
    {"top_k": 2, "bias": True},
    {"top_k": 3, "layers": (1,), "gate_scale": "sigmoid"},
    {"top_k": 1, "layers": (1,), "gate_scale": "probability", "bias": True},
]


@pytest.mark.parametrize("case", CASES)
def test_the_knock_out_matrix_is_that_of_whole_forwards(case, make, probe) -> None:
    model, stored = make(**case)
    subject, docs, ids_of = Subject(model), documents_of(probe), documents(probe)
    surveyed = survey(subject, docs)
    found = knockout_matrix(subject, docs, surveyed, INTERVENTIONS, ancestors_of(subject, stored), seed=SEED)
    assert found["change"].shape == (5, len(subject.layers), EXPERTS, 5)
    clean = [losses(model, ids) for ids in ids_of]
    assert surveyed.loss == pytest.approx([float(loss.sum()) for loss in clean], abs=1e-10)
    with_loss = probe.length > 1
    for row, (layer, moe) in enumerate(subject.layers.items()):
        names = ("c_fc.weight", "c_fc.bias", "c_proj.weight", "c_proj.bias")
        ancestor = [stored[f"transformer.h.{layer}.mlp.{name}"] for name in names]
        inputs = [layer_inputs(model, layer, ids) for ids in ids_of]
        for number in range(EXPERTS):
            mean = mean_output(moe, number, inputs, probe.domain[with_loss].tolist())
            for doc, document in enumerate(probe.document[with_loss]):
                uses = [number in own_route(moe, x)[0] for x in inputs[doc]]
                assert found["affected"][row, number, doc] == sum(uses[:-1])
                if not any(uses):
                    assert (found["change"][:, row, number, doc] == 0).all()
                    continue
                for place, intervention in enumerate(INTERVENTIONS):
                    rule = rule_of(intervention, moe, number, mean, ancestor, document)
                    change = float((losses_under(model, layer, ids_of[doc], rule) - clean[doc]).sum())
                    assert found["change"][place, row, number, doc] == pytest.approx(change, abs=1e-9)
    assert (np.abs(found["change"]).max((1, 2, 3)) > 1e-3).all()  # every intervention does something


@pytest.mark.parametrize("case", CASES)
def test_regret_is_that_of_one_token_forced_at_a_time(case, make, probe) -> None:
    model, _ = make(**case)
    subject, docs = Subject(model), documents_of(probe)
    sums = regret_sums(subject, docs)["regret"]
    ids_of = documents(probe)
    for row, layer in enumerate(subject.layers):
        moe = subject.layers[layer]
        for batch in batches(probe, docs.rows):
            found = forced_changes(subject, subject.observe(batch), layer)
            rows = iter(found)
            for place in batch.place:
                ids, expected = ids_of[place], np.zeros(5)
                clean = losses(model, ids)
                for token, x in enumerate(layer_inputs(model, layer, ids)[:-1]):
                    chosen = own_route(moe, x)[0]
                    values = next(rows).tolist()
                    changes = {chosen[0]: 0.0}
                    for number in set(range(EXPERTS)) - set(chosen):

                        def forced(at, x, route, token=token, number=number, moe=moe):
                            if at != token:
                                return mixed(moe, x, route)
                            return mixed(moe, x, ([number, *route[0][1:]], route[1]))

                        changes[number] = float((losses_under(model, layer, ids, forced) - clean)[token])
                        assert values[number] == pytest.approx(changes[number], abs=1e-9)
                    assert values[chosen[0]] == 0
                    assert all(np.isnan(values[number]) for number in chosen[1:])
                    others = [changes[number] for number in changes if number != chosen[0]]
                    smallest = min(changes.values())
                    mean = np.mean(list(changes.values()))
                    expected += [np.mean(others), -smallest, mean - smallest, smallest == 0, max(changes.values()) == 0]
                assert sums[row, :, place] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("top_k", [1, 2])
def test_retention_is_that_of_a_model_that_chooses_among_fewer(top_k, make, probe) -> None:
    model, _ = make(top_k=top_k, bias=True)
    subject, docs = Subject(model), documents_of(probe)
    surveyed = survey(subject, docs)
    found = retained_losses(subject, docs, surveyed, draws=2)["retained"]
    assert found.shape == (5, EXPERTS - 1, 5)
    measured = measured_half(docs.domain)
    assert np.isnan(found[..., np.setdiff1d(np.arange(5), measured)]).all()
    orders = np.concatenate([usage_order(surveyed.counts, docs.domain), random_order(2, EXPERTS, 2)])
    for place in measured:
        ids = documents(probe)[place]
        clean = losses(model, ids)
        for number, order in enumerate(orders):
            for kept in range(1, EXPERTS):
                allowed = {layer: order[row, :kept].tolist() for row, layer in enumerate(subject.layers)}
                change = float((_losses_among(model, ids, allowed) - clean).sum())
                assert found[number, kept - 1, place] == pytest.approx(change, abs=1e-9)


@torch.no_grad()
def _losses_among(model, ids: torch.Tensor, allowed: dict[int, list[int]]) -> torch.Tensor:
    layers = Subject(model).layers
    for layer, moe in layers.items():

        def forward(x, moe=moe, kept=allowed[layer]):
            return torch.stack([mixed(moe, token, routed_among(moe, token, kept)) for token in x[0]])[None], None

        moe.forward = forward
    try:
        last = model.transformer(input_ids=ids[None]).last_hidden_state[0]
        return F.cross_entropy(model.lm_head(last)[:-1], ids[1:], reduction="none")
    finally:
        for moe in layers.values():
            del moe.forward


def test_a_dose_is_a_model_with_those_weights(make, probe) -> None:
    model, ancestor = make(top_k=2)
    subject, docs = Subject(model), documents_of(probe)
    origins = ancestors_of(subject, ancestor)
    found = dose_response(subject, docs, origins, (0.0, 0.5, 1.0, 1.5))["dose"]
    assert (found[2] == 0).all()
    clean = [losses(model, ids) for ids in documents(probe)]
    for place, dose in ((0, 0.0), (1, 0.5), (3, 1.5)):
        for row, layer in enumerate(subject.layers):
            experts = subject.layers[layer].experts
            own = {name: p.detach().clone() for name, p in experts.named_parameters()}
            with torch.no_grad():
                for name, parameter in experts.named_parameters():
                    parameter.copy_((1 - dose) * origins[layer][name] + dose * own[name])
            changes = [float((losses(model, ids) - c).sum()) for ids, c in zip(documents(probe), clean, strict=True)]
            with torch.no_grad():
                for name, parameter in experts.named_parameters():
                    parameter.copy_(own[name])
            assert found[place, row] == pytest.approx(changes, abs=1e-9)


def test_a_transplant_is_a_model_with_those_gates(make, probe) -> None:
    model, _ = make()
    other, _ = make(top_k=1)
    subject, docs = Subject(model), documents_of(probe)
    gates = {layer: np.random.default_rng(layer).normal(size=(EXPERTS, 16)) for layer in subject.layers}
    own = {layer: moe.router.gate.weight.detach().clone().numpy() for layer, moe in subject.layers.items()}
    found = transplanted_losses(subject, docs, {0: gates, 5: own})
    assert (found["transplant"][1] == 0).all()
    assert (found["changed"][1] == 0).all()
    with torch.no_grad():
        for layer, moe in Subject(other).layers.items():
            moe.router.gate.weight.copy_(torch.from_numpy(gates[layer]))
    for doc, ids in enumerate(documents(probe)):
        change = float((losses(other, ids) - losses(model, ids)).sum())
        assert found["transplant"][0, doc] == pytest.approx(change, abs=1e-9)
        routes = zip(model(input_ids=ids[None]).routes, other(input_ids=ids[None]).routes, strict=True)
        moved = [(a.topk_indices[:-1, 0] != b.topk_indices[:-1, 0]).sum().item() for a, b in routes]
        assert found["changed"][0, doc] == pytest.approx(np.mean(moved))
    for layer, moe in subject.layers.items():
        assert np.array_equal(moe.router.gate.weight.detach().numpy(), own[layer])


@pytest.mark.parametrize("router", ["hash", "round_robin"])
def test_routers_that_assign_go_on_to_the_next_in_turn(router, make, probe) -> None:
    model, _ = make(top_k=2, router=router)
    subject, docs = Subject(model), documents_of(probe)
    found = knockout_matrix(subject, docs, survey(subject, docs), ("next",), None)["change"][0]
    forced = {
        layer: {tuple(batch.place): forced_changes(subject, subject.observe(batch), layer)}
        for batch in batches(probe, docs.rows)
        for layer in subject.layers
    }
    assert all(values.nansum() != 0 for parts in forced.values() for values in parts.values())
    for row, layer in enumerate(subject.layers):
        for doc, ids in enumerate(documents(probe)):
            chosen = model(input_ids=ids[None]).routes[row].topk_indices
            for number in range(EXPERTS):
                turned = []
                for first in chosen[:, 0].tolist():
                    order = [(first + turn) % EXPERTS for turn in range(EXPERTS)]
                    turned.append(([i for i in order if i != number][:2], [0.5, 0.5]))
                changed = losses_under_fixed(model, layer, ids, turned)
                assert found[row, number, doc] == pytest.approx(float((changed - losses(model, ids)).sum()), abs=1e-9)


@torch.no_grad()
def losses_under_fixed(model, layer: int, ids: torch.Tensor, routes: list[Route]) -> torch.Tensor:
    moe = Subject(model).layers[layer]
    moe.forward = lambda x: (
        torch.stack([mixed(moe, token, route) for token, route in zip(x[0], routes, strict=True)])[None],
        None,
    )
    try:
        last = model.transformer(input_ids=ids[None]).last_hidden_state[0]
        return F.cross_entropy(model.lm_head(last)[:-1], ids[1:], reduction="none")
    finally:
        del moe.forward


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_of_either_kind_gives_the_same(implementation, make, probe) -> None:
    """Regret in an earlier layer masks attention itself."""
    model, _ = make()
    docs = documents_of(probe)
    expected = regret_sums(Subject(model), docs)["regret"]
    model.set_attn_implementation(implementation)
    assert regret_sums(Subject(model), docs)["regret"] == pytest.approx(expected, abs=1e-9)
