"""Lists by attributes, titles, reasons and similarity, on one checkerboard with attributes of both sides.

Items of even rows are white and of odd rows black; users of a colour have all items of it but one.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests import worlds
from trainer.cli import main
from trainer.errors import UserError
from trainer.model.retriever import candidate_vectors, query_from_history
from trainer.ranking.similar import MEASURE
from trainer.runs.run_folder import open_run
from trainer.serving.listing import as_text
from trainer.serving.recommend import recommend, recommend_by_history
from trainer.serving.similar_items import popular_items, similar_items
from trainer.storage.attributes import Ragged

TRAIN, WITHHELD = worlds.checkerboard(users=32, items=16)
FIRST = worlds.FIRST_ITEM
ITEMS = range(FIRST, FIRST + 16)
TITLES = [f"Film {chr(ord('A') + number)} ({1990 + number})" for number in range(16)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attributes")
    users = {
        "user_id": list(range(1001, 1033)),
        "colour": ["white", "black"] * 16,
        "height": [1.5, 1.9] * 16,
        "decade": [20, 40] * 16,
    }
    items = {
        "item_id": list(ITEMS),
        "title": TITLES,
        "colours": [["white"], ["black"]] * 8,
        "release_year": [1990 + number // 2 for number in range(16)],
    }
    options = worlds.options(folder, TRAIN, WITHHELD)
    for side, columns in (("users", users), ("items", items)):
        pq.write_table(pa.table(columns), folder / f"{side}.parquet")
        options += [f"--data.{side}", str(folder / f"{side}.parquet")]
    features = "--model.user_features", "colour,height,decade"
    return worlds.trained(folder, *options, *features, "--model.low_rank", "4", "--run.choose", "false")


def items_of(found: pd.DataFrame) -> list[int]:
    return found["item"].tolist()


def white(item: int) -> bool:
    return (item - FIRST) % 2 == 0


def test_conditions_allowed_and_denied_items_and_limits_restrict_every_kind_of_list(
    run: Path, tmp_path: Path
) -> None:
    deny = tmp_path / "deny.txt"
    deny.write_text(f"{FIRST}\n{FIRST + 2}\n")
    ways = (
        lambda **options: recommend(run, "1001", 100, keep_seen=True, **options),
        lambda **options: recommend_by_history(run, [str(FIRST + 4)], 100, keep_seen=True, **options),
        lambda **options: popular_items(run, 100, **options),
        lambda **options: similar_items(run, str(FIRST + 4), 100, **options),
    )
    for way in ways:
        whole = items_of(way())
        assert items_of(way(where=["colours=white"])) == [item for item in whole if white(item)]
        assert items_of(way(where=["year>=1995", "colours!=white"])) == [
            item for item in whole if not white(item) and item >= FIRST + 10
        ]
        assert items_of(way(allow=[str(FIRST), FIRST + 3])) == [
            item for item in whole if item in (FIRST, FIRST + 3)
        ]
        assert items_of(way(deny=deny)) == [item for item in whole if item not in (FIRST, FIRST + 2)]
        expected: list[int] = []
        for item in whole:
            if sum(white(other) == white(item) for other in expected) < 2:
                expected.append(item)
        assert items_of(way(at_most={"colours": 2})) == expected


def test_scores_are_the_same_with_and_without_restrictions(run: Path) -> None:
    whole = recommend(run, "1001", 100).set_index("item")["score"]
    found = recommend(run, "1001", 3, where=["colours=black"])
    assert found["score"].tolist() == whole[found["item"]].tolist()


def test_a_history_takes_titles_beside_ids(run: Path) -> None:
    by_id = recommend_by_history(run, [str(FIRST), str(FIRST + 2)])
    for history in (["film a (1990)", str(FIRST + 2)], ["Film A", "FILM C"]):
        found = recommend_by_history(run, history)
        pd.testing.assert_frame_equal(found, by_id)
        assert found.attrs["history"] == [str(FIRST), str(FIRST + 2)]
    pd.testing.assert_frame_equal(recommend_by_history(run, [f"Film A,{FIRST + 2}"], split=True), by_id)


def test_a_title_that_does_not_match_names_the_nearest_ones(run: Path) -> None:
    with pytest.raises(
        UserError, match=r'no other is given; nearest titles: "Film A \(1990\)" \(51\)\. Name'
    ):
        recommend_by_history(run, ["Flim A"])
    (note,) = recommend_by_history(run, ["Flim B", "Film A"]).attrs["notes"]
    assert "--history Flim B: not among the 16 items" in note
    assert '1 of 2 given are known; nearest titles: "Film B (1991)" (52)' in note


def test_contributions_of_the_past_add_up_to_the_score_of_closed_form_dimensions(run: Path) -> None:
    trained = open_run(run)
    known = [str(FIRST + 2), str(FIRST + 4), str(FIRST + 8)]
    found = recommend_by_history(run, known, 3, why=9)
    table = trained.tower_pairs[1].towers.query.embeddings.embedding_bags["user_low_rank"].weight.detach()
    items = trained.tower_pairs[1].towers.candidate.embeddings.embedding_bags["item_low_rank"].weight.detach()
    rows = {item: trained.vocabulary.item_row(item) for item in (*known, *map(str, items_of(found)))}
    learned = trained.tower_pairs[0].towers.candidate.embeddings.embedding_bags["item"].weight.detach()
    unit = (learned / learned.norm(dim=1, keepdim=True)).numpy()
    bias = trained.tower_pairs[0].towers.candidate.embeddings.embedding_bags["item_bias"].weight.detach()
    for item, score, why in zip(found["item"], found["score"], found["why"], strict=True):
        row = rows[str(item)]
        exact = {each: float(table[rows[each]] @ items[row]) / 3**0.5 for each in known}
        rest = score - float(bias[row].mean()) - sum(exact.values())
        alike = {each: max(float(unit[rows[each]] @ unit[row]), 0) for each in known}
        expected = {each: exact[each] + max(rest, 0) * alike[each] / sum(alike.values()) for each in known}
        given = {str(reason["item"]): reason["score"] for reason in why}
        assert given == pytest.approx(
            {each: value for each, value in expected.items() if value > 0}, abs=1e-4
        )
        assert [reason["score"] for reason in why] == sorted(given.values(), reverse=True)
        assert why[0]["title"] == TITLES[why[0]["item"] - FIRST]


def test_reasons_are_of_the_users_own_colour_and_stand_below_each_item(run: Path) -> None:
    found = recommend(run, "1002", 2, mark="test", why=2)
    seen = {item for user, item in TRAIN if user == 1002}
    for why in found["why"]:
        assert 1 <= len(why) <= 2
        assert {reason["item"] for reason in why} <= seen
    assert (as_text(found).count("because of Film "), as_text(found, 40).count("…")) == (2, 2)


def test_someone_without_a_past_has_no_reasons(run: Path) -> None:
    found = recommend_by_history(run, [], 2, attributes={"colour": "white"}, why=2)
    assert found["why"].tolist() == [[], []]
    assert found.attrs["notes"] == ["--why: no items of the past are known that could be named"]


def test_attributes_alone_give_the_query_of_their_vectors(run: Path) -> None:
    trained = open_run(run)
    towers = trained.tower_pairs[0].towers
    tables = {name: each.weight.detach() for name, each in towers.query.embeddings.embedding_bags.items()}
    categories = trained.vocabulary.user_categories
    query = tables["user_colour"][categories["colour"].to_pylist().index("white")]
    query = query + tables["user_decade"][categories["decade"].to_pylist().index(20)]
    # An unknown id has the reserved row; nobody's height was missing, so that a missing one adds nothing.
    query = (query + tables["user"][-1]).numpy()
    items = towers.candidate.embeddings.embedding_bags["item"].weight.detach()[:16].numpy()
    bias = towers.candidate.embeddings.embedding_bags["item_bias"].weight.detach()[:16].mean(1).numpy()
    unit = items / np.linalg.norm(items, axis=1, keepdims=True)
    expected = unit @ (query / np.linalg.norm(query)) / 0.2 + bias
    found = recommend_by_history(run, [], 100, attributes={"colour": "white", "decade": "20"})
    ids = trained.vocabulary.item_ids.to_pylist()
    assert dict(zip(found["item"], found["score"], strict=True)) == pytest.approx(
        dict(zip(ids, expected.tolist(), strict=True)), abs=1e-4
    )


def test_beside_a_fitted_history_attributes_weigh_as_one_item(run: Path) -> None:
    trained, cpu = open_run(run), torch.device("cpu")
    pairs = trained.tower_pairs
    items = candidate_vectors(pairs, np.arange(16), cpu)
    colour = Ragged(np.array([0, 1]), np.array([1], np.int32))
    three, none = (
        (torch.tensor([3]), torch.tensor([0, 2, 4])),
        (torch.tensor([0]), torch.tensor([], dtype=int)),
    )
    fitted = query_from_history(pairs, three, items)
    alone = query_from_history(pairs, none, items, {"user_colour": colour})
    both = query_from_history(pairs, three, items, {"user_colour": colour})
    expected = torch.nn.functional.normalize(3 * fitted[:, :8] + alone[:, :8])
    torch.testing.assert_close(both[:, :8], expected)
    torch.testing.assert_close(both[:, 8:], fitted[:, 8:])  # the bias and closed-form dimensions


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"colour": "whit"}, "--attributes colour=whit: no user has whit. Nearest: white. Name one of these"),
        ({"decade": "35"}, "--attributes decade=35: no user has 35. Nearest: 20, 40. Name one of these"),
        ({"height": "tall"}, "--attributes height=tall: a number is needed"),
        ({"age": "3"}, "has no attribute age. It has: colour, decade, height"),
    ],
)
def test_attributes_that_nobody_has_are_refused(run: Path, attributes: dict, message: str) -> None:
    with pytest.raises(UserError) as raised:
        recommend_by_history(run, [], attributes=attributes)
    assert message in str(raised.value)


def test_similar_items_are_of_the_same_colour_and_go_by_direction_alone(run: Path) -> None:
    found = similar_items(run, "film a", 100)
    assert (found.attrs["item"], found.attrs["measure"]) == (str(FIRST), MEASURE)
    assert all(white(item) for item in items_of(found)[:7])
    table = open_run(run).tower_pairs[0].towers.candidate.embeddings.embedding_bags["item"].weight.detach()
    unit = (table / table.norm(dim=1, keepdim=True))[:16].numpy()
    rows = open_run(run).vocabulary.item_ids.to_pylist()
    cosines = dict(zip(rows, (unit @ unit[rows.index(FIRST)]).tolist(), strict=True))
    assert dict(zip(found["item"], found["score"], strict=True)) == pytest.approx(
        {item: cosine for item, cosine in cosines.items() if item != FIRST}, abs=1e-5
    )


def test_an_unknown_item_names_the_nearest_titles(run: Path) -> None:
    with pytest.raises(UserError, match=r'--item Flim A: not among the 16 items .* nearest titles: "Film A'):
        similar_items(run, "Flim A")


def test_popular_items_are_counted(run: Path) -> None:
    found = popular_items(run, 3)
    counts = pd.Series([item for _, item in TRAIN]).value_counts()
    assert found["score"].tolist() == sorted(counts.tolist(), reverse=True)[:3]
    assert counts[found["item"]].tolist() == found["score"].tolist()


def test_an_unknown_user_is_told_what_can_be_done(run: Path) -> None:
    with pytest.raises(UserError) as raised:
        recommend(run, "7")
    assert str(raised.value).endswith(
        "(such as 1001, 1002, 1003). Name one of them, or use --history with this user's items, --attributes "
        "with what is known of colour, height, decade or --popular for someone of whom nothing is known"
    )


def answer(capsys: pytest.CaptureFixture[str], run: Path, *options: str) -> dict:
    capsys.readouterr()
    assert main(["recommend", str(run), *options, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_command_gives_what_the_functions_do(run: Path, tmp_path: Path, capsys) -> None:
    allow = tmp_path / "allow.txt"
    allow.write_text(f"{FIRST}\n{FIRST + 2}\n")
    found = answer(capsys, run, "--user", "1002", "--why", "--where", "colours=white", "--allow", str(allow))
    expected = recommend(run, "1002", why=3, where=["colours=white"], allow=allow)
    assert found == {"user": "1002", "items": expected.to_dict("records")}
    found = answer(capsys, run, "--item", "Film B", "-k", "2", "--at-most", "colours=1")
    assert (found["item"], found["measure"], len(found["items"])) == (str(FIRST + 1), MEASURE, 2)
    found = answer(capsys, run, "--attributes", "colour=white,decade=20", "--history", "Film C", "-k", "1")
    assert (found["attributes"], found["history"]) == ({"colour": "white", "decade": "20"}, [str(FIRST + 2)])
    assert answer(capsys, run, "--popular", "-k", "1")["popular"] is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--item 51 --mark test", "argument --mark: not allowed with argument --item"),
        ("--user 1001 --attributes colour=white", "argument --attributes: not allowed with argument --user"),
        ("--popular --cap 3", "argument --cap: not allowed with argument --popular"),
        ("--user 1001 --users-per-part 3", "argument --users-per-part: not allowed with argument --user"),
        ("--all", "--all needs --out DIR, a folder for the lists"),
        ("--attributes colour", "'colour': names and values are needed, as gender=F,age=25"),
        ("--user 1001 --at-most colours", "--at-most colours: an attribute, = and a number from 1 up are"),
        ("--user 1001 --deny nowhere.txt", "--deny nowhere.txt: no such file. Name a file of raw ids"),
    ],
)
def test_options_that_do_not_fit_are_refused(run: Path, capsys, options: str, message: str) -> None:
    capsys.readouterr()
    assert main(["recommend", str(run), *options.split()]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
