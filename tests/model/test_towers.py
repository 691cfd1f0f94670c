"""The towers as plain modules: pooled features, unit vectors, temperature, bias and dense layers."""

import math

import pytest
import torch
from torchrec import KeyedJaggedTensor

from trainer.model.tower import BIAS_DIM
from trainer.model.towers import TwoTowers
from trainer.sharding.table_values import fill_tables, normal_block

DIM = 8
USER_TABLES = {"user": 5, "user_age": 3}
ITEM_TABLES = {"item": 4, "item_genres": 6, "item_bias": 4}
GENRES = [[0, 5], [], [2], [1, 2, 3]]


def plain(**options) -> TwoTowers:
    """Towers with values, in this process alone."""
    torch.manual_seed(0)
    settings = {"dim": DIM, "item_bias": "item_bias"} | options
    items = {name: rows for name, rows in ITEM_TABLES.items() if settings["item_bias"] or name != "item_bias"}
    towers = TwoTowers(USER_TABLES, items, **settings)
    for tower in (towers.query, towers.candidate):
        tower.embeddings.to_empty(device=torch.device("cpu"))
    fill_tables(towers, lambda table, rows: normal_block(1, table, rows, width(table), 1.0))
    return towers


def width(table: str) -> int:
    return BIAS_DIM if table == "item_bias" else DIM


def jagged(**bags: list[list[int]]) -> KeyedJaggedTensor:
    """A tensor of bags a row, by feature."""
    flat = [value for rows in bags.values() for bag in rows for value in bag]
    lengths = [len(bag) for rows in bags.values() for bag in rows]
    return KeyedJaggedTensor(list(bags), torch.tensor(flat), lengths=torch.tensor(lengths, dtype=torch.int32))


USERS = jagged(user=[[4], [0]], user_age=[[1], [2]])


def items(bias: bool = True) -> KeyedJaggedTensor:
    ids = [[item] for item in range(4)]
    return jagged(item=ids, item_genres=GENRES, **({"item_bias": ids} if bias else {}))


def weights(towers: TwoTowers, table: str) -> torch.Tensor:
    tower = towers.query if table.startswith("user") else towers.candidate
    return tower.embeddings.embedding_bags[table].weight.detach()


def user_vectors(towers: TwoTowers) -> torch.Tensor:
    """The sum of the user's and the age's row."""
    return weights(towers, "user")[[4, 0]] + weights(towers, "user_age")[[1, 2]]


def item_vectors(towers: TwoTowers) -> torch.Tensor:
    """The item's row, and the sum of its genres' over the root of their number, if it has any."""
    genres = weights(towers, "item_genres")
    return torch.stack(
        [
            weights(towers, "item")[item]
            + sum((genres[code] for code in bag), torch.zeros(DIM)) / math.sqrt(max(len(bag), 1))
            for item, bag in enumerate(GENRES)
        ]
    )


def test_features_are_summed() -> None:
    towers = plain(similarity="dot", item_bias=None)
    query, candidates = towers(USERS, items(bias=False))
    torch.testing.assert_close(query, user_vectors(towers))
    torch.testing.assert_close(candidates, item_vectors(towers))
    assert towers.output_dim == DIM


def test_a_cosine_score_is_the_cosine_over_the_temperature_plus_the_bias() -> None:
    towers = plain(temperature=0.25)
    query, candidates = towers(USERS, items())
    assert query.shape == (2, DIM + 1)
    assert candidates.shape == (4, DIM + 1)
    users, vectors = user_vectors(towers), item_vectors(towers)
    bias = weights(towers, "item_bias").mean(1)
    for row, user in enumerate(users):
        for column, item in enumerate(vectors):
            cosine = float(user @ item) / math.sqrt(float(user @ user) * float(item @ item))
            expected = cosine / 0.25 + float(bias[column])
            assert float(query[row] @ candidates[column]) == pytest.approx(expected, abs=1e-5)


def test_a_dot_score_has_no_temperature() -> None:
    towers = plain(similarity="dot", temperature=0.25)
    query, candidates = towers(USERS, items())
    expected = user_vectors(towers) @ item_vectors(towers).T + weights(towers, "item_bias").mean(1)
    torch.testing.assert_close(query @ candidates.T, expected)


