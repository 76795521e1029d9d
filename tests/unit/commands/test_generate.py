"""`generate` and `upcycle` on a model of a few thousand parameters."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from moe_emergence import cli
from moe_emergence.commands.arguments import Arguments
from moe_emergence.commands.generate import continued
from moe_emergence.config import MoEConfig, RunConfig, to_dict
from moe_emergence.data.corpora import make_corpus
from moe_emergence.data.documents import Document
from moe_emergence.data.tokenizer import train_tokenizer
from moe_emergence.models.upcycle import upcycle
from moe_emergence.training.checkpoint import save_checkpoint
from moe_emergence.training.tensors import model_tensors, optimizer_tensors
from moe_emergence.training.trained import load_trained

torch.set_num_threads(1)
CONTEXT = 24


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["the whale and the sea", "def f(x): return x"], vocab_size=300)


@pytest.fixture
def base(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    torch.manual_seed(0)
    size = tokenizer.get_vocab_size()
    config = GPT2Config(vocab_size=size, n_positions=CONTEXT, n_embd=8, n_layer=3, n_head=2, initializer_range=0.5)
    config.bos_token_id = config.eos_token_id = 0
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    tokenizer.save(str(tmp_path / "base" / "tokenizer.json"))
    return tmp_path / "base"


@pytest.fixture(autouse=True)
def _small_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [
        Document(
            id=f"{d}/{n}",
            domain=d,
            source="s",
            licence="MIT",
            text=" ".join(f"{d}{n * 7919 % 1009}x{w}" for w in range(30)),
        )
        for d in ("a", "b")
        for n in range(40)
    ]
    corpus = make_corpus("small", documents, embedded=False)
    monkeypatch.setattr("moe_emergence.data.corpora.load_corpus", lambda name="embedded": corpus)


def _options(prompt: str, **changed: object) -> Arguments:
    return Arguments({"prompt": prompt, "max_new_tokens": 5, "temperature": 0.0, "seed": 0} | changed, {})


def test_upcycle_writes_a_model_for_transformers_with_its_receipt(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "moe"
    assert cli.main(["upcycle", "--base", str(base), "--out", str(out), "--moe.layers", "1,2", "--moe.top_k", "2"]) == 0
    receipt = json.loads((out / "receipt.json").read_text())
    assert receipt["moe"]["layers"] == [1, 2]
    assert receipt["receipt"]["relative_logit_difference"] < 0.1
    assert "relative logit difference" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(out)
    assert (model.config.moe_layers, model.config.num_experts_per_tok) == ([1, 2], 2)
    assert (
        AutoTokenizer.from_pretrained(out).decode(AutoTokenizer.from_pretrained(out)("the sea").input_ids) == "the sea"
    )
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_upcycle_overwrites_nothing(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.name for path in base.iterdir())
    assert cli.main(["upcycle", "--base", str(base), "--out", str(base)]) == 2
    assert "is already used" in capsys.readouterr().err
    assert sorted(path.name for path in base.iterdir()) == before


def test_a_place_that_cannot_be_written_is_a_mistake(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.main(["upcycle", "--base", str(base), "--out", str(base / "config.json" / "moe"), "--moe.layers", "1"]) == 2
    )
    said = capsys.readouterr().err
    assert said.startswith(f"error: cannot write the model to {base / 'config.json' / 'moe'}: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--moe.layers", "3"], "moe.layers must lie between 0 and 2 (the model has 3 blocks); got 3"),
        (["--moe.top_k", "9"], "moe.top_k must lie between 1 and moe.num_experts (8); got 9"),
    ],
)
def test_upcycle_refuses_what_does_not_fit(
    arguments: list[str], message: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["upcycle", "--base", str(base), "--out", str(tmp_path / "moe"), *arguments]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not (tmp_path / "moe").exists()


def test_the_experts_shown_are_those_the_model_used(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "moe"
    cli.main(["upcycle", "--base", str(base), "--out", str(out), "--moe.layers", "0,2", "--moe.top_k", "2"])
    model, tokenizer = load_trained(out)
    tokens = continued(model, tokenizer, _options("the whale"))
    prompt = tokenizer.encode("the whale").ids
    assert [token.generated for token in tokens] == [False] * len(prompt) + [True] * 5
    assert "".join(token.text for token in tokens).startswith("the whale")
    ids = model.generate(torch.tensor([prompt]), max_new_tokens=5, do_sample=False, pad_token_id=0)
    for end in range(1, len(tokens) + 1):  # as each token was when it was the last
        for route in model(input_ids=ids[:, :end]).routes:
            assert tuple(route.topk_indices[-1].tolist()) == tokens[end - 1].experts[route.layer_idx]


def test_a_run_gives_its_newest_checkpoint(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moe = MoEConfig(layers=(1,), num_experts=4)
    model = upcycle(GPT2LMHeadModel.from_pretrained(base), moe, seed=0)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps(to_dict(RunConfig(base=str(base), moe=moe))))
    optimizer = torch.optim.AdamW(
        [{"params": list(model.parameters()), "names": [n for n, _ in model.named_parameters()]}]
    )
    for step in (3, 5):
        weights, moments = model_tensors(model), optimizer_tensors(optimizer)
        save_checkpoint(run / "checkpoints", model.config, weights, moments, {"step": step})
    for folder in (run, run / "checkpoints" / "step-000003"):
        assert cli.main(["generate", str(folder), "the sea", "--max-new-tokens", "2"]) == 0
        assert capsys.readouterr().out.count("\n+ ") == 2
    weights = run / "checkpoints" / "step-000005" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert cli.main(["generate", str(run), "the sea"]) == 2
    assert f"error: {weights} is damaged" in capsys.readouterr().err


def test_a_dense_model_generates_too(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", str(base), "the", "--max-new-tokens", "2"]) == 0
    assert capsys.readouterr().out.endswith("(a dense model: no experts)\n")


def test_equal_seeds_draw_equal_tokens(base: Path) -> None:
    model, tokenizer = load_trained(base)
    texts = [
        "".join(t.text for t in continued(model, tokenizer, _options("the", temperature=1.0, seed=seed)))
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_an_empty_prompt_opens_a_document(base: Path) -> None:
    model, tokenizer = load_trained(base)
    tokens = continued(model, tokenizer, _options(""))
    assert [token.generated for token in tokens] == [False, *[True] * 5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["the", "--max-new-tokens", "0"], "--max-new-tokens must be at least 1; got 0"),
        (["the", "--temperature", "-1"], "--temperature must be at least 0; got -1.0"),
        (["the", "--max-new-tokens", "24"], "are more than the model's context of 24: shorten one of them"),
        (["the", "--max_new_tokens", "24"], "there is no option --max_new_tokens. Did you mean --max-new-tokens?"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["generate", str(base), *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_a_folder_without_a_model_is_refused(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert cli.main(["generate", str(tmp_path), "the"]) == 2
    said = capsys.readouterr().err
    assert str(tmp_path) in said
    assert said.count("\n") == 1


def test_damaged_weights_are_refused(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (base / "model.safetensors").write_bytes(b"no tensors")
    assert cli.main(["generate", str(base), "the"]) == 2
    assert "cannot load the model" in capsys.readouterr().err
