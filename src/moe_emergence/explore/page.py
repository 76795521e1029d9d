"""What a browser is served: one page, its style and two scripts, read once and kept in memory."""

from dataclasses import asdict
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from moe_emergence.explore.asked import LARGEST_BODY
from moe_emergence.explore.explorer import Explorer
from moe_emergence.report.passages import style_rules
from moe_emergence.report.visible import visible

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


def page_of(explorer: Explorer) -> str:
    """The page of one run."""
    environment = Environment(
        loader=PackageLoader("moe_emergence.explore"),
        autoescape=select_autoescape(enabled_extensions=("j2",), default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("explore.html.j2").render(facts=_facts(explorer))


def static_files(experts: int) -> dict[str, tuple[str, str]]:
    """Path to (media type, content) of all there is beside the page."""
    style = [_read("report", "templates/style.css"), _read("report", "static/tokens.css")]
    style += [style_rules(experts), _read("explore", "static/explore.css")]
    return {
        "/static/explore.css": ("text/css", "\n".join(style)),
        "/static/tokens.js": ("text/javascript", _read("report", "static/tokens.js")),
        "/static/explore.js": ("text/javascript", _read("explore", "static/explore.js")),
    }


def _facts(explorer: Explorer) -> dict[str, Any]:
    run = explorer.run
    of_run = {"name": visible(run.name), "steps": run.steps, "finished": run.finished}
    return of_run | asdict(explorer.shape) | {"largest_body": LARGEST_BODY}


def _read(package: str, name: str) -> str:
    return (resources.files(f"moe_emergence.{package}") / name).read_text("utf-8")
