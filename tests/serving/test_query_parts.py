"""Parts of a query vector, against tables and weights by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests import worlds
from trainer.histories.recency import HOUR
from trainer.model.retriever import candidate_vectors, one_user, query_vectors
from trainer.runs.run_folder import open_run
from trainer.serving.query_parts import known_items, query_parts
from trainer.serving.recommend import recommend, recommend_by_history

CPU = torch.device("cpu")
ONE = np.array([0])


def test_parts_of_a_bag_are_its_rows_over_the_root_of_their_number_and_the_length(tmp_path: Path) -> None:
    options = worlds.options(tmp_path, *worlds.checkerboard())
    model = "--model.history", "bag", "--model.low_rank", "4", "--run.choose", "false"
    run = worlds.trained(tmp_path, *options, *model, "--run.epochs", "2")
    pairs = open_run(run).tower_pairs
    own = [one_user(pair, 3) for pair in pairs]
    past = known_items(own)
    parts = query_parts(own, past)
    tables = {
        name: each.weight.detach() for name, each in pairs[0].towers.query.embeddings.embedding_bags.items()
    }
    closed = pairs[1].towers.query.embeddings.embedding_bags["user_low_rank"].weight.detach()
    root = len(past) ** 0.5
    unscaled = tables["user"][3] + tables["user_history"][past].sum(0) / root
    expected = tables["user_history"][past] / root / unscaled.norm()
    np.testing.assert_allclose(parts[:, :8], expected.numpy(), atol=1e-6)
    assert not parts[:, 8].any()  # the bias
    np.testing.assert_allclose(parts[:, 9:], (closed[past] / root).numpy(), atol=1e-6)
    # With the user's own vector they make up the whole.
    query = query_vectors(own, ONE, CPU)[0].numpy()
    rest = (tables["user"][3] / unscaled.norm()).numpy()
    np.testing.assert_allclose(parts.sum(0)[:8] + rest, query[:8], atol=1e-6)
    np.testing.assert_allclose(parts.sum(0)[9:], query[9:], atol=1e-6)


def ordered(folder: Path, *model: str) -> Path:
    data = worlds.ordered_options(folder, worlds.cycle(users=12), hours=(1, 5))
    options = "--run.choose", "false", "--model.low_rank", "0", "--model.history_length", "4"
    return worlds.trained(folder, *data, *options, *model, "--run.epochs", "1")


def test_parts_of_a_recent_history_weigh_by_place_and_time(tmp_path: Path) -> None:
    run = ordered(tmp_path, "--model.history", "recency", "--model.history_table", "own")
    pairs = open_run(run).tower_pairs
    own = [one_user(pair, 2) for pair in pairs]
    past = known_items(own)
    parts, query = query_parts(own, past), query_vectors(own, ONE, CPU)[0]
    encoder = pairs[0].towers.encoder
    assert encoder is not None
    items = np.asarray(own[0].user_inputs["user_sequence"].values)  # type: ignore[union-attr]
    times = np.asarray(own[0].user_inputs["user_sequence_times"].values)  # type: ignore[union-attr]
    a, b = (float(each.detach().exp()) for each in (encoder.log_decay, encoder.log_time_decay))  # type: ignore[union-attr]
    table = pairs[0].towers.candidate.embeddings.embedding_bags["item_context"].weight.detach().numpy()
    before = np.arange(len(items))[::-1]  # items after each
    weights = np.exp(-a * before) * (1 + (times[-1] - times) / HOUR) ** -b * (before < 4)
    rows = weights[:, None] * table[items]
    unscaled = rows.sum(0)
    if "user" in pairs[0].towers.query.widths:
        user = pairs[0].towers.query.embeddings.embedding_bags["user"].weight.detach().numpy()
        unscaled = unscaled + user[own[0].user_inputs["user"]][0]  # type: ignore[index]
    expected = np.zeros((len(past), 8), np.float32)
    expected[np.searchsorted(past, items)] = rows / np.linalg.norm(unscaled)
    np.testing.assert_allclose(parts[:, :8], expected, atol=1e-6)
    np.testing.assert_allclose(unscaled / np.linalg.norm(unscaled), query[:8].numpy(), atol=1e-5)


@pytest.mark.parametrize("model", ["--model.history transformer", "--model.history recency --model.hidden 8"])
def test_attention_and_dense_layers_make_no_sum(tmp_path: Path, model: str) -> None:
    run = ordered(tmp_path, *model.split())
    own = [one_user(pair, 2) for pair in open_run(run).tower_pairs]
    assert not query_parts(own, known_items(own)).any()
    # Reasons then go by similarity, and add up to the score without the bias where that is above 0.
    found = recommend(run, "1003", 1, why=99)
    assert 1 <= len(found["why"][0]) <= 9
    items = candidate_vectors(open_run(run).tower_pairs, np.arange(12), CPU).numpy()
    row = open_run(run).vocabulary.item_row(found["item"][0])
    total = sum(reason["score"] for reason in found["why"][0])
    without = max(found["score"][0] - items[row, 8], 0)
    assert total == pytest.approx(without, abs=1e-4)


def test_reasons_of_someone_new_are_of_the_history_that_was_given(tmp_path: Path) -> None:
    run = ordered(tmp_path, "--model.history", "recency", "--model.user_id", "false")
    found = recommend_by_history(run, ["51", "52", "53"], 2, why=9)
    assert {reason["item"] for why in found["why"] for reason in why} <= {51, 52, 53}
    items = candidate_vectors(open_run(run).tower_pairs, np.arange(12), CPU).numpy()
    for item, score, why in zip(found["item"], found["score"], found["why"], strict=True):
        bias = items[open_run(run).vocabulary.item_row(item), 8]
        if len(why) == 3:  # none speaks against it, so that all add up
            assert sum(reason["score"] for reason in why) == pytest.approx(score - bias, abs=1e-4)
