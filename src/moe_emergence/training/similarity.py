"""How alike the experts of a layer are, to each other and to the MLP that all were copied from.

Right after upcycling neurons correspond one to one, so weights are compared place by place; outputs are compared on the
same tokens. At a perturbation of 1e-3 a layer starts at a drift of at most 1e-3, a delta cosine of 0 ± 1/√parameters,
and an output cosine and CKA of 1: how far it has moved from there says how old its experts are.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from moe_emergence.data.probe import Probe

SAMPLE = 512
"""Probe tokens that outputs are compared on, at most."""
_SEED = 0


def delta_products(
    stacks: Mapping[str, Float[Tensor, "experts ..."]], ancestor: Mapping[str, Float[Tensor, "..."]]
) -> Float[Tensor, "experts experts"]:
    """⟨W_i − W_0, W_j − W_0⟩ over all parameters, in float64."""
    products = []
    for name, stack in stacks.items():
        deltas = (stack.double() - ancestor[name].double()).flatten(1)
        products.append(deltas @ deltas.T)
    return torch.stack(products).sum(0)


def relative_drift(
    products: Float[Tensor, "experts experts"], ancestor: Mapping[str, Float[Tensor, "..."]]
) -> Float[Tensor, " experts"]:
    """‖W_i − W_0‖ / ‖W_0‖ over all parameters of an expert (Frobenius), from `delta_products`: 0 for the ancestor
    itself, √2 for one as large as it and unrelated to it, unbounded above."""
    origin = torch.stack([parameter.double().square().sum() for parameter in ancestor.values()]).sum()
    return (products.diagonal() / origin).sqrt()


def cosines_of(products: Float[Tensor, "rows rows"]) -> Float[Tensor, "rows rows"]:
    """Cosines from inner products: 1 for one direction, 0 for unrelated ones, −1 for opposite ones; NaN with a vector
    of length 0, which has no direction."""
    lengths = products.diagonal().sqrt()
    return products / (lengths[:, None] * lengths)


def output_cosine(
    one: Float[Tensor, "ones tokens hidden"], other: Float[Tensor, "others tokens hidden"]
) -> Float[Tensor, "ones others"]:
    """Cosine of the outputs for the same token, mean over tokens: 1 for functions that differ by a positive factor, 0
    for unrelated ones, −1 for opposite ones; NaN where an output is 0."""
    a, b = (x / x.norm(dim=-1, keepdim=True) for x in (one, other))
    return torch.einsum("itd,jtd->ij", a, b) / one.shape[1]


def linear_cka(outputs: Float[Tensor, "experts tokens hidden"]) -> Float[Tensor, "experts experts"]:
    """Linear CKA [Kornblith et al. 2019, eq. 6 with linear kernels]: ⟨K_i, K_j⟩ / (‖K_i‖ ‖K_j‖), K_i = Y_i Y_iᵀ of the
    outputs less their mean over tokens. 1 for functions that differ by a rotation, a scale and a constant, 0 for ones
    whose outputs are uncorrelated; NaN where an output does not depend on the token.

    With n tokens and outputs of effective dimensions p and q, unrelated functions show about √(p q) / n and not 0.
    """
    centred = outputs - outputs.mean(1, keepdim=True)
    kernels = (centred @ centred.transpose(1, 2)).flatten(1)
    return cosines_of(kernels @ kernels.T)


def expert_outputs(
    stacks: Mapping[str, Float[Tensor, "experts ..."]],
    hidden: Float[Tensor, "tokens hidden"],
    act_fn: Callable[[Tensor], Tensor],
) -> Float[Tensor, "experts tokens hidden"]:
    """What every expert makes of every token, in the parameters' names and layout of `moe.experts.Experts`."""
    inner = act_fn(torch.baddbmm(stacks["up_proj_bias"].unsqueeze(1), _each(hidden, stacks), stacks["up_proj"]))
    return torch.baddbmm(stacks["down_proj_bias"].unsqueeze(1), inner, stacks["down_proj"])


def expert_similarity(
    stacks: Mapping[str, Float[Tensor, "experts ..."]],
    ancestor: Mapping[str, Float[Tensor, "..."]],
    hidden: Float[Tensor, "tokens hidden"],
    act_fn: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """In fp32, of one layer: `drift` [experts], `delta_cosine`, `output_cosine`, `output_cka` [experts, experts], and
    `ancestor_cosine` [experts], the output cosine with the ancestor.

    Args:
        stacks: the experts' parameters, stacked; `ancestor`: those of the MLP under the same names.
        hidden: router inputs that outputs are compared on.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        wide = {name: stack.float() for name, stack in stacks.items()}
        origin = {name: parameter.float().unsqueeze(0) for name, parameter in ancestor.items()}
        outputs, before = (expert_outputs(s, hidden, act_fn).double() for s in (wide, origin))
        products = delta_products(stacks, ancestor)
        found = {
            "drift": relative_drift(products, ancestor),
            "delta_cosine": cosines_of(products),
            "output_cosine": output_cosine(outputs, outputs),
            "output_cka": linear_cka(outputs),
            "ancestor_cosine": output_cosine(outputs, before)[:, 0],
        }
    return {name: value.float().contiguous() for name, value in found.items()}


def sampled_tokens(probe: Probe, size: int = SAMPLE) -> NDArray[np.int64]:
    """Flat places in the probe's [windows, block_size] of at most `size` tokens, as many of each domain, rising: a
    function of the probe alone."""
    kept = np.arange(probe.tokens.shape[1])[None] < probe.length[:, None]
    domains = int(probe.domain.max()) + 1
    places = [np.flatnonzero(kept & (probe.domain[:, None] == domain)) for domain in range(domains)]
    share = min(size // domains, *(len(place) for place in places))
    draws = (np.random.Generator(np.random.Philox(key=[_SEED, 3000 + domain])) for domain in range(domains))
    return np.sort(np.concatenate([d.choice(p, share, replace=False) for d, p in zip(draws, places, strict=True)]))


def _each(hidden: Tensor, stacks: Mapping[str, Tensor]) -> Tensor:
    return hidden.expand(len(stacks["up_proj"]), *hidden.shape)
