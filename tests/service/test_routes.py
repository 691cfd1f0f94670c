"""Requests and their answers, over the small world of standin.py."""

import json

import pytest
from fastapi.testclient import TestClient

from tests.service.standin import FILMS, SPECIAL
from trainer.service import models


def test_a_user_gets_the_best_items_that_they_do_not_have(client: TestClient) -> None:
    answer = client.post("/recommend", json={"user": 1, "k": 3})
    assert answer.status_code == 200
    # User 1 has the films 1, 2 and 3; film i has the score 60 - i, and version 1 adds one.
    assert answer.json() == {
        "items": [
            {"rank": 1, "item": "0", "title": "Film 0 (1960)", "score": 61.0},
            {"rank": 2, "item": "4", "title": "Film 4 (1964)", "score": 57.0},
            {"rank": 3, "item": "5", "title": "Film 5 (1965)", "score": 56.0},
        ],
        "unknown": [],
        "notes": [],
    }


def test_someone_new_gets_items_by_ids_and_titles_and_hears_what_is_unknown(client: TestClient) -> None:
    asked = {"history": ["Film 0 (1960)", 1, "2", "no such film"], "k": 2, "why": 2, "details": True}
    answer = client.post("/recommend", json=asked).json()
    assert [each["item"] for each in answer["items"]] == ["3", "4"]
    assert answer["unknown"] == ["no such film"]
    first = answer["items"][0]
    assert first["why"] == [
        {"item": "2", "title": "Film 2 (1962)"},
        {"item": "1", "title": "Film 1 (1961)"},
    ]
    assert first["attributes"] == {"genres": ["Comedy"], "release_year": 1963}


@pytest.mark.parametrize(
    ("wish", "items"),
    [
        ({"where": ["genres=Drama"]}, ["4", "7"]),
        ({"where": ["genres=Drama", "release_year>=1970"]}, ["10", "13"]),
        ({"allow": ["8", 5]}, ["5", "8"]),
        ({"deny": ["4", 5]}, ["0", "6"]),
        ({"keep_seen": True}, ["0", "1"]),
    ],
)
def test_filters_reach_the_recommender(client: TestClient, wish: dict, items: list[str]) -> None:
    answer = client.post("/recommend", json={"user": "1", "k": 2, **wish}).json()
    assert [each["item"] for each in answer["items"]] == items


def test_get_and_post_give_the_same_list(client: TestClient) -> None:
    got = client.get("/users/5/recommendations?k=4&where=genres=Comedy&where=release_year>=1970&why=1")
    wish = {"user": "5", "k": 4, "where": ["genres=Comedy", "release_year>=1970"], "why": 1}
    posted = client.post("/recommend", json=wish)
    assert got.json() == posted.json()
    assert len(got.json()["items"]) == 4


def test_a_batch_of_users_equals_their_lists_one_by_one(client: TestClient) -> None:
    lists = client.post("/recommend/batch", json={"users": ["3", 1, "3"], "k": 5}).json()["lists"]
    assert [each["user"] for each in lists] == ["3", "1", "3"]
    for each in lists:
        one = client.get(f"/users/{each['user']}/recommendations?k=5").json()
        assert each["items"] == one["items"]


def test_a_batch_of_histories_keeps_their_order(client: TestClient) -> None:
    asked = {"histories": [["0"], ["1", "0"]], "k": 1}
    lists = client.post("/recommend/batch", json=asked).json()["lists"]
    assert [(each["query"], each["items"][0]["item"]) for each in lists] == [(0, "1"), (1, "2")]
    assert client.post("/recommend/batch", json={"users": []}).json()["lists"] == []


def test_the_past_of_a_user_and_items_like_one(client: TestClient) -> None:
    past = client.get("/users/7/past").json()
    assert past["ordered"]
    assert past["items"] == [
        {"item": "7", "title": SPECIAL[7]},
        {"item": "8", "title": SPECIAL[8]},
        {"item": "9", "title": None},
    ]
    similar = client.get("/items/30/similar?k=2&details=true").json()["items"]
    assert [each["item"] for each in similar] == ["29", "31"]
    assert similar[0]["attributes"] == {"genres": ["Horror"], "release_year": 1989}


def test_titles_are_found_while_one_types(client: TestClient) -> None:
    found = client.get("/items", params={"title": "film 1", "limit": 3}).json()["items"]
    assert [each["item"] for each in found] == ["1", "10", "11"]
    assert client.get("/items", params={"title": "千と"}).json()["items"] == [
        {"item": "8", "title": SPECIAL[8]}
    ]
    assert client.get("/items", params={"title": "  "}).json() == {"items": []}


def test_users_are_found_by_how_their_ids_begin(client: TestClient) -> None:
    assert client.get("/users?start=1&limit=3").json() == {"users": ["1", "10", "11"], "total": 40}
    assert client.get("/users?start=x").json()["users"] == []


def test_attributes_are_told_with_their_values(client: TestClient) -> None:
    genres, year = client.get("/attributes").json()["attributes"]
    assert (genres["name"], genres["kind"]) == ("genres", "category")
    assert sorted(genres["values"]) == [["Comedy", 20], ["Drama", 20], ["Horror", 20]]
    # Film 9 has no year; the others are of 1960 to 2019.
    assert (year["kind"], year["least"], year["most"]) == ("number", 1960, 1960 + FILMS - 1)


def test_answers_are_what_the_openapi_page_promises(client: TestClient) -> None:
    ranked = client.post("/recommend", json={"user": "1", "why": 1, "details": True}).json()
    assert models.RankedList.model_validate(ranked).items[0].why is not None
    models.BatchAnswer.model_validate(client.post("/recommend/batch", json={"users": ["1"]}).json())
    models.Past.model_validate(client.get("/users/1/past").json())
    models.UserList.model_validate(client.get("/users").json())
    models.AttributeList.model_validate(client.get("/attributes").json())
    models.Health.model_validate(client.get("/health").json())


def test_openapi_describes_every_address_field_and_error_with_examples(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    assert sorted(schema["paths"]) == [
        "/attributes",
        "/health",
        "/items",
        "/items/{item}/similar",
        "/metrics",
        "/recommend",
        "/recommend/batch",
        "/users",
        "/users/{user}/past",
        "/users/{user}/recommendations",
    ]
    for path, methods in schema["paths"].items():
        for about in methods.values():
            assert about["description"], path
            for parameter in about.get("parameters", ()):
                assert parameter.get("description") or parameter["name"] == "limit", (path, parameter)
            if path not in ("/health", "/metrics"):
                assert {"400", "401", "413", "422", "503", "504"} <= set(about["responses"])
    assert schema["components"]["schemas"]["RecommendRequest"]["examples"][0]["user"] == "196"
    assert "HTTPValidationError" not in json.dumps(schema)


def test_the_examples_of_the_openapi_page_are_valid_requests(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()["components"]["schemas"]
    for example in schema["RecommendRequest"]["examples"]:
        models.RecommendRequest.model_validate(example)
    for example in schema["BatchRequest"]["examples"]:
        models.BatchRequest.model_validate(example)
