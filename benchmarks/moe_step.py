"""Training step of a dense GPT-2 against its upcycled Mixture of Experts, interleaved in one process.

    python benchmarks/moe_step.py [--rounds 30] [--threads 1] [--clock wall|cpu] [--implementation eager grouped_mm]
    python benchmarks/moe_step.py --scale gpt2 --device cuda --precision bf16

Question: what does the Mixture of Experts cost at the quickstart's scale? 4 layers × 128, vocabulary 4,096, 16 × 256
tokens a step, 8 experts in the last two layers, top-1: the same matrix products as the dense model, so what is lost is
routing, sorting and an optimiser with more parameters. Expected: at least 0.9 of the dense throughput. At GPT-2 small's
scale (12 × 768, 50,257 ids, 8 × 512 tokens, experts in the last four blocks) launches and the optimiser cost more.
On a machine that others use too, `--clock cpu` counts the process's own time.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from moe_emergence.config import MoEConfig
from moe_emergence.models.upcycle import upcycle
from moe_emergence.routing import RoutingContext

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Scale:
    """The sizes of a model and of its step."""

    layers: int
    width: int
    heads: int
    vocabulary: int
    sequences: int
    context: int


SCALES = {"quickstart": Scale(4, 128, 4, 4096, 16, 256), "gpt2": Scale(12, 768, 12, 50257, 8, 512)}


def dense_model(scale: Scale) -> GPT2LMHeadModel:
    """The dense base, freshly initialised."""
    config = GPT2Config(
        n_layer=scale.layers,
        n_embd=scale.width,
        n_head=scale.heads,
        vocab_size=scale.vocabulary,
        n_positions=scale.context,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config).train()


def training_step(
    model: torch.nn.Module, batches: list[torch.Tensor], options: argparse.Namespace, keyed: bool = False
) -> Callable[[int], float]:
    """A function of the step number that takes the step, noise keyed by it or not, and returns its seconds."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    clock, bf16 = CLOCKS[options.clock], options.precision == "bf16"

    def now() -> float:
        if options.device == "cuda":
            torch.cuda.synchronize()
        return clock()

    def run(step: int) -> float:
        batch = batches[step % len(batches)]
        routing = {}
        if keyed:
            routing["routing_context"] = RoutingContext(
                seed=1, step=step, sequence_index=torch.arange(len(batch)) + step * len(batch)
            )
        start = now()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(options.device, torch.bfloat16, enabled=bf16):
            loss = model(input_ids=batch, labels=batch, use_cache=False, **routing).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return now() - start

    return run


def compare(options: argparse.Namespace, seed: int = 0) -> dict[str, list[float]]:
    """Seconds a step for each model, one step of each in turn, after three rounds of warm-up."""
    torch.manual_seed(seed)
    scale = SCALES[options.scale]
    dense = dense_model(scale)
    shape = (scale.sequences, scale.context)
    batches = [torch.randint(0, scale.vocabulary, shape).to(options.device) for _ in range(4)]
    models = {
        f"moe {name}": upcycle(dense, MoEConfig(), seed=seed, experts_implementation=name)
        for name in options.implementation
    }
    runs = {"dense": training_step(dense.to(options.device), batches, options)}
    runs |= {n: training_step(model.to(options.device), batches, options, keyed=True) for n, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for step in range(options.rounds + 3):
        for name, run in runs.items():
            taken = run(step)
            if step >= 3:
                seconds[name].append(taken)
    return seconds


def main() -> None:
    """Print a row a model: median and quartiles of a step, tokens a second, throughput as a share of the dense one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--implementation", nargs="+", default=["eager", "grouped_mm"])
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--scale", choices=SCALES, default="quickstart")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    seconds = compare(options)
    tokens = SCALES[options.scale].sequences * SCALES[options.scale].context
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"{options.threads} thread(s)"
    print(f"torch {torch.__version__}, {where}, {options.precision}, {options.rounds} rounds, {options.clock} time")
    print(f"{'model':<16}{'median ms':>10}{'quartiles':>16}{'tokens/s':>10}{'of dense':>10}{'round by round':>24}")
    for name, times in seconds.items():
        low, median, high = statistics.quantiles(times, n=4)
        ratios = sorted(d / t for d, t in zip(seconds["dense"], times, strict=True))
        paired = f"{statistics.median(ratios):.3f} [{ratios[0]:.3f}, {ratios[-1]:.3f}]"
        share = statistics.median(seconds["dense"]) / median
        quartiles = f"{low * 1e3:.0f}–{high * 1e3:.0f}"
        print(f"{name:<16}{median * 1e3:>10.1f}{quartiles:>16}{tokens / median:>10.0f}{share:>10.3f}{paired:>24}")


if __name__ == "__main__":
    main()
