"""The page's server: visits, uploads, what is shown of them, and downloads.

Each open page is a visit with a secret address; its jobs and files belong to that visit.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import secrets
import shutil
import socket
import time
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
)
from starlette.routing import Route

from callbacks.pages.images import SIDE, reduced
from callbacks.pages.render import Figure, Tile, render, render_page
from commands.app.models import Models
from commands.app.queue import Queue
from commands.app.visits import PREVIEW, Job, Photograph, Settings, Visit
from files.owned import remove_temporary
from files.paths import IMAGE_EXTENSIONS, WEIGHTS

BESIDE = Path(__file__).parent
LARGEST_UPLOAD = 200_000_000  # bytes
LARGEST_MODEL = 1_000_000_000  # bytes
LARGEST_CONTENT = 10_000  # bytes of settings
MOST_PHOTOGRAPHS = 200  # of a visit
MOST_MODELS = 10  # of a visit
MOST_VISITS = 20  # at once
LEAST_FREE = 1_000_000_000  # bytes of the disk
LARGEST_PART = 4096  # pixels of a side
VIEWS = {"whole": "whole.jpg", "thumbnail": "thumbnail.jpg"}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def application(models: Models, folder: Path, host: str = "127.0.0.1") -> Starlette:
    """Return the page.

    Args:
        models: The methods, at least one.
        folder: For the files of visitors.
        host: The address at which it listens.
    """
    server = _Server(models, folder)
    photograph = "/visits/{visit}/photographs/{number:int}"
    routes = [
        Route("/", server.page),
        Route("/visits", server.begin, methods=["POST"]),
        Route("/visits/{visit}", server.state),
        Route("/visits/{visit}/leave", server.leave, methods=["POST"]),
        Route("/visits/{visit}/stop", server.stop, methods=["POST"]),
        Route("/visits/{visit}/enlarge", server.enlarge, methods=["POST"]),
        Route("/visits/{visit}/preview", server.preview, methods=["POST"]),
        Route("/visits/{visit}/photographs", server.upload, methods=["POST"]),
        Route("/visits/{visit}/enlarged.zip", server.archive),
        Route("/visits/{visit}/models", server.add_model, methods=["POST"]),
        Route(photograph, server.remove, methods=["DELETE"]),
        Route(photograph + "/figure", server.figure),
        Route(photograph + "/output", server.output),
        Route(photograph + "/{side}/part.jpg", server.part),
        Route(photograph + "/{side}/{view}.jpg", server.view),
    ]
    names = {"localhost", host, socket.gethostname(), socket.getfqdn()}
    names.add(f"{socket.gethostname()}.local")  # within a home
    to_itself = functools.partial(_to_itself, {name.lower() for name in names})
    return Starlette(
        routes=routes,
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=to_itself)],
        lifespan=server.lifespan,
        exception_handlers={
            ValueError: _refuse,
            OSError: _refuse,  # such as a full disk, or a name that is too long for it
            ClientDisconnect: _refuse,
            KeyError: _not_found,
            FileNotFoundError: _not_found,
        },
    )


async def _to_itself(
    names: set[str], request: Request, call_next: RequestResponseEndpoint
) -> Response:
    """Refuse requests from pages of other servers, or by another name of this one."""
    host = request.headers.get("host", "")
    origin = request.headers.get("origin")
    is_own = origin in (None, f"http://{host}", f"https://{host}")
    if not is_own or not _is_ours(host, names):
        return PlainTextResponse("This page is served to itself alone.", 403)
    response = await call_next(request)
    response.headers.update(HEADERS)
    return response


def _is_ours(host: str, names: set[str]) -> bool:
    """Return whether a host is one of ours or an IP address: a foreign site can fake neither."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name in names or bool(ipaddress.ip_address(name))
    except ValueError:
        return False


async def _content(request: Request) -> dict[str, Any]:
    """Return the JSON of a request.

    Raises:
        ValueError: If it is none, or large.
    """
    if int(request.headers.get("content-length", LARGEST_CONTENT + 1)) > LARGEST_CONTENT:
        raise ValueError("the request is too large")
    content: dict[str, Any] = await request.json()
    return content


def _refuse(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)


def _not_found(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"not found: {error}"}, 404)