def test_a_query_without_any_vector_ranks_by_bias_alone() -> None:
    towers = plain(temperature=0.25)
    with torch.no_grad():
        towers.query.embeddings.embedding_bags["user"].weight[4] = 0
        towers.query.embeddings.embedding_bags["user_age"].weight[1] = 0
    query, candidates = towers(USERS, items())
    torch.testing.assert_close((query @ candidates.T)[0], weights(towers, "item_bias").mean(1))


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_dense_layers_start_as_if_they_were_not_there(similarity: str) -> None:
    without, with_layers = plain(similarity=similarity), plain(similarity=similarity, hidden=[16, 8])
    for expected, found in zip(without(USERS, items()), with_layers(USERS, items()), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("hidden", [[], [16]], ids=["plain", "dense"])
def test_concatenated_features_share_the_width_and_the_bias_is_separate(hidden: list[int]) -> None:
    towers = plain(similarity="dot", combine="concat", hidden=hidden, dim=16)
    assert towers.candidate.widths == {"item": 8, "item_genres": 8, "item_bias": BIAS_DIM}
    query, candidates = towers(USERS, items())
    users = torch.cat([weights(towers, "user")[[4, 0]], weights(towers, "user_age")[[1, 2]]], 1)
    torch.testing.assert_close(query[:, :16], users)
    genres, ids = weights(towers, "item_genres"), weights(towers, "item")
    expected = [genres[bag].sum(0) / math.sqrt(max(len(bag), 1)) for bag in GENRES]
    torch.testing.assert_close(candidates[:, :16], torch.cat([ids, torch.stack(expected)], 1))
    torch.testing.assert_close(candidates[:, 16], weights(towers, "item_bias").mean(1))


@pytest.mark.parametrize("hidden", [[], [16]], ids=["plain", "dense"])
def test_a_zero_vector_stays_zero_and_has_finite_gradients(hidden: list[int]) -> None:
    towers = plain(hidden=hidden)
    empty = jagged(user=[[], [0]], user_age=[[], [2]])
    query, candidates = towers(empty, items())
    assert query[0].tolist() == [0] * DIM + [1]
    (query @ candidates.T).sum().backward()
    # A unit vector of zero length would have a gradient of a million millions.
    gradients = [parameter.grad for parameter in towers.parameters() if parameter.grad is not None]
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1000


def test_dense_layers_add_their_output_to_the_sum_of_the_features() -> None:
    towers = plain(similarity="dot", item_bias=None, hidden=[16])
    first, _, last = towers.query.dense
    torch.nn.init.normal_(last.weight)
    torch.nn.init.normal_(last.bias)
    embedded = torch.cat([weights(towers, "user")[[4, 0]], weights(towers, "user_age")[[1, 2]]], 1)
    hidden = (embedded @ first.weight.T + first.bias).clamp_min(0)
    expected = user_vectors(towers) + hidden @ last.weight.T + last.bias
    torch.testing.assert_close(towers.queries(USERS), expected)


def test_dense_layers_learn_although_the_last_one_starts_at_zero() -> None:
    towers = plain(similarity="dot", item_bias=None, hidden=[16])
    query, candidates = towers(USERS, items(bias=False))
    (query @ candidates.T).sum().backward()
    for tower in (towers.query, towers.candidate):
        assert (tower.dense[-1].weight.grad != 0).any()


def test_a_learned_temperature_starts_at_the_given_one_and_is_trained() -> None:
    fixed, learned = plain(temperature=0.5), plain(temperature=0.5, learn_temperature=True)
    torch.testing.assert_close(fixed(USERS, items()), learned(USERS, items()))
    assert "log_temperature" not in dict(fixed.named_parameters())
    query, candidates = learned(USERS, items())
    score = query[0] @ candidates[0]
    score.backward()
    # score = cosine / exp(log_temperature) + bias, so its derivative is bias - score.
    bias = weights(learned, "item_bias").mean(1)[0]
    assert float(learned.log_temperature.grad) == pytest.approx(float(bias - score.detach()), abs=1e-5)


@pytest.mark.parametrize("learn", [True, False])
def test_the_temperature_is_part_of_the_checkpoint(learn: bool) -> None:
    state = plain(temperature=0.5, learn_temperature=learn).state_dict()
    assert float(state["log_temperature"]) == pytest.approx(math.log(0.5))


def test_tables_have_no_memory_until_they_are_sharded() -> None:
    towers = TwoTowers({"user": 10**9}, {"item": 10**9}, 128)
    assert all(parameter.is_meta for parameter in towers.parameters())
