"""`explore`: a page on this machine that routes whatever text is typed into it."""

from collections.abc import Sequence
from pathlib import Path

from moe_emergence.commands.arguments import Command
from moe_emergence.errors import ConfigError


def command() -> Command:
    """What `explore` takes."""
    explore = Command(
        "explore",
        "Serve a page, on this machine alone, that shows which experts any typed text goes to at every step the run "
        "kept, continues it, and switches experts off.",
    )
    explore.position("run", "a run's folder, as in runs/quickstart/moe/seed-42")
    explore.option("port", int, 8765, "of 127.0.0.1; 0 takes any that is free")
    return explore


def run(arguments: Sequence[str]) -> None:
    """Serve until Ctrl-C."""
    given = command().parse(arguments)
    if not 0 <= given["port"] < 1 << 16:
        raise ConfigError(f"--port must lie between 0 and {(1 << 16) - 1}; got {given['port']}")

    try:
        from moe_emergence.explore.server import listening, serve
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in ("starlette", "uvicorn"):
            raise
        raise ConfigError(
            f"explore needs {library}, which is not installed: pip install 'moe-emergence[explore]'"
        ) from None
    from moe_emergence.explore.explorer import Explorer
    from moe_emergence.explore.run import open_run

    explorer = Explorer(open_run(Path(given["run"])))
    opened = listening(given["port"])
    address, port = opened.getsockname()
    print(f"http://{address}:{port}  (Ctrl-C ends it)", flush=True)
    serve(explorer, opened)
