"""A run of a few thousand parameters: snapshots of steps 0 and 2, a checkpoint of step 5, experts that differ."""

import json
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from moe_emergence.config import MoEConfig, RunConfig, to_dict
from moe_emergence.data.tokenizer import end_of_text_id, train_tokenizer
from moe_emergence.models.upcycle import upcycle
from moe_emergence.training.checkpoint import save_checkpoint
from moe_emergence.training.snapshot import save_snapshot
from moe_emergence.training.tensors import model_tensors, optimizer_tensors

CONTEXT, EXPERTS, LAYERS, STEPS = 96, 4, (0, 2), (0, 2, 5)


def write_run(folder: Path, *, ended: bool = True, moe: bool = True, top_k: int = 1) -> Path:
    """The folder, with a base beside it that gives the tokenizer."""
    folder.mkdir(parents=True)
    base, dense = _write_base(folder.parent / f"{folder.name}-base")
    config = MoEConfig(layers=LAYERS, num_experts=EXPERTS, top_k=top_k, perturbation=0.7)
    own = RunConfig(name="moe", base=str(base), moe=config if moe else None)
    (folder / "config.json").write_text(json.dumps(to_dict(own)))
    if ended:
        (folder / "metrics.jsonl").write_text('{"event": "end", "step": 5}\n')
    if moe:
        for step in STEPS:
            _write_weights(folder, upcycle(dense, config, seed=step), step)
    return folder


def _write_base(folder: Path) -> tuple[Path, GPT2LMHeadModel]:
    tokenizer = train_tokenizer(["the whale and the sea", "def f(x): return x"], vocab_size=300)
    torch.manual_seed(0)
    end = end_of_text_id(tokenizer)
    config = GPT2Config(
        vocab_size=tokenizer.get_vocab_size(),
        n_positions=CONTEXT,
        n_embd=16,
        n_layer=3,
        n_head=2,
        initializer_range=0.5,
        bos_token_id=end,
        eos_token_id=end,
    )
    dense = GPT2LMHeadModel(config).eval()
    dense.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder, dense


def _write_weights(run: Path, model: GPT2LMHeadModel, step: int) -> None:
    if step < STEPS[-1]:
        save_snapshot(run / "snapshots", model.config, model_tensors(model), step)
        return
    named = [name for name, _ in model.named_parameters()]
    optimizer = torch.optim.AdamW([{"params": list(model.parameters()), "names": named}])
    weights, moments = model_tensors(model), optimizer_tensors(optimizer)
    save_checkpoint(run / "checkpoints", model.config, weights, moments, {"step": step})
