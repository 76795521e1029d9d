"""What one of several launched processes does in tests of ranks: `ranks.py CHECK FOLDER` writes CHECK-RANK.json.

Each process also computes what one process alone would have, on the whole batch, to compare with.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.distributed import DistributedConfig

from moe_emergence.config import MoEConfig, OptimizerConfig
from moe_emergence.models.gpt2_moe import GPT2MoEForCausalLM
from moe_emergence.models.upcycle import upcycle
from moe_emergence.moe.balancing import sequence_counts, window_loads
from moe_emergence.moe.layer import MoE
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
    gradients = {n: engine.full(p.grad).clone() for n, p in model.named_parameters() if p.requires_grad}
    norm = engine.clip_gradients(wrapped, OPTIMIZER.clip_norm)
    optimizer.step()
    loss, balance = engine.mean(torch.stack(losses).mean(0))
    return {"loss": loss, "balance": balance, "norm": torch.tensor(norm, dtype=torch.float64)} | whole_state(
        engine, model, optimizer, gradients
    )


def forward_and_backward(
    engine: Engine, wrapped: Any, piece: Tensor, loads: list[Tensor] | None, pieces: int
) -> Tensor:
    batch = TOKENS[piece]
    with engine.autocast():
        output = wrapped(input_ids=batch, labels=batch, routing_context=context(piece, loads), use_cache=False)
    (output.loss / pieces).backward()
    return torch.stack([output.loss, output.load_balancing_loss]).detach()


def step_alone(model: Any, precision: str) -> dict[str, Any]:
    """The same by torch alone, on the whole batch at once; no engine."""
    optimizer = make_optimizer(model, OPTIMIZER)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
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
    dtype: torch.dtype,
    implementation: str,
    parallel: str,
    *,
    micro_batches: int = 1,
    router: str = "learned",
    precision: str = "fp32",
) -> dict[str, float]:
    """The largest difference between ranks and one process in each thing that a step leaves."""
    engine = Engine.start("cpu", precision, parallel)
    alone = step_alone(toy_model(dtype, implementation, router), precision)
    together = step_in_ranks(engine, toy_model(dtype, implementation, router), micro_batches)
    return {name: largest_difference(alone[name], together[name]) for name in alone}


def check_steps(_: Path) -> dict[str, dict[str, float]]:
    """The differences of one optimiser step, a way of taking it each."""
    double, single, found = torch.float64, torch.float32, {}
    for kind in ("ddp", "fsdp2"):
        found[f"{kind}, whole"] = differences(double, "eager", kind)
        found[f"{kind}, 2 x 2"] = differences(double, "eager", kind, micro_batches=2)
        found[f"{kind}, frozen router"] = differences(double, "eager", kind, router="frozen")
        found[f"{kind}, fp32"] = differences(single, "grouped_mm", kind, micro_batches=2)
        found[f"{kind}, bf16"] = differences(single, "grouped_mm", kind, micro_batches=2, precision="bf16")
    return found


def check_methods(_: Path) -> dict[str, Any]:
    """What the engine's methods give this process, and what sharding keeps."""
    engine = Engine.start("cpu", "fp32", "fsdp2")
    rank = torch.tensor(float(engine.rank))
    found = {
        "rank": engine.rank,
        "world_size": engine.world_size,
        "device": str(engine.device),
        "share": TOKENS[engine.slice_of(SEQUENCES)].tolist(),
        "uneven": said_by(lambda: engine.slice_of(3)),
        "mean": engine.mean(torch.tensor([1 / 3 + engine.rank], dtype=torch.float64)).item(),
        "gathered": engine.gather(torch.full((1, 2), engine.rank)).tolist(),
        "gathered scalars": engine.gather(rank).tolist(),
        "any": [engine.any(False), engine.any(engine.rank == 1), engine.any(True)],
        "main's value": engine.on_main(lambda: {"from": engine.rank}),
        "main's failure": said_by(lambda: engine.on_main(disk_is_full)),
        "after it": engine.on_main(lambda: "still together"),
    }
    return found | sharding(engine) | {"bf16": logits_dtype("bf16"), "fp32": logits_dtype("fp32")}


def sharding(engine: Engine) -> dict[str, Any]:
    model = toy_model(torch.float64, "eager")
    alone = toy_model(torch.float64, "eager").eval()
    whole = {name: p.detach().clone() for name, p in model.named_parameters()}
    wrapped = engine.wrap(model)
    evaluated = logits_of(wrapped.eval())  # before the first step, as a run's first evaluation is
    sharded = all(isinstance(p, DTensor) for p in model.parameters())
    optimizer = make_optimizer(model, OPTIMIZER)
    model.train()(input_ids=TOKENS, labels=TOKENS, routing_context=context(torch.arange(8), None)).loss.backward()
    engine.clip_gradients(wrapped, 1.0)
    optimizer.step()
    parameters = dict(model.named_parameters())
    moments = {(n, q): v for n, p in parameters.items() for q, v in optimizer.state[p].items()}
    return {
        "sharded": sharded and all(isinstance(p, DTensor) for p in parameters.values()),
        "local share": sum(p.to_local().numel() for p in parameters.values()) / sum(p.numel() for p in whole.values()),
        "tied": model.lm_head.weight is model.transformer.wte.weight,
        "evaluation": largest_difference(evaluated, logits_of(alone)),
        "like then full": all(torch.equal(engine.full(engine.like(v, parameters[n])), v) for n, v in whole.items()),
        "full then like": all(same_shard(engine.like(engine.full(p), p), p) for p in parameters.values()),
        "resumed": same_after_resuming(engine, model, optimizer),
        "moments": all(same_shard(engine.like(engine.full(v), parameters[n]), v) for (n, _), v in moments.items()),
    }


