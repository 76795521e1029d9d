"""The configuration of the registered GPT-2 Mixture of Experts: GPT-2's own fields and the layer's."""

from typing import Any, ClassVar, cast

from huggingface_hub.dataclasses import strict
from transformers import GPT2Config

from moe_emergence.config import MoEConfig
from moe_emergence.errors import ConfigError
from moe_emergence.models.layers import resolve_layers
from moe_emergence.moe.router import GATE_SCALES

PUBLISHED_BIAS_RATE = 1e-3
"""u of the loss-free bias [2408.15664]."""


@strict
class GPT2MoEConfig(GPT2Config):
    """GPT-2 with experts in the blocks `moe_layers`; names as transformers' MoE models have them, where they have them.

    The experts implementation (`eager`, `grouped_mm`, `batched_mm`) is not stored with a checkpoint: pass
    `experts_implementation=` when loading one.
    """

    # transformers lets a configuration's __init__ take unknown fields, which jaxtyping's check of it would not.
    __no_type_check__: ClassVar[bool] = True

    model_type = "gpt2_moe"
    # Trainer's evaluation gathers every other output, and can gather tensors only.
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "router_logits", "routes"]

    # How transformers' DistributedConfig(ep_size=…) spreads the experts over processes.
    base_model_ep_plan: ClassVar[dict[str, str]] = {
        "h.*.mlp.moe.experts.up_proj": "grouped_gemm",
        "h.*.mlp.moe.experts.up_proj_bias": "grouped_gemm",
        "h.*.mlp.moe.experts.down_proj": "grouped_gemm",
        "h.*.mlp.moe.experts.down_proj_bias": "grouped_gemm",
        "h.*.mlp.moe.experts": "ep_dispatch_experts",
    }

    num_experts: int = 8
    num_experts_per_tok: int = 1
    moe_layers: list[int] | None = None
    """Blocks with experts; None takes the last third, and is resolved at once."""
    router_aux_loss_coef: float | int = 0.01
    """Weight of the load-balancing loss while training; acts whenever it is above 0."""
    router_z_loss_coef: float | int = 0.001
    """Weight of the router z-loss while training; acts whenever it is above 0."""
    balance_window: str = "global_batch"
    router_noise_std: float | int = 0.1
    gate_scale: str = "renormalised"
    router: str = "learned"
    loss_free_bias: bool = False
    """Whether each router has an `expert_bias`; a checkpoint holds its values."""
    detach_gate_input: bool = False
    """Whether no gradient goes back from the gates into the hidden states."""
    output_router_logits: bool = True
    """Whether outputs carry `router_logits`; no loss depends on it."""

    def __post_init__(self, **kwargs: Any) -> None:
        if kwargs.pop("frozen_router", False):  # as checkpoints were written before routers had names
            self.router = "frozen"
        self.moe_layers = list(resolve_layers(self.moe_layers, self.n_layer))
        if self.gate_scale not in GATE_SCALES:
            raise ConfigError(f"gate_scale must be one of {', '.join(GATE_SCALES)}; got {self.gate_scale!r}")
        super().__post_init__(**kwargs)
        _ = self.moe  # refuses what it would refuse

    @property
    def moe(self) -> MoEConfig:
        """The same as this package writes it; what only upcycling and training go by is at its default, the rate of a
        loss-free bias at the published one."""
        return MoEConfig(
            layers=tuple(self.moe_layers or ()),
            num_experts=self.num_experts,
            top_k=self.num_experts_per_tok,
            balance_coef=float(self.router_aux_loss_coef),
            balance_window=self.balance_window,
            z_coef=float(self.router_z_loss_coef),
            noise_std=float(self.router_noise_std),
            bias_rate=PUBLISHED_BIAS_RATE if self.loss_free_bias else 0.0,
            router=cast(Any, self.router),
            detach_gate_input=self.detach_gate_input,
        )

    @classmethod
    def from_dense(cls, dense: GPT2Config, moe: MoEConfig, *, gate_scale: str = "renormalised") -> "GPT2MoEConfig":
        """The dense model's configuration with the given experts in it."""
        own = {"model_type", "architectures", "transformers_version"}
        inherited = {name: value for name, value in dense.to_dict().items() if name not in own}
        return cls(
            **inherited,
            num_experts=moe.num_experts,
            num_experts_per_tok=moe.top_k,
            moe_layers=list(resolve_layers(moe.layers, dense.n_layer)),
            router_aux_loss_coef=moe.balance_coef,
            router_z_loss_coef=moe.z_coef,
            balance_window=moe.balance_window,
            router_noise_std=moe.noise_std,
            gate_scale=gate_scale,
            router=moe.router,
            loss_free_bias=moe.bias_rate > 0,
            detach_gate_input=moe.detach_gate_input,
        )
