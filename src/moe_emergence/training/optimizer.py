"""AdamW with a rate of its own for the routers, and weight decay on matrices only."""

import torch
from torch import nn

from moe_emergence.config import OptimizerConfig

GATE = "router.gate.weight"


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, object]]:
    """Decayed matrices; norms, biases and embeddings; routers. Frozen parameters are in none.

    Expert weights are stacked: a bias is 2-D there, so what decays is told by name and rank together.
    """
    groups: dict[str, list[tuple[str, nn.Parameter]]] = {"matrices": [], "others": [], "routers": []}
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_matrix = parameter.ndim >= 2 and not name.endswith("bias") and id(parameter) not in embeddings
        kind = "routers" if name.endswith(GATE) else "matrices" if is_matrix else "others"
        groups[kind].append((name, parameter))
    return [
        {
            "params": [parameter for _, parameter in members],
            "names": [name for name, _ in members],
            "weight_decay": config.weight_decay if kind == "matrices" else 0.0,
            "multiplier": config.gate_multiplier if kind == "routers" else 1.0,
        }
        for kind, members in groups.items()
        if members
    ]


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        parameter_groups(model, config),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group `rate` times its multiplier."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["multiplier"]
