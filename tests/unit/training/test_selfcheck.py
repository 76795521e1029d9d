"""The self-check: silent on a sound machine and without a trace, loud where experts or balance are computed wrongly."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from moe_emergence.errors import TrainingError
from moe_emergence.models.gpt2_moe import GPT2MoEForCausalLM
from moe_emergence.training.selfcheck import check_model

MakeMoE = Callable[..., GPT2MoEForCausalLM]
BROKEN = "broken"


@pytest.fixture
def broken() -> Iterator[Callable[[Any], None]]:
    """Register an experts implementation of that name for the length of a test."""

    def register(forward: Any) -> None:
        ALL_EXPERTS_FUNCTIONS[BROKEN] = forward

    yield register
    ALL_EXPERTS_FUNCTIONS.pop(BROKEN)


def plain(experts: Any, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The eager forward, spelled out over all experts."""
    up = torch.einsum("td,edh->teh", hidden, experts.up_proj) + experts.up_proj_bias
    down = torch.einsum("teh,ehd->ted", experts.act_fn(up), experts.down_proj) + experts.down_proj_bias
    chosen = down.gather(1, index.unsqueeze(-1).expand(-1, -1, down.shape[-1]))
    return (chosen * weights.unsqueeze(-1)).sum(1)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"router": "hash"}, {"balance_coef": 0.0}, {"num_experts": 1}])
def test_a_sound_machine_passes_and_nothing_is_left_behind(
    make_moe: MakeMoE, implementation: str, options: dict[str, Any]
) -> None:
    model = make_moe(**options)
    model.set_experts_implementation(implementation)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config, training, drawn = model.config.to_dict(), model.training, torch.get_rng_state()
    check_model(model, seed=7)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert (model.config.to_dict(), model.training) == (config, training)
    assert model.config._experts_implementation == implementation
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_right_implementation_of_any_name_passes(make_moe: MakeMoE, broken: Callable[[Any], None]) -> None:
    broken(plain)
    model = make_moe()
    model.set_experts_implementation(BROKEN)
    check_model(model, seed=7)


def test_wrong_values_are_refused_with_their_size(make_moe: MakeMoE, broken: Callable[[Any], None]) -> None:
    broken(lambda *arguments: plain(*arguments) * 1.01)
    model = make_moe()
    model.set_experts_implementation(BROKEN)
    with pytest.raises(TrainingError, match=r"'broken' gives another output than eager .*\(by 1\.0e-02 .*eager$"):
        check_model(model, seed=7)


def test_nan_is_no_small_difference(make_moe: MakeMoE, broken: Callable[[Any], None]) -> None:
    broken(lambda *arguments: plain(*arguments) * torch.nan)
    model = make_moe()
    model.set_experts_implementation(BROKEN)
    with pytest.raises(TrainingError, match="another output than eager"):
        check_model(model, seed=7)


def test_wrong_gradients_behind_right_values_are_refused(make_moe: MakeMoE, broken: Callable[[Any], None]) -> None:
    """The forward is the same to the bit."""

    def halved(experts: Any, hidden: torch.Tensor, *arguments: torch.Tensor) -> torch.Tensor:
        return plain(experts, hidden / 2 + (hidden / 2).detach(), *arguments)

    broken(halved)
    model = make_moe()
    model.set_experts_implementation(BROKEN)
    with pytest.raises(TrainingError, match="another gradient of the tokens than eager"):
        check_model(model, seed=7)


def test_a_gradient_for_an_expert_without_tokens_is_refused(make_moe: MakeMoE, broken: Callable[[Any], None]) -> None:
    """However small: it would train experts of a collapsed router that no token has chosen."""

    def leaking(experts: Any, *arguments: torch.Tensor) -> torch.Tensor:
        idle = 1e-9 * experts.up_proj[-1].sum()
        return plain(experts, *arguments) + idle - idle.detach()

    broken(leaking)
    model = make_moe()
    model.set_experts_implementation(BROKEN)
    with pytest.raises(TrainingError, match=r"gradient of up_proj for an expert without tokens \(up to \d"):
        check_model(model, seed=7)


def test_a_balance_loss_that_reaches_no_router_is_refused(make_moe: MakeMoE, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_moe(balance_coef=0.5)
    monkeypatch.setattr(GPT2MoEForCausalLM, "_objective", lambda self, lm_loss, *others: lm_loss)
    with pytest.raises(TrainingError, match=r"gradients are the same with coefficient 0\.5 and with 0"):
        check_model(model, seed=7)


def test_a_dense_model_needs_none(dense: GPT2LMHeadModel) -> None:
    check_model(dense, seed=7)
