"""An engine for one process adds nothing to what torch does; impossible requests are refused at the start."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from moe_emergence.errors import ConfigError
from moe_emergence.training import engine as module
from moe_emergence.training.engine import Engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    started = Engine.start("cpu", "fp32", "ddp")
    yield started
    started.close()


def model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=8, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config).eval()


def backward(network: nn.Module) -> None:
    tokens = torch.arange(1, 9).view(1, 8)
    network(input_ids=tokens, labels=tokens).loss.backward()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_one_process_is_alone(parallel: str) -> None:
    engine = Engine.start("auto", "fp32", parallel)
    assert (engine.rank, engine.world_size, engine.is_main) == (0, 1, True)
    assert not torch.distributed.is_initialized()
    engine.close()
    engine.close()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_the_model_stays_as_it_is(precision: str, parallel: str) -> None:
    engine, dense = Engine.start("cpu", precision, parallel), model()
    parameters = list(dense.parameters())
    assert engine.wrap(dense) is dense
    assert type(dense) is GPT2LMHeadModel
    assert "forward" not in vars(dense)
    assert all(a is b for a, b in zip(parameters, dense.parameters(), strict=True))


def test_precision_is_chosen_anew_each_time() -> None:
    for precision, expected in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp32", torch.float32)):
        engine = Engine.start("cpu", precision, "ddp")
        with engine.autocast():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected
        assert engine.precision == precision


def test_a_forward_without_graph_leaves_gradients_to_the_next() -> None:
    """Though autocast keeps cast weights, and those of the first have none."""
    engine, dense = Engine.start("cpu", "bf16", "ddp"), model()
    with engine.autocast():
        with torch.no_grad():
            dense(input_ids=torch.arange(8).view(1, 8))
        backward(dense)
    assert all(parameter.grad is not None for parameter in dense.parameters())


def test_clipping_is_torchs_own(engine: Engine) -> None:
    ours, theirs = model(), model()
    for network in (ours, theirs):
        backward(network)
    norm = engine.clip_gradients(engine.wrap(ours), 0.1)
    assert norm == float(nn.utils.clip_grad_norm_(theirs.parameters(), 0.1))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_nothing_is_exchanged(engine: Engine) -> None:
    rows = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.equal(engine.mean(rows), rows)
    assert torch.equal(engine.gather(rows), rows)
    assert not engine.mean(rows).requires_grad
    assert not engine.gather(rows).requires_grad
    assert engine.gather(torch.tensor(2.0)).tolist() == [2.0]
    assert [engine.any(False), engine.any(True)] == [False, True]
    assert engine.slice_of(7) == slice(0, 7)
    with engine.no_sync(nn.Linear(1, 1)):
        pass


def test_the_main_process_gets_the_very_value(engine: Engine) -> None:
    value = object()  # which could not be sent
    assert engine.on_main(lambda: value) is value
    with pytest.raises(ZeroDivisionError):
        engine.on_main(lambda: 1 / 0)


def test_whole_tensors_are_whole(engine: Engine) -> None:
    parameter = nn.Parameter(torch.rand(3, 2))
    full = engine.full(parameter)
    assert torch.equal(full, parameter)
    assert not full.requires_grad
    assert torch.equal(engine.like(full, parameter), parameter)
    assert engine.like(torch.tensor(3.0), parameter).shape == ()


def test_a_share_must_be_even(engine: Engine) -> None:
    engine.world_size, engine.rank = 4, 2
    assert engine.slice_of(8) == slice(4, 6)
    with pytest.raises(ConfigError, match=r"6 sequences do not divide among 4 processes.*multiple of 4"):
        engine.slice_of(6)


@pytest.mark.parametrize(
    ("environment", "device", "message"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "auto", "asks for DeepSpeed: launch without it"),
        ({"ACCELERATE_USE_FSDP": "true"}, "auto", "asks for FSDP: .* execution.parallel"),
        ({"ACCELERATE_USE_CPU": "True"}, "cuda", "leaves no place for execution.device 'cuda'"),
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, "mps", "mps serves one process"),
        ({"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, "cuda", "4 processes .* 1 CUDA devices"),
    ],
)
def test_what_cannot_be_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], device: str, message: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(module, "choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=message):
        Engine.start("cpu" if device == "auto" else device, "fp32", "ddp")


def test_cpus_are_taken_where_the_launcher_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(module, "choose_device", lambda name: torch.device("cuda" if name == "auto" else name))
    assert Engine.start("auto", "fp32", "ddp").device == torch.device("cpu")


def test_a_precision_the_device_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise ValueError("bf16 needs another device")

    monkeypatch.setattr(module, "Accelerator", refuse)
    with pytest.raises(ConfigError, match=r"'bf16', which cpu cannot do \(bf16 needs another device\): choose fp32"):
        Engine.start("cpu", "bf16", "ddp")
