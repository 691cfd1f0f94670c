"""The state of row-partitioned tables: that of whole ones, in memory and in checkpoints."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from tests import layouts
from trainer.distributed.world import World, join_world
from trainer.errors import CheckpointError
from trainer.model.row_partitions import partition_names
from trainer.model.towers import TwoTowers
from trainer.runs.checkpoint import load, save
from trainer.sharding.model_state import copied, table_name, whole_state
from trainer.sharding.private_api import ShardedTensor, sharded_tensor
from trainer.sharding.table_values import fill_tables

DIM, ROWS = 4, {"user": 25, "item": 6}
RATES = dict.fromkeys(ROWS, 0.1)
# 25 rows in 12 parts: blocks of 3, eight whole ones and a row. In 13 parts: blocks of 2, twelve and a row,
# and so `user:10` stands before `user:2` wherever names are sorted as texts.
CUTS = [{}, {"user": 2}, {"user": 12}, {"user": 13, "item": 6}]
KEYS = {
    name: f"{side}.embeddings.embedding_bags.{name}.weight"
    for name, side in (("user", "query"), ("item", "candidate"))
}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with join_world("cpu") as joined:
        yield joined


def numbered(table: str, rows: slice) -> torch.Tensor:
    """Row r of the user table is r, r + 0.1, ...; items begin at 1,000."""
    first = torch.arange(rows.start, rows.stop) + (1000 if table == "item" else 0)
    return first.unsqueeze(1) + torch.arange(DIM) / 10


def towers(cut: dict[str, int], user_rows: int = ROWS["user"]) -> TwoTowers:
    torch.manual_seed(1)
    return TwoTowers({"user": user_rows}, {"item": ROWS["item"]}, DIM, hidden=[3], partitions=cut)


def filled(cut: dict[str, int], value: float | None = None, user_rows: int = ROWS["user"]) -> torch.nn.Module:
    """Sharded towers whose tables are numbered, or all of one value."""
    model, _ = layouts.sharded(towers(cut, user_rows), "table_wise", "sgd", RATES)
    fill_tables(
        model, numbered if value is None else lambda _, rows: torch.full((rows.stop - rows.start, DIM), value)
    )
    return model


def table(model: torch.nn.Module, name: str) -> torch.Tensor:
    """Rows of a whole table, put where their offsets say."""
    entry = whole_state(model)[KEYS[name]]
    found = torch.full(tuple(entry.metadata().size), torch.nan)
    for shard in entry.local_shards():
        row, column = shard.metadata.shard_offsets
        place = found[row : row + shard.tensor.shape[0], column : column + shard.tensor.shape[1]]
        assert bool(place.isnan().all()), "shards overlap"
        place.copy_(shard.tensor.detach())
    return found


def assert_numbered(model: torch.nn.Module) -> None:
    for name, rows in ROWS.items():
        assert torch.equal(table(model, name), numbered(name, slice(0, rows))), name


@pytest.mark.parametrize("cut", CUTS)
def test_the_state_has_one_entry_a_table_under_its_own_name(world: World, cut: dict[str, int]) -> None:
    state = whole_state(filled(cut))
    assert list(state) == list(whole_state(filled({})))
    assert {str(table_name(key)) for key in state if table_name(key)} == set(ROWS)


@pytest.mark.parametrize("cut", CUTS)
def test_each_row_stands_where_it_does_in_a_whole_table(world: World, cut: dict[str, int]) -> None:
    assert_numbered(filled(cut))


@pytest.mark.parametrize("cut", CUTS)
def test_what_is_written_into_the_state_is_in_the_model(world: World, cut: dict[str, int]) -> None:
    model = filled(cut, value=0.0)
    for shard in whole_state(model)[KEYS["user"]].local_shards():
        first = shard.metadata.shard_offsets[0]
        shard.tensor.copy_(numbered("user", slice(first, first + shard.tensor.shape[0])))
    assert torch.equal(table(model, "user"), numbered("user", slice(0, ROWS["user"])))
    parts = model.state_dict()
    names = partition_names("user", ROWS["user"], cut["user"]) if cut else ["user"]
    own = [parts[KEYS["user"].replace("user", name)].local_shards()[0].tensor for name in names]
    assert torch.cat(own)[:, 0].tolist() == list(range(ROWS["user"]))


@pytest.mark.parametrize("cut", CUTS)
def test_a_copy_of_a_gpus_shards_says_that_it_lies_in_memory(world: World, cut: dict[str, int]) -> None:
    model = filled(cut)
    state = whole_state(model)
    entries = [entry for entry in state.values() if isinstance(entry, ShardedTensor)]
    assert len(entries) == len(ROWS)
    for entry in entries:  # as they are on a GPU, but for the tensors themselves
        own = [each.metadata for each in entry.local_shards()]
        for metadata in (*entry.metadata().shards_metadata, *own):
            metadata.placement = torch.distributed._remote_device("rank:0/cuda:0")
        with pytest.raises(ValueError, match="device=cuda:0, local shard tensor device=cpu"):
            sharded_tensor(entry.local_shards(), entry.metadata())
    before = {key: table(model, key).clone() for key in ROWS}
    copies = copied(state)
    for name, key in KEYS.items():
        (metadata,) = {str(each.placement) for each in copies[key].metadata().shards_metadata}
        assert metadata == "rank:0/cpu"
        assert {str(each.metadata.placement) for each in copies[key].local_shards()} == {"rank:0/cpu"}
        for own in state[key].local_shards():
            own.tensor.zero_()
        rows = [shard.tensor for shard in copies[key].local_shards()]
        assert torch.equal(torch.cat(rows), before[name])


def test_a_name_with_the_number_of_a_part_is_no_table_of_its_own() -> None:
    assert table_name("query.embeddings.embedding_bags.user:10.weight") == "user"
    assert table_name("query.embeddings.embedding_bags.user_age.weight") == "user_age"
    assert table_name("query.dense.0.weight") is None


@pytest.mark.parametrize(("before", "after"), [*pairwise(CUTS), *pairwise(reversed(CUTS))])
def test_a_checkpoint_opens_in_a_model_that_is_cut_otherwise(
    world: World, tmp_path: Path, before: dict[str, int], after: dict[str, int]
) -> None:
    folder = save(tmp_path, 1, filled(before), world)
    other = filled(after, value=torch.nan)
    load(folder, other)
    assert_numbered(other)


@pytest.mark.parametrize("cut", CUTS)
def test_a_checkpoint_of_partitions_opens_in_plain_towers(
    world: World, tmp_path: Path, cut: dict[str, int]
) -> None:
    folder = save(tmp_path, 1, filled(cut), world)
    plain = towers({}).to_empty(device=torch.device("cpu"))
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.fill_(torch.nan)
    load(folder, plain)
    state = plain.state_dict()
    for name, rows in ROWS.items():
        assert torch.equal(state[KEYS[name]], numbered(name, slice(0, rows)))
    assert torch.equal(plain.query.dense[0].weight, towers({}).query.dense[0].weight)


@pytest.mark.parametrize("rows", [24, 26])
def test_a_checkpoint_of_other_rows_is_refused_by_a_cut_model_too(
    world: World, tmp_path: Path, rows: int
) -> None:
    folder = save(tmp_path, 1, filled({"user": 3}), world)
    with pytest.raises(CheckpointError, match="does not hold this model") as error:
        load(folder, filled({"user": 3}, user_rows=rows))
    assert "\n" not in str(error.value)
