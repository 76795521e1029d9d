"""What one of several launched processes does in tests of ranks: `ranks.py CHECK FOLDER`; rank 0 writes CHECK.json.

Each process also computes what one process alone would have, on the whole batch, to compare with.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from moe_emergence.config import MoEConfig, OptimizerConfig
from moe_emergence.models.gpt2_moe import GPT2MoEForCausalLM
from moe_emergence.models.upcycle import upcycle
from moe_emergence.moe.balancing import sequence_counts, window_loads
from moe_emergence.moe.router import set_noise_annealing
from moe_emergence.routing import RoutingContext
from moe_emergence.training.engine import Engine
from moe_emergence.training.optimizer import make_optimizer

SEED, STEP, EXPERTS, SEQUENCES = 11, 3, 4, 8
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, gate_multiplier=10.0, clip_norm=1.0)
TOKENS = torch.randint(1, 41, (SEQUENCES, 12), generator=torch.Generator().manual_seed(5))


def toy_model(dtype: torch.dtype, implementation: str, router: str = "learned") -> GPT2MoEForCausalLM:
    """3 blocks × 16, 41 tokens (which 2 does not divide), experts in blocks 1 and 2; noisy, large router losses."""
    torch.manual_seed(0)
    dense = GPT2LMHeadModel(
        GPT2Config(
            n_layer=3,
            n_embd=16,
            n_head=2,
            vocab_size=41,
            n_positions=32,
            initializer_range=0.3,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    moe = MoEConfig(
        layers=(1, 2),
        num_experts=EXPERTS,
        perturbation=0.5,
        balance_coef=1.0,
        z_coef=0.1,
        noise_std=1.0,
        router=router,
    )
    model = upcycle(dense.to(dtype), moe, seed=3, experts_implementation=implementation).train()
    set_noise_annealing(model, 10)
    return model


def context(sequences: Tensor, loads: list[Tensor] | None) -> RoutingContext:
    rows = None if loads is None else tuple(layer[sequences] for layer in loads)
    return RoutingContext(seed=SEED, step=STEP, sequence_index=sequences + SEQUENCES * STEP, window_loads=rows)


@torch.no_grad()
def loads_of_step(engine: Engine, model: Any, wrapped: Any, mine: Tensor) -> list[Tensor]:
    """The count pass: every process on its own sequences, the counts gathered in the step's order."""
    output = wrapped(input_ids=TOKENS[mine], routing_context=context(mine, None), logits_to_keep=1, use_cache=False)
    counts = [engine.gather(sequence_counts(route, len(mine), EXPERTS)) for route in output.routes]
    dtype = output.routes[0].router_probs.dtype
    return [window_loads(count, model.config.balance_window, dtype) for count in counts]


def step_in_ranks(engine: Engine, model: Any, micro_batches: int) -> dict[str, Any]:
    """One optimiser step of the global batch; everything in it whole, as one process has it."""
    wrapped = engine.wrap(model)
    optimizer = make_optimizer(model, OPTIMIZER)
    mine = torch.arange(SEQUENCES)[engine.slice_of(SEQUENCES)]
    loads = loads_of_step(engine, model, wrapped, mine)
    pieces = mine.chunk(micro_batches)
    losses = []
    for piece in pieces[:-1]:
        with engine.no_sync(wrapped):
            losses.append(forward_and_backward(engine, wrapped, piece, loads, len(pieces)))
    losses.append(forward_and_backward(engine, wrapped, pieces[-1], loads, len(pieces)))
    gradients = {n: engine.full(p.grad) for n, p in model.named_parameters() if p.requires_grad}
    norm = engine.clip_gradients(wrapped, OPTIMIZER.clip_norm)
    optimizer.step()
    loss, balance = engine.mean(torch.stack(losses).mean(0))
    return {"loss": loss, "balance": balance, "norm": torch.tensor(norm, dtype=torch.float64)} | whole_state(
        engine, model, optimizer, gradients
    )


def forward_and_backward(engine: Engine, wrapped: Any, piece: Tensor, loads: list[Tensor], pieces: int) -> Tensor:
    batch = TOKENS[piece]
    with engine.autocast():
        output = wrapped(input_ids=batch, labels=batch, routing_context=context(piece, loads), use_cache=False)
    (output.loss / pieces).backward()
    return torch.stack([output.loss, output.load_balancing_loss]).detach()


def step_alone(model: Any) -> dict[str, Any]:
    """The same by torch alone, on the whole batch at once; no engine."""
    optimizer = make_optimizer(model, OPTIMIZER)
    output = model(input_ids=TOKENS, labels=TOKENS, routing_context=context(torch.arange(SEQUENCES), None))
    output.loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER.clip_norm)
    optimizer.step()
    values = {"loss": output.loss.detach(), "balance": output.load_balancing_loss.detach(), "norm": norm}
    return values | {
        "gradients": gradients,
        "parameters": {n: p.detach() for n, p in model.named_parameters()},
        "moments": {f"{n}:{q}": v for n, p in model.named_parameters() for q, v in optimizer.state[p].items()},
    }


def whole_state(engine: Engine, model: Any, optimizer: Any, gradients: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "gradients": gradients,
        "parameters": {n: engine.full(p) for n, p in model.named_parameters()},
        "moments": {
            f"{n}:{q}": engine.full(v) for n, p in model.named_parameters() for q, v in optimizer.state[p].items()
        },
    }


def largest_difference(one: Any, other: Any) -> float:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), (sorted(one), sorted(other))
        return max(largest_difference(one[key], other[key]) for key in one)
    assert one.shape == other.shape, (one.shape, other.shape)
    return float((one.double() - other.double()).abs().max())


def differences(
    dtype: torch.dtype, implementation: str, router: str = "learned", parallel: str = "ddp", micro: int = 1
):
    engine = Engine.start("cpu", "fp32", parallel)
    alone = step_alone(toy_model(dtype, implementation, router))
    together = step_in_ranks(engine, toy_model(dtype, implementation, router), micro)
    return {name: largest_difference(alone[name], together[name]) for name in alone}


def check_steps() -> dict[str, Any]:
    """Differences between ranks and one process, a kind of step each."""
    found = {}
    for parallel in ("ddp", "fsdp2"):
        for micro in (1, 2):
            found[f"{parallel}, {micro} micro-batches"] = differences(
                torch.float64, "eager", "learned", parallel, micro
            )
        found[f"{parallel}, frozen router"] = differences(torch.float64, "eager", "frozen", parallel, 1)
        found[f"{parallel}, fp32 grouped_mm"] = differences(torch.float32, "grouped_mm", "learned", parallel, 2)
    return found


def main() -> None:
    check, folder = sys.argv[1:]
    found = globals()[f"check_{check}"]()
    if int(os.environ["RANK"]) == 0:
        (Path(folder) / f"{check}.json").write_text(json.dumps(found))
    Engine.start("cpu", "fp32", "ddp").close()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
