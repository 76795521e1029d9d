"""A process that has loaded torch and the toy data once, and forks a child for every attempt at a run.

Reads a request a line on stdin, answers a line on stdout; see `harness.Zygote`, which starts it.
"""

import json
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import faults
import torch
from board import Board

from moe_emergence import cli
from moe_emergence.config import from_dict
from moe_emergence.data.blocks import prepare
from moe_emergence.data.corpora import load_corpus
from moe_emergence.errors import Interrupted, MoEEmergenceError
from moe_emergence.models.base import load_tokenizer
from moe_emergence.tracking.console import RunConsole
from moe_emergence.training import evaluation, loop, trace

torch.set_num_threads(1)
evaluation.BATCH = trace.BATCH = 4  # several forward passes in each look, to be stopped between


class Attempts:
    """Runs requests on data prepared once."""

    def __init__(self, first: dict[str, Any]) -> None:
        config = from_dict(first)
        self.data = prepare(load_corpus(config.data.corpus), load_tokenizer(config.base), config.data)
        self.board = Board()
        self.train = loop.train

    def warm_up(self, configs: list[dict[str, Any]]) -> None:
        """Pay for what is slow once in a process."""
        for values in configs:
            with tempfile.TemporaryDirectory() as folder:
                self.train(from_dict(values), Path(folder) / "run", data=self.data, console=RunConsole(quiet=True))

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Fork a child, kill it when asked to or when it takes too long, and say how it ended."""
        self.board.clear()
        began = time.monotonic()
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as error:
            child = os.fork()
            if child == 0:
                self._live(request, output.fileno(), error.fileno())
            status = self._await(child, request, began)
            return {
                "status": status,
                "seconds": time.monotonic() - began,
                "phase": self.board.phase,
                "operations": self.board.get("operations"),
                "forwards": self.board.get("forwards"),
                "output": _content(output),
                "error": _content(error),
            }

    def _await(self, child: int, request: dict[str, Any], began: float) -> int:
        deadline = began + request.get("limit", 240)
        killed = None if request.get("kill_after") is None else began + request["kill_after"]
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            now = time.monotonic()
            if killed is not None and now >= killed:
                if not request.get("kill_in_save") or self._in_save(child, request):
                    os.kill(child, signal.SIGKILL)
                killed = None
            elif now > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return -1000
            time.sleep(min(0.002, max(0.0, (killed or deadline) - now)))

    def _in_save(self, child: int, request: dict[str, Any]) -> bool:
        """Wait for a save and a moment within it, an earlier one after each save that was over by then.

        False where the child ends before.
        """
        delay = request["kill_in_save"]
        while not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if self.board.phase == "save":
                time.sleep(delay)
                if self.board.phase == "save":
                    return True
                delay /= 2
            time.sleep(0.0003)
        return False

    def _live(self, request: dict[str, Any], output: int, error: int) -> None:
        """The child's whole life."""
        code = 1
        try:
            os.dup2(output, 1)
            os.dup2(error, 2)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if request.get("data", "shared") == "shared":
                loop.train = self._train_on_shared_data
            for module in request.get("imports", ()):
                __import__(module)
            faults.plant(request.get("fault"), self.board, request["folder"])
            code = self._carry_out(request)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _train_on_shared_data(self, *arguments: Any, **options: Any) -> Any:
        return self.train(*arguments, **({"data": self.data} | options))

    def _carry_out(self, request: dict[str, Any]) -> int:
        if request.get("command"):
            return cli.main(request["command"])
        try:
            loop.train(from_dict(request["config"]), Path(request["folder"]), resume=True, console=RunConsole())
        except MoEEmergenceError as error:
            print(error, file=sys.stderr)
            return 75 if isinstance(error, Interrupted) else 2
        return 0


def _content(file: Any) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def main() -> None:
    """Serve until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print must not disturb the answers
    first = json.loads(sys.stdin.readline())
    attempts = Attempts(first["configs"][0])
    attempts.warm_up(first["configs"])
    print(json.dumps({"ready": True, "package": cli.__file__}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(attempts.answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
