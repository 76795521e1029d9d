"""Kill a run of Hugging Face's Trainer at random moments, over and over, and see how it ends.

    python benchmarks/trainer_kills.py [--runs 40] [--seed 0]

Question: of N runs that are started again with `resume_from_checkpoint=True` after every SIGKILL, how many end with
the weights of an undisturbed run, how many can no longer be continued, and how many end otherwise? A plain GPT-2 of 2
layers × 32, 40 steps, a checkpoint every 3, two kept; kill times are uniform up to half of an undisturbed run. It is
a stress schedule, not a rate of failures in practice; `pytest tests/reliability/test_kills.py` does the same to this
project. Expected: a third to three quarters of the runs stuck, by where the kills fall; none that end otherwise.
Every attempt is forked from a process that has loaded everything, so that a kill falls into training or saving.
"""

import argparse
import collections
import contextlib
import datetime
import hashlib
import os
import random
import re
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import accelerate
import torch
import transformers
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

STEPS, EVERY, KEPT, BATCH = 40, 3, 2, 4
BLOCKS, CONTEXT, VOCABULARY = 429, 32, 320
SHARE = 0.5
"""Kill times are uniform up to this share of an undisturbed run's duration, and up to more after idle attempts."""
STUCK = 3
"""Attempts in a row that raise, and are not killed, after which a run counts as stuck for good."""
LIMIT = 120.0
"""Seconds after which an attempt is ended and counts as one that raised."""


class Tokens(Dataset):
    """Fixed random tokens."""

    def __init__(self) -> None:
        self.blocks = torch.randint(VOCABULARY, (BLOCKS, CONTEXT), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.blocks[index], "labels": self.blocks[index]}


@dataclass
class Tally:
    """What became of the runs."""

    ends: collections.Counter[str] = field(default_factory=collections.Counter)
    kills: int = 0
    last_words: collections.Counter[str] = field(default_factory=collections.Counter)


def train(folder: Path) -> None:
    """The user's script: from the newest checkpoint if there is one, else from the beginning."""
    transformers.set_seed(1)
    model = GPT2LMHeadModel(
        GPT2Config(n_layer=2, n_embd=32, n_head=2, n_positions=CONTEXT, vocab_size=VOCABULARY, bos_token_id=0)
    )
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        save_steps=EVERY,
        save_total_limit=KEPT,
        per_device_train_batch_size=BATCH,
        learning_rate=2e-3,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Tokens())
    trainer.train(resume_from_checkpoint=any(folder.glob("checkpoint-*")))
    (folder / "sha256").write_text(digest(model))


def digest(model: torch.nn.Module) -> str:
    """sha256 of all weights."""
    tensors = (tensor.detach().numpy().tobytes() for _, tensor in sorted(model.named_parameters()))
    return hashlib.sha256(b"".join(tensors)).hexdigest()


def attempt(folder: Path, kill_after: float | None = None) -> int:
    """Train in a forked child; its exit code, or minus the signal that ended it."""
    folder.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child == 0:
        _live(folder)
    deadline = time.monotonic() + (LIMIT if kill_after is None else kill_after)
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _live(folder: Path) -> None:
    """A child's whole life; what it raises is left in `last-words`."""
    code = 1
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        train(folder)
        code = 0
    except BaseException as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        (folder / "last-words").write_text(words.replace(str(folder), "RUN"))
    finally:
        os._exit(code)


def undisturbed(place: Path) -> tuple[float, str]:
    """Seconds of the fastest of three runs without a kill, and the sha256 of the weights they all end with."""
    seconds, ends = [], set()
    for number in range(3):
        folder, begun = place / f"undisturbed-{number}", time.monotonic()
        if attempt(folder) != 0:
            sys.exit("an undisturbed run failed: " + (folder / "last-words").read_text())
        seconds.append(time.monotonic() - begun)
        ends.add((folder / "sha256").read_text())
    if len(ends) > 1:
        sys.exit("undisturbed runs end with different weights: there is nothing to compare with")
    return min(seconds), ends.pop()


def until_it_ends(folder: Path, duration: float, whole: str, draw: random.Random, tally: Tally) -> str:
    """Start again after every kill: `bit-equal`, `different`, or `stuck`."""
    raised, idle, saved = 0, 0, newest(folder)
    while raised < STUCK:
        longest = SHARE * duration * (1 + idle)  # more where the machine is busy and a run gets no further
        status = attempt(folder, None if raised else draw.uniform(0, longest))  # in peace after an error
        idle, saved = (idle + 1 if newest(folder) == saved else 0), newest(folder)
        if status == 0:
            return "bit-equal" if (folder / "sha256").read_text() == whole else "different"
        tally.kills += status == -signal.SIGKILL
        raised += status > 0
    tally.last_words[_kind((folder / "last-words").read_text())] += 1
    return "stuck"


def newest(folder: Path) -> int:
    """The step of the newest checkpoint, whole or not."""
    return max((int(path.name.rpartition("-")[2]) for path in folder.glob("checkpoint-*")), default=0)


def _kind(words: str) -> str:
    """An error without the number of the checkpoint in it."""
    return re.sub(r"checkpoint-\d+", "checkpoint-N", words)[:110]


def main() -> None:
    """Print one line of results, and what the stuck runs said."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    draw, tally, began = random.Random(given.seed), Tally(), time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        with contextlib.redirect_stdout(sys.stderr):
            train(Path(place) / "warm-up")  # what is slow once in a process
        duration, whole = undisturbed(Path(place))
        for number in range(given.runs):
            end = until_it_ends(Path(place) / str(number), duration, whole, draw, tally)
            tally.ends[end] += 1
            print(f"run {number + 1} of {given.runs}: {end}, {tally.kills} SIGKILLs so far", file=sys.stderr)
    ends = ", ".join(f"{tally.ends[end]} of {given.runs} {end}" for end in ("bit-equal", "stuck", "different"))
    versions = (
        f"transformers {transformers.__version__}, accelerate {accelerate.__version__}, torch {torch.__version__}"
    )
    print(f"{datetime.date.today()}, {versions}: {ends}; {tally.kills} SIGKILLs, {time.monotonic() - began:.0f} s")
    for words, count in tally.last_words.most_common():
        print(f"  {count} × {words}")


if __name__ == "__main__":
    main()
