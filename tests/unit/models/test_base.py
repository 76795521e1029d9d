"""The dense base: read from a directory, whole and of the right kind, or refused in one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from moe_emergence.errors import ModelError, MoEEmergenceError
from moe_emergence.models import base as module
from moe_emergence.models.base import GPT2_REVISION, load_base, load_tokenizer, weights_digest


@pytest.fixture
def folder(toy_base: Path, tmp_path: Path) -> Path:
    """A copy of the toy base, for a test to damage."""
    shutil.copytree(toy_base, tmp_path / "base")
    return tmp_path / "base"


def refused(folder: Path | str, *words: str) -> None:
    with pytest.raises(MoEEmergenceError) as refusal:
        load_base(str(folder))
    assert "\n" not in str(refusal.value)
    for word in (str(folder), *words):
        assert word in str(refusal.value)


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | values), "utf-8")


def test_a_directory_is_read_whole(toy_base: Path) -> None:
    base = load_base(str(toy_base))
    stored = load_file(toy_base / "model.safetensors")
    assert base.name == str(toy_base)
    assert base.digest == weights_digest(base.model.named_parameters())
    assert all(torch.equal(p, stored[name]) for name, p in base.model.named_parameters())
    assert base.model.lm_head.weight is base.model.transformer.wte.weight
    assert base.tokenizer.get_vocab() == Tokenizer.from_file(str(toy_base / "tokenizer.json")).get_vocab()


def test_half_precision_is_read_as_single(toy_base: Path, folder: Path) -> None:
    """The embedded base may be shipped so."""
    stored = load_file(folder / "model.safetensors")
    save_file({n: t.half() for n, t in stored.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    change(folder / "config.json", dtype="float16")
    model = load_base(str(folder)).model
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(torch.equal(p, stored[name].half().float()) for name, p in model.named_parameters())


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", "no config.json there", "give embedded, gpt2, or a model's directory")
    refused("gpt3", "no config.json there")


def test_another_architecture_is_refused(tmp_path: Path, toy_base: Path) -> None:
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    shutil.copy(toy_base / "tokenizer.json", tmp_path / "llama")
    refused(tmp_path / "llama", "llama", "gpt2")


def test_a_missing_tensor_is_refused_by_name(folder: Path) -> None:
    """transformers would draw it at random."""
    stored = load_file(folder / "model.safetensors")
    del stored["transformer.h.1.mlp.c_fc.weight"]
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, "transformer.h.1.mlp.c_fc.weight")


def test_a_tensor_of_another_shape_is_refused_by_name(folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    stored["transformer.h.0.ln_1.bias"] = torch.zeros(31)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, "transformer.h.0.ln_1.bias")


def test_weights_in_pickle_are_refused(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    refused(folder, "model.safetensors")


@pytest.mark.parametrize(("name", "content"), [("config.json", "{"), ("tokenizer.json", "{"), ("tokenizer.json", "{}")])
def test_a_damaged_file_is_refused(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    refused(folder)


def test_a_missing_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    refused(folder, "tokenizer")


def test_damaged_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    refused(folder)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused_with_both(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder))
    size = tokenizer.get_vocab_size()
    tokenizer.add_tokens(["one more"])
    tokenizer.save(str(folder / "tokenizer.json"))
    refused(folder, f"ids up to {size}", f"has {size} token embeddings")


def test_a_tokenizer_s_own_limits_do_not_cut_or_pad_documents(folder: Path) -> None:
    """`tokenizer.json` may ask for truncation to the context, or for padding."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(folder / "tokenizer.json"))
    text = "the whale sea and captain " * 20
    whole = load_tokenizer(str(folder)).encode(text).ids
    assert load_tokenizer(str(folder)).decode(whole) == text


def test_gpt2_is_pinned_and_asks_for_nothing_unsafe(monkeypatch: pytest.MonkeyPatch, toy_base: Path) -> None:
    asked: dict[str, Any] = {}

    def from_pretrained(where: str, **options: Any) -> Any:
        asked.update(options, where=where)
        return real(str(toy_base), config=options["config"], output_loading_info=True)

    def get_config_dict(where: str, **options: Any) -> Any:
        assert (where, options["revision"]) == ("openai-community/gpt2", GPT2_REVISION)
        return json.loads((toy_base / "config.json").read_text()), {}

    real = GPT2LMHeadModel.from_pretrained
    monkeypatch.setattr(GPT2Config, "get_config_dict", get_config_dict)
    monkeypatch.setattr(GPT2LMHeadModel, "from_pretrained", from_pretrained)
    monkeypatch.setattr(module, "load_tokenizer", lambda name: load_tokenizer(str(toy_base)))
    load_base("gpt2")
    assert (asked["where"], asked["revision"]) == ("openai-community/gpt2", GPT2_REVISION)
    assert len(GPT2_REVISION) == 40
    assert asked["use_safetensors"] is True
    assert asked["trust_remote_code"] is False


def test_the_hub_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> Any:
        raise OSError("We couldn't connect to 'https://huggingface.co'\nCheckout your internet connection")

    monkeypatch.setattr(GPT2Config, "get_config_dict", unreachable)
    monkeypatch.setattr(GPT2LMHeadModel, "from_pretrained", unreachable)
    with pytest.raises(ModelError) as refusal:
        load_base("gpt2")
    assert str(refusal.value).startswith("cannot load the base 'gpt2': We couldn't connect")
    assert "\n" not in str(refusal.value)


# The digest


def test_the_digest_is_of_names_types_shapes_and_bytes() -> None:
    tensors = {"a": torch.arange(6.0), "b": torch.zeros(2, 3)}
    changes = [
        {"a": torch.arange(6.0) + 1e-7, "b": tensors["b"]},
        {"a": tensors["a"], "c": tensors["b"]},
        {"a": tensors["a"], "b": torch.zeros(3, 2)},
        {"a": tensors["a"], "b": torch.zeros(2, 3, dtype=torch.int32)},
        {"a": tensors["a"]},
        {"a": torch.tensor(1.0), "b": tensors["b"]},
        {"a": torch.empty(0), "b": tensors["b"]},
    ]
    digests = {weights_digest(changed.items()) for changed in (tensors, *changes)}
    assert len(digests) == len(changes) + 1


def test_the_digest_ignores_order_and_layout() -> None:
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2)}
    turned = {"b": torch.ones(2), "a": torch.arange(6.0).view(2, 3).t().contiguous().t()}
    assert weights_digest(tensors.items()) == weights_digest(turned.items())
