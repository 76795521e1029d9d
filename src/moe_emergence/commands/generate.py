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
    """Every token of prompt and continuation with the experts it was sent to."""
    from moe_emergence.explore.generation import continuation, prompt_ids
    from moe_emergence.explore.reading import pieces, read_tokens

    prompt = prompt_ids(tokenizer, given["prompt"])
    ids = continuation(model, prompt, new=given["max_new_tokens"], temperature=given["temperature"], seed=given["seed"])
    layers = read_tokens(model, ids).layers
    return [
        TokenUse(
            text=text,
            generated=place >= len(prompt),
            experts={layer.layer: layer.experts[place] for layer in layers},
            of=model.config.num_experts if layers else 0,
        )
        for place, text in enumerate(pieces(tokenizer, ids))
    ]
