"""The recipe of the embedded base: a small dense GPT-2, from nothing, on documents that no arm trains on.

Constant rate after warm-up until the dev loss, domains weighted as in the mix, gains less than 0.01 nats over 2 M
tokens (or a stated budget is spent), then the rate falls linearly to zero. What ends the constant phase is recorded.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from moe_emergence.config import ExecutionConfig, OptimizerConfig
from moe_emergence.data.blocks import PreparedData
from moe_emergence.data.mixing import mixed_rows, parse_mix
from moe_emergence.data.tokenizer import END_OF_TEXT
from moe_emergence.errors import ConfigError, Interrupted, RunDirectoryError
from moe_emergence.interrupt import StopAsked, stop_requests
from moe_emergence.tracking.console import RunConsole
from moe_emergence.training import durable
from moe_emergence.training.checkpoint import (
    newest_whole_checkpoint,
    read_checkpoint,
    remove_old_checkpoints,
    save_checkpoint,
)
from moe_emergence.training.engine import Engine
from moe_emergence.training.evaluation import evaluate
from moe_emergence.training.model_card import model_card
from moe_emergence.training.optimizer import make_optimizer, set_learning_rate
from moe_emergence.training.recipe import BaseRecipe
from moe_emergence.training.run_directory import folder_lock, write_json
from moe_emergence.training.runtime import environment, prepare_process
from moe_emergence.training.step import Stepper, batch_of
from moe_emergence.training.tensors import load_optimizer, load_weights, model_tensors, optimizer_tensors


@dataclass
class _Phase:
    """Where the schedule is; stored with each checkpoint."""

    step: int = 0
    decay_from: int | None = None
    reason: str = ""
    curve: list[dict[str, Any]] = field(default_factory=list)


def dense_model(recipe: BaseRecipe, vocab_size: int, end_of_text: int) -> GPT2LMHeadModel:
    """A GPT-2 of the recipe's size with fresh weights, no dropout; torch's fused tanh-GELU is GPT-2's own function."""
    torch.manual_seed(recipe.seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocab_size,
            n_positions=recipe.block_size,
            n_embd=recipe.hidden_size,
            n_layer=recipe.layers,
            n_head=recipe.heads,
            activation_function="gelu_pytorch_tanh",
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=end_of_text,
            eos_token_id=end_of_text,
        )
    )


def learning_rate(recipe: BaseRecipe, phase: _Phase) -> float:
    """Linear warm-up, constant, then linear to zero over `decay_share` of the steps before it."""
    if phase.decay_from is None:
        return recipe.learning_rate * min(1.0, (phase.step + 1) / recipe.warmup_steps)
    return recipe.learning_rate * max(0.0, 1 - (phase.step - phase.decay_from) / _decay_steps(recipe, phase.decay_from))


def _decay_steps(recipe: BaseRecipe, decay_from: int) -> int:
    return max(1, math.ceil(recipe.decay_share * decay_from))


def plateau_reached(recipe: BaseRecipe, curve: list[dict[str, Any]]) -> bool:
    """Whether the best dev loss of the last `plateau_tokens` beats the best before them by less than `plateau_gain`."""
    now = curve[-1]["tokens"]
    before = [point["lm_loss_mix"] for point in curve if point["tokens"] <= now - recipe.plateau_tokens]
    since = [point["lm_loss_mix"] for point in curve if point["tokens"] > now - recipe.plateau_tokens]
    return bool(before) and min(before) - min(since) < recipe.plateau_gain


def pretrain_base(recipe: BaseRecipe, data: PreparedData, folder: Path, execution: ExecutionConfig) -> Path:
    """Train (or continue) the base in `folder`; returns the folder with the finished model and its record.

    Raises:
        RunDirectoryError: `folder` holds a base of another recipe.
        Interrupted: on Ctrl-C or SIGTERM, after a checkpoint.
    """
    engine = Engine.start(execution.device, execution.precision, execution.parallel)
    if engine.world_size > 1:
        raise ConfigError(f"pretrain-base trains in one process, and {engine.world_size} were launched: launch one")
    prepare_process(execution)
    with folder_lock(folder):
        return _pretrain(recipe, data, folder, execution, engine)


def _pretrain(recipe: BaseRecipe, data: PreparedData, folder: Path, execution: ExecutionConfig, engine: Engine) -> Path:
    _claim(folder, recipe, data)
    model = dense_model(recipe, data.tokenizer.get_vocab_size(), int(data.manifest["end_of_text"])).to(engine.device)
    optimizer = make_optimizer(
        model, OptimizerConfig(learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay, beta2=0.95)
    )
    stepper = Stepper(model, optimizer, micro_batch_size=None, clip_norm=1.0, engine=engine)
    checkpoints = folder / "checkpoints"
    phase = _continue(checkpoints, model, optimizer)
    with stop_requests():
        try:
            _train(recipe, data, phase, stepper, checkpoints)
        except StopAsked:
            _save(checkpoints, phase, stepper)
            raise Interrupted(f"stopped at step {phase.step}; the same command continues from there") from None
    return _finish(recipe, data, folder, model, phase, environment(execution, engine.device))


