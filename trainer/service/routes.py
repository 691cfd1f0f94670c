"""The addresses that answer with recommendations and items."""

import random
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import pandas as pd
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from trainer.errors import UserError
from trainer.service import models
from trainer.service.export import Export
from trainer.service.faults import RefusedError, json_response
from trainer.service.limits import MOST_LISTED, Computing, Limits

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": models.ErrorAnswer, "description": "The request cannot be understood."},
    401: {"model": models.ErrorAnswer, "description": "The service asks for an API key."},
    413: {"model": models.ErrorAnswer, "description": "The body is too large."},
    422: {"model": models.ErrorAnswer, "description": "A value is missing, or is not as it must be."},
    503: {"model": models.ErrorAnswer, "description": "Too many requests at once; try again."},
    504: {"model": models.ErrorAnswer, "description": "The computation took too long."},
}
NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"model": models.ErrorAnswer, "description": "The id is unknown."}
}
USER_PATH = Annotated[str, Path(description="Id of a user of the training.", examples=["196"])]
ITEM_PATH = Annotated[str, Path(description="Id of an item of the catalogue.", examples=["50"])]
K_QUERY = Annotated[int, Query(ge=1, description="Items wanted.")]
WHERE_QUERY = Annotated[
    list[str],
    Query(
        max_length=models.MOST_CONDITIONS,
        description="A condition on attributes of items, such as `genres=Comedy`; can be repeated.",
    ),
]
WHY_QUERY = Annotated[
    int, Query(ge=0, le=models.MOST_REASONS, description="Items of the past to name for each.")
]
DETAILS_QUERY = Annotated[bool, Query(description="Add the attributes of each item.")]


def make_router(limits: Limits, computing: Computing) -> APIRouter:
    """Return the routes of recommendations and items."""
    router = APIRouter(responses=ERRORS)

    async def answer(function: Callable[..., Any], *args: Any) -> Response:
        return json_response(await computing.run(function, *args))

    @router.post("/recommend", response_model=models.RankedList, tags=["recommendations"])
    async def recommend(request: Request, asked: models.RecommendRequest) -> Response:
        """Recommend to a user of the training, or to someone new by what they have."""
        _check_one("user", asked.user, "history", asked.history, or_else=asked.attributes)
        _check_k(asked.k, limits)
        return await answer(_recommend, request.state.export, asked)

    @router.post("/recommend/batch", response_model=models.BatchAnswer, tags=["recommendations"])
    async def recommend_batch(request: Request, asked: models.BatchRequest) -> Response:
        """Recommend to many users, or to many histories, at once."""
        _check_one("users", asked.users, "histories", asked.histories)
        _check_k(asked.k, limits)
        queries = len(asked.users if asked.users is not None else asked.histories or [])
        if queries > limits.max_batch:
            raise RefusedError(422, f"{queries:,} queries, at most {limits.max_batch:,} are answered at once")
        if queries * asked.k > MOST_LISTED:
            most = f"at most {MOST_LISTED:,} items are listed at once"
            raise RefusedError(422, f"{queries:,} queries of {asked.k:,} items, {most}")
        return await answer(_recommend_batch, request.state.export, asked)

    @router.get(
        "/users/{user:path}/recommendations",
        response_model=models.RankedList,
        responses=NOT_FOUND,
        tags=["recommendations"],
    )
    async def recommendations(
        request: Request,
        user: USER_PATH,
        k: K_QUERY = 10,
        where: WHERE_QUERY = [],  # noqa: B006 (FastAPI copies defaults)
        why: WHY_QUERY = 0,
        details: DETAILS_QUERY = False,
    ) -> Response:
        """Recommend to a user of the training."""
        _check_k(k, limits)
        return await answer(_recommendations, request.state.export, user, k, where, why, details)

    @router.get("/users/{user:path}/past", response_model=models.Past, responses=NOT_FOUND, tags=["users"])
    async def past(request: Request, user: USER_PATH, details: DETAILS_QUERY = False) -> Response:
        """List the items that a user is known to have; where there is an order, the latest last."""
        return await answer(_past, request.state.export, user, details)

    @router.get("/users", response_model=models.UserList, tags=["users"])
    async def users(
        request: Request,
        start: Annotated[str, Query(max_length=200, description="How their ids begin.")] = "",
        limit: Annotated[int, Query(ge=1, le=100)] = 10,
        at_random: Annotated[bool, Query(description="Draw them at random.")] = False,
    ) -> Response:
        """List ids of users, for a page to offer while one types."""
        return await answer(_users, request.state.export, start, limit, at_random)

    @router.get("/items", response_model=models.ItemList, tags=["items"])
    async def items(
        request: Request,
        title: Annotated[str, Query(max_length=500, description="A title, or a part of one, as typed.")],
        limit: Annotated[int, Query(ge=1, le=100)] = 10,
        details: DETAILS_QUERY = False,
    ) -> Response:
        """Find items by their titles, while one types: exact ones first, then beginnings, then near ones."""
        return await answer(_find_items, request.state.export, title, limit, details)

    @router.get(
        "/items/{item:path}/similar",
        response_model=models.RankedList,
        responses=NOT_FOUND,
        tags=["items"],
    )
    async def similar(
        request: Request,
        item: ITEM_PATH,
        k: K_QUERY = 10,
        where: WHERE_QUERY = [],  # noqa: B006 (as above)
        details: DETAILS_QUERY = False,
    ) -> Response:
        """List the items whose vectors are nearest."""
        _check_k(k, limits)
        return await answer(_similar, request.state.export, item, k, where, details)

    @router.get("/attributes", response_model=models.AttributeList, tags=["items"])
    async def attributes(request: Request) -> Response:
        """List the attributes of items that conditions may name, with their values."""
        export: Export = request.state.export
        return json_response({"attributes": [vars(each) for each in export.attributes]})

    return router