class _Server:
    def __init__(self, models: Models, folder: Path) -> None:
        self.models = models
        self.folder = folder
        self.queue = Queue(models)
        self.visits: dict[str, Visit] = {}
        self.reading = asyncio.Lock()  # one model at a time: the memory holds all of it

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(self._sweep())
        yield
        sweeper.cancel()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(1)
            for visit in [*self.visits.values()]:
                if visit.is_over():
                    visit.stop()
                    self.models.forget(visit.folder)
                    del self.visits[visit.id]
            for folder in [*self.folder.iterdir()]:  # again, if a job still wrote into it
                if folder.name not in self.visits:
                    await run_in_threadpool(remove_temporary, folder)

    def _visit(self, request: Request) -> Visit:
        visit = self.visits.get(request.path_params["visit"])
        if visit is None:
            raise HTTPException(410)
        return visit

    def _photograph(self, request: Request) -> Photograph:
        return self._visit(request).photographs[request.path_params["number"]]

    async def page(self, request: Request) -> Response:
        text = await run_in_threadpool(
            render_page,
            BESIDE / "app.html.j2",
            "img-src 'self' data:; connect-src 'self'",
            BESIDE / "app.js",
            offers=self.models.offers(),
            endings=",".join(sorted(IMAGE_EXTENSIONS)),
            weights=",".join(WEIGHTS),
            largest=LARGEST_UPLOAD,
            largest_model=LARGEST_MODEL,
        )
        return HTMLResponse(text)

    # ------------------------------------------------------------------------------- the visit

    async def begin(self, request: Request) -> Response:
        if sum(visit.is_open() for visit in self.visits.values()) >= MOST_VISITS:
            raise ValueError(
                f"{MOST_VISITS} visitors have this page open, and it serves no more at once. It "
                "begins by itself when one of them leaves."
            )
        visit = Visit(self.folder)
        self.visits[visit.id] = visit
        return JSONResponse({"id": visit.id})

    async def state(self, request: Request) -> Response:
        visit = self._visit(request)
        visit.seen = time.monotonic()
        visit.left = False
        photographs = [self._described(photograph) for photograph in visit.photographs.values()]
        models = [
            {"source": source, "name": offer.name, "scale": offer.scale}
            for source, offer in visit.models.items()
        ]
        state = {
            "photographs": photographs,
            "models": models,
            "before": self.queue.before(visit),
            "error": visit.error,
        }
        return JSONResponse(state)

    def _described(self, photograph: Photograph) -> dict[str, Any]:
        """Return what the page shows of a photograph besides its pixels."""
        job = photograph.job
        described: dict[str, Any] = {
            "number": photograph.number,
            "name": photograph.name,
            "size": photograph.size,
            "corner": photograph.corner,
            "waits": job is not None and job.progress is None,
            "loads": job is not None and job.loads,
            "progress": None if job is None else job.progress,
            "error": photograph.error,
            "version": photograph.folder.name,
        }
        output = photograph.output
        if output is not None:
            method = output.settings.name
            described["output"] = {"size": output.size, "method": method, "note": output.note}
            described["version"] += output.file.parent.name
        return described

    async def leave(self, request: Request) -> Response:
        visit = self._visit(request)
        visit.seen = time.monotonic()
        visit.left = True
        return Response()

    async def stop(self, request: Request) -> Response:
        self._visit(request).stop()
        return await self.state(request)

    async def upload(self, request: Request) -> Response:
        visit = self._visit(request)
        name = request.query_params["name"]
        if len(visit.photographs) >= MOST_PHOTOGRAPHS:
            raise ValueError(f"{name}: remove others first; {MOST_PHOTOGRAPHS} are here")
        file = visit.new_file()
        async with self._received(request, file, LARGEST_UPLOAD):
            await run_in_threadpool(visit.add, file, name)
        return await self.state(request)

    async def add_model(self, request: Request) -> Response:
        visit = self._visit(request)
        name = request.query_params["name"]
        if len(visit.models) >= MOST_MODELS:
            raise ValueError(f"{name}: {MOST_MODELS} models of yours are here, which is the limit")
        file = visit.new_file(name)
        async with self._received(request, file, LARGEST_MODEL), self.reading:
            await run_in_threadpool(visit.add_model, file)
        return await self.state(request)

    @contextlib.asynccontextmanager
    async def _received(self, request: Request, file: Path, largest: int) -> AsyncIterator[None]:
        """Write what is uploaded into a file, which is removed if the block fails."""
        name = request.query_params["name"]
        try:
            if shutil.disk_usage(self.folder).free < LEAST_FREE + largest:
                raise ValueError(f"{name}: the disk of the machine that serves this page is full")
            with open(file, "wb") as stream:
                async for chunk in request.stream():
                    stream.write(chunk)
                    if stream.tell() > largest:
                        raise ValueError(f"{name} is larger than {largest / 1e6:g} MB")
            yield
        except BaseException:
            remove_temporary(file.parent)
            raise

    async def remove(self, request: Request) -> Response:
        visit = self._visit(request)
        await run_in_threadpool(visit.remove, request.path_params["number"])
        return await self.state(request)

    # -------------------------------------------------------------------------------- the work

    async def enlarge(self, request: Request) -> Response:
        visit = self._visit(request)
        settings = self._settings(visit, await _content(request))
        for number, photograph in sorted(visit.photographs.items()):
            is_done = photograph.output is not None and photograph.output.settings == settings
            if number != PREVIEW and photograph.job is None and not is_done:
                self.queue.add(visit, photograph, Job(settings))
        return await self.state(request)

    async def preview(self, request: Request) -> Response:
        visit = self._visit(request)
        content = await _content(request)
        settings = self._settings(visit, content)
        place = (int(content["number"]), float(content["x"]), float(content["y"]))
        square = await run_in_threadpool(visit.add_square, *place)
        self.queue.add(visit, square, Job(settings))
        return await self.state(request)

    def _settings(self, visit: Visit, content: dict[str, Any]) -> Settings:
        """Return the settings as typed.

        Raises:
            KeyError: If a model is not offered.
            ValueError: If a value is none that a field takes.
        """
        source = content["source"]
        if source in visit.models:
            source, name = visit.models[source][:2]
        else:
            name = self.models.names[source]
        format = content["format"]
        if format not in ("png", "jpg"):
            raise ValueError(f"{format!r} is neither png nor jpg")
        scale = float(content["scale"] or 0)
        if scale and not 1 <= scale <= 100:
            raise ValueError(f"Scale is {scale:g}; it must be at least 1, and at most 100")
        counts = [int(content[name] or 0) for name in ("steps", "tile", "seed")]
        if min(counts) < 0:
            raise ValueError("Steps, Tile and Seed must be whole numbers of at least 0")
        steps, tile, seed = counts
        strength = min(max(0.0, float(content["strength"]) / 100), 1.0)
        return Settings(
            source, name, scale or None, steps or None, tile or None, seed, strength, format
        )

    # --------------------------------------------------------------------------- what is shown

    async def figure(self, request: Request) -> Response:
        photograph = self._photograph(request)
        height, width = photograph.size
        address = request.url.path.removesuffix("/figure")
        tiles = [Tile("photograph", f"{address}/before/whole.jpg")]
        about = f"{width} x {height} pixels"
        size = photograph.size
        if photograph.output is not None:
            size = photograph.output.size
            about += f" → {size[1]} x {size[0]}"
            method = photograph.output.settings.name
            tiles[0] = Tile("bicubic", tiles[0].uri)
            version = photograph.output.file.parent.name
            tiles.append(Tile(method, f"{address}/after/whole.jpg?{version}"))
        shown = reduced(size, SIDE)
        figure = Figure(photograph.name, about, shown[1], shown[0], tiles, 0, len(tiles) - 1)
        figure = figure._replace(full=size[1])
        return HTMLResponse(render(BESIDE / "figure.html.j2", figure=figure))

    async def view(self, request: Request) -> Response:
        file = VIEWS[request.path_params["view"]]
        folder = self._photograph(request).views(request.path_params["side"])
        data = await run_in_threadpool((folder / file).read_bytes)
        return Response(data, media_type="image/jpeg")

    async def part(self, request: Request) -> Response:
        photograph = self._photograph(request)
        values = [int(request.query_params[name]) for name in ("top", "left", "height", "width")]
        top, left, height, width = values
        size = photograph.output.size if photograph.output is not None else photograph.size
        height = min(max(1, height), size[0], LARGEST_PART)
        width = min(max(1, width), size[1], LARGEST_PART)
        top = min(max(0, top), size[0] - height)
        left = min(max(0, left), size[1] - width)
        window = (top, left, height, width)
        data = await run_in_threadpool(photograph.part, request.path_params["side"], window)
        return Response(data, media_type="image/jpeg")

    async def output(self, request: Request) -> Response:
        photograph = self._photograph(request)
        if photograph.output is None:
            raise KeyError(photograph.name)
        return FileResponse(photograph.output.file, filename=photograph.output.name)

    async def archive(self, request: Request) -> Response:
        visit = self._visit(request)
        path = await run_in_threadpool(_write_archive, visit)
        return FileResponse(path, filename="enlarged.zip", background=BackgroundTask(path.unlink))


def _write_archive(visit: Visit) -> Path:
    """Write the outputs into one file, which is of this request alone."""
    path = visit.folder / f"{secrets.token_hex(8)}.zip"
    names: set[str] = set()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # outputs are compressed
        for number, photograph in sorted(visit.photographs.items()):
            if photograph.output is not None and number != PREVIEW:
                name = photograph.output.name
                if name in names:
                    name = f"{number}_{name}"
                names.add(name)
                archive.write(photograph.output.file, name)
    return path
