"""GPT-2 with a Mixture of Experts in some blocks, registered with transformers' Auto classes as `gpt2_moe`."""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
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
from transformers.utils import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder

from moe_emergence.config import ASSIGNING_ROUTERS
from moe_emergence.errors import ModelError
from moe_emergence.models.configuration import GPT2MoEConfig
from moe_emergence.models.install import install_moe_layers
from moe_emergence.models.outputs import MoECausalLMOutput, causal_lm_loss, collect_aux_outputs, share_of_step
from moe_emergence.moe.balancing import sequence_counts, window_loads
from moe_emergence.moe.experts import Experts
from moe_emergence.moe.losses import compute_load_balance_loss, compute_z_loss
from moe_emergence.moe.router import Router, routers_of, routing_context
from moe_emergence.routing import RouterOutput, RoutingContext

__all__ = [
    "GPT2MoEConfig",
    "GPT2MoEForCausalLM",
    "GPT2MoEModel",
    "MoECausalLMOutput",
    "causal_lm_loss",
    "collect_aux_outputs",
]


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

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """transformers' own; loading makes every parameter trainable, so the gate of a null is frozen again."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for router in routers_of(model):
            router.freeze_unless_learned()
        return loaded

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Experts):
            std = self.config.initializer_range
            init.normal_(module.up_proj, mean=0.0, std=std)
            init.normal_(module.down_proj, mean=0.0, std=std / math.sqrt(2 * self.config.n_layer))
            init.zeros_(module.up_proj_bias)
            init.zeros_(module.down_proj_bias)
        if isinstance(module, Router) and module.expert_bias is not None:
            init.zeros_(module.expert_bias)


class GPT2MoEModel(GPT2MoEPreTrainedModel, GPT2Model):
    """The stock backbone, its MLPs replaced in the configured blocks."""

    def __init__(self, config: GPT2MoEConfig) -> None:
        super().__init__(config)
        install_moe_layers(self, config.moe, seed=None, gate_scale=config.gate_scale)
        self.post_init()  # once more, for the new layers

    def forward(
        self,
        input_ids: Int[Tensor, "batch sequence"] | None = None,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Float[Tensor, "batch sequence hidden"] | None = None,
        **kwargs: Any,
    ) -> Any:
        """`GPT2Model`'s; routers that go by a token's id or position are told them."""
        with self._tokens_told(input_ids, past_key_values, position_ids, inputs_embeds):
            return super().forward(
                input_ids,
                past_key_values=past_key_values,
                attention_mask=attention_mask,
                token_type_ids=token_type_ids,
                position_ids=position_ids,
                inputs_embeds=inputs_embeds,
                **kwargs,
            )

    def _tokens_told(
        self, input_ids: Tensor | None, past: Cache | None, position_ids: Tensor | None, inputs_embeds: Tensor | None
    ) -> AbstractContextManager[None]:
        given = input_ids if input_ids is not None else inputs_embeds
        if given is None or self.config.router not in ASSIGNING_ROUTERS:
            return nullcontext()
        batch, length = given.shape[:2]
        if position_ids is None:
            start = 0 if past is None else past.get_seq_length()
            position_ids = torch.arange(start, start + length, device=given.device).unsqueeze(0)
        routers = routers_of(self)
        # such a router draws no noise, which is all that seed, step and index are for
        context = routers[0].context or RoutingContext(seed=0, step=0, sequence_index=torch.arange(batch))
        token_ids = context.token_ids if input_ids is None else input_ids
        told = replace(context, token_ids=token_ids, positions=position_ids.expand(batch, length))
        return routing_context(routers, told)


class GPT2MoEForCausalLM(GPT2MoEPreTrainedModel, GenerationMixin):
    """GPT-2 with experts and a language-modelling head; drop-in for `GPT2LMHeadModel`."""

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "transformer.wte.weight"}
    # `loss` takes `num_items_in_batch`, so that accumulation by transformers' Trainer is the mean over the whole step
    # (of the balance loss too, with windows no larger than a micro-batch).
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
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden_states[:, kept])
        lm_loss = None if labels is None else causal_lm_loss(logits, labels, num_items_in_batch)
        balance = z_loss = None
        if past_key_values is None or labels is not None:
            mask = _token_mask(attention_mask, hidden_states)
            balance, z_loss = self._router_losses(base.routes, len(hidden_states), mask, routing_context)
        keep_logits = self.config.output_router_logits if output_router_logits is None else output_router_logits
        return MoECausalLMOutput(
            loss=self._objective(lm_loss, balance, z_loss, share_of_step(labels, num_items_in_batch)),
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
            loads = self._own_loads(counts, routes[0].router_probs.dtype, context)
        return compute_load_balance_loss(routes, loads, mask), compute_z_loss(routes, mask)

    def _own_loads(
        self, counts: list[Tensor], dtype: torch.dtype, context: RoutingContext | None
    ) -> tuple[Tensor, ...]:
        """Loads of windows that this forward has all of, or all so far."""
        if context is not None and context.loads_of is not None:
            return context.loads_of(counts, dtype)
        earlier = context.earlier_counts if context is not None else None
        if earlier is not None and len(earlier) != len(counts):
            raise ModelError(f"earlier counts for {len(earlier)} layers do not fit the model's {len(counts)}")
        window = self.config.balance_window
        before = earlier or [None] * len(counts)
        return tuple(window_loads(c, window, dtype, b) for c, b in zip(counts, before, strict=True))

    def _objective(
        self, lm_loss: Tensor | None, balance: Tensor | None, z_loss: Tensor | None, share: float | Tensor
    ) -> Tensor | None:
        terms = ((self.config.router_aux_loss_coef, balance), (self.config.router_z_loss_coef, z_loss))
        if lm_loss is None or not self.training or self.config.router in ASSIGNING_ROUTERS:
            return lm_loss
        acting = [share * coefficient * term for coefficient, term in terms if coefficient > 0 and term is not None]
        return sum(acting, start=lm_loss)


def _set_context(model: nn.Module, context: RoutingContext | None) -> AbstractContextManager[None]:
    return nullcontext() if context is None else routing_context(routers_of(model), context)


def _token_mask(attention_mask: Tensor | None, hidden_states: Tensor) -> Tensor | None:
    """True for tokens that count; a mask that is no plain [batch, sequence] one says nothing about padding."""
    if attention_mask is None or attention_mask.dim() != 2:
        return None
    return attention_mask[:, -hidden_states.shape[1] :].bool()


AutoConfig.register(GPT2MoEConfig.model_type, GPT2MoEConfig)
AutoModel.register(GPT2MoEConfig, GPT2MoEModel)
AutoModelForCausalLM.register(GPT2MoEConfig, GPT2MoEForCausalLM)
