"""Traces: the table against a forward of each document by itself, and what lies beside it against plain loops."""

import importlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from transformers import GPT2LMHeadModel

from moe_emergence.config import DataConfig, MoEConfig
from moe_emergence.data.blocks import PreparedData, prepare
from moe_emergence.data.corpora import Corpus
from moe_emergence.models.base import weights_digest
from moe_emergence.models.families import ancestor_stacks
from moe_emergence.models.gpt2_moe import GPT2MoEForCausalLM
from moe_emergence.models.upcycle import ancestor_state, upcycle
from moe_emergence.moe.layer import MoE
from moe_emergence.moe.noise import keyed_normal
from moe_emergence.moe.router import routers_of
from moe_emergence.training import informed, trace
from moe_emergence.training.neighbour import FRESH_GATES
from moe_emergence.training.similarity import expert_similarity, sampled_tokens
from moe_emergence.training.trace import METADATA, probe_digest, step_of_trace, write_trace

CPU = torch.device("cpu")
MakeMoE = Callable[..., GPT2MoEForCausalLM]


def written(
    model: Any, data: PreparedData, folder: Path, *, step: int = 3, **options: Any
) -> tuple[pa.Table, dict[str, np.ndarray]]:
    path = write_trace(model, data, folder, step=step, device=CPU, **options)
    assert path is not None
    beside = path.with_suffix(".safetensors")
    return pq.read_table(path), load_file(beside) if beside.exists() else {}


def documents(data: PreparedData) -> list[tuple[int, torch.Tensor]]:
    """(index, tokens) of each probe document."""
    probe = data.probe
    rows = zip(probe.document, probe.tokens, probe.length, strict=True)
    return [(int(index), torch.from_numpy(tokens[:length].astype(np.int64))) for index, tokens, length in rows]


def test_columns_and_their_types(make_moe: MakeMoE, toy_data: PreparedData, tmp_path: Path) -> None:
    table, _ = written(make_moe(layers=(0, 1), top_k=2), toy_data, tmp_path)
    types = {"doc": pa.int32(), "pos": pa.int32(), "token_id": pa.uint16(), "domain": pa.uint8(), "loss": pa.float32()}
    for layer in (0, 1):
        types |= {f"e{layer}_{k}": pa.uint8() for k in (0, 1)} | {f"w{layer}_{k}": pa.float32() for k in (0, 1)}
        types |= {f"h{layer}": pa.float32(), f"m{layer}": pa.float32()}
    assert dict(zip(table.column_names, table.schema.types, strict=True)) == types
    assert table.num_rows == toy_data.probe.length.sum()
    nulls = {name: table.column(name).null_count for name in table.column_names}
    assert {name: count for name, count in nulls.items() if count} == {"loss": len(toy_data.probe.length)}


@pytest.mark.parametrize("top_k", [1, 2])
def test_the_table_is_a_forward_of_each_document(
    make_moe: MakeMoE, toy_data: PreparedData, tmp_path: Path, top_k: int
) -> None:
    """Each by itself: neither padding nor its neighbours in the batch leave a mark."""
    model = make_moe(top_k=top_k, noise_std=5.0).train()
    table, _ = written(model, toy_data, tmp_path)
    rows = iter(table.to_pylist())
    model.eval()
    for index, tokens in documents(toy_data):
        with torch.no_grad():
            output = model(input_ids=tokens[None])
        route = output.routes[0]
        log_probs = output.logits[0].double().log_softmax(-1)
        for position, token in enumerate(tokens.tolist()):
            row = next(rows)
            assert (row["doc"], row["pos"], row["token_id"]) == (index, position, token)
            assert toy_data.domains[row["domain"]] == toy_data.documents[index]["domain"]
            if position + 1 < len(tokens):
                assert row["loss"] == pytest.approx(-float(log_probs[position, tokens[position + 1]]), abs=1e-4)
            else:
                assert row["loss"] is None
            assert [row[f"e1_{k}"] for k in range(top_k)] == route.topk_indices[position].tolist()
            weights = [row[f"w1_{k}"] for k in range(top_k)]
            assert weights == pytest.approx(route.topk_weights[position].tolist(), abs=1e-5)
            assert sum(weights) == pytest.approx(1)
            clean = route.router_logits[position].double().softmax(0)
            assert row["h1"] == pytest.approx(-float((clean * clean.log()).sum()), abs=1e-5)
            first, second = clean.sort(descending=True).values[:2].tolist()
            assert row["m1"] == pytest.approx(first - second, abs=1e-5)
    assert next(rows, None) is None


