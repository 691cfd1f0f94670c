"""Items without training interactions: what they look up, and that attributes alone rank them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests import worlds
from trainer.batching.sampler import Batches, BatchPlan
from trainer.batching.tower_inputs import item_inputs, user_inputs
from trainer.cli import main
from trainer.model.retriever import candidate_vectors
from trainer.runs.run_folder import TrainedRun, open_run
from trainer.serving.recommend import recommend

USERS, ITEMS = 16, 12
NEW = {0: worlds.FIRST_ITEM + ITEMS - 2, 1: worlds.FIRST_ITEM + ITEMS - 1}
"""The item of each colour that nobody has in the training part."""
FEATURES = ["--model.item_features", "colour", "--evaluation.k", "2"]


def run_on_colours(folder: Path, *options: str) -> Path:
    """A run on a checkerboard whose items have their colour as an attribute, two of them out of training."""
    board, withheld = worlds.checkerboard(USERS, ITEMS)
    train = [pair for pair in board if pair[1] not in NEW.values()]
    withheld = [pair for pair in withheld if pair[1] not in NEW.values()]
    test = [*withheld, *((worlds.FIRST_USER + user, NEW[user % 2]) for user in range(USERS))]
    ids = [worlds.FIRST_ITEM + item for item in range(ITEMS)]
    colours = pa.table({"item_id": ids, "colour": [("black", "white")[item % 2] for item in range(ITEMS)]})
    pq.write_table(colours, folder / "items.parquet")
    arguments = [*worlds.options(folder, train, test), "--data.items", str(folder / "items.parquet")]
    return worlds.trained(folder, *arguments, *FEATURES, *options)


def reserved(trained: TrainedRun) -> torch.Tensor:
    tables = trained.tower_pairs[0].towers.candidate.embeddings.embedding_bags
    assert tables["item"].weight.shape[0] == tables["item_bias"].weight.shape[0] == ITEMS + 1
    return tables["item"].weight[ITEMS].detach()


@pytest.mark.parametrize(
    "options",
    [[], ["--model.history", "true"], ["--loss.candidates", "sampled"], ["--model.combine", "concat"]],
    ids=["catalogue", "history", "sampled", "concat"],
)
def test_a_new_item_is_recommended_to_those_who_like_its_attribute(
    tmp_path: Path, options: list[str]
) -> None:
    run = run_on_colours(tmp_path, "--model.item_id_dropout", "0.3", *options)
    for user in range(USERS):
        found = recommend(run, str(worlds.FIRST_USER + user), 100, mark="test")
        scores = dict(zip(found["item"], found["score"], strict=True))
        own, other = (
            {
                item: score
                for item, score in scores.items()
                if (item - worlds.FIRST_ITEM - user) % 2 == differs
            }
            for differs in (0, 1)
        )
        assert own[NEW[user % 2]] > max(other.values())
        assert other[NEW[1 - user % 2]] < min(own.values())
    assert (reserved(open_run(run)) != 0).any()


def test_without_dropout_of_ids_the_reserved_row_stays_zero_and_its_bias_that_of_half_an_interaction(
    tmp_path: Path,
) -> None:
    run = run_on_colours(tmp_path)
    trained = open_run(run)
    assert reserved(trained).tolist() == [0] * 8
    rows = np.array([trained.vocabulary.item_row(item) for item in NEW.values()])
    towers = trained.tower_pairs[0].towers.candidate
    colours = towers.embeddings.embedding_bags["item_colour"].weight.detach()
    vectors = candidate_vectors(trained.tower_pairs, rows, torch.device("cpu"))
    # Black comes before white; vectors are unit vectors over the temperature of 0.2.
    expected = torch.nn.functional.normalize(colours[:2], dim=1) / 0.2
    torch.testing.assert_close(vectors[:, :8], expected)
    holders = np.bincount(trained.vocabulary.seen.values, minlength=ITEMS)
    logarithm = np.log(np.maximum(holders, 0.5))
    half = 0.85 * (np.log(0.5) - logarithm.mean())
    assert vectors[:, 8].tolist() == pytest.approx([half, half], rel=1e-5)


def test_with_dropout_of_ids_the_bias_of_new_items_starts_at_that_of_a_mean_one_and_is_trained(
    tmp_path: Path,
) -> None:
    # Twenty users have item 1, five of them item 2 as well, and nobody item 3: the mean item is had by 12.5.
    train = [(user, 1) for user in range(20)] + [(user, 2) for user in range(5)]
    data = [*worlds.options(tmp_path, train, [(0, 3)]), "--model.item_id_dropout", "0.5"]
    start = 0.85 * np.log(12.5 / 5)

    def lead_over_item_2(folder: str, *options: str) -> float:
        trained = open_run(worlds.trained(tmp_path / folder, *data, *options))
        rows = np.array([trained.vocabulary.item_row(item) for item in (3, 2)])
        new, rare = candidate_vectors(trained.tower_pairs, rows, torch.device("cpu"))[:, -1].tolist()
        return new - rare

    assert lead_over_item_2("untrained", "--optimizer.learning_rate", "1e-9") == pytest.approx(
        start, rel=1e-4
    )
    assert abs(lead_over_item_2("trained") - start) > 0.01


@pytest.mark.parametrize(
    ("rows", "candidates"),
    [
        *(("user", "catalogue"), ("user", "sampled"), ("user", "in_batch")),
        *(("interaction", "catalogue"), ("interaction", "sampled"), ("interaction", "own")),
    ],
)
def test_the_asked_for_share_of_ids_is_replaced_and_biases_with_them(
    tmp_path: Path, rows: str, candidates: str
) -> None:
    train, withheld = worlds.checkerboard()
    data = worlds.dataset(tmp_path, train, [*withheld, (worlds.FIRST_USER, 99)])
    settings = {"rows": rows, "size": 8, "seed": 3, "candidates": candidates, "samples": 4}
    users, items = user_inputs(data, []), item_inputs(data, [], True)
    plain, dropping = (
        Batches(data, BatchPlan(**settings, item_id_dropout=share), users, items) for share in (0.0, 0.3)
    )
    replaced, looked_up = 0, 0
    for step in range(300):
        own, found = plain.make(step).candidates, dropping.make(step).candidates
        ids = found["item"].values()
        assert data.item_count not in own["item"].values()
        assert data.item_row(99) not in own["item"].values()  # nobody has it: it is no candidate
        kept = ids != data.item_count
        assert torch.equal(ids[kept], own["item"].values()[kept])
        assert torch.equal(found["item_bias"].values(), ids)
        replaced, looked_up = replaced + int((~kept).sum()), looked_up + len(ids)
    tolerance = 5 * np.sqrt(0.3 * 0.7 / looked_up)
    assert replaced / looked_up == pytest.approx(0.3, abs=tolerance)


POPULAR, RARE = "hit", "niche"


def kinds(folder: Path) -> list[str]:
    """Items 0 to 7, the even ones of a kind that 12 of 24 users have each and the odd of one that 2 have.

    Items 8 and 9, one of each kind, are new.
    """
    generator = np.random.default_rng(3)
    train = [
        (user, item)
        for item in range(8)
        for user in generator.choice(24, 2 if item % 2 else 12, replace=False).tolist()
    ]
    train += [(user, 0) for user in range(24) if (user, 0) not in train]
    table = pa.table({"item_id": np.arange(10), "kind": [POPULAR, RARE] * 5})
    pq.write_table(table, folder / "kinds.parquet")
    options = worlds.options(folder, train, [(0, 8), (1, 9)])
    return [*options, "--data.items", str(folder / "kinds.parquet"), "--model.item_features", "kind"]


def biases(run: Path) -> dict[int, float]:
    """The bias of every item by its raw id."""
    trained = open_run(run)
    vectors = candidate_vectors(trained.tower_pairs, np.arange(len(trained.vocabulary.item_ids)), CPU)
    return dict(zip(trained.vocabulary.item_ids.to_pylist(), vectors[:, -1].tolist(), strict=True))


CPU = torch.device("cpu")
UNTRAINED = ["--optimizer.learning_rate", "1e-9", "--optimizer.dense_learning_rate", "1e-9"]


def test_a_new_item_of_a_popular_kind_has_the_bias_of_one(tmp_path: Path) -> None:
    data = kinds(tmp_path)
    run = worlds.trained(tmp_path / "dropping", *data, "--model.item_id_dropout", "0.3")
    found = biases(run)
    assert found[8] > found[9] + 0.5
    without = biases(worlds.trained(tmp_path / "plain", *data))
    assert without[8] == without[9]


def test_expected_and_own_biases_start_as_log_popularity_together(tmp_path: Path) -> None:
    data = kinds(tmp_path)
    dropping = worlds.trained(tmp_path / "dropping", *data, "--model.item_id_dropout", "0.3", *UNTRAINED)
    plain = worlds.trained(tmp_path / "plain", *data, *UNTRAINED[:2])
    found, expected = biases(dropping), biases(plain)
    assert [found[item] for item in range(8)] == pytest.approx(
        [expected[item] for item in range(8)], abs=1e-4
    )


def test_a_boost_moves_new_items_alone(tmp_path: Path) -> None:
    data = [*kinds(tmp_path), "--model.item_id_dropout", "0.3"]
    plain = biases(worlds.trained(tmp_path / "plain", *data))
    boosted = biases(worlds.trained(tmp_path / "boosted", *data, "--model.new_item_boost", "0.5"))
    slope = open_run(tmp_path / "boosted" / "run").tower_pairs[0].towers.candidate.bias_slope
    assert slope is not None
    moved = {item: boosted[item] - plain[item] for item in plain}
    assert [moved[item] for item in range(8)] == pytest.approx([0] * 8, abs=1e-6)
    assert [moved[item] for item in (8, 9)] == pytest.approx([0.5 * slope.item()] * 2, abs=1e-5)


@pytest.mark.parametrize("before", [["--model.item_id_dropout", "0.3"], []], ids=["expected", "not expected"])
@pytest.mark.parametrize("now", [["--model.item_id_dropout", "0.3"], []], ids=["expected", "not expected"])
def test_known_items_keep_their_bias_in_a_training_that_expects_another(
    tmp_path: Path, before: list[str], now: list[str]
) -> None:
    earlier = worlds.trained(tmp_path / "earlier", *kinds(tmp_path), *before)
    # Tomorrow the niche is what most people have: other popularities are expected.
    (tmp_path / "later").mkdir()
    later = kinds(tmp_path / "later")
    pq.write_table(
        worlds.table([(user, item) for user in range(24) for item in range(8) if item % 2 or user < 2]),
        tmp_path / "later" / "interactions.parquet",
    )
    run = tmp_path / "now"
    dropout = now or ["--model.item_id_dropout", "0"]
    still = [*UNTRAINED[: 4 if now else 2], "--optimizer.table_learning_rates", "{}"]
    assert main(["train", "--from", str(earlier), *later, *dropout, *still, "--run.dir", str(run)]) == 0
    found, expected = biases(run), biases(earlier)
    assert [found[item] for item in range(8)] == pytest.approx(
        [expected[item] for item in range(8)], abs=1e-3
    )
