"""Where each architecture keeps its blocks and the MLP in them. Another family joins by adding a row to `FAMILIES`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from moe_emergence.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class Family:
    """What upcycling needs to know of an architecture."""

    blocks: str
    """Path of the list of blocks, from the base model (the one without a head)."""
    mlp: str
    """The MLP's name in a block."""
    stacks: dict[str, str]
    """For each stacked parameter of `Experts` the MLP's own parameter, in the same (input, output) order."""
    hidden_size: Callable[[Any], int]
    intermediate_size: Callable[[Any], int]
    """From the config, never from a weight's shape: a `Conv1D` is laid out the other way round than a `Linear`."""
    activation: Callable[[Any], str]
    dropout: Callable[[Any], float]

    def blocks_of(self, model: PreTrainedModel) -> nn.ModuleList:
        """The model's blocks, in order."""
        return cast(nn.ModuleList, model.base_model.get_submodule(self.blocks))

    def mlp_of(self, block: nn.Module) -> nn.Module:
        """The dense MLP of a block, or what stands in its place."""
        return block.get_submodule(self.mlp)

    def mlp_parameters(self, block: nn.Module) -> dict[str, Tensor]:
        """The dense MLP's parameters under the names `Experts` stacks them by."""
        mlp = self.mlp_of(block)
        return {stack: mlp.get_parameter(name).detach() for stack, name in self.stacks.items()}


GPT2 = Family(
    blocks="h",
    mlp="mlp",
    stacks={
        "up_proj": "c_fc.weight",
        "up_proj_bias": "c_fc.bias",
        "down_proj": "c_proj.weight",
        "down_proj_bias": "c_proj.bias",
    },
    hidden_size=lambda config: int(config.n_embd),
    intermediate_size=lambda config: int(config.n_inner or 4 * config.n_embd),
    activation=lambda config: str(config.activation_function),
    dropout=lambda config: float(config.resid_pdrop),
)

FAMILIES: dict[str, Family] = {"gpt2": GPT2, "gpt2_moe": GPT2}


def family_of(config: PreTrainedConfig) -> Family:
    """The row for this architecture, by its `model_type`."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise ModelError(f"models of type {config.model_type!r} cannot be upcycled; known: {', '.join(FAMILIES)}")
    return family


def ancestor_stacks(model: PreTrainedModel, ancestor: Mapping[str, Tensor], layer: int) -> dict[str, Tensor]:
    """The MLP of block `layer` among those that `upcycle.ancestor_state` kept, under the names `Experts` stacks them
    by.

    Raises:
        ModelError: it is not there.
    """
    family = family_of(model.config)
    block = f"{model.base_model_prefix}.{family.blocks}.{layer}.{family.mlp}"
    names = {stack: f"{block}.{name}" for stack, name in family.stacks.items()}
    missing = [name for name in names.values() if name not in ancestor]
    if missing:
        raise ModelError(f"the ancestor has no {missing[0]}; it has {', '.join(sorted(ancestor))}")
    return {stack: ancestor[name] for stack, name in names.items()}
