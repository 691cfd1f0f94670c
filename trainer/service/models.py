"""What requests hold and answers look like, as the OpenAPI page shows it."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictInt, StrictStr

RawId = Annotated[StrictStr, Field(max_length=1000)] | StrictInt
"""An id as in the data. Text and number are the same: "50" finds the number 50."""
Condition = Annotated[StrictStr, Field(max_length=500)]
AttributeValue = StrictStr | StrictInt | FiniteFloat | list[StrictStr | StrictInt | FiniteFloat] | None
MOST_HISTORY, MOST_IDS, MOST_CONDITIONS, MOST_REASONS = 10_000, 100_000, 50, 20

K = Annotated[
    StrictInt, Field(ge=1, description="Items wanted; the service has an upper bound, 1,000 by default.")
]
Where = Annotated[
    list[Condition],
    Field(
        max_length=MOST_CONDITIONS,
        description="Conditions on attributes of items, all of which must hold: `genres=Comedy`, "
        "`release_year>=1990`, `genres=Comedy|Drama`, `genres!=Horror`.",
        examples=[["genres=Comedy", "release_year>=1990"]],
    ),
]
History = Annotated[
    list[RawId],
    Field(
        max_length=MOST_HISTORY,
        description="Ids or titles of items that someone has, the latest last.",
        examples=[["50", "Toy Story (1995)"]],
    ),
]


class Asked(BaseModel):
    """Base of all requests: a misspelt field is refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class RecommendRequest(Asked):
    """Who recommendations are for, how many, and which items may be among them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"user": "196", "k": 10, "where": ["genres=Comedy"], "why": 3},
                {"history": ["50", "Toy Story (1995)"], "k": 5, "deny": ["181"]},
            ]
        }
    )
    user: RawId | None = Field(None, description="Id of a user of the training. Give this or `history`.")
    history: History | None = Field(
        None, description="Ids or titles of items that someone new has, the latest last."
    )
    attributes: dict[StrictStr, AttributeValue] | None = Field(
        None,
        max_length=100,
        description="What is known of someone new, where the query tower has attributes.",
        examples=[{"gender": "F", "age": 25}],
    )
    k: K = 10
    where: Where = []
    allow: list[RawId] | None = Field(
        None, max_length=MOST_IDS, description="Ids of the only items that may be recommended."
    )
    deny: list[RawId] = Field(
        [], max_length=MOST_IDS, description="Ids of items that must not be recommended."
    )
    at_most: dict[StrictStr, Annotated[StrictInt, Field(ge=1)]] | None = Field(
        None,
        max_length=20,
        description="Most items of the list that may share a value of an attribute.",
        examples=[{"genres": 3}],
    )
    keep_seen: bool = Field(False, description="Rank items too that the user already has.")
    why: StrictInt = Field(
        0,
        ge=0,
        le=MOST_REASONS,
        description="Items of the user's past to name for each recommendation, those that speak most for it.",
    )
    details: bool = Field(False, description="Add the attributes of each item.")


class BatchRequest(Asked):
    """Many users, or many histories, at once."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"users": ["196", "22"], "k": 5}]})
    users: list[RawId] | None = Field(None, description="Ids of users. Give these or `histories`.")
    histories: list[History] | None = Field(None, description="Ids or titles that each person has.")
    k: K = 10
    where: Where = []


class ItemAnswer(BaseModel):
    """An item. Its id is text, as JSON numbers lose digits beyond 2^53 in many languages."""

    item: str = Field(description="Raw id.", examples=["50"])
    title: str | None = Field(description="Title, if it has one.", examples=["Star Wars (1977)"])
    attributes: dict[str, Any] | None = Field(None, description="Its attributes, where asked for.")


class ScoredItem(ItemAnswer):
    """An item of a ranked list."""

    rank: int = Field(examples=[1])
    score: float = Field(description="Comparable within a list, not between lists.", examples=[5.33])
    why: list[ItemAnswer] | None = Field(
        None, description="Items of the past that speak most for it, where asked for."
    )


class RankedList(BaseModel):
    """A ranked list, best first."""

    items: list[ScoredItem] = Field(description="Items with rank, title and score.")
    unknown: list[str] = Field([], description="Ids and titles of the history that were left out.")
    notes: list[str] = Field([], description="What one should know of this list.")


class BatchList(BaseModel):
    """The list of one query of a batch."""

    user: str | None = Field(None, description="Its user, where users were given.")
    query: int | None = Field(None, description="Number of its history, from 0, where these were given.")
    items: list[ScoredItem] = Field(description="As of a single list.")


class BatchAnswer(BaseModel):
    """Lists in the order of the queries."""

    lists: list[BatchList] = Field(description="A list for each query.")
    notes: list[str] = Field([], description="What one should know of these lists.")


class ItemList(BaseModel):
    """Items without scores."""

    items: list[ItemAnswer] = Field(description="Items with their titles.")


class Past(ItemList):
    """What a user has."""

    ordered: bool = Field(description="Whether the latest stands last; otherwise the order means nothing.")


class UserList(BaseModel):
    """Ids of users."""

    users: list[str] = Field(description="Ids.")
    total: int = Field(description="Users of the export.")


class ErrorAnswer(BaseModel):
    """What is wrong with a request, in one sentence."""

    error: str = Field(examples=["k: input should be greater than or equal to 1, not 0"])


class AttributeAnswer(BaseModel):
    """An attribute of items."""

    name: str = Field(examples=["genres"])
    kind: str = Field(description="`number` or `category`.", examples=["category"])
    values: list[tuple[str, int]] = Field(
        description="Most frequent values of a category, each with its number of items."
    )
    least: float | None = None
    most: float | None = None


class AttributeList(BaseModel):
    """All attributes of items."""

    attributes: list[AttributeAnswer] = Field(description="Each with its kind and values.")


class ExportAnswer(BaseModel):
    """The export that is served."""

    name: str = Field(examples=["ml-100k"])
    hash: str = Field(description="First digits of the SHA-256 of its manifest.", examples=["3f1c09a2b7de"])
    step: int | None = Field(description="Step of the checkpoint that it was made of.")
    items: int = Field(description="Items of its catalogue.", examples=[1682])
    opened: float = Field(description="When it was opened, in Unix seconds.")


class Health(BaseModel):
    """Whether the service answers, and with what."""

    ready: bool = Field(description="Whether requests are answered.")
    export: ExportAnswer = Field(description="The export that is served.")
    swaps: int = Field(description="Exports that took the place of another since the start.")
    refused: str | None = Field(description="Why a newer export in the folder was refused, if one was.")
