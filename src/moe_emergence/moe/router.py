"""The gate: which experts a token goes to, and with what weight."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from moe_emergence.config import ASSIGNING_ROUTERS, ROUTERS
from moe_emergence.errors import ConfigError, ModelError
from moe_emergence.moe.assignment import assigned_experts
from moe_emergence.moe.noise import sequence_noise
from moe_emergence.routing import RouterOutput, RoutingContext, entropy_of

GATE_SCALES = ("renormalised", "probability", "sigmoid")


class Router(nn.Module):
    """A bias-free gate: raw logits → clean softmax → entropy → noise → routing softmax → top-k → weights.

    Computes in at least fp32 whatever the rest of the model does. `gate_scale` weights the chosen experts by their
    probabilities renormalised over the chosen (a single expert straight through: 1 forward, its probability backward),
    by the raw probability, or by the sigmoid of the logit.

    Noise is Gaussian on the logits while training, of standard deviation `noise_std` × (1 − step / anneal_steps), never
    below 0; until `set_noise_annealing` is called it stays at `noise_std`. Its numbers are keyed by the routing
    context, and come from torch's generator where there is none.

    With `loss_free_bias` [2408.15664] the k experts of the highest s_i + b_i are chosen, s the probabilities after
    noise, and weighted by s alone. b is a buffer, in fp32 whatever the model's precision: bf16 would lose its steps of
    1e-3 from 0.5 on, and change them before. `update_bias` moves it. Without, the state has no entry for it.

    With `detach_input` no gradient goes back from the gate into the hidden states: the gate learns, what it reads does
    not learn to be read.

    `kind` names a null: a `frozen` gate is never trained; `hash`, `round_robin` and the oracle `domain` leave the gate
    unused and assign experts by the context's token ids, positions, or domains and token ids: logits 0, probabilities
    and weights 1/k on the chosen (whatever the gate scale), entropy ln k, no gradient.
    """

    expert_bias: Float[Tensor, " experts"] | None

    def __init__(
        self,
        hidden_size: int,
        num_experts: int,
        top_k: int,
        *,
        layer_idx: int | None = None,
        noise_std: float = 0.0,
        gate_scale: str = "renormalised",
        kind: str = "learned",
        loss_free_bias: bool = False,
        detach_input: bool = False,
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= num_experts:
            raise ConfigError(f"top_k must lie between 1 and num_experts ({num_experts}); got {top_k}")
        if gate_scale not in GATE_SCALES:
            raise ConfigError(f"gate_scale must be one of {', '.join(GATE_SCALES)}; got {gate_scale!r}")
        if kind not in ROUTERS:
            raise ConfigError(f"a router must be one of {', '.join(ROUTERS)}; got {kind!r}")
        if loss_free_bias and kind in ASSIGNING_ROUTERS:
            raise ConfigError(f"a loss-free bias needs a router with scores, learned or frozen; got {kind!r}")
        self.gate = nn.Linear(hidden_size, num_experts, bias=False)
        self.kind = kind
        self.freeze_unless_learned()
        self.register_buffer("expert_bias", torch.zeros(num_experts, dtype=torch.float32) if loss_free_bias else None)
        self.top_k = top_k
        self.layer_idx = layer_idx
        self.gate_scale = gate_scale
        self.detach_input = detach_input
        self.noise_std = noise_std
        self.anneal_steps: int | None = None
        self.step = 0
        self.context: RoutingContext | None = None

    def forward(self, hidden_states: Float[Tensor, "*tokens hidden"]) -> RouterOutput:
        """Route [tokens, hidden] or [batch, sequence, hidden], contiguous or not; tokens are flattened in order."""
        tokens = self._flat(hidden_states)
        if self.kind in ASSIGNING_ROUTERS:
            return self._assigned(tokens)
        logits = self._logits(tokens.detach() if self.detach_input else tokens)
        clean = logits.softmax(-1)
        noise = self._noise(logits)
        routing_logits = logits if noise is None else logits + noise
        probs = clean if noise is None else routing_logits.softmax(-1)
        chosen, indices = self._choice(probs)
        return RouterOutput(
            topk_weights=self.slot_weights(chosen, routing_logits, indices),
            topk_indices=indices,
            router_probs=probs,
            router_probs_clean=clean,
            router_logits=logits,
            entropy=entropy_of(clean),
            layer_idx=self.layer_idx,
        )

    def current_noise_std(self) -> float:
        """Standard deviation of the noise that a forward in this mode, at this step, would add."""
        if not self.training or self.noise_std == 0 or self.anneal_steps is None:
            return self.noise_std if self.training else 0.0
        step = self.context.step if self.context is not None else self.step
        return self.noise_std * max(0.0, 1 - step / self.anneal_steps) if self.anneal_steps > 0 else 0.0

    def freeze_unless_learned(self) -> None:
        """Let the gate take a gradient if this is a learned router, and none if it is a null."""
        self.gate.weight.requires_grad_(self.kind == "learned")

    @torch.no_grad()
    def update_bias(self, counts: Int[Tensor, " experts"], rate: float) -> None:
        """b_i += rate · sign(mean c − c_i) [2408.15664, algorithm 1], c the assignments of one whole optimiser step.

        The sign is that of Σ c − E c_i, exact in integers; a balanced expert stays.
        """
        if self.expert_bias is None:
            raise ModelError("this router has no bias to update: make it with loss_free_bias, or moe.bias_rate above 0")
        sign = (counts.sum() - len(counts) * counts).sign()
        self.expert_bias += rate * sign.to(self.expert_bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Router":
        """The bias follows to another device, never to another type: not even there and back, which would round it."""
        before = self.expert_bias
        super()._apply(fn, recurse)
        if before is not None and self.expert_bias is not None and self.expert_bias.dtype != before.dtype:
            self.expert_bias = before.to(self.expert_bias.device)
        return self

    def _assigned(self, tokens: Float[Tensor, "tokens hidden"]) -> RouterOutput:
        experts, share = self.gate.out_features, 1 / self.top_k
        indices = assigned_experts(self.kind, self.context, len(tokens), experts, self.top_k).to(tokens.device)
        logits = torch.zeros(len(tokens), experts, dtype=self._dtype(tokens), device=tokens.device)
        probs = logits.scatter(-1, indices, share)
        return RouterOutput(
            topk_weights=torch.full_like(logits[:, : self.top_k], share),
            topk_indices=indices,
            router_probs=probs,
            router_probs_clean=probs,
            router_logits=logits,
            entropy=entropy_of(probs),
            layer_idx=self.layer_idx,
        )

    def _choice(
        self, probs: Float[Tensor, "tokens experts"]
    ) -> tuple[Float[Tensor, "tokens slots"], Int[Tensor, "tokens slots"]]:
        """Probabilities and indices of the chosen experts."""
        if self.expert_bias is None:
            return probs.topk(self.top_k, dim=-1)
        indices = (probs.detach() + self.expert_bias).topk(self.top_k, dim=-1).indices
        return probs.gather(-1, indices), indices

    def _dtype(self, tokens: Tensor) -> torch.dtype:
        return torch.promote_types(torch.promote_types(tokens.dtype, self.gate.weight.dtype), torch.float32)

    def _flat(self, hidden_states: Tensor) -> Tensor:
        width = self.gate.in_features
        if hidden_states.dim() not in (2, 3) or hidden_states.shape[-1] != width:
            shape = list(hidden_states.shape)
            raise ModelError(f"a router takes [tokens, {width}] or [batch, sequence, {width}]; got {shape}")
        return hidden_states.reshape(-1, width)

    def _logits(self, tokens: Float[Tensor, "tokens hidden"]) -> Float[Tensor, "tokens experts"]:
        weight, dtype = self.gate.weight, self._dtype(tokens)
        with torch.autocast(tokens.device.type, enabled=False):
            if weight.dtype == dtype:  # through the module, so that its hooks and adapters act
                return self.gate(tokens.to(dtype))
            return F.linear(tokens.to(dtype), weight.to(dtype))

    def _noise(self, logits: Float[Tensor, "tokens experts"]) -> Tensor | None:
        std = self.current_noise_std()
        if std == 0:  # draws nothing
            return None
        if self.context is None:
            return torch.randn_like(logits) * std
        context, (tokens, experts) = self.context, logits.shape
        sequences: list[int] = context.sequence_index.tolist()
        if not sequences or tokens % len(sequences):
            raise ModelError(f"{tokens} tokens do not divide into the routing context's {len(sequences)} sequences")
        drawn = sequence_noise(
            context.seed, context.step, self.layer_idx or 0, sequences, tokens // len(sequences), experts
        )
        return drawn.to(logits) * std

    def slot_weights(
        self,
        chosen: Float[Tensor, "tokens slots"],
        routing_logits: Float[Tensor, "tokens experts"],
        indices: Int[Tensor, "tokens slots"],
    ) -> Float[Tensor, "tokens slots"]:
        """What the outputs of `indices` are multiplied by, from their probabilities `chosen` and the routing logits."""
        if self.gate_scale == "probability":
            return chosen
        if self.gate_scale == "sigmoid":
            return routing_logits.gather(-1, indices).sigmoid()
        if self.top_k > 1:
            return chosen / chosen.sum(-1, keepdim=True)
        if not self.training:
            return torch.ones_like(chosen, requires_grad=False)
        # Renormalising one weight would leave a constant and the LM loss could not train the gate; the probability
        # itself would shrink the layer's output by about E and break the warm start.
        return 1 + (chosen - chosen.detach())


def routers_of(model: nn.Module) -> list[Router]:
    """The model's routers, in the order of its modules."""
    return [module for module in model.modules() if isinstance(module, Router)]


