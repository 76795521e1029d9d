"""Names of interventions, causal effects and measures as a reader meets them; tables and files keep the short ones."""

from moe_emergence.analysis.causal.interventions import ANCESTOR, MEAN, NEXT, SWAP, ZERO
from moe_emergence.analysis.scores import PER_AFFECTED, TOTAL
from moe_emergence.analysis.token_labels import COARSE_LABEL

_INTERVENTIONS = {
    ZERO: "its output left out",
    NEXT: "rerouted to the next best",
    SWAP: "swapped for another expert",
    MEAN: "its output replaced by its mean",
    ANCESTOR: "put back to its ancestor",
}
_EFFECTS = {
    PER_AFFECTED: "a token that used it, nats",
    TOTAL: "all tokens, nats a token (contains the load)",
    "specificity": "one domain more than the others, nats a token",
}
_MEASURES = {
    "load": "its load",
    "entropy": "router's entropy on its tokens",
    "margin": "router's margin on its tokens",
    "drift": "distance from its ancestor",
    "domain lift": "largest domain's share over load",
    "domain concentration": "how few domains its tokens are of",
    "share of domain": "share of the domain's tokens",
    "lift of domain": "share of the domain over load",
    "vocabulary specialisation": "how far its ids keep to it",
    "ancestor output cosine": "cosine with its ancestor's output",
    "delta cosine": "cosine of what siblings learned",
    "output cosine": "cosine of siblings' outputs",
    "output cka": "CKA of siblings' outputs",
    "router row: norm": "length of its router row",
    "router row: row cosine": "cosine with the other router rows",
    "router row: routed cosine": "cosine of router row and tokens",
    "router row: centred cosine": "centred cosine of row and tokens",
}
_DOMAIN = " in the domain"


def intervention_words(name: str) -> str:
    """`next`: `rerouted to the next best`; a name that has no words stays."""
    return _INTERVENTIONS.get(name, name)


def effect_words(name: str) -> str:
    """`next: total in the domain`: `rerouted to the next best: all tokens, nats a token (contains the load), …`."""
    done, _, what = name.partition(": ")
    kind = what.removesuffix(_DOMAIN)
    where = "," + _DOMAIN if what.endswith(_DOMAIN) else ""
    return f"{intervention_words(done)}: {_EFFECTS.get(kind, kind)}{where}" if what else name


def measure_words(name: str) -> str:
    """`delta cosine`: `cosine of what siblings learned`; a name that has no words stays."""
    return _MEASURES.get(name, name)


def label_words(name: str) -> str:
    """What X is in the token split: `coarse class` is a kind of token that means the same in every domain."""
    return "kind of token, alike in all domains" if name == COARSE_LABEL else name
