"""Bare training loops over two tables, as a user would write or copy them, and the interactions they fit."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.optim import RowWiseAdagrad

SIZES = {"small": (6_040, 3_706), "large": (1_000_000, 200_000)}
"""Users and items, of MovieLens 1M and of a shop."""
RATE, SPREAD = 0.05, 0.1

Examples = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Users, items and values."""
Step = Callable[[Examples], object]


def interactions(tables: str, count: int) -> Examples:
    """Random pairs, each once, with ratings."""
    users, items = SIZES[tables]
    generator = np.random.default_rng(0)
    pairs = np.unique(generator.integers(0, users * items, count + count // 8))
    pairs = generator.permutation(pairs)[:count]
    ratings = generator.integers(1, 6, len(pairs)).astype(np.float32)
    return torch.from_numpy(pairs // items), torch.from_numpy(pairs % items), torch.from_numpy(ratings)


def batches_of(examples: Examples, size: int) -> Iterator[Examples]:
    """Whole batches in an order drawn anew for each epoch, without end."""
    while True:
        order = torch.randperm(len(examples[0]))
        for start in range(0, len(order) - size + 1, size):
            rows = order[start : start + size]
            yield examples[0][rows], examples[1][rows], examples[2][rows]


def squared_error(users: torch.Tensor, items: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of dot products and values."""
    return ((users * items).sum(1) - values).pow(2).mean()


def fbgemm(tables: str, dim: int, batch: int) -> Step:
    """FBGEMM's table-batched embedding with row-wise Adagrad and no framework: the limit of one process."""
    sides = []
    for rows in SIZES[tables]:
        side = SplitTableBatchedEmbeddingBagsCodegen(
            [(rows, dim, EmbeddingLocation.HOST, ComputeDevice.CPU)],
            optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            learning_rate=RATE,
            eps=1e-8,
            pooling_mode=PoolingMode.SUM,
        )
        side.split_embedding_weights()[0].normal_(0, SPREAD)
        sides.append(side)
    offsets = torch.arange(batch + 1)

    def step(examples: Examples) -> None:
        users, items, values = examples
        squared_error(sides[0](users, offsets), sides[1](items, offsets), values).backward()

    return step


def embedding(
    tables: str, dim: int, batch: int, sparse: bool, optimizer: Callable[..., torch.optim.Optimizer]
) -> Step:
    """`nn.Embedding` with an optimizer of torch's."""
    sides = nn.ModuleList(nn.Embedding(rows, dim, sparse=sparse) for rows in SIZES[tables])
    for side in sides.parameters():
        nn.init.normal_(side, 0, SPREAD)
    own = optimizer(sides.parameters(), lr=RATE)

    def step(examples: Examples) -> None:
        users, items, values = examples
        own.zero_grad()
        squared_error(sides[0](users), sides[1](items), values).backward()
        own.step()

    return step


def torchrec(tables: str, dim: int, batch: int) -> Step:
    """The loop of TorchRec's retrieval example: a collection a tower, sharded, fused row-wise Adagrad."""
    names = ("user", "item")
    towers = nn.ModuleDict(
        {
            name: EmbeddingBagCollection(
                tables=[
                    EmbeddingBagConfig(
                        name=name, num_embeddings=rows, embedding_dim=dim, feature_names=[name]
                    )
                ],
                device=torch.device("meta"),
            )
            for name, rows in zip(names, SIZES[tables], strict=True)
        }
    )
    apply_optimizer_in_backward(RowWiseAdagrad, towers.parameters(), {"lr": RATE, "eps": 1e-8})
    model = DistributedModelParallel(towers, device=torch.device("cpu"))
    lengths = torch.ones(batch, dtype=torch.int32)

    def step(examples: Examples) -> None:
        model.fused_optimizer.zero_grad()
        pooled = [
            model.module[name](KeyedJaggedTensor([name], ids, lengths=lengths)).wait()[name]
            for name, ids in zip(names, examples[:2], strict=True)
        ]
        squared_error(pooled[0], pooled[1], examples[2]).backward()
        model.fused_optimizer.step()

    return step


RIVALS: dict[str, Callable[[str, int, int], Step]] = {
    "FBGEMM, row-wise Adagrad": fbgemm,
    "sparse Adagrad": partial(embedding, sparse=True, optimizer=torch.optim.Adagrad),
    "dense Adagrad": partial(embedding, sparse=False, optimizer=torch.optim.Adagrad),
    "dense Adam": partial(embedding, sparse=False, optimizer=torch.optim.Adam),
    "dense Adam, fused": partial(embedding, sparse=False, optimizer=partial(torch.optim.Adam, fused=True)),
    "TorchRec's example": torchrec,
}
