"""The pages and calls of the studio. Each call reads the disk and answers what is true now; nothing is kept here.

app = build_app(Studio(Workspace.open(Path("chess"))))
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError

from data_prep.errors import DataError, PictureError
from data_prep.records.picture import resolve_image
from llava_finetune.errors import UserError
from llava_finetune.serve.guards import Guard
from llava_finetune.serve.limits import Limits
from llava_finetune.studio import data_calls, run_calls, use_calls
from llava_finetune.studio.gate import Gate
from llava_finetune.studio.refusals import TEXTS, Refused
from llava_finetune.studio.shared import Studio
from llava_finetune.studio.thumbnails import SHOWN_SIDE, smaller, thumbnail
from llava_finetune.studio.uploads import PIECE_BYTES, Piece, receive
from llava_finetune.studio.workspace import Gone

PAGE = Path(__file__).parent / "page"
HOUSE_STYLE = Path(__file__).parent.parent / "report" / "page.css"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def limits() -> Limits:
    """What one request may bring: a piece of an upload is the largest."""
    return Limits(body_bytes=PIECE_BYTES + 1_000_000)


Call = Callable[[Studio, dict[str, Any]], dict[str, Any]]

CALLS: dict[str, Call] = {**data_calls.CALLS, **run_calls.CALLS, **use_calls.CALLS}


class Answer(JSONResponse):
    """JSON in which what is no text, as of a file's name that is not UTF-8, is a question mark, and no failure."""

    def render(self, content: Any) -> bytes:
        """The bytes of the answer."""
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode(errors="replace")


def build_app(studio: Studio) -> FastAPI:
    """The application with its guards."""
    app = FastAPI(title="llava-finetune studio", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, access=studio.access, limits=limits())
    app.add_middleware(Gate, access=studio.access)
    for kind in (UserError, DataError, OSError, ValidationError):
        app.add_exception_handler(kind, _told)
    _add_pages(app, studio)

    @app.post("/api/{name}")
    async def call(name: str, request: Request) -> Response:
        known = CALLS.get(name)
        if known is None:
            return _nothing(name)
        asked = await _asked(request)
        return Answer(await asyncio.to_thread(known, studio, asked))

    @app.put("/upload")
    async def upload(request: Request, name: str, offset: int, size: int) -> Response:
        data = await request.body()
        placed = await asyncio.to_thread(receive, studio.space, Piece(name, offset, size), data)
        return JSONResponse({"name": placed})

    @app.get("/thumbnail/{name:path}")
    async def small(name: str) -> Response:
        return await _picture(studio, name, lambda path: thumbnail(studio.space, path))

    @app.get("/picture/{name:path}")
    async def large(name: str) -> Response:
        return await _picture(studio, name, lambda path: smaller(path, SHOWN_SIDE))

    return app


def _add_pages(app: FastAPI, studio: Studio) -> None:
    """Add what is a file: the page with its parts, reports, and what was learned."""

    @app.get("/")
    def page() -> Response:
        return _file(PAGE / "index.html")

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if name == "house.css":
            return _file(HOUSE_STYLE)
        return _file(PAGE / name) if name in _names(PAGE) else _nothing(name)

    @app.get("/texts/{name}")
    def texts(name: str) -> Response:
        return _file(TEXTS / name) if name in _names(TEXTS) else _nothing(name)

    @app.get("/report/{name}")
    def report(name: str) -> Response:
        path = studio.space.below(f"runs/{name}/report.html")
        return _file(path) if path.is_file() else _nothing(name)

    @app.get("/learned")
    def learned() -> Response:
        return _file(studio.space.folder / "show.html")


async def _asked(request: Request) -> dict[str, Any]:
    """The JSON object of a call. Raises UserError for anything else."""
    if "application/json" not in request.headers.get("content-type", ""):
        raise UserError("send JSON with Content-Type: application/json")
    try:
        value = await request.json()
    except (ValueError, RecursionError):
        raise UserError("the body is no JSON") from None
    if not isinstance(value, dict):
        raise UserError("the body is no JSON object")
    return value


async def _picture(studio: Studio, name: str, make: Callable[[Path], bytes]) -> Response:
    """A picture of the workspace by its name in the folder of pictures, or with a first part `:` in the workspace."""
    space = studio.space
    folder = space.folder if name.startswith(":/") else space.images
    if folder is None:
        return _nothing(name)
    try:
        path = space.below(space.name_of(resolve_image(folder, name.removeprefix(":/"))))
        async with studio.decoding:
            data = await asyncio.to_thread(make, path)
    except (PictureError, OSError, ValueError) as error:
        return JSONResponse({"error": str(error)}, 404)
    headers = {"cache-control": "private, max-age=60", "content-disposition": "inline"}
    return Response(data, media_type="image/webp", headers=headers)


def _told(request: Request, error: Exception) -> Response:
    """An error as the page shows it: one line, and the status that says whose fault it is."""
    status = 400
    text = str(error)
    if isinstance(error, Gone):
        status = 503
    elif isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False)[0]
        text = f"{'.'.join(str(part) for part in first['loc'])[:200]}: {first['msg']}"
    elif isinstance(error, OSError):
        status = 507 if error.errno in (errno.ENOSPC, errno.EDQUOT) else 500
    elif "disk is full" in text:
        status = 507
    known = error if isinstance(error, Refused) else Refused("full") if status == 507 else None
    told = {"key": known.key, "values": known.values} if known else {}
    return Answer({"error": str(known or text)[:2000], **told}, status)


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _nothing(name: str) -> Response:
    return JSONResponse({"error": f"there is no {name[:100]} here"}, 404)


def _file(path: Path) -> Response:
    kind = KINDS.get(path.suffix, "application/json")
    with contextlib.suppress(FileNotFoundError):
        return Response(path.read_bytes(), media_type=f"{kind}; charset=utf-8", headers={"cache-control": "no-cache"})
    return _nothing(path.name)
