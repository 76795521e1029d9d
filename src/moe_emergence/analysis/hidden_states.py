"""The geometry null: how well the dense model's hidden states, before any expert was trained, tell a token's expert.

Hidden states lie in clusters of their own (position, spelling, topic). A router that reads off nothing else shows
domain information and is predicted well by a linear probe or by k-means on those states; one that is not learned
something that they did not show, or goes by hidden states that training moved.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2, vq
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from moe_emergence.analysis.information import domain_information, mutual_information
from moe_emergence.analysis.records import Run
from moe_emergence.analysis.specialisation import measurable
from moe_emergence.analysis.statistics import Bootstrap, Domains, Interval, bootstrap, documents_per_domain, generator
from moe_emergence.analysis.token_information import cell_counts, domain_joint
from moe_emergence.analysis.traces import Trace
from moe_emergence.data.probe import Probe
from moe_emergence.errors import AnalysisError
from moe_emergence.interrupt import stop_if_asked
from moe_emergence.models.families import family_of

Predictor = Literal["linear probe", "k-means"]
LINEAR: Predictor = "linear probe"
K_MEANS: Predictor = "k-means"
TOKENS = 8_000
"""How many tokens are looked at, as many of each domain."""
_BATCH, _STARTS, _DECAY, _STEPS, _REPLICATES = 16, 5, 1e-3, 200, 1_000

States = Float[np.ndarray, "tokens hidden"]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How well one predictor, fitted to one half of the documents, tells the expert of the other half's tokens.

    Attributes:
        accuracy: share of the tokens whose expert is the predicted one, 0..1, domains weighted equally, with its 95 %
            interval over documents.
        chance: share of the largest expert, what knowing nothing of the token gets.
        information: I(expert; predicted), bits, less its bias by the bootstrap, 0..maximum, with its 95 % interval.
        maximum: H(expert); normalised: 2 I / (H(expert) + H(predicted)) as counted, 0..1, 0 where both are constant.
        domain_information: I(domain; predicted), bits, 0..log2 D, with its 95 % interval.
        documents: of the smallest domain's tested half; tokens: tested.
    """

    predictor: Predictor
    accuracy: float
    accuracy_interval: Interval
    chance: float
    information: float
    information_interval: Interval
    maximum: float
    normalised: float
    domain_information: float
    domain_interval: Interval
    documents: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class GeometryRow:
    """How far the dense model's hidden states at a layer tell the expert that a token goes to.

    Attributes:
        predictor: "linear probe" (logistic regression) or "k-means" (as many clusters as experts, each of which stands
            for the expert most of its tokens have), fitted to half of the documents and tested on the others.
        documents: tested, of the smallest domain; tokens: tested, as many of each domain as there are.
        accuracy: share of tokens whose first choice is predicted, 0..1; accuracy_low, accuracy_high: 95 % over
            documents.
        chance: share of the largest expert.
        information: I(expert; predicted or cluster), bits, 0..maximum; low, high: 95 % over documents.
        maximum: H(expert); information_share: information ÷ maximum, 0 where there is one expert.
        normalised: 2 I / (H(expert) + H(predicted)) as counted, 0..1.
        domain_information: I(domain; predicted or cluster), bits; domain_low, domain_high: 95 % over documents.
    """

    arm: str
    seed: int
    step: int
    layer: int
    predictor: Predictor
    documents: int
    tokens: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    chance: float
    information: float
    low: float
    high: float
    maximum: float
    information_share: float
    normalised: float
    domain_information: float
    domain_low: float
    domain_high: float


def geometry_rows(
    run: Run, trace: Trace, states: Mapping[int, States], *, tokens: int = TOKENS, seed: int = 0
) -> Iterator[GeometryRow]:
    """One row a layer and predictor; none where a domain has fewer than 4 documents, two for each half.

    Args:
        states: layer to the dense model's hidden states of the trace's tokens, as `dense_hidden_states` gives them.

    Raises:
        AnalysisError: a layer has no states, or they are not as many as the trace's tokens.
    """
    if not measurable(trace) or trace.domain_sizes.min() < 4:
        return
    for layer in trace.layers:
        if layer.layer not in states or len(states[layer.layer]) != len(trace.document):
            found = {number: len(each) for number, each in states.items()}
            raise AnalysisError(
                f"hidden states of layer {layer.layer} of the trace's {len(trace.document)} tokens are needed; got "
                f"tokens by layer {found}: record them on the trace's probe set"
            )
        choice, experts = layer.experts[:, 0], layer.slots.shape[1]
        for one in geometry(
            states[layer.layer], choice, trace.document, trace.domain, experts, tokens=tokens, seed=seed
        ):
            yield _row(run, trace, layer.layer, one)


