"""The application: an export, its routes and what guards them."""

from collections.abc import Collection
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from trainer import __version__
from trainer.service import routes, site
from trainer.service.export import CurrentExport
from trainer.service.faults import add_handlers
from trainer.service.guard import Guard
from trainer.service.limits import Computing, Limits
from trainer.service.metrics import Metrics

DESCRIPTION = """\
Recommendations of a two-tower model. Every error is a JSON object with one sentence, `{"error": "..."}`.
Where the service asks for an API key, send it as `X-API-Key` or as `Authorization: Bearer`. The header
`X-Export` of every answer names the export that gave it.
"""


def make_app(current: CurrentExport, limits: Limits, keys: Collection[str] = ()) -> Guard:
    """Return the ASGI application that serves an export.

    Args:
        current: The opened export.
        limits: Bounds of requests.
        keys: API keys, one of which a request must hold; none: everybody may ask.
    """
    computing = Computing(limits.threads, limits.timeout)
    metrics = Metrics(current, lambda: computing.overdue)
    # FastAPI's own page of documentation loads scripts from another host; that of site.py needs no network.
    app = FastAPI(
        title="Shardtower", version=__version__, description=DESCRIPTION, docs_url=None, redoc_url=None
    )
    app.include_router(routes.make_router(limits, computing))
    app.include_router(site.make_router(current, metrics))
    add_handlers(app, limits.timeout)
    app.openapi = lambda: _openapi(app, bool(keys))  # type: ignore[method-assign]
    return Guard(app, limits, keys, metrics, computing, current, ["/openapi.json", *app.openapi()["paths"]])


def _openapi(app: FastAPI, asks_for_key: bool) -> dict[str, Any]:
    """Return the description of all addresses; made once."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        if asks_for_key:
            schemes = {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            }
            schema["components"]["securitySchemes"] = schemes
            schema["security"] = [{name: []} for name in schemes]
        app.openapi_schema = schema
    return app.openapi_schema
