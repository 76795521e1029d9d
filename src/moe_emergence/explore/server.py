"""The server: on this machine's loopback alone, and nothing that it serves is found by a name from outside."""

import socket
import textwrap
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moe_emergence.analysis.fields import Fields
from moe_emergence.errors import ConfigError, MoEEmergenceError
from moe_emergence.explore.asked import LARGEST_BODY, asked, asked_to_continue, parsed
from moe_emergence.explore.explorer import Explorer
from moe_emergence.explore.page import CONTENT_SECURITY_POLICY, page_of, static_files

HOST = "127.0.0.1"
HOSTS = [HOST, "localhost"]
"""Names under which a browser may ask: a page elsewhere whose own name was made to mean this machine has another."""
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def application(explorer: Explorer) -> Starlette:
    """What answers a browser."""
    page = page_of(explorer)
    files = static_files(explorer.shape.experts)

    def read(fields: Fields) -> dict[str, Any]:
        return explorer.read(asked(fields, explorer.run, explorer.shape))

    def go_on(fields: Fields) -> dict[str, Any]:
        return explorer.go_on(asked(fields, explorer.run, explorer.shape), asked_to_continue(fields))

    return Starlette(
        routes=[
            Route("/", _constant("text/html", page)),
            *(Route(path, _constant(*file)) for path, file in files.items()),
            Route("/read", _answering(read), methods=["POST"]),
            Route("/continue", _answering(go_on), methods=["POST"]),
        ],
        middleware=[Middleware(_WithHeaders), Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)],
        exception_handlers={HTTPException: _refused, MoEEmergenceError: _mistaken, Exception: _failed},
    )


def listening(port: int) -> socket.socket:
    """A socket on the loopback alone; port 0 takes any that is free.

    Raises:
        ConfigError: the port is taken, or may not be used.
    """
    taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((HOST, port))
        taken.listen()
    except OSError as error:
        taken.close()
        raise ConfigError(
            f"port {port} of {HOST} cannot be used ({error.strerror}): give another one with --port, or --port 0 for "
            "any that is free"
        ) from None
    return taken


def serve(explorer: Explorer, opened: socket.socket) -> None:
    """Answer until Ctrl-C."""
    with opened, suppress(KeyboardInterrupt):
        uvicorn.Server(configuration(explorer)).run(sockets=[opened])


def configuration(explorer: Explorer) -> uvicorn.Config:
    """How the server runs: it says nothing but errors, of itself to nobody, and gives requests 2 s to end."""
    return uvicorn.Config(
        application(explorer),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=2,
    )


def _constant(media_type: str, content: str) -> Callable[[Request], Any]:
    body = content.encode()

    async def answer(request: Request) -> Response:
        return Response(body, media_type=media_type)

    return answer


def _answering(work: Callable[[Fields], dict[str, Any]]) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        fields = parsed(await _body(request))
        return JSONResponse(await run_in_threadpool(work, fields))

    return answer


async def _body(request: Request) -> bytes:
    """The body, refused as soon as it is known to be too large, and unless it says that it is JSON: a form of another
    site cannot."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "the request must be JSON (Content-Type: application/json)")
    body = bytearray()
    length = request.headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and int(length[:20]) > LARGEST_BODY:
        raise _too_large(int(length[:20]))
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_BODY:
            raise _too_large(len(body))
    return bytes(body)


def _too_large(size: int) -> HTTPException:
    return HTTPException(413, f"the text is too long: {size:,} bytes or more, where {LARGEST_BODY:,} can be sent")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _mistaken(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": textwrap.shorten(str(error), 300, placeholder="…")}, 400)


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "this is a defect of moe-emergence: its terminal shows where"}, 500)


class _WithHeaders:
    """Adds the headers that every answer has."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self.app(scope, receive, send_with_headers)
