"""The page, its files, and what operators ask: health and metrics."""

import hashlib
from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.responses import Response

from trainer.service import models
from trainer.service.export import CurrentExport
from trainer.service.faults import RefusedError, json_response
from trainer.service.metrics import CONTENT_TYPE, Metrics

MEDIA_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "docs.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "api.js": "text/javascript; charset=utf-8",
    "search.js": "text/javascript; charset=utf-8",
    "lists.js": "text/javascript; charset=utf-8",
    "docs.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
"""Files of the page; no other file can be asked for."""
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Nothing is loaded from elsewhere, and nothing in a title or an id can become a script."""


def make_router(current: CurrentExport, metrics: Metrics) -> APIRouter:
    """Return the routes of the page, of health and of metrics."""
    router = APIRouter()
    carried = {name: files("trainer.service").joinpath("page", name).read_bytes() for name in MEDIA_TYPES}

    def file_response(name: str, request: Request) -> Response:
        if name not in carried:
            raise RefusedError(404, f"page/{name[:200]}: no such file")
        tag = f'"{hashlib.sha256(carried[name]).hexdigest()[:16]}"'
        headers = {**PAGE_HEADERS, "ETag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(carried[name], headers=headers, media_type=MEDIA_TYPES[name])

    @router.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return file_response("index.html", request)

    @router.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return file_response("docs.html", request)

    @router.get("/page/{name}", include_in_schema=False)
    async def page_file(name: str, request: Request) -> Response:
        return file_response(name, request)

    @router.get("/health", response_model=models.Health, tags=["operation"])
    async def health() -> Response:
        """Say whether the service answers, and with which export. It needs no key."""
        export = current.export
        about = {
            "name": export.name,
            "hash": export.hash,
            "step": export.step,
            "items": export.items,
            "opened": export.opened,
        }
        content = {"ready": True, "export": about, "swaps": current.swaps, "refused": current.refused}
        return json_response(content, headers={"Cache-Control": "no-store"})

    @router.get(
        "/metrics",
        tags=["operation"],
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}, "description": "Prometheus text format."}},
    )
    async def metrics_text() -> Response:
        """Count requests by route and status, with times, memory and the version of the export."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    return router