@contextmanager
def routing_context(routers: list[Router], context: RoutingContext | None) -> Iterator[None]:
    """Set the context on the routers for the length of the block; the previous one returns on exit, also on error."""
    before = [router.context for router in routers]
    for router in routers:
        router.context = context
    try:
        yield
    finally:
        for router, previous in zip(routers, before, strict=True):
            router.context = previous


def told_domains(model: nn.Module, domains: Tensor, num_domains: int) -> AbstractContextManager[None]:
    """Tell an oracle's routers the domain of each sequence for the length of the block; other models need not know."""
    routers = [router for router in routers_of(model) if router.kind == "domain"]
    if not routers:
        return nullcontext()
    index = torch.arange(len(domains))  # keys noise, of which such a router has none
    context = RoutingContext(seed=0, step=0, sequence_index=index, domains=domains, num_domains=num_domains)
    return routing_context(routers, context)


def set_noise_annealing(model: nn.Module, anneal_steps: int) -> None:
    """Let the noise of every router fall linearly from `noise_std` at step 0 to 0 at `anneal_steps` (0: no noise)."""
    if anneal_steps < 0:
        raise ConfigError(f"anneal_steps must not be negative; got {anneal_steps}")
    for router in routers_of(model):
        router.anneal_steps = anneal_steps


def set_routing_step(model: nn.Module, step: int) -> None:
    """The optimiser step that the noise schedule goes by where no routing context gives one."""
    for router in routers_of(model):
        router.step = step


def disable_noise(model: nn.Module) -> None:
    """No router adds noise from here on, whatever the step."""
    for router in routers_of(model):
        router.noise_std = 0.0