def test_metadata_says_what_was_traced(make_moe: MakeMoE, toy_data: PreparedData, tmp_path: Path) -> None:
    model = make_moe(layers=(0, 1), top_k=2)
    table, _ = written(model, toy_data, tmp_path, step=12)
    assert (tmp_path / "step-000012.parquet").exists()
    assert json.loads(table.schema.metadata[METADATA]) == {
        "step": 12,
        "model_digest": weights_digest(model.named_parameters()),
        "probe_digest": probe_digest(toy_data.probe),
        "data_digest": toy_data.digest,
        "tokenizer_digest": toy_data.manifest["tokenizer_digest"],
        "domains": ["code", "math", "prose"],
        "layers": [0, 1],
        "num_experts": 4,
        "top_k": 2,
    }


def test_the_neighbour_says_what_it_is_of_as_the_trace_does(
    make_moe: MakeMoE, toy_data: PreparedData, tmp_path: Path
) -> None:
    table, _ = written(make_moe(), toy_data, tmp_path, facts={"arm": "moe", "seed": 7})
    with safe_open(tmp_path / "step-000003.safetensors", framework="numpy") as file:
        found = json.loads(file.metadata()[METADATA.decode()])
    assert found == json.loads(table.schema.metadata[METADATA])
    assert (found["arm"], found["seed"], found["step"]) == ("moe", 7, 3)


def test_digests_follow_weights_and_probe(make_moe: MakeMoE, toy_data: PreparedData) -> None:
    model = make_moe()
    before = weights_digest(model.named_parameters())
    assert before == weights_digest(make_moe().named_parameters())
    with torch.no_grad():
        model.transformer.h[0].ln_1.bias[3] += 1e-6
    assert weights_digest(model.named_parameters()) != before
    probe = toy_data.probe
    changed = type(probe)(**(vars(probe) | {"length": probe.length - 1}))
    assert probe_digest(changed) != probe_digest(probe)


def test_a_dense_model_leaves_its_losses_alone(dense: GPT2LMHeadModel, toy_data: PreparedData, tmp_path: Path) -> None:
    table, beside = written(dense, toy_data, tmp_path, fresh_gates=True)
    assert table.column_names == ["doc", "pos", "token_id", "domain", "loss"]
    assert beside == {}
    metadata = json.loads(table.schema.metadata[METADATA])
    assert (metadata["layers"], metadata["num_experts"], metadata["top_k"]) == ([], 0, 0)


def test_mean_probabilities_a_document(make_moe: MakeMoE, toy_data: PreparedData, tmp_path: Path) -> None:
    model = make_moe(layers=(0, 1)).eval()
    _, beside = written(model, toy_data, tmp_path)
    assert set(beside) == {"mean_probabilities.0", "mean_probabilities.1"}, "fresh gates only where asked for"
    for row, (_, tokens) in enumerate(documents(toy_data)):
        with torch.no_grad():
            routes = model(input_ids=tokens[None]).routes
        for layer, route in enumerate(routes):
            clean = route.router_logits.double().softmax(-1).mean(0)
            assert np.allclose(beside[f"mean_probabilities.{layer}"][row], clean, atol=1e-5)


def test_fresh_gates_count_every_token_as_a_loop_would(
    make_moe: MakeMoE, toy_data: PreparedData, tmp_path: Path
) -> None:
    model = make_moe(layers=(0, 1)).eval()
    _, beside = written(model, toy_data, tmp_path, fresh_gates=True)
    inputs: dict[int, torch.Tensor] = {}
    for router in routers_of(model):
        router.register_forward_pre_hook(lambda module, arguments: inputs.__setitem__(module.layer_idx, arguments[0]))
    gates = {layer: keyed_normal((FRESH_GATES, 4, 32), seed=0, stream=(3, layer)) for layer in (0, 1)}
    for layer in (0, 1):
        counts = beside[f"fresh_gates.{layer}"]
        assert counts.shape == (199, len(toy_data.probe.length), 4)
        assert (counts.sum(-1) == toy_data.probe.length).all(), "each gate sends each token to one expert"
    close = 0
    for row, (_, tokens) in enumerate(documents(toy_data)[:6]):
        with torch.no_grad():
            model(input_ids=tokens[None])
        for layer in (0, 1):
            hidden = inputs[layer].reshape(-1, 32).double()
            for gate in range(0, FRESH_GATES, 20):
                expected = [0] * 4
                for token in hidden:
                    expected[int((gates[layer][gate].double() @ token).argmax())] += 1
                found = beside[f"fresh_gates.{layer}"][gate, row].tolist()
                close += abs(np.subtract(found, expected)).sum()
    assert close <= 2, "but for a tie that rounding decides"


