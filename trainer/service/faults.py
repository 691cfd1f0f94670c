"""Whatever goes wrong, as one sentence in JSON: `{"error": "..."}`."""

import json
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from trainer.errors import UserError
from trainer.service.limits import Overdue

RETRY_AFTER = {"Retry-After": "1"}
LONGEST_VALUE = 60
"""Characters of a value that a sentence repeats."""
INTERNAL = "a fault of the service; its log has the details"
NO_FIELD = "extra_forbidden"
PLAIN = {
    "missing": "is missing",
    NO_FIELD: "no such field",
    "string_unicode": "is no valid Unicode text",
    "model_attributes_type": "a JSON object is needed",
    "dict_type": "a JSON object is needed",
}
"""Sentences for what pydantic words for programmers."""


class RefusedError(Exception):
    """A request that is answered by a status and a sentence.

    Attributes:
        status: HTTP status.
        sentence: What is wrong, and what would be right.
        headers: Further headers.
    """

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, headers or {}

    def response(self) -> Response:
        """Return the answer."""
        return json_response({"error": self.sentence}, self.status, self.headers)


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return JSON, in UTF-8; a number that is not finite would be no JSON and is an error."""
    body = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Ids may hold what is no Unicode text, such as half of a surrogate pair.
    return Response(body.encode("utf-8", "replace"), status, headers, media_type="application/json")


def overdue_refusal(error: Overdue, timeout: float) -> RefusedError:
    """Return the answer for a computation that took too long, or never began."""
    if error.began:
        return RefusedError(504, f"the computation took longer than {timeout:g} seconds; ask for less")
    return RefusedError(503, "the service is busy; try again in a moment", RETRY_AFTER)


def add_handlers(app: FastAPI, timeout: float) -> None:
    """Let an application answer every error by a sentence."""

    def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, RefusedError)
        return error.response()

    def overdue(_: Request, error: Exception) -> Response:
        assert isinstance(error, Overdue)
        return overdue_refusal(error, timeout).response()

    def user_error(request: Request, error: Exception) -> Response:
        return RefusedError(400, request.state.export.sentence(error)).response()

    def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return RefusedError(*_validation_sentence(error)).response()

    def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return RefusedError(error.status_code, _http_sentence(request, error), _headers(error)).response()

    def own_fault(_: Request, error: Exception) -> Response:
        return RefusedError(500, INTERNAL).response()

    app.add_exception_handler(RefusedError, refused)
    app.add_exception_handler(Exception, own_fault)  # raised again after it, and logged by the guard
    app.add_exception_handler(Overdue, overdue)
    app.add_exception_handler(UserError, user_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http_error)


def _validation_sentence(error: RequestValidationError) -> tuple[int, str]:
    """Return status and sentence for the first thing that is wrong with a request's values."""
    fault = error.errors()[0]
    if fault["type"] == "json_invalid":
        position = fault["loc"][-1] if isinstance(fault["loc"][-1], int) else 0
        why = fault.get("ctx", {}).get("error", "it cannot be read")
        return 400, f"the body is no JSON: {why} at character {position}"
    place = ".".join(str(part) for part in fault["loc"][1:] if _is_name(part)) or "the body"
    message = PLAIN.get(fault["type"]) or fault["msg"][:1].lower() + fault["msg"][1:]
    if fault["type"] in ("missing", NO_FIELD):
        return 422, f"{place}: {message}. /docs lists what this address takes"
    return 422, f"{place}: {message}, not {_shown(fault.get('input'))}"


def _is_name(part: object) -> bool:
    """Return whether a part of a place is a field or a position, rather than a branch that pydantic tried."""
    return isinstance(part, int) or (
        isinstance(part, str) and part.isidentifier() and part not in ("str", "int", "float")
    )


def _shown(value: object) -> str:
    """Return a value as a message repeats it, cut to a line."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def _http_sentence(request: Request, error: HTTPException) -> str:
    place = f"{request.method} {request.url.path[:200]}"
    if error.status_code == 404:
        return f"{place}: no such address. /docs lists them all"
    if error.status_code == 405:
        return f"{place}: this address takes {_headers(error).get('allow', 'another method')}"
    if error.status_code == 400:
        return "the body cannot be read as JSON"
    return str(error.detail)


def _headers(error: HTTPException) -> dict[str, str]:
    return {name.lower(): value for name, value in (error.headers or {}).items()}