def dense_hidden_states(
    model: PreTrainedModel, probe: Probe, layers: Sequence[int]
) -> dict[int, Float[np.ndarray, "tokens hidden"]]:
    """What the MLP of each of these blocks is given (after the block's second norm) for every probe token, in the order
    of a trace's rows; float32. The model is put in evaluation mode.

    Raises:
        AnalysisError: the model has no such block.
    """
    family = family_of(model.config)
    blocks = family.blocks_of(model)
    wrong = [layer for layer in layers if not 0 <= layer < len(blocks)]
    if wrong:
        raise AnalysisError(f"the dense model has blocks 0 to {len(blocks) - 1}; asked for {wrong}")
    mlps = {layer: family.mlp_of(blocks[layer]) for layer in layers}
    parts: dict[int, list[NDArray[np.float32]]] = {layer: [] for layer in layers}
    model.eval()
    with torch.inference_mode(), _inputs(mlps) as inputs:
        for start in range(0, len(probe.tokens), _BATCH):
            stop_if_asked()
            rows = slice(start, start + _BATCH)
            model(input_ids=torch.from_numpy(probe.tokens[rows].astype(np.int64)).to(model.device), use_cache=False)
            kept = np.arange(probe.tokens.shape[1]) < probe.length[rows, None]
            for layer in layers:
                parts[layer].append(inputs[layer].float().cpu().numpy()[kept])
    return {layer: np.concatenate(found) for layer, found in parts.items()}


def geometry(
    states: States,
    experts: Int[np.ndarray, " tokens"],
    document: Int[np.ndarray, " tokens"],
    domain: Domains,
    n_experts: int,
    *,
    tokens: int = TOKENS,
    replicates: int = _REPLICATES,
    seed: int = 0,
) -> tuple[Geometry, ...]:
    """One of the linear probe and one of k-means, on the same tokens and halves.

    Args:
        experts: first choices; document: each token's row in `domain`.
        tokens: how many are drawn at most, the same number of each domain.

    Raises:
        AnalysisError: a domain has fewer than 4 documents, or fewer tokens than are drawn of it.
    """
    sizes = documents_per_domain(domain)
    if sizes.min() < 4:
        raise AnalysisError(
            f"each half needs 2 documents of each domain; domain {sizes.argmin()} has {sizes.min()} documents: add "
            "documents to the probe, or leave the domain out"
        )
    rng = generator(seed)
    fitted = _half(domain, rng)
    drawn = _balanced(domain[document], tokens, rng)
    fit, test = drawn[fitted[document[drawn]]], drawn[~fitted[document[drawn]]]
    scale = states[fit].std(0)
    standard = (states - states[fit].mean(0)) / np.where(scale > 0, scale, 1)
    found = []
    for predictor, predict in ((LINEAR, _linear_probe), (K_MEANS, _clusters)):
        predicted, group = predict(standard[fit], experts[fit], standard[test], n_experts, seed)
        # documents without a tested token would be resampled for nothing
        there, place = np.unique(document[test], return_inverse=True)
        found.append(
            _judged(predictor, experts[test], predicted, group, place, domain[there], n_experts, replicates, seed)
        )
    return tuple(found)


