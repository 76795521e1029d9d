"""A gate that starts informed: its rows are where the gate's inputs cluster."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from moe_emergence.errors import ConfigError


def centroid_gate(
    hidden: Float[Tensor, "tokens hidden"], experts: int, *, seed: Sequence[int]
) -> Float[Tensor, "experts hidden"]:
    """k-means of `hidden` with one cluster an expert: the centroids less their mean, scaled so that the logits of these
    tokens have standard deviation 1, over tokens and experts; float32, on the CPU.

    One start by k-means++, then Lloyd's steps, in float64 and on one thread: the same inputs and seed give the same
    gate. A gate has no bias, so it sends a token to the centroid of the largest inner product, not to the nearest one.

    Raises:
        ConfigError: there are fewer tokens than experts.
    """
    from sklearn.cluster import KMeans  # a second to load, which runs with a random gate need not wait
    from threadpoolctl import threadpool_limits

    if len(hidden) < experts:
        raise ConfigError(
            f"moe.gate_init 'centroids' needs a training token for each of moe.num_experts ({experts}); got "
            f"{len(hidden)}: give more text, or take 'small_random'"
        )
    points = hidden.detach().cpu().double().numpy()
    means = KMeans(experts, n_init=1, random_state=np.random.RandomState(list(seed)))
    with threadpool_limits(1):  # sums of several threads come in any order
        centroids = means.fit(points).cluster_centers_
    rows = centroids - centroids.mean(0)
    spread = float((points @ rows.T).std())
    return torch.from_numpy(rows / spread if spread > 0 else rows).float()
