"""What a run starts from: the base or another run's weights, upcycled if the run has experts."""

import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, PreTrainedModel

import moe_emergence
from moe_emergence.config import MoEConfig, RunConfig
from moe_emergence.data.blocks import PreparedData
from moe_emergence.data.packing import Blocks
from moe_emergence.errors import ConfigError, RunDirectoryError
from moe_emergence.models.base import Base
from moe_emergence.models.layers import resolve_layers
from moe_emergence.models.upcycle import UpcycleReceipt, ancestor_state, upcycle, upcycle_receipt
from moe_emergence.moe.assignment import check_oracle
from moe_emergence.moe.router import set_noise_annealing, told_domains
from moe_emergence.training.checkpoint import checkpoint_name, newest_checkpoint, step_of, verified_manifest
from moe_emergence.training.informed import centroid_gates
from moe_emergence.training.run_directory import ANCESTOR, RunDirectory
from moe_emergence.training.runtime import EXACT
from moe_emergence.training.tensors import MODEL, load_weights, read_tensors, write_tensors

Change = tuple[str, Any, Any]
"""What has changed: its name, its value then, its value now."""
BIAS = "expert_bias"
"""The last part of the name of a router's loss-free bias."""
RECEIPT_BLOCKS = 2
"""Dev blocks a domain that the receipt is taken on."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """A model before its first step, and how it came about."""

    model: PreTrainedModel
    receipt: UpcycleReceipt | None = None
    ancestor: dict[str, torch.Tensor] | None = None
    parent: dict[str, Any] | None = None
    """Of a fork: the `run` it comes from, the `step` of the checkpoint, and the `weights` file's sha256."""


def check_fits(config: RunConfig, dense: GPT2Config) -> None:
    """Refuse blocks longer than the base's context, and experts in blocks it has not.

    Raises:
        ConfigError: names the field, the value and the limit.
    """
    if config.data.block_size > dense.n_positions:
        raise ConfigError(
            f"data.block_size must be at most {dense.n_positions}, the context of the base {config.base!r}; got "
            f"{config.data.block_size}"
        )
    if config.moe is not None:
        resolve_layers(config.moe.layers, dense.n_layer)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a run's bits depend on: the data, the base, what it was forked from, and the environment it runs in."""

    base: Base
    data: PreparedData
    environment: dict[str, Any]
    fork: Path | None

    def digests(self) -> dict[str, str]:
        """By the words that name them to a person."""
        manifest = self.data.manifest
        return {
            "a corpus": manifest["corpus_digest"],
            "a tokenizer": manifest["tokenizer_digest"],
            "prepared data": self.data.digest,
            "a base": self.base.digest,
        }


def origin_changes(run: RunDirectory, origin: Origin) -> list[Change]:
    """In what the run's data, base and environment differ from those it was started (or last continued) with."""
    then = run.read_manifest()
    recorded = {
        "a corpus": then["data"]["corpus_digest"],
        "a tokenizer": then["data"]["tokenizer_digest"],
        "prepared data": then["data"]["digest"],
        "a base": then["base"]["digest"],
    }
    digests = [(f"{what} of sha256", recorded[what], now) for what, now in origin.digests().items()]
    machine = [(name, then["environment"].get(name), origin.environment[name]) for name in EXACT]
    changed = [change for change in digests + machine if change[1] != change[2]]
    # a corpus or a tokenizer changes the prepared data too: name the cause alone
    return [c for c in changed if not (c[0].startswith("prepared data") and changed[0][0] != c[0])]


def refuse_changes(run: RunDirectory, changes: Sequence[Change]) -> None:
    """An error that names every change with both values, and what to do."""
    listed = "; ".join(f"{name} = {_short(then)}, not {_short(now)}" for name, then, now in changes)
    if run.finished:
        raise RunDirectoryError(
            f"{run.path} was started with {listed}, and is finished: choose another folder, or start from its weights "
            "with train --from"
        )
    raise RunDirectoryError(
        f"{run.path} was started with {listed}. Continue it unchanged, or choose another folder; --allow-inexact "
        "continues it all the same, and records that its bits are not those of an uninterrupted run"
    )