def _half(domain: Domains, rng: np.random.Generator) -> NDArray[np.bool_]:
    """[documents] half of each domain's."""
    fitted = np.zeros(len(domain), dtype=bool)
    for number in range(int(domain.max()) + 1):
        mine = np.flatnonzero(domain == number)
        fitted[rng.permutation(mine)[: len(mine) // 2]] = True
    return fitted


def _balanced(of_token: Domains, tokens: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """As many tokens of each domain, at most `tokens` in all, in rising order."""
    available = np.bincount(of_token)
    each = min(tokens // len(available), int(available.min()))
    if each < 1:
        raise AnalysisError(f"every domain needs tokens; they have {available.tolist()} and {tokens} are to be drawn")
    drawn = [rng.choice(np.flatnonzero(of_token == d), each, replace=False) for d in range(len(available))]
    return np.sort(np.concatenate(drawn))


def _linear_probe(
    fit: States, experts: NDArray[np.int64], test: States, n_experts: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Multinomial logistic regression with weight decay, from zero: nothing is drawn."""
    inputs, target = torch.from_numpy(fit).double(), torch.from_numpy(experts)
    weight = torch.zeros(n_experts, fit.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(n_experts, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_STEPS, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(inputs, weight, bias), target) + _DECAY * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        predicted = F.linear(torch.from_numpy(test).double(), weight, bias).argmax(-1).numpy()
    return predicted, predicted


def _clusters(
    fit: States, experts: NDArray[np.int64], test: States, n_experts: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(the expert most of a test token's cluster had in the half that was fitted, the cluster)."""
    found = []
    for start in range(_STARTS):
        centres, _ = kmeans2(fit, n_experts, iter=20, minit="++", rng=generator(seed * _STARTS + start))
        own, distance = vq(fit, centres)
        found.append((float(np.square(distance).sum()), start, centres, own))
    _, _, centres, own = min(found)
    votes = cell_counts(
        np.zeros_like(own, dtype=np.int64), own.astype(np.int64), experts[:, None], (1, n_experts, n_experts)
    )[0]
    cluster = vq(test, centres)[0].astype(np.int64)
    return votes.argmax(1)[cluster], cluster


def _judged(
    predictor: Predictor,
    experts: NDArray[np.int64],
    predicted: NDArray[np.int64],
    group: NDArray[np.int64],
    document: NDArray[np.int64],
    domain: Domains,
    n_experts: int,
    replicates: int,
    seed: int,
) -> Geometry:
    counts = cell_counts(document, group, experts[:, None], (len(domain), n_experts, n_experts))
    right = cell_counts(
        document, (experts == predicted).astype(np.int64), experts[:, None], (len(domain), 2, n_experts)
    )

    def statistic(weights: NDArray[np.int64]) -> Float[np.ndarray, "replicates 3"]:
        accuracy = domain_joint(right, domain, weights)[:, :, 1].sum((1, 2))
        information = mutual_information(domain_joint(counts, domain, weights).sum(1))
        return np.stack([accuracy, information, domain_information(counts.sum(2), domain, weights)], axis=1)

    found = bootstrap(statistic, domain, replicates=replicates, seed=seed)
    joint = domain_joint(counts, domain, np.ones((1, len(domain)), dtype=np.int64)).sum((0, 1))
    load = joint.sum(0)
    entropies = [float(mutual_information(np.diag(joint.sum(axis)))) for axis in (0, 1)]
    information = found.single(1)
    accuracy_ends = found.single(0).shares()
    return Geometry(
        predictor=predictor,
        accuracy=float(found.observed[0]),
        accuracy_interval=Interval(float(accuracy_ends[0]), float(accuracy_ends[1])),
        chance=float(load.max()),
        information=float(np.clip(information.corrected, 0, entropies[0])),
        information_interval=_clipped(information, entropies[0]),
        maximum=entropies[0],
        normalised=float(2 * found.observed[1] / sum(entropies)) if sum(entropies) > 0 else 0.0,
        domain_information=float(np.clip(found.single(2).corrected, 0, np.log2(int(domain.max()) + 1))),
        domain_interval=_clipped(found.single(2), float(np.log2(int(domain.max()) + 1))),
        documents=int(documents_per_domain(domain).min()),
        tokens=len(experts),
    )


def _clipped(resampled: Bootstrap, maximum: float) -> Interval:
    low, high = np.clip(resampled.reflected(), 0, maximum)
    return Interval(float(low), float(high))


@contextmanager
def _inputs(modules: Mapping[int, torch.nn.Module]) -> Iterator[dict[int, Tensor]]:
    """What each module was given last, while the context lasts."""
    inputs: dict[int, Tensor] = {}

    def record(layer: int) -> torch.utils.hooks.RemovableHandle:
        def keep(_: torch.nn.Module, arguments: tuple[Tensor, ...]) -> None:
            inputs[layer] = arguments[0]

        return modules[layer].register_forward_pre_hook(keep)

    hooks = [record(layer) for layer in modules]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()


def _row(run: Run, trace: Trace, layer: int, found: Geometry) -> GeometryRow:
    return GeometryRow(
        arm=run.arm,
        seed=run.seed,
        step=trace.step,
        layer=layer,
        predictor=found.predictor,
        documents=found.documents,
        tokens=found.tokens,
        accuracy=found.accuracy,
        accuracy_low=found.accuracy_interval.low,
        accuracy_high=found.accuracy_interval.high,
        chance=found.chance,
        information=found.information,
        low=found.information_interval.low,
        high=found.information_interval.high,
        maximum=found.maximum,
        information_share=found.information / found.maximum if found.maximum > 0 else 0.0,
        normalised=found.normalised,
        domain_information=found.domain_information,
        domain_low=found.domain_interval.low,
        domain_high=found.domain_interval.high,
    )
