"""The page's server: loopback only, nothing written, no network access."""

import asyncio
import dataclasses
import json
import webbrowser
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import resources
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from atlf_jax.config import from_dict
from atlf_jax.data.picture import LARGEST_FILE, read_slice
from atlf_jax.demo.trial import HEADS, Choice, Superseded, as_page, error_as_page, expected_error, run
from atlf_jax.masks import MASKS
from atlf_jax.trained.files import shipped

__all__ = ["HOST", "application", "serve"]

HOST = "127.0.0.1"
MAX_PICTURES = 8  # uploaded pictures that are kept in memory
FRACTIONS = {field.name for field in dataclasses.fields(Choice) if field.type is float}
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


def application() -> Starlette:
    """Return the web application; every page open at the same time shares its memory of uploaded pictures."""
    worker = ThreadPoolExecutor(1)  # one computation at a time: a CPU is busy with one
    pictures: OrderedDict[str, np.ndarray] = OrderedDict()
    waiting: set[object] = set()  # requests for images: they go before expected errors

    async def page(_: Request) -> Response:
        html = resources.files("atlf_jax.demo").joinpath("page.html").read_text(encoding="utf-8")
        settings = {"masks": list(MASKS), "networks": list(shipped()), "heads": len(HEADS)}
        return HTMLResponse(html.replace("{}/*settings*/", json.dumps(settings)), headers=_headers())

    async def upload(request: Request) -> Response:
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > LARGEST_FILE:
                return _refusal(f"the file is above {LARGEST_FILE >> 20} MiB; cut it to fewer slices")
        try:
            place = float(request.query_params.get("place", "0.5"))
            is_ct = request.query_params.get("kind") == "ct"
            image = await run_in_threadpool(read_slice, bytes(content), place=min(max(place, 0), 1), ct=is_ct)
        except ValueError as error:
            return _refusal(str(error))
        name = str(1 + max(map(int, pictures), default=0))
        pictures[name] = image
        while len(pictures) > MAX_PICTURES:
            pictures.popitem(last=False)
        return JSONResponse({"id": name}, headers=_headers())

    def answer(compute: Callable[..., dict[str, Any]]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            try:
                values = await request.json()
                own = {kind: pictures[str(values.pop(kind))] for kind in ("mr", "ct_picture") if values.get(kind)}
                values = {
                    name: float(value) if name in FRACTIONS and isinstance(value, int) else value  # JSON has 4 for 4.0
                    for name, value in values.items()
                    if name not in ("mr", "ct_picture")
                }
                choice = from_dict(Choice, values, where="choice")
                call = partial(compute, choice, mr=own.get("mr"), ct=own.get("ct_picture"))
                images = request.url.path == "/run"
                token = object()
                waiting.update([token] if images else [])
                try:
                    found = await asyncio.get_running_loop().run_in_executor(worker, call)
                finally:
                    waiting.discard(token)
            except Superseded:
                found = {}  # nobody waits for it
            except KeyError:
                return _refusal("the picture is no longer in memory; choose the file again")
            except (ValueError, AttributeError) as error:
                return _refusal(" ".join(str(error).split()))
            return JSONResponse(found, headers=_headers())

        return endpoint

    def error(choice: Choice, **own: np.ndarray | None) -> dict[str, Any]:
        return error_as_page(*expected_error(choice, **own, superseded=lambda: bool(waiting)))

    routes = [
        Route("/", page),
        Route("/picture", upload, methods=["POST"]),
        Route("/run", answer(lambda choice, **own: as_page(run(choice, **own))), methods=["POST"]),
        Route("/error", answer(error), methods=["POST"]),
    ]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])  # no other name may lead here
    return Starlette(routes=routes, middleware=[hosts])


def serve(port: int, *, browser: bool = True) -> None:
    """Serve the page until interrupted.

    Args:
        port: 0 for any that is free.
        browser: open the page in the browser.
    """
    server = uvicorn.Server(uvicorn.Config(application(), host=HOST, port=port, log_level="warning"))

    async def main() -> None:
        serving = asyncio.create_task(server.serve())
        while not server.started and not serving.done():
            await asyncio.sleep(0.05)
        if server.started:
            address = f"http://{HOST}:{server.servers[0].sockets[0].getsockname()[1]}"
            print(f"{address} (end with Ctrl+C)", flush=True)
            if browser:
                webbrowser.open(address)
        await serving

    asyncio.run(main())


def _headers() -> dict[str, str]:
    return {"Content-Security-Policy": POLICY, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}


def _refusal(sentence: str) -> JSONResponse:
    return JSONResponse({"refused": sentence}, status_code=400, headers=_headers())