def same_after_resuming(engine: Engine, model: Any, optimizer: Any) -> bool:
    """Whether a step from restored parameters and moments is that from the ones they were saved from."""
    other = toy_model(torch.float64, "eager")
    engine.wrap(other)
    restored = make_optimizer(other, OPTIMIZER)
    with torch.no_grad():
        for new, old in zip(other.parameters(), model.parameters(), strict=True):
            new.copy_(engine.like(engine.full(old), new))
            for quantity, value in optimizer.state[old].items():
                restored.state[new][quantity] = engine.like(engine.full(value).clone(), new)
    for network, updates in ((model, optimizer), (other, restored)):
        updates.zero_grad(set_to_none=True)
        network(input_ids=TOKENS, labels=TOKENS, routing_context=context(torch.arange(8), None)).loss.backward()
        updates.step()
    return all(same_shard(new, old) for new, old in zip(other.parameters(), model.parameters(), strict=True))


def logits_of(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS, use_cache=False).logits


def same_shard(one: Tensor, other: Tensor) -> bool:
    if not isinstance(other, DTensor):
        return not isinstance(one, DTensor) and torch.equal(one, other)
    return one.placements == other.placements and torch.equal(one.to_local(), other.to_local())


def logits_dtype(precision: str) -> str:
    engine = Engine.start("cpu", precision, "fsdp2")
    wrapped = engine.wrap(toy_model(torch.float32, "grouped_mm").eval())
    with engine.autocast():
        return str(logits_of(wrapped).dtype)


def said_by(call: Any) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def disk_is_full() -> None:
    raise OSError("the disk is full")


def check_death(folder: Path) -> None:
    """Rank 1 is killed while rank 0 waits for it."""
    engine = Engine.start("cpu", "fp32", "ddp")
    if engine.any(False) or engine.rank == 1:
        (folder / "death").write_text(str(time.time()))
        os.kill(os.getpid(), signal.SIGKILL)
    engine.any(False)


def check_experts(folder: Path) -> dict[str, Any]:
    """What loading with half of each layer's experts on each process leaves of one process's logits and gradients.

    In float32: with float64, as with float16, torch's FSDP2 divides the gradients of a module on one process twice
    (torch 2.13, _fsdp_collectives.py, lines 629 and 686).
    """
    engine = Engine.start("cpu", "fp32", "ddp")
    checkpoint = folder / "whole"
    engine.on_main(lambda: toy_model(torch.float32, "eager").save_pretrained(checkpoint))
    return {kind: expert_parallel(engine, checkpoint, kind) for kind in ("eager", "grouped_mm")}


def expert_parallel(engine: Engine, checkpoint: Path, implementation: str) -> dict[str, Any]:
    alone = toy_model(torch.float32, implementation)
    model = GPT2MoEForCausalLM.from_pretrained(
        checkpoint,
        distributed_config=DistributedConfig(fsdp_size=2, ep_size=2),
        experts_implementation=implementation,
    ).train()
    set_noise_annealing(model, 10)
    logits = [logits_of(m.eval()) for m in (alone, model)]
    everything = torch.arange(SEQUENCES)
    mine = everything[engine.slice_of(SEQUENCES)]
    for network in (model, alone):
        network.train()
    forward_and_backward(engine, alone, everything, None, 1)
    forward_and_backward(engine, model, mine, loads_of_step(engine, model, model, mine), 1)
    return {
        "sharded": sorted({name for name, p in model.named_parameters() if "ep" in p.device_mesh.mesh_dim_names}),
        "local experts": [r.experts.up_proj.to_local().shape[0] for r in moe_layers(model)],
        "logits": largest_difference(*logits),
        "gradients": largest_difference(
            {n: p.grad for n, p in alone.named_parameters()},
            {n: engine.full(p.grad) for n, p in model.named_parameters()},
        ),
        "saved": saved_as_whole(engine, model, checkpoint),
    }


def moe_layers(model: Any) -> list[MoE]:
    return [module for module in model.modules() if isinstance(module, MoE)]


def saved_as_whole(engine: Engine, model: Any, checkpoint: Path) -> bool:
    """Whether the spread model saves what it was loaded from."""
    folder = checkpoint.parent / "again"
    model.save_pretrained(folder)
    return engine.on_main(
        lambda: all(
            torch.equal(a, b)
            for a, b in zip(
                *(GPT2MoEForCausalLM.from_pretrained(f).parameters() for f in (checkpoint, folder)), strict=True
            )
        )
    )


def main() -> None:
    check, folder = sys.argv[1], Path(sys.argv[2])
    found = globals()[f"check_{check}"](folder)
    (folder / f"{check}-{os.environ['RANK']}.json").write_text(json.dumps(found))
    if check == "methods":  # and ends with a failure that nobody catches
        Engine.start("cpu", "fp32", "ddp").on_main(disk_is_full)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
