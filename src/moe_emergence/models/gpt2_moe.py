"""GPT-2 with a Mixture of Experts in some blocks, registered with transformers' Auto classes as `gpt2_moe`."""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GenerationMixin,
    GPT2Model,
    GPT2PreTrainedModel,
)
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import ModelOutput
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder

from moe_emergence.models.configuration import GPT2MoEConfig
from moe_emergence.models.install import install_moe_layers
from moe_emergence.moe.balancing import sequence_counts, window_loads
from moe_emergence.moe.experts import Experts
from moe_emergence.moe.losses import compute_load_balance_loss, compute_z_loss
from moe_emergence.moe.router import Router, routers_of, routing_context
from moe_emergence.routing import RouterOutput, RoutingContext


@dataclass
class MoECausalLMOutput(ModelOutput):
    """What a forward returns. The four losses never share a number; perplexity is exp(`lm_loss`)."""

    loss: Tensor | None = None
    """While training the objective, `lm_loss` + coefficients × the two router losses; in eval `lm_loss`."""
    lm_loss: Tensor | None = None
    load_balancing_loss: Tensor | None = None
    """Unweighted; None in a forward with a cache, which is generation."""
    router_z_loss: Tensor | None = None
    """Unweighted; None likewise."""
    aux_loss: Tensor | None = None
    """`load_balancing_loss` under the name, and with the meaning, that transformers' MoE models give it."""
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    router_logits: tuple[Tensor, ...] | None = None
    """Raw logits [tokens, experts], one a MoE layer, unless `output_router_logits` is False."""
    routes: tuple[RouterOutput, ...] | None = None
    """One record a MoE layer, in order, each with its `layer_idx`."""


class GPT2MoEPreTrainedModel(GPT2PreTrainedModel):
    """What backbone and language model share."""

    config_class = GPT2MoEConfig
    # Recomputing a block in the backward would route it again after the forward's routing context is gone, with
    # other noise, and could choose other experts than those the gradient is for.
    supports_gradient_checkpointing = False
    _keep_in_fp32_modules_strict: ClassVar[set[str]] = {"router"}
    _can_record_outputs: ClassVar[dict[str, Any]] = {
        **GPT2PreTrainedModel._can_record_outputs,
        "routes": OutputRecorder(Router),
    }

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        # transformers looks for the decorator in this file's source; the experts are in another one.
        return True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Experts):
            std = self.config.initializer_range
            init.normal_(module.up_proj, mean=0.0, std=std)
            init.normal_(module.down_proj, mean=0.0, std=std / math.sqrt(2 * self.config.n_layer))
            init.zeros_(module.up_proj_bias)
            init.zeros_(module.down_proj_bias)


class GPT2MoEModel(GPT2MoEPreTrainedModel, GPT2Model):
    """The stock backbone, its MLPs replaced in the configured blocks."""

    def __init__(self, config: GPT2MoEConfig) -> None:
        super().__init__(config)
        install_moe_layers(self, config.moe, seed=None, gate_scale=config.gate_scale)
        self.post_init()  # once more, for the new layers


