"""The command line: finds the command, and says in one line what went wrong when the user can mend it.

A command's own module is imported when it is called, and heavy packages within it when it works: `--help` stays quick.
"""

import difflib
import errno
import importlib
import os
import sys
from collections.abc import Sequence

from moe_emergence import __version__
from moe_emergence.errors import ConfigError, Interrupted, MoEEmergenceError

COMMANDS = {
    "quickstart": "train five arms from the embedded base, then write tables and a page: the main job",
    "suite": "train the arms of a suite, or say what they would cost",
    "train": "train, continue or fork one run",
    "pretrain-base": "train a dense base from nothing, on training documents only",
    "upcycle": "turn a dense model into a Mixture of Experts, ready for transformers",
    "analyze": "measure a suite's runs against their nulls; tables as Parquet and JSON, verdicts in words",
    "report": "write a suite's report.html anew",
    "explore": "serve a page on this machine that routes, continues and knocks out experts on text you type",
    "generate": "continue a prompt and show which experts each token used",
    "data": "show a corpus: documents, tokens, licences, cleaning, how far format gives domains away",
}
MISTAKE, UNFINISHED, INTERRUPTED = 2, 75, 130
"""Exit codes: the user can mend it; stopped on request and can be continued (EX_TEMPFAIL); Ctrl-C with nothing kept."""

_DISK = {
    errno.ENOSPC: "free some space, or choose another folder",
    errno.EDQUOT: "free some space, or choose another folder",
    errno.EACCES: "choose a folder you may use",
    errno.EPERM: "choose a folder you may use",
    errno.EROFS: "choose a folder you may use",
    errno.ENOTDIR: "choose a folder",
    errno.EISDIR: "choose a file",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the process' exit code."""
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except Interrupted as stop:
        return _end(str(stop), UNFINISHED)
    except MoEEmergenceError as mistake:
        return _end(f"error: {mistake}", MISTAKE)
    except KeyboardInterrupt:
        return _end("interrupted", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has gone, as in `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        trouble = disk_trouble(error)
        if trouble is None:
            raise
        return _end(f"error: {trouble}", MISTAKE)


def _run(arguments: list[str]) -> int:
    if not arguments:
        print(usage(), file=sys.stderr)
        return MISTAKE
    command, *rest = arguments
    if command in ("-h", "--help", "help"):
        print(usage())
    elif command == "--version":
        print(f"moe-emergence {__version__}")
    else:
        _call(command, rest)
    sys.stdout.flush()  # a reader that has gone shows here, not after the end
    return 0


def _call(command: str, arguments: list[str]) -> None:
    if command not in COMMANDS:
        begun = [name for name in COMMANDS if name.startswith(command)]
        near = begun or difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Choose from {', '.join(COMMANDS)}."
        raise ConfigError(f"there is no command {command!r}. {hint}")
    module = importlib.import_module(f"moe_emergence.commands.{command.replace('-', '_')}")
    try:
        module.run(arguments)
    except SystemExit as end:  # how `--help` ends inside the parser
        if end.code:
            raise


def usage() -> str:
    """What `--help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(
        [
            "usage: moe-emergence COMMAND [options]",
            "",
            "Do the experts of a Mixture of Experts really specialise?",
            "",
            *lines,
            "",
            "moe-emergence COMMAND --help shows a command's options; moe-emergence --version the version.",
        ]
    )


def disk_trouble(error: Exception) -> str | None:
    """One line on a full or forbidden disk, with the path; None for any other error."""
    if isinstance(error, OSError) and error.errno in _DISK:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}: {_DISK[error.errno]}"
    if "No space left on device" in str(error):  # safetensors and Arrow have errors of their own for it
        return f"{_one_line(str(error))}: {_DISK[errno.ENOSPC]}"
    return None


def _end(message: str, code: int) -> int:
    print(_one_line(message), file=sys.stderr)
    return code


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