def _check_k(k: int, limits: Limits) -> None:
    if k > limits.max_k:
        raise RefusedError(422, f"k: {k:,} items, at most {limits.max_k:,} can be asked for")


def _check_one(one: str, first: object, other: str, second: object, or_else: object = None) -> None:
    if first is not None and second is not None:
        raise RefusedError(422, f"{one} and {other}: give one of them, not both")
    if first is None and second is None and or_else is None:
        raise RefusedError(422, f"{one} or {other}: one of them is needed")


def _recommend(export: Export, asked: models.RecommendRequest) -> dict[str, Any]:
    frame = export.recommender.recommend(
        asked.user,
        asked.history,
        asked.k,
        attributes=asked.attributes,
        where=asked.where,
        allow=asked.allow,
        deny=asked.deny,
        at_most=asked.at_most,
        keep_seen=asked.keep_seen,
        why=asked.why,
    )
    return ranked_list(export, frame, asked.details)


def _recommendations(
    export: Export, user: str, k: int, where: Sequence[str], why: int, details: bool
) -> dict[str, Any]:
    try:
        frame = export.recommender.recommend(user, k=k, where=where, why=why)
    except UserError:
        _known(export, user)
        raise  # the user is known: something else is wrong
    return ranked_list(export, frame, details)


def _recommend_batch(export: Export, asked: models.BatchRequest) -> dict[str, Any]:
    recommender = export.recommender
    if asked.users is not None:
        queries: Sequence[Any] = [str(user) for user in asked.users]
        once = list(dict.fromkeys(queries))  # rows of one that stands twice could not be told apart
        frame = recommender.recommend_many(users=once, k=asked.k, where=asked.where)
        named, found = "user", frame["user"].map(str)
    else:
        frame = recommender.recommend_many(histories=asked.histories, k=asked.k, where=asked.where)
        queries = range(len(asked.histories or []))
        named, found = "query", frame["query"]
    lists = {key: _rows(export, rows, details=False) for key, rows in frame.groupby(found, sort=False)}
    return {
        "lists": [{named: query, "items": lists.get(query, [])} for query in queries],
        "notes": list(frame.attrs.get("notes", ())),
    }


def _past(export: Export, user: str, details: bool) -> dict[str, Any]:
    rows = _rows(export, _known(export, user), details)
    return {"items": rows, "ordered": bool(export.recommender.manifest.get("ordered"))}


def _users(export: Export, start: str, limit: int, at_random: bool) -> dict[str, Any]:
    known = export.user_ids
    found = random.sample(known, min(limit, len(known))) if at_random else export.users_from(start, limit)
    return {"users": found, "total": len(known)}


def _find_items(export: Export, title: str, limit: int, details: bool) -> dict[str, Any]:
    if not title.strip():
        return {"items": []}
    return {"items": _rows(export, export.recommender.find_titles(title, limit), details)}


def _similar(export: Export, item: str, k: int, where: Sequence[str], details: bool) -> dict[str, Any]:
    if item not in export.rows:
        raise RefusedError(404, f"item {item[:200]}: no such item. Search titles at /items?title=...")
    return ranked_list(export, export.recommender.similar(item, k, where=where), details)


def _known(export: Export, user: str) -> pd.DataFrame:
    """Return the past of a user; an id that is unknown is an address that does not exist."""
    try:
        return export.recommender.past(user)
    except UserError as error:
        raise RefusedError(404, export.sentence(error)) from None


def ranked_list(export: Export, frame: pd.DataFrame, details: bool) -> dict[str, Any]:
    """Return a list of recommendations as JSON."""
    return {
        "items": _rows(export, frame, details),
        "unknown": [str(each) for each in frame.attrs.get("unknown", ())],
        "notes": list(frame.attrs.get("notes", ())),
    }


def _rows(export: Export, frame: pd.DataFrame, details: bool) -> list[dict[str, Any]]:
    """Return the rows of a frame as JSON: ids as text, and an unknown title as null."""
    columns = [name for name in ("rank", "item", "title", "score", "why") if name in frame]
    rows = [
        dict(zip(columns, values, strict=True))
        for values in zip(*(frame[name].tolist() for name in columns), strict=True)
    ]
    for row in rows:
        row["item"], row["title"] = str(row["item"]), _text(row["title"])
        if "why" in row:
            row["why"] = [_reason(export, each) for each in row["why"]]
        if details:
            row["attributes"] = export.attributes_of(row["item"])
    return rows


def _reason(export: Export, item: Any) -> dict[str, Any]:
    return {"item": str(item), "title": export.title(item)}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