def test_fresh_gates_are_the_same_for_every_run_and_none_is_the_model_s(
    make_moe: MakeMoE, toy_data: PreparedData, tmp_path: Path
) -> None:
    """At step 0, where arms share their hidden states, they share this null."""
    one, other = (
        written(make_moe(top_k=k, perturbation=0.0), toy_data, tmp_path / str(k), fresh_gates=True)[1] for k in (1, 2)
    )
    assert np.array_equal(one["fresh_gates.1"], other["fresh_gates.1"])
    model = make_moe()
    gates = keyed_normal((FRESH_GATES, 4, 32), seed=0, stream=(3, 1))
    own = routers_of(model)[0].gate.weight.detach()
    assert not any(torch.allclose(gate * own.std() / gate.std(), own, rtol=1e-2) for gate in gates)


def test_batches_do_not_change_a_trace(
    make_moe: MakeMoE, dense: GPT2LMHeadModel, toy_data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(informed, "INFORMED_GATES", 3)
    model = make_moe()
    options = {"fresh_gates": True, "informed_gates": True, "ancestor": ancestor_state(dense, (1,))}
    whole, beside = written(model, toy_data, tmp_path / "whole", **options)
    monkeypatch.setattr(trace, "BATCH", 3)
    cut, cut_beside = written(model, toy_data, tmp_path / "cut", **options)
    for name in whole.column_names:
        a, b = (t.column(name).to_numpy(zero_copy_only=False) for t in (whole, cut))
        assert np.allclose(a.astype(float), b.astype(float), atol=1e-5, equal_nan=True), name
    assert set(beside) == set(cut_beside) >= {"informed_gates.1"}
    assert all(np.allclose(beside[name], cut_beside[name], atol=1e-5, equal_nan=True) for name in beside)


def test_what_is_recorded_of_gate_and_experts(
    make_moe: MakeMoE, dense: GPT2LMHeadModel, toy_data: PreparedData, tmp_path: Path
) -> None:
    """Against a forward of each document by itself: on the sampled tokens, and of those that each expert comes first
    for."""
    model, kept = make_moe(layers=(0, 1), top_k=2).eval(), ancestor_state(dense, (0, 1))
    with torch.no_grad():
        routers_of(model)[1].gate.weight[3] = 0  # nobody's first choice, where another logit is above 0
    table, beside = written(model, toy_data, tmp_path, ancestor=kept)
    inputs: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    for router in routers_of(model):
        router.register_forward_pre_hook(lambda module, given: inputs[module.layer_idx].append(given[0][0]))
    for _, tokens in documents(toy_data):
        with torch.no_grad():
            model(input_ids=tokens[None])
    block = toy_data.probe.tokens.shape[1]
    flat = np.flatnonzero(np.arange(block)[None] < toy_data.probe.length[:, None])
    sampled = np.isin(flat, sampled_tokens(toy_data.probe))
    for number, layer in enumerate(m for m in model.modules() if isinstance(m, MoE)):
        hidden = torch.cat(inputs[number])
        first = torch.from_numpy(table[f"e{number}_0"].to_numpy().astype(np.int64))
        for expert in range(4):
            mean = hidden[first == expert].mean(0).numpy()
            assert np.allclose(beside[f"routed_mean.{number}"][expert], mean, atol=1e-5, equal_nan=True)
        assert np.array_equal(beside[f"gate.{number}"], layer.router.gate.weight.detach().numpy())
        stacks = {name: p.detach() for name, p in layer.experts.named_parameters()}
        origin = ancestor_stacks(model, kept, number)
        expected = expert_similarity(stacks, origin, hidden[torch.from_numpy(sampled)], layer.experts.act_fn)
        for name, value in expected.items():
            assert np.allclose(beside[f"{name}.{number}"], value, atol=1e-5), name
    assert {name.split(".")[0] for name in beside} == {"mean_probabilities", "gate", "routed_mean", *expected}


def test_the_wide_trace_reads_the_documents_on(
    make_moe: MakeMoE, toy_data: PreparedData, toy_corpus: Corpus, tmp_path: Path
) -> None:
    """Each window by itself, without what came before it; with no neighbour, and never taken for the other."""
    deeper = DataConfig(block_size=32, probe_tokens=600, wide_probe_tokens=1200)
    toy_data = prepare(toy_corpus, toy_data.tokenizer, deeper)
    model, probe = make_moe().eval(), toy_data.wide
    assert probe is not None
    assert probe.start.max() >= 32
    written(model, toy_data, tmp_path)
    table, beside = written(model, toy_data, tmp_path, wide=True)
    assert beside == {}
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"{n}-000003.{s}" for n, s in (("step", "parquet"), ("step", "safetensors"), ("wide", "parquet"))
    ]
    rows = iter(table.to_pylist())
    for window in range(len(probe.tokens)):
        tokens = torch.from_numpy(probe.tokens[window, : probe.length[window]].astype(np.int64))
        with torch.no_grad():
            output = model(input_ids=tokens[None])
        for place, token in enumerate(tokens.tolist()):
            row = next(rows)
            assert (row["doc"], row["pos"]) == (probe.document[window], probe.start[window] + place)
            assert (row["token_id"], row["e1_0"]) == (token, int(output.routes[0].topk_indices[place, 0]))
            assert (row["loss"] is None) == (place + 1 == len(tokens))
    assert next(rows, None) is None
    digests = [
        json.loads(t.schema.metadata[METADATA])["probe_digest"]
        for t in (table, pq.read_table(tmp_path / "step-000003.parquet"))
    ]
    assert digests == [probe_digest(probe), probe_digest(toy_data.probe)]
    assert digests[0] != digests[1]


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("step-000012.parquet", 12),
        ("wide-1000000.parquet", 1_000_000),
        ("step-000012.safetensors", 12),
        ("step-000012 (copy).parquet", -1),
        ("mine-000012.parquet", -1),
        ("step-12.json", -1),
    ],
)
def test_names_of_traces(name: str, step: int) -> None:
    assert step_of_trace(Path(name)) == step


