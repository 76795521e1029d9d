"""Short names of tables in words: every name that is made has some, and words fit the figures."""

from moe_emergence.analysis.causal.interventions import INTERVENTIONS
from moe_emergence.analysis.scores import ROUTER, SIMILARITY, _readable
from moe_emergence.report.plain_names import effect_words, intervention_words, label_words, measure_words

MEASURES = (
    *("load", "entropy", "margin", "domain lift", "domain concentration", "share of domain", "lift of domain"),
    "vocabulary specialisation",
    *(_readable("similarity", field) for field in SIMILARITY),
    *(_readable("router_geometry", field) for field in ROUTER),
)


def test_every_measure_and_intervention_has_words_of_its_own() -> None:
    words = [measure_words(name) for name in MEASURES]
    assert all(said != name for said, name in zip(words, MEASURES, strict=True))
    assert len(set(words)) == len(words)
    assert max(map(len, words)) <= 34
    assert not set(map(intervention_words, INTERVENTIONS)) & set(INTERVENTIONS)


def test_effects_say_whether_they_contain_the_load() -> None:
    assert effect_words("next: total") == "rerouted to the next best: all tokens, nats a token (contains the load)"
    assert effect_words("next: per affected token in the domain") == (
        "rerouted to the next best: a token that used it, nats, in the domain"
    )
    assert effect_words("zero: specificity").startswith("its output left out: one domain more")


def test_a_name_without_words_stays() -> None:
    assert (effect_words("other"), measure_words("other"), intervention_words("other")) == ("other",) * 3
    assert (label_words("token id"), label_words("coarse class")) == ("token id", "kind of token, alike in all domains")