class GPT2MoEForCausalLM(GPT2MoEPreTrainedModel, GenerationMixin):
    """GPT-2 with experts and a language-modelling head; drop-in for `GPT2LMHeadModel`."""

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "transformer.wte.weight"}
    # `loss` takes `num_items_in_batch`, so that gradient accumulation by transformers' Trainer is exact.
    accepts_loss_kwargs = True

    def __init__(self, config: GPT2MoEConfig) -> None:
        super().__init__(config)
        self.transformer = GPT2MoEModel(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.post_init()

    @property
    def moe_layer_indices(self) -> tuple[int, ...]:
        """The blocks with experts, in order: that of `routes` and of a context's `window_loads`."""
        return tuple(self.config.moe_layers)

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Int[Tensor, "batch sequence"] | None = None,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Float[Tensor, "batch sequence hidden"] | None = None,
        labels: Int[Tensor, "batch sequence"] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_router_logits: bool | None = None,
        routing_context: RoutingContext | None = None,
        num_items_in_batch: int | Tensor | None = None,
        **kwargs: Any,
    ) -> MoECausalLMOutput:
        """Logits, losses and routing records.

        `attention_mask` 0 marks padding, which no routing statistic counts. `num_items_in_batch` (transformers'
        Trainer) divides the summed LM loss and scales the router losses to the same share of the step.
        Other arguments are those of `GPT2Model`.
        """
        with _set_context(self, routing_context):
            base = self.transformer(
                input_ids,
                past_key_values=past_key_values,
                attention_mask=attention_mask,
                position_ids=position_ids,
                inputs_embeds=inputs_embeds,
                use_cache=use_cache,
                output_routes=True,
                **kwargs,
            )
        hidden_states = base.last_hidden_state
        logits = self.lm_head(slice_logits_to_keep(hidden_states, logits_to_keep))
        lm_loss = None if labels is None else causal_lm_loss(logits, labels, num_items_in_batch)
        balance = z_loss = None
        if past_key_values is None:
            mask = _token_mask(attention_mask, hidden_states)
            balance, z_loss = self._router_losses(base.routes, len(hidden_states), mask, routing_context)
        keep_logits = self.config.output_router_logits if output_router_logits is None else output_router_logits
        return MoECausalLMOutput(
            loss=self._objective(lm_loss, balance, z_loss, _share_of_step(labels, num_items_in_batch)),
            lm_loss=lm_loss,
            load_balancing_loss=balance,
            router_z_loss=z_loss,
            aux_loss=balance,
            logits=logits,
            past_key_values=base.past_key_values,
            hidden_states=base.hidden_states,
            attentions=base.attentions,
            router_logits=tuple(route.router_logits for route in base.routes) if keep_logits else None,
            routes=base.routes,
        )

    def _router_losses(
        self,
        routes: tuple[RouterOutput, ...],
        batch: int,
        mask: Bool[Tensor, "batch sequence"] | None,
        context: RoutingContext | None,
    ) -> tuple[Tensor, Tensor]:
        loads = context.window_loads if context is not None else None
        if loads is None:
            counts = [sequence_counts(route, batch, self.config.num_experts, mask) for route in routes]
            dtype = routes[0].router_probs.dtype
            loads = tuple(window_loads(c, self.config.balance_window, dtype) for c in counts)
        return compute_load_balance_loss(routes, loads, mask), compute_z_loss(routes, mask)

    def _objective(
        self, lm_loss: Tensor | None, balance: Tensor | None, z_loss: Tensor | None, share: float | Tensor
    ) -> Tensor | None:
        terms = ((self.config.router_aux_loss_coef, balance), (self.config.router_z_loss_coef, z_loss))
        if lm_loss is None or not self.training:
            return lm_loss
        acting = [share * coefficient * term for coefficient, term in terms if coefficient > 0 and term is not None]
        return sum(acting, start=lm_loss)


def causal_lm_loss(
    logits: Float[Tensor, "batch sequence vocabulary"],
    labels: Int[Tensor, "batch sequence"],
    num_items: int | Tensor | None = None,
) -> Float[Tensor, ""]:
    """Mean next-token cross-entropy in nats over labels other than −100 (their sum ÷ `num_items` if given).

    In at least fp32; transformers' own also rounds float64 down to it.
    """
    target = _next_labels(labels).flatten().to(logits.device)
    upcast = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, 1)
    if num_items is None:
        return F.cross_entropy(upcast, target)
    return F.cross_entropy(upcast, target, reduction="sum") / num_items


def collect_aux_outputs(output: MoECausalLMOutput) -> list[dict[str, Any]]:
    """One record a MoE layer, detached, with the names that `compute_router_metrics` reads."""
    records = []
    for route in output.routes or ():
        r = route.detach()
        records.append(
            {
                "layer_idx": r.layer_idx,
                "n_experts": r.router_probs.shape[1],
                "topk": r.topk_indices.shape[1],
                "topk_indices": r.topk_indices,
                "topk_weights": r.topk_weights,
                "router_probs": r.router_probs,
                "router_probs_clean": r.router_probs_clean,
                "router_logits": r.router_logits,
                "entropy": r.entropy,
            }
        )
    return records


def _set_context(model: nn.Module, context: RoutingContext | None) -> AbstractContextManager[None]:
    return nullcontext() if context is None else routing_context(routers_of(model), context)


def _token_mask(attention_mask: Tensor | None, hidden_states: Tensor) -> Tensor | None:
    """True for tokens that count; a mask that is no plain [batch, sequence] one says nothing about padding."""
    if attention_mask is None or attention_mask.dim() != 2:
        return None
    return attention_mask[:, -hidden_states.shape[1] :].bool()


def _next_labels(labels: Tensor) -> Tensor:
    return F.pad(labels, (0, 1), value=-100)[..., 1:]


def _share_of_step(labels: Tensor | None, num_items: int | Tensor | None) -> float | Tensor:
    if labels is None or num_items is None:
        return 1.0
    return (_next_labels(labels) != -100).sum() / num_items


AutoConfig.register(GPT2MoEConfig.model_type, GPT2MoEConfig)
AutoModel.register(GPT2MoEConfig, GPT2MoEModel)
AutoModelForCausalLM.register(GPT2MoEConfig, GPT2MoEForCausalLM)
