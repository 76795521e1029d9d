"""`pretrain-base`: the recipe of the embedded base, on any corpus."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from moe_emergence.commands.arguments import Arguments, Command
from moe_emergence.commands.fields import fields_of
from moe_emergence.config import EMBEDDED, DataConfig, ExecutionConfig
from moe_emergence.interrupt import stop_requests
from moe_emergence.training.recipe import EMBEDDED_MIX, BaseRecipe

PURPOSE = (
    "Train a small dense GPT-2 from nothing, with the embedded tokenizer: on the documents that the embedded corpora "
    "set apart for it, or on the training documents of your own. OUT/base is then good for --base. The same command "
    "continues it."
)


def command() -> Command:
    """What `pretrain-base` takes."""
    pretrain = Command("pretrain-base", PURPOSE)
    pretrain.option("out", str | None, None, "the folder of checkpoints and the finished base")
    pretrain.option("corpus", str, EMBEDDED, "embedded, or a folder with one .txt, .jsonl, .parquet or folder a domain")
    pretrain.option("device", Literal["auto", "cpu", "cuda", "mps"], "auto", "where to compute")
    pretrain.option("threads", int | None, None, "CPU threads; null leaves torch's choice")
    pretrain.fields(fields_of(BaseRecipe))
    return pretrain


def run(arguments: Sequence[str]) -> None:
    """Train, or continue, and print where the base is."""
    given = command().parse(arguments)
    with stop_requests():
        print(_pretrain(BaseRecipe(**given.fields), Path(given.required("out", "a folder for the base")), given))


def _pretrain(recipe: BaseRecipe, folder: Path, given: Arguments) -> Path:
    from moe_emergence.data.blocks import prepared_data
    from moe_emergence.data.corpora import load_corpus
    from moe_emergence.data.mixing import parse_mix
    from moe_emergence.models.base import load_tokenizer
    from moe_emergence.training.pretrain import pretrain_base

    config = DataConfig(corpus=given["corpus"], block_size=recipe.block_size)
    if config.corpus == EMBEDDED and not recipe.mix:
        recipe = replace(recipe, mix=EMBEDDED_MIX)
    corpus = load_corpus(config.corpus).for_base()
    parse_mix(recipe.mix, corpus.domains)  # before anything is written
    data = prepared_data(corpus, load_tokenizer(EMBEDDED), config, folder / "data", every_block=True)
    execution = ExecutionConfig(device=given["device"], threads=given["threads"])
    return pretrain_base(recipe, data, folder, execution)
