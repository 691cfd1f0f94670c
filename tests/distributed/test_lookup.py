"""TorchRec's own lookups and the direct ones: the same training, at every rank count and sharding."""

from pathlib import Path

import pytest
import torch

from tests.distributed.ranks import run_on_ranks
from tests.distributed.small_training import configured, small_dataset, train_small

pytestmark = pytest.mark.distributed

BAGS = "--optimizer.name rowwise_adagrad --model.history true --model.item_features labels"
IDS = "--optimizer.name adam"
SHARDINGS = ("table_wise", "data_parallel", "row_partitioned")
ANOTHER_ORDER = {(BAGS, "data_parallel", 3), (IDS, "data_parallel", 3), (IDS, "row_partitioned", 3)}
"""Where DDP averages the gradients of copies, or ranks take other rows of a batch: sums round otherwise."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_dataset(tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("options", [BAGS, IDS], ids=["bags", "ids"])
def test_torchrecs_own_lookups_train_as_direct_ones_do(
    options: str, sharding: str, ranks: int, folder: Path
) -> None:
    """Losses are the same to the last bit, except where `ANOTHER_ORDER` says float32 rounding."""
    losses = {}
    for lookup in ("auto", "torchrec"):
        kind = f"--sharding.kind {sharding} --sharding.lookup {lookup}"
        trained = run_on_ranks(ranks, train_small, configured(options, kind), folder)
        losses[lookup] = torch.tensor(trained[0].losses, dtype=torch.float64)
    rounding = 1e-5 if (options, sharding, ranks) in ANOTHER_ORDER else 0.0
    torch.testing.assert_close(losses["auto"], losses["torchrec"], rtol=rounding, atol=0)