def _short(value: Any) -> str:
    """A digest's beginning; any other value as Python writes it."""
    is_digest = isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
    return f"{value[:16]}…" if is_digest else repr(value)


def forked_from(run: RunDirectory, fork: Path | None) -> Path | None:
    """The run whose last weights a run was started from.

    Raises:
        RunDirectoryError: `fork` is given and is another one.
    """
    recorded = run.read_manifest()["forked_from"]
    parent = None if recorded is None else Path(recorded["run"])
    if fork is not None and fork.resolve() != parent:
        raise RunDirectoryError(f"{run.path} was not started from {fork}, but from {parent or 'the base'}")
    return parent


def starting_model(
    config: RunConfig, base: Base, data: PreparedData, fork: Path | None, recorded: dict[str, Any] | None = None
) -> Start:
    """The base, or the weights `fork` ended with; upcycled where the run has experts and what it starts from has none.

    Args:
        recorded: of a fork that is started again, what its manifest says of its parent.

    Raises:
        ConfigError: a fork whose experts are not those of the run.
        RunDirectoryError: the parent's checkpoint is not the one that was forked from.
    """
    parent = None if fork is None else RunDirectory.open_existing(fork)
    weights = None if parent is None else _parent_checkpoint(parent, recorded)
    origin = None if parent is None or weights is None else _parent_record(parent, weights)
    if recorded is not None and origin != recorded:
        raise RunDirectoryError(
            f"this run was forked from step {recorded['step']} of {recorded['run']}, whose weights have changed since: "
            "restore them, or fork again in another folder"
        )
    if parent is not None and weights is not None and parent.config.moe is not None:
        return _forked_moe(config, base, parent, weights, origin)
    if weights is not None:
        load_weights(weights, base.model)
    if config.moe is None:
        return Start(model=base.model, parent=origin)
    if config.moe.router == "domain":
        check_oracle(len(data.domains), config.moe.num_experts, config.moe.top_k)
    model = _upcycled(config, base, _informed_gates(config.moe, config.seed, base, data))
    blocks = _receipt_blocks(data)
    with told_domains(model, torch.from_numpy(blocks.domain.astype("int64")), len(data.domains)):
        receipt = upcycle_receipt(base.model, model, torch.from_numpy(blocks.tokens.astype("int64")))
    return Start(
        model=model,
        receipt=receipt,
        ancestor=ancestor_state(base.model, model.moe_layer_indices),
        parent=origin,
    )


def empty_model(config: RunConfig, base: Base) -> Start:
    """A model of the run's form, whose weights a checkpoint of its own will replace."""
    return Start(model=base.model if config.moe is None else _formed(config, base))


def _informed_gates(moe: MoEConfig, seed: int, base: Base, data: PreparedData) -> Mapping[int, torch.Tensor] | None:
    return centroid_gates(base.model, moe, data, seed=seed) if moe.gate_init == "centroids" else None


def _formed(config: RunConfig, base: Base) -> Any:
    """A model whose weights are about to be replaced: nothing that only they depend on is computed."""
    assert config.moe is not None
    return _upcycled(replace(config, moe=replace(config.moe, gate_init="small_random", reinit_share=0.0)), base)


def _upcycled(config: RunConfig, base: Base, gates: Mapping[int, torch.Tensor] | None = None) -> Any:
    assert config.moe is not None
    model = upcycle(
        base.model,
        config.moe,
        seed=config.seed,
        experts_implementation=config.execution.experts_implementation,
        gates=gates,
    )
    set_noise_annealing(model, round(config.moe.noise_anneal * config.training.steps))
    return model


