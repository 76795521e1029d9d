"""`generate`: a prompt continued, and which experts each of its tokens used."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_emergence.commands.arguments import Arguments, Command
from moe_emergence.commands.token_view import TokenUse, print_tokens
from moe_emergence.errors import ConfigError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def command() -> Command:
    """What `generate` takes."""
    generate = Command("generate", "Continue a prompt and show which experts each token used, in every MoE layer.")
    generate.position("model", "a run's folder, one of its checkpoints, or a model's directory")
    generate.position("prompt", "the text to continue; one that begins with -- comes after a --")
    generate.option("max-new-tokens", int, 40, "tokens to add at most")
    generate.option("temperature", float, 0.0, "0 takes the likeliest token; above 0 tokens are drawn")
    generate.option("seed", int, 0, "of the draws")
    return generate


def run(arguments: Sequence[str]) -> None:
    """Generate, and print the text with the experts used."""
    given = command().parse(arguments)
    for name, least in (("max_new_tokens", 1), ("temperature", 0), ("seed", 0)):
        if given[name] < least:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least {least}; got {given[name]}")

    from moe_emergence.training.trained import load_trained

    model, tokenizer = load_trained(Path(given["model"]))
    print_tokens(continued(model, tokenizer, given))


def continued(model: Any, tokenizer: "Tokenizer", given: Arguments) -> list[TokenUse]:
    """Every token of prompt and continuation with the experts it was sent to.

    One forward over the whole text gives them: attention looks back only, so a token's experts do not depend on what
    follows it.
    """
    import torch

    prompt = _prompt_ids(tokenizer, given["prompt"])
    _refuse_too_long(len(prompt), given["max_new_tokens"], model.config.n_positions)
    torch.manual_seed(given["seed"])
    drawn: dict[str, Any] = {"do_sample": False}
    if given["temperature"] > 0:
        drawn = {"do_sample": True, "temperature": given["temperature"], "top_k": 0, "top_p": 1.0}
    with torch.inference_mode():
        whole = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=given["max_new_tokens"],
            pad_token_id=model.config.eos_token_id,
            **drawn,
        )
        routes = getattr(model(input_ids=whole, use_cache=False), "routes", None) or ()
    ids = whole[0].tolist()
    chosen = {int(route.layer_idx): route.topk_indices.tolist() for route in routes}
    return [
        TokenUse(
            text=text,
            generated=place >= len(prompt),
            experts={layer: tuple(experts[place]) for layer, experts in chosen.items()},
            of=model.config.num_experts if chosen else 0,
        )
        for place, text in enumerate(_pieces(tokenizer, ids))
    ]


def _prompt_ids(tokenizer: "Tokenizer", prompt: str) -> list[int]:
    """The prompt's tokens; an empty prompt opens a document."""
    from moe_emergence.data.tokenizer import encode, end_of_text_id

    return encode(tokenizer, [prompt])[0] or [end_of_text_id(tokenizer)]


def _refuse_too_long(prompt: int, new: int, context: int) -> None:
    if prompt + new > context:
        raise ConfigError(
            f"the prompt's {prompt} tokens and --max-new-tokens {new} are more than the model's context of {context}: "
            "shorten one of them"
        )


def _pieces(tokenizer: "Tokenizer", ids: list[int]) -> list[str]:
    """Each token's own text; of a character made of several tokens the last has it, the others nothing."""
    pieces, text = [], ""
    for end in range(1, len(ids) + 1):
        longer = tokenizer.decode(ids[:end], skip_special_tokens=False)
        whole = not longer.endswith("�") or end == len(ids)
        pieces.append(longer[len(text) :] if whole else "")
        text = longer if whole else text
    return pieces
