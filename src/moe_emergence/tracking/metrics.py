"""Names and values: what a step's routing records amount to, as scalars under fixed names."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from moe_emergence.routing import expert_load, routing_entropy_of_mean, routing_entropy_per_token

REQUIRED_KEYS = ("layer_idx", "n_experts", "topk_indices", "router_probs_clean")


def compute_router_metrics(aux_outputs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Scalars of each layer's routing record (as `collect_aux_outputs` makes them), named `router/layer_{i}_…`.

    - `entropy_per_token`: mean entropy of a token's clean probabilities, nats: ln E undecided, 0 certain.
    - `entropy_distribution`: entropy of the mean clean probabilities, nats: ln E balanced, 0 collapsed.
    - `expert_{e}_load`: share of assignments: 1/E balanced; at most 1/k.

    A record that lacks one of `REQUIRED_KEYS` is left out, with a warning that names the key and the layer.
    """
    metrics: dict[str, float] = {}
    for place, record in enumerate(aux_outputs):
        missing = [key for key in REQUIRED_KEYS if key not in record]
        if missing:
            layer = record.get("layer_idx", f"record {place}")
            warnings.warn(f"routing record of layer {layer} lacks {', '.join(missing)}: left out", stacklevel=2)
            continue
        prefix = f"router/layer_{record['layer_idx']}"
        probs = record["router_probs_clean"]
        metrics[f"{prefix}_entropy_per_token"] = float(routing_entropy_per_token(probs))
        metrics[f"{prefix}_entropy_distribution"] = float(routing_entropy_of_mean(probs))
        for expert, load in enumerate(expert_load(record["topk_indices"], record["n_experts"]).tolist()):
            metrics[f"{prefix}_expert_{expert}_load"] = load
    return metrics
