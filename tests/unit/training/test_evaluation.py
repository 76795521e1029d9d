"""Evaluation against the same numbers worked out one block, one token at a time."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from moe_emergence.data.blocks import PreparedData
from moe_emergence.data.tokenizer import END_OF_TEXT
from moe_emergence.interrupt import StopAsked
from moe_emergence.models.gpt2_moe import GPT2MoEForCausalLM
from moe_emergence.training import evaluation
from moe_emergence.training.evaluation import evaluate, next_token_losses

CPU = torch.device("cpu")


@torch.no_grad()
def block_losses(model: torch.nn.Module, tokens: np.ndarray) -> list[float]:
    """Nats of each token but the first, from the definition."""
    ids = torch.from_numpy(tokens.astype(np.int64))
    logits = model(input_ids=ids[None]).logits[0].double()
    return [float(logits[t].logsumexp(0) - logits[t, ids[t + 1]]) for t in range(len(ids) - 1)]


def rows_of(data: PreparedData, domain: int, count: int) -> np.ndarray:
    return np.flatnonzero(data.dev.domain == domain)[:count]


def test_losses_by_hand(dense: GPT2LMHeadModel, toy_data: PreparedData) -> None:
    found = evaluate(dense, toy_data, toy_data.dev, device=CPU, per_domain=2)
    by_domain: dict[str, float] = {}
    for number, name in enumerate(toy_data.domains):
        rows = rows_of(toy_data, number, 2)
        losses = [loss for row in rows for loss in block_losses(dense, toy_data.dev.tokens[row])]
        by_domain[name] = sum(losses) / len(losses)
        pieces = [toy_data.tokenizer.id_to_token(token) for row in rows for token in toy_data.dev.tokens[row, 1:]]
        size = sum(len(piece) for piece in pieces if piece != END_OF_TEXT)  # byte-level BPE: one character a byte
        bits = sum(losses) / math.log(2) / size
        assert found["bits_per_byte"][name] == pytest.approx(bits, rel=1e-5)
        assert found["predicted_tokens"][name] == len(losses) == 2 * 31
    assert found["lm_loss"] == pytest.approx(by_domain, rel=1e-5)
    assert found["lm_loss_macro"] == pytest.approx(sum(by_domain.values()) / 3, rel=1e-5)
    assert found["routing"] == []


def test_documents_hold_the_sums_of_their_own_tokens(dense: GPT2LMHeadModel, toy_data: PreparedData) -> None:
    """A block holds several documents and a document may lie in several blocks; each token counts where it belongs."""
    found = evaluate(dense, toy_data, toy_data.dev, device=CPU, per_domain=3)
    for number, name in enumerate(toy_data.domains):
        sums: dict[int, list[float]] = {}
        for row in rows_of(toy_data, number, 3):
            for place, loss in enumerate(block_losses(dense, toy_data.dev.tokens[row]), start=1):
                mine = sums.setdefault(int(toy_data.dev.document[row, place]), [0.0, 0, 0])
                size = int(toy_data.token_bytes[toy_data.dev.tokens[row, place]])
                mine[:] = mine[0] + loss, mine[1] + 1, mine[2] + size
        record = found["documents"][name]
        assert len(sums) > 1
        assert record["index"] == sorted(sums)
        assert record["tokens"] == [sums[index][1] for index in record["index"]]
        assert record["bytes"] == [sums[index][2] for index in record["index"]]
        assert record["loss"] == pytest.approx([sums[index][0] for index in record["index"]], rel=1e-5)
        assert sum(record["loss"]) / sum(record["tokens"]) == pytest.approx(found["lm_loss"][name])


def test_macro_weighs_domains_and_tokens_weigh_tokens(dense: GPT2LMHeadModel, toy_data: PreparedData) -> None:
    """On blocks that are not balanced the two differ."""
    uneven = toy_data.dev.take(
        np.concatenate([rows_of(toy_data, 0, 6), rows_of(toy_data, 1, 1), rows_of(toy_data, 2, 2)])
    )
    found = evaluate(dense, toy_data, uneven, device=CPU)
    losses = found["lm_loss"]
    assert found["predicted_tokens"] == {"code": 186, "math": 31, "prose": 62}
    assert found["lm_loss_macro"] == pytest.approx(np.mean(list(losses.values())))
    assert found["lm_loss_tokens"] == pytest.approx((6 * losses["code"] + losses["math"] + 2 * losses["prose"]) / 9)
    assert found["lm_loss_macro"] != pytest.approx(found["lm_loss_tokens"], abs=1e-6)


@pytest.mark.parametrize("top_k", [1, 2])
def test_routing_by_hand(make_moe: Callable[..., GPT2MoEForCausalLM], toy_data: PreparedData, top_k: int) -> None:
    model = make_moe(top_k=top_k).eval()
    (found,) = evaluate(model, toy_data, toy_data.dev, device=CPU, per_domain=3)["routing"]
    slots, first = np.zeros((3, 4), int), np.zeros((3, 4), int)
    probabilities, entropies = np.zeros((3, 4)), []
    for number in range(3):
        for row in rows_of(toy_data, number, 3):
            with torch.no_grad():
                tokens = torch.from_numpy(toy_data.dev.tokens[row : row + 1].astype(np.int64))
                route = model(input_ids=tokens).routes[0]
            for token in range(32):
                chosen = route.topk_indices[token].tolist()
                assert len(chosen) == top_k
                first[number, chosen[0]] += 1
                for expert in chosen:
                    slots[number, expert] += 1
                clean = route.router_logits[token].double().softmax(0)
                probabilities[number] += clean.numpy() / (3 * 32)
                entropies.append(-sum(float(p) * math.log(p) for p in clean))
    assert found["layer"] == 1
    assert found["assignments"] == slots.tolist()
    assert found["first_choice"] == first.tolist()
    assert np.allclose(found["mean_probabilities"], probabilities, atol=1e-6)
    assert found["entropy_per_token"] == pytest.approx(np.mean(entropies), rel=1e-5)
    assert slots.sum(1).tolist() == [3 * 32 * top_k] * 3


def test_batches_do_not_change_the_numbers(
    make_moe: Callable[..., GPT2MoEForCausalLM], toy_data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_moe()
    whole = evaluate(model, toy_data, toy_data.dev, device=CPU)
    monkeypatch.setattr(evaluation, "BATCH", 5)
    cut = evaluate(model, toy_data, toy_data.dev, device=CPU)
    assert cut["lm_loss"] == pytest.approx(whole["lm_loss"], rel=1e-6)
    assert cut["routing"][0]["assignments"] == whole["routing"][0]["assignments"]
    assert np.allclose(cut["routing"][0]["mean_probabilities"], whole["routing"][0]["mean_probabilities"])


def test_a_request_to_stop_is_answered_before_the_next_batch(
    dense: GPT2LMHeadModel, toy_data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three batches of which the second is not begun."""
    monkeypatch.setattr(evaluation, "BATCH", 4)
    forwards: list[Any] = []
    dense.register_forward_hook(lambda *arguments: forwards.append(arguments))

    def poll() -> None:
        if forwards:
            raise StopAsked

    with pytest.raises(StopAsked):
        evaluate(dense, toy_data, toy_data.dev, device=CPU, per_domain=4, poll=poll)
    assert len(forwards) == 1


def test_evaluation_is_quiet(make_moe: Callable[..., GPT2MoEForCausalLM], toy_data: PreparedData) -> None:
    """No noise though the model trained just before, no auxiliary loss in any number, no random number drawn."""
    noisy, quiet = make_moe(noise_std=5.0, balance_coef=9.0).train(), make_moe(noise_std=0.0, balance_coef=0.0)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    found = evaluate(noisy, toy_data, toy_data.dev, device=CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert found == evaluate(quiet, toy_data, toy_data.dev, device=CPU)
    assert all(parameter.grad is None for parameter in noisy.parameters())
    assert json.loads(json.dumps(found)) == found


def test_next_token_losses_shape_and_place() -> None:
    logits = torch.zeros(2, 3, 5)
    logits[0, 0, 4] = 100.0
    losses = next_token_losses(logits, torch.tensor([[1, 4, 2], [0, 0, 0]]))
    assert losses.shape == (2, 2)
    assert losses[0].tolist() == pytest.approx([0.0, math.log(5)])
