"""The model card of a pretrained base, written from its record."""

from collections.abc import Mapping, Sequence
from typing import Any


def model_card(record: Mapping[str, Any]) -> str:
    """Markdown: what the model is, how it was made, how well it does on dev documents."""
    recipe, last = record["recipe"], record["curve"][-1]
    tokens = record["steps"] * recipe["batch_size"] * recipe["block_size"]
    seen = f"{tokens / 1e6:.1f} M tokens in {record['steps']:,} steps"
    rows = [(domain, f"{loss:.4f}", f"{last['bits_per_byte'][domain]:.4f}") for domain, loss in last["lm_loss"].items()]
    return "\n".join(
        [
            "---\nlicense: apache-2.0\nlibrary_name: transformers\npipeline_tag: text-generation\n---",
            "# The embedded base of moe-emergence\n",
            f"A dense GPT-2-architecture language model of {record['parameters']:,} parameters "
            f"({recipe['layers']} blocks, width {recipe['hidden_size']}, {recipe['heads']} heads, "
            f"context {recipe['block_size']}), trained from nothing on documents of the corpus `{record['corpus']}`: "
            f"{recipe['mix'] or 'equal parts of its domains'} (shares of the blocks). It stands for a model of mostly "
            "web prose, which has seen little code and mathematics, so that experts have something left to learn. It "
            "exists to be upcycled; it is no good for anything else.\n",
            "## How it was made\n",
            "```sh\nmoe-emergence pretrain-base --out runs/base\n```\n",
            f"{seen}. Rate {recipe['learning_rate']:g} after {recipe['warmup_steps']} warm-up steps, constant until "
            f"dev (domains weighted as in the mix) gained less than {recipe['plateau_gain']} nats over "
            f"{recipe['plateau_tokens']:,} tokens or step {recipe['max_constant_steps']:,}, then linear to zero. The "
            f"constant phase ended at step {record['decay_from']:,} by {_ENDED[record['constant_phase_ended_by']]}.\n",
            _table(("", ""), [*((name, str(value)) for name, value in _identity(record).items())]),
            "## On dev documents, at the end\n",
            _table(("domain", "LM loss, nats per token", "bits per byte"), rows),
            f"Weighted as in the mix {last['lm_loss_mix']:.4f}, macro mean {last['lm_loss_macro']:.4f} nats per token. "
            "`training.json` lists the documents it was trained on: none is dev or test, and of the embedded corpora "
            "no arm trains on any of them.\n",
            "## Dev loss over training\n",
            _table(
                ("step", "tokens", "LM loss, weighted as in the mix", "macro"),
                [
                    (f"{p['step']:,}", f"{p['tokens']:,}", f"{p['lm_loss_mix']:.4f}", f"{p['lm_loss_macro']:.4f}")
                    for p in record["curve"]
                ],
            ),
        ]
    )


_ENDED = {"plateau": "its plateau", "budget": "its budget of steps, before a plateau"}


def _identity(record: Mapping[str, Any]) -> dict[str, Any]:
    environment = record["environment"]
    return {
        "corpus digest": record["corpus_digest"],
        "prepared data digest": record["data_digest"],
        "seed": record["recipe"]["seed"],
        "machine": f"{environment['machine']}, {environment['threads']} thread(s)",
        "versions": ", ".join(f"{name} {environment[name]}" for name in ("python", "torch", "transformers")),
    }


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