def _forked_moe(
    config: RunConfig, base: Base, parent: RunDirectory, weights: Path, origin: dict[str, Any] | None
) -> Start:
    """A loss-free bias that the parent does not have begins at 0."""
    blocks = base.model.config.n_layer
    then, now = (_experts_in_words(moe, blocks) for moe in (parent.config.moe, config.moe))
    if then != now:
        raise ConfigError(
            f"{parent.path} has {then}, this run has {now}: a fork must have the same moe.num_experts and moe.layers"
        )
    if _gate_init(parent.config.moe) != _gate_init(config.moe):
        raise ConfigError(
            f"{parent.path} has moe.gate_init {_gate_init(parent.config.moe)!r}, this run "
            f"{_gate_init(config.moe)!r}: a fork goes on from its parent's gates, so give the same"
        )
    if _has_bias(parent.config.moe) and not _has_bias(config.moe):
        raise ConfigError(
            f"{parent.path} has a loss-free bias, and this run's moe.bias_rate is 0, so that its routers would choose "
            "otherwise: give moe.bias_rate"
        )
    model: PreTrainedModel = _formed(config, base)
    load_weights(weights, model, may_lack=() if _has_bias(parent.config.moe) else (BIAS,))
    return Start(model=model, ancestor=read_tensors(parent.path / ANCESTOR), parent=origin)


def _gate_init(moe: MoEConfig | None) -> str | None:
    return None if moe is None else moe.gate_init


def _has_bias(moe: MoEConfig | None) -> bool:
    return moe is not None and moe.bias_rate > 0


def _experts_in_words(moe: MoEConfig | None, blocks: int) -> str:
    if moe is None:
        return "no experts"
    return f"{moe.num_experts} experts in blocks {', '.join(map(str, resolve_layers(moe.layers, blocks)))}"


def _parent_checkpoint(parent: RunDirectory, recorded: dict[str, Any] | None) -> Path:
    """The one that was forked from, or the newest for a new fork."""
    if recorded is not None:
        return parent.checkpoints / checkpoint_name(recorded["step"])
    newest = newest_checkpoint(parent.checkpoints)
    if newest is None:
        raise ConfigError(f"{parent.path} has no checkpoint to start from: let it run to one first")
    return newest


def _parent_record(parent: RunDirectory, weights: Path) -> dict[str, Any] | None:
    if not weights.exists():
        return None
    digest = verified_manifest(weights)["files"][MODEL]["sha256"]
    return {"run": str(parent.path.resolve()), "step": step_of(weights), "weights": digest}


def _receipt_blocks(data: PreparedData) -> Blocks:
    numbers = range(len(data.domains))
    return data.dev.take(np.concatenate([np.flatnonzero(data.dev.domain == n)[:RECEIPT_BLOCKS] for n in numbers]))


def manifest(origin: Origin, start: Start) -> dict[str, Any]:
    """What a run's results are to be traced to."""
    layers = getattr(start.model, "moe_layer_indices", ())
    return {
        "package": moe_emergence.__version__,
        "git_commit": git_commit(),
        "environment": origin.environment,
        "data": data_record(origin.data),
        "base": {
            "name": origin.base.name,
            "digest": origin.base.digest,
            "parameters": origin.base.model.num_parameters(),
        },
        "forked_from": start.parent,
        "receipt": None if start.receipt is None else start.receipt.to_dict(),
        "moe_layers": list(layers),
        "parameters": start.model.num_parameters(),
        "inexact": [],
    }


def data_record(data: PreparedData) -> dict[str, Any]:
    """Digests, counts and licences of the data, without the list of documents."""
    counts = Counter((d["domain"], d["source"], d["licence"]) for d in data.documents)
    return {
        "digest": data.digest,
        "corpus": data.manifest["corpus"],
        "corpus_digest": data.manifest["corpus_digest"],
        "tokenizer_digest": data.manifest["tokenizer_digest"],
        "block_size": data.manifest["block_size"],
        "domains": list(data.domains),
        "blocks_per_domain": data.manifest["blocks_per_domain"],
        "tokens": data.manifest["tokens"],
        "sources": [
            {"domain": domain, "source": source, "licence": licence, "documents": documents}
            for (domain, source, licence), documents in counts.items()
        ],
        "record": data.manifest["corpus_record"],
    }


def git_commit() -> str | None:
    """The commit of the checkout this package runs from, with `+` for uncommitted changes; None when installed."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", str(folder)) else "")
    except (OSError, subprocess.SubprocessError):
        return None


def save_ancestor(folder: Path, ancestor: dict[str, torch.Tensor]) -> None:
    """Keep the MLPs that the experts came from, for analyses that revert an expert to it."""
    write_tensors(folder / ANCESTOR, ancestor)