def _train(recipe: BaseRecipe, data: PreparedData, phase: _Phase, stepper: Stepper, checkpoints: Path) -> None:
    """Look and step until the rate has fallen to zero."""
    device, shares = stepper.engine.device, parse_mix(recipe.mix, data.domains)
    by_number = dict(enumerate(shares.values()))
    while True:
        if _is_due(recipe, phase, phase.curve):
            scores = evaluate(stepper.model, data, data.dev, device=device, per_domain=recipe.dev_blocks)
            scores["lm_loss_mix"] = sum(share * scores["lm_loss"][domain] for domain, share in shares.items())
            _look(recipe, phase, scores)
            remove_old_checkpoints(_save(checkpoints, phase, stepper), 2)
        if _is_last(recipe, phase):
            return
        set_learning_rate(stepper.optimizer, learning_rate(recipe, phase))
        rows = mixed_rows(data.train.domain, by_number, seed=recipe.seed, step=phase.step, batch_size=recipe.batch_size)
        stepper.take(batch_of(data.train, rows, seed=recipe.seed, step=phase.step, device=device))
        phase.step += 1


def _save(checkpoints: Path, phase: _Phase, stepper: Stepper) -> Path:
    weights, moments = model_tensors(stepper.model), optimizer_tensors(stepper.optimizer)
    config = cast(GPT2LMHeadModel, stepper.model).config
    return save_checkpoint(checkpoints, config, weights, moments, asdict(phase))


def _claim(folder: Path, recipe: BaseRecipe, data: PreparedData) -> None:
    """Write recipe and data digest down, or check that they are those the folder was started with."""
    path = folder / "recipe.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(recipe) | {"data_digest": data.digest})
    then, now = json.loads(path.read_text("utf-8")), asdict(recipe) | {"data_digest": data.digest}
    changed = [name for name in now | then if then.get(name) != now.get(name)]
    if changed:
        name = changed[0]
        raise RunDirectoryError(
            f"{folder} was started with {name} = {then.get(name)!r}, not {now.get(name)!r}: continue it unchanged, or "
            "choose another folder"
        )


def _look(recipe: BaseRecipe, phase: _Phase, scores: dict[str, Any]) -> None:
    """Add a dev evaluation to the curve, say it, and end the constant phase where it is over."""
    del scores["routing"], scores["documents"]
    tokens = phase.step * recipe.batch_size * recipe.block_size
    phase.curve.append({"step": phase.step, "tokens": tokens} | scores)
    print(
        f"step {phase.step}: dev LM loss {scores['lm_loss_mix']:.4f} nats per token, {_progress(recipe, phase)}",
        flush=True,
    )
    plateau = plateau_reached(recipe, phase.curve)
    if phase.decay_from is None and (plateau or phase.step >= recipe.max_constant_steps):
        phase.decay_from, phase.reason = phase.step, "plateau" if plateau else "budget"
        print(f"decay from step {phase.step}: {phase.reason}", flush=True)


def _progress(recipe: BaseRecipe, phase: _Phase) -> str:
    """The rate, and how many steps are left at most."""
    constant = recipe.max_constant_steps if phase.decay_from is None else phase.decay_from
    left = constant + _decay_steps(recipe, constant) - phase.step
    return f"rate {learning_rate(recipe, phase):.2e}, at most about {max(left, 0)} steps left"


def _is_due(recipe: BaseRecipe, phase: _Phase, curve: list[dict[str, Any]]) -> bool:
    """Whether to evaluate now; a continued training may have done so at this step before it was cut off."""
    on_grid = phase.step % recipe.eval_every == 0 or _is_last(recipe, phase)
    return on_grid and not (curve and curve[-1]["step"] == phase.step)


def _is_last(recipe: BaseRecipe, phase: _Phase) -> bool:
    return phase.decay_from is not None and phase.step == phase.decay_from + _decay_steps(recipe, phase.decay_from)


def _continue(checkpoints: Path, model: GPT2LMHeadModel, optimizer: torch.optim.Optimizer) -> _Phase:
    durable.remove_partial_folders(checkpoints)
    newest = newest_whole_checkpoint(checkpoints, RunConsole().warn)
    if newest is None:
        return _Phase()
    phase = _Phase(**read_checkpoint(newest))
    load_weights(newest, model)
    load_optimizer(newest, optimizer)
    return phase


def _finish(
    recipe: BaseRecipe,
    data: PreparedData,
    folder: Path,
    model: GPT2LMHeadModel,
    phase: _Phase,
    versions: dict[str, Any],
) -> Path:
    final = folder / "base"
    model.save_pretrained(final)
    PreTrainedTokenizerFast(
        tokenizer_object=data.tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, unk_token=END_OF_TEXT
    ).save_pretrained(final)
    data.tokenizer.save(
        str(final / "tokenizer.json")
    )  # as it was: transformers writes it otherwise, with another digest
    assert phase.decay_from is not None
    record = {
        "recipe": asdict(recipe),
        "steps": phase.step,
        "decay_from": phase.decay_from,
        "constant_phase_ended_by": phase.reason,
        "parameters": model.num_parameters(),
        "data_digest": data.digest,
        "corpus_digest": data.manifest["corpus_digest"],
        "corpus": data.manifest["corpus"],
        "train_documents": sorted(d["id"] for d in data.documents if d["split"] == "train"),
        "curve": phase.curve,
        "environment": versions,
    }
    write_json(final / "training.json", record)
    (final / "README.md").write_text(model_card(record), "utf-8")
    print(json.dumps({key: record[key] for key in ("steps", "decay_from", "parameters")}))
    return final
