"""What is shown of a text against plain forwards, and of experts switched off against a model that never had them."""

import copy

import numpy as np
import pytest
import torch
from tiny_run import EXPERTS, LAYERS
from tokenizers import Tokenizer
from torch import nn

from moe_emergence.analysis.causal.forward import Subject, batches
from moe_emergence.analysis.causal.interventions import NEXT, output_change
from moe_emergence.analysis.causal.knockout import make_case
from moe_emergence.data.probe import Probe
from moe_emergence.explore.reading import pieces, read_tokens
from moe_emergence.explore.run import Loaded

IDS = [9, 40, 100, 7, 260, 260, 33, 41, 9, 40, 99, 270, 12, 55, 200, 3]
OFF = {0: {1}, 2: {3}}


@torch.inference_mode()
def test_a_reading_is_that_of_a_plain_forward(loaded: Loaded) -> None:
    found = read_tokens(loaded.model, IDS)
    output = loaded.model(input_ids=torch.tensor([IDS]))
    logs = output.logits[0].log_softmax(-1)
    assert found.losses == pytest.approx([-logs[n, IDS[n + 1]].item() for n in range(len(IDS) - 1)], abs=1e-5)
    assert found.mean_loss == pytest.approx(np.mean(found.losses))
    order = logs[-1].argsort(descending=True)[:5].tolist()
    assert [token for token, _ in found.following] == order
    assert [share for _, share in found.following] == pytest.approx(logs[-1, order].exp().tolist())
    assert [layer.layer for layer in found.layers] == list(LAYERS)
    for layer, route in zip(found.layers, output.routes, strict=True):
        assert [list(slots) for slots in layer.experts] == route.topk_indices.tolist()
        assert [list(slots) for slots in layer.weights] == route.topk_weights.tolist()
        assert list(layer.entropy) == route.entropy.tolist()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("expert", range(EXPERTS))
def test_switching_off_changes_losses_as_the_causal_tests_say(loaded: Loaded, layer: int, expert: int) -> None:
    probe = Probe(
        tokens=np.array([IDS], dtype=np.uint16),
        length=np.array([len(IDS)], dtype=np.int32),
        document=np.zeros(1, dtype=np.int32),
        domain=np.zeros(1, dtype=np.int32),
        start=np.zeros(1, dtype=np.int32),
        texts=("",),
    )
    subject = Subject(loaded.model)
    seen = subject.observe(next(iter(batches(probe, np.arange(1)))))
    case = make_case(subject, seen, layer, torch.zeros(EXPERTS, 16))
    expected = subject.loss_changes(seen, layer, *output_change(case, NEXT, expert))[0, :-1].numpy()
    before, after = read_tokens(loaded.model, IDS), read_tokens(loaded.model, IDS, {layer: {expert}})
    assert np.subtract(after.losses, before.losses) == pytest.approx(expected, abs=1e-5)
    used = expert in {slots[0] for found in before.layers if found.layer == layer for slots in found.experts[:-1]}
    assert np.abs(expected).max() > 1e-3 or not used


def test_some_expert_is_used(loaded: Loaded) -> None:
    """Without it the test above could not fail."""
    assert all(len({slots[0] for slots in layer.experts}) > 1 for layer in read_tokens(loaded.model, IDS).layers)


def test_switched_off_is_as_if_it_had_never_been(loaded: Loaded) -> None:
    found, expected = read_tokens(loaded.model, IDS, OFF), read_tokens(without(loaded.model, OFF), IDS)
    assert found.losses == pytest.approx(expected.losses, abs=1e-5)
    assert [token for token, _ in found.following] == [token for token, _ in expected.following]
    assert found.following != read_tokens(loaded.model, IDS).following
    for layer, smaller in zip(found.layers, expected.layers, strict=True):
        left = [expert for expert in range(EXPERTS) if expert not in OFF[layer.layer]]
        assert [slots[0] for slots in layer.experts] == [left[slots[0]] for slots in smaller.experts]


def without(model: nn.Module, off: dict[int, set[int]]) -> nn.Module:
    """A copy whose layers have one expert fewer; a single choice has weight 1 whatever its probability."""
    smaller = copy.deepcopy(model)
    for layer, moe in Subject(smaller).layers.items():
        kept = [expert for expert in range(EXPERTS) if expert not in off[layer]]
        moe.router.gate.weight = nn.Parameter(moe.router.gate.weight[kept].detach())
        moe.experts.num_experts = len(kept)
        for name, parameter in list(moe.experts.named_parameters()):
            setattr(moe.experts, name, nn.Parameter(parameter[kept].detach()))
    smaller.config.num_experts = EXPERTS - 1
    return smaller


def test_the_model_is_as_it_was_afterwards_also_on_error(loaded: Loaded) -> None:
    before = read_tokens(loaded.model, IDS)
    read_tokens(loaded.model, IDS, OFF)
    with pytest.raises(IndexError):
        read_tokens(loaded.model, [10_000], OFF)
    assert read_tokens(loaded.model, IDS) == before


def test_one_token_has_no_loss(loaded: Loaded) -> None:
    found = read_tokens(loaded.model, [9])
    assert (found.losses, found.mean_loss, len(found.following)) == ((), None, 5)


@pytest.mark.parametrize("text", ["naïve 🐋 whale", "日本", "tab\tand\nline", ""])
def test_the_pieces_make_the_text(loaded: Loaded, text: str) -> None:
    tokenizer: Tokenizer = loaded.tokenizer
    ids = tokenizer.encode(text).ids
    found = pieces(tokenizer, ids)
    assert "".join(found) == text
    assert len(found) == len(ids)