def test_a_trace_of_four_layers_and_two_experts_takes_60_bytes_a_token(
    dense: GPT2LMHeadModel, toy_data: PreparedData, tmp_path: Path
) -> None:
    """With probabilities that differ from token to token, and the documents of the toy corpus many times over."""
    config = type(dense.config)(**(dense.config.to_dict() | {"n_layer": 4}))
    torch.manual_seed(0)
    deep = GPT2LMHeadModel(config).eval()
    model = upcycle(deep, MoEConfig(layers=(0, 1, 2, 3), num_experts=8, top_k=2), seed=3)
    with torch.no_grad():
        for router in routers_of(model):
            router.gate.weight.mul_(5)
    probe = toy_data.probe
    many = {n: np.concatenate([getattr(probe, n)] * 8) for n in ("tokens", "length", "document", "domain", "start")}
    shuffled = np.random.default_rng(0).permutation(many["tokens"].reshape(-1)).reshape(many["tokens"].shape)
    large = replace(probe, **(many | {"tokens": shuffled}), texts=probe.texts * 8)
    table, _ = written(model, replace(toy_data, probe=large), tmp_path)
    assert len(np.unique(table["h3"].to_numpy())) > 0.9 * table.num_rows
    assert np.bincount(table["e3_0"].to_numpy()).min() > 0
    size = (tmp_path / "step-000003.parquet").stat().st_size
    assert 40 < size / table.num_rows < 60


def test_other_tools_read_a_trace(make_moe: MakeMoE, toy_data: PreparedData, tmp_path: Path) -> None:
    """DuckDB and datasets; pandas and polars where they are installed."""
    table, _ = written(make_moe(top_k=2), toy_data, tmp_path)
    path, expected = str(tmp_path / "step-000003.parquet"), table.to_pydict()
    duckdb, datasets = pytest.importorskip("duckdb"), pytest.importorskip("datasets")
    found = duckdb.sql(f"select * from '{path}'")
    assert dict(zip(found.columns, map(list, zip(*found.fetchall(), strict=True)), strict=True)) == expected
    read = datasets.Dataset.from_parquet(path, cache_dir=str(tmp_path / "cache"))
    assert {name: list(read[name]) for name in read.column_names} == expected
    for library in ("pandas", "polars"):
        with suppress(ImportError):
            frame = importlib.import_module(library).read_parquet(path)
            assert list(frame["m1"]) == expected["m1"]
            assert list(frame["e1_1"]) == expected["e1_1"]


def test_tracing_leaves_no_mark(make_moe: MakeMoE, toy_data: PreparedData, tmp_path: Path) -> None:
    model = make_moe(noise_std=1.0)
    torch.manual_seed(5)
    state, weights = torch.get_rng_state(), weights_digest(model.named_parameters())
    written(model, toy_data, tmp_path, fresh_gates=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert weights_digest(model.named_parameters()) == weights
    assert not any(router._forward_pre_hooks for router in routers_of(model))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000003.parquet", "step-000003.safetensors"]


def test_more_than_256_experts_keep_their_numbers(
    dense: GPT2LMHeadModel, toy_data: PreparedData, tmp_path: Path
) -> None:
    model = upcycle(dense, MoEConfig(layers=(1,), num_experts=300, noise_std=0.0), seed=3)
    with torch.no_grad():
        gate = routers_of(model)[0].gate.weight
        gate[:290] = 0
        gate[290:] *= 10
    table, _ = written(model, toy_data, tmp_path)
    chosen = table.column("e1_0").to_numpy()
    assert chosen.max() >= 290
    assert table.schema.field("e1_0").type == pa.uint16()
