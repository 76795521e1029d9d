"""Continuations against transformers' own, and with experts off against one forward a token."""

import pytest
import torch

from moe_emergence.errors import ConfigError
from moe_emergence.explore.generation import continuation
from moe_emergence.explore.reading import read_tokens
from moe_emergence.explore.run import Loaded
from moe_emergence.moe.layer import record_routing

PROMPT = [9, 40, 100]


def test_without_a_temperature_it_is_the_likeliest(loaded: Loaded) -> None:
    expected = loaded.model.generate(torch.tensor([PROMPT]), max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert continuation(loaded.model, PROMPT, new=6) == expected[0].tolist()


def test_it_is_written_without_the_experts_that_are_off(loaded: Loaded) -> None:
    first = read_tokens(loaded.model, PROMPT).layers[1].experts[-1][0]
    off = {2: {first}}
    ids = continuation(loaded.model, PROMPT, new=6, off=off)
    assert ids != continuation(loaded.model, PROMPT, new=6)
    for end in range(len(PROMPT), len(ids)):
        assert read_tokens(loaded.model, ids[:end], off).following[0][0] == ids[end]


def test_too_long_names_all_three_numbers(loaded: Loaded) -> None:
    with pytest.raises(ConfigError, match="the prompt's 3 tokens and 94 new ones are more than the model's context of"):
        continuation(loaded.model, PROMPT, new=94)


def test_one_forward_gives_the_routes_that_decoding_used(loaded: Loaded) -> None:
    with record_routing(loaded.model) as used:
        ids = continuation(loaded.model, PROMPT, new=6)
    for layer in read_tokens(loaded.model, ids).layers:
        routes = [route.topk_indices for route in used if route.layer_idx == layer.layer]
        assert [len(route) for route in routes] == [len(PROMPT), 1, 1, 1, 1, 1]  # the last token was never read
        assert torch.cat(routes).tolist() == [list(slots) for slots in layer.experts[:-1]]
