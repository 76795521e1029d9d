"""A prompt continued by a model."""

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer

from moe_emergence.data.tokenizer import encode, end_of_text_id
from moe_emergence.errors import ConfigError
from moe_emergence.explore.reading import Off, switched_off


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The prompt's tokens; an empty prompt opens a document."""
    return encode(tokenizer, [prompt])[0] or [end_of_text_id(tokenizer)]


def continuation(
    model: Any, prompt: Sequence[int], *, new: int, temperature: float = 0.0, seed: int = 0, off: Off | None = None
) -> list[int]:
    """The prompt and at most `new` tokens more, up to the end of the document.

    Args:
        temperature: 0 takes the likeliest token; above 0 tokens are drawn.
        seed: of the draws.
        off: experts that no token of the whole may go to.

    Raises:
        ConfigError: together they are more than the model's context.
    """
    context = model.config.n_positions
    if len(prompt) + new > context:
        raise ConfigError(
            f"the prompt's {len(prompt):,} tokens and {new:,} new ones are more than the model's context of "
            f"{context:,}: shorten one of them"
        )
    torch.manual_seed(seed)
    drawn: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    with torch.inference_mode(), switched_off(model, off or {}):
        whole = model.generate(
            torch.tensor([list(prompt)], device=model.device),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long, device=model.device),
            max_new_tokens=new,
            pad_token_id=model.config.eos_token_id,
            **drawn,
        )
    ids: list[int] = whole[0].tolist()
    return ids
