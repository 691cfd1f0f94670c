"""A training step: what it waits for, which losses it takes, and that far leads do not break it."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from tests import worlds
from trainer.cli import main
from trainer.config.resolved import ResolvedConfig
from trainer.config.validation import rules
from trainer.dataset.dataset import Dataset
from trainer.distributed.world import join_world
from trainer.errors import ConfigError
from trainer.facts.losses import LOSSES, LossSpec
from trainer.fitting.components import assemble, make_batches
from trainer.fitting.step import make_loss, train_step

VALUES = ("--model.similarity", "dot", "--batches.rows", "interaction")
READS = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.bincount.default,
    torch.ops.aten.repeat_interleave.Tensor,
    torch.ops.aten.equal.default,
}
"""Operators whose result, or the size of it, the CPU needs from the device at once."""
INDEXING = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default}


class NoReads(TorchDispatchMode):
    """Fails where a GPU would make the CPU wait."""

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        indices = args[1] if operator in INDEXING else ()
        by_mask = any(index is not None and index.dtype == torch.bool for index in indices)
        if operator in READS or by_mask:
            refuse_read(str(operator))
        return operator(*args, **(kwargs or {}))


def refuse_read(what: str) -> None:
    frames = traceback.extract_stack(limit=10)
    own = {"refuse_read", "__torch_dispatch__", "read", "_fn", "inner"}  # the last two are torch's
    reader = next(frame for frame in reversed(frames) if frame.name not in own)
    # What these two read is on the CPU whatever the device is: widths of tables, counts of steps; and in a
    # backward pass DDP's list of the parameters that were used.
    if "fbgemm_gpu" not in reader.filename and reader.name != "_engine_run_backward":
        raise AssertionError(f"{what} reads from the device")


@contextmanager
def no_reads() -> Iterator[None]:
    """Fail where a GPU would make the CPU wait, also by what is no operator on a CPU."""

    def watched(name: str) -> Callable:
        original = getattr(torch.Tensor, name)

        def read(*args: Any, **kwargs: Any) -> Any:
            refuse_read(name)
            return original(*args, **kwargs)

        return read

    with pytest.MonkeyPatch.context() as patch, NoReads():
        for name in ("tolist", "cpu"):
            patch.setattr(torch.Tensor, name, watched(name))
        yield


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    train, withheld = worlds.checkerboard()
    return worlds.dataset(tmp_path, train, withheld, values=[1.0 + place % 5 for place in range(len(train))])


def losses_of_steps(
    config: ResolvedConfig, dataset: Dataset, steps: int, later: Callable = nullcontext
) -> list[float]:
    """Mean loss of each step in a world of one; those after the first run inside the context `later`."""
    found = []
    with join_world("cpu") as world:
        components = assemble(config, dataset, world)
        source, loss_of = make_batches(config, dataset, components), make_loss(config.loss, world)
        for step in range(steps):
            batch, clip = source.make(step), config.optimizer.clip_gradients
            with later() if step else nullcontext():
                loss = train_step(components.model, components.optimizer, batch, loss_of, world, clip)
            found.append(float(loss) / batch.rows)
    return found


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--model.history", "true", "--model.hidden", "8", "--optimizer.clip_gradients", "1"),
        ("--model.learn_temperature", "true", "--loss.candidates", "sampled", "--optimizer.name", "adam"),
        ("--loss.name", "bpr", "--batches.rows", "interaction", "--loss.candidates", "in_batch"),
        ("--sharding.lookup", "torchrec", "--model.history", "true"),
        ("--loss.name", "mse", *VALUES),
        ("--loss.name", "bce", *VALUES),
    ],
    ids=" ".join,
)
def test_no_step_waits_for_the_device(options: tuple[str, ...], data: Dataset) -> None:
    config = worlds.configured(data, *worlds.QUICK, *options)
    assert len(losses_of_steps(config, data, 3, later=no_reads)) == 3


@pytest.mark.parametrize(
    "options",
    [
        ("--model.history", "recency", "--model.history_decay", "both"),
        ("--model.history", "transformer", "--model.user_id", "true", "--model.history_length", "3"),
        ("--model.history", "recency", "--model.similarity", "dot", "--loss.candidates", "in_batch"),
    ],
    ids=" ".join,
)
def test_no_step_on_ordered_histories_waits_for_the_device(options: tuple[str, ...], tmp_path: Path) -> None:
    data = worlds.ordered_dataset(tmp_path, worlds.cycle())
    config = worlds.configured(data, *worlds.QUICK, *options)
    assert len(losses_of_steps(config, data, 3, later=no_reads)) == 3


@pytest.mark.parametrize(
    "reading",
    [
        lambda values: int(values.max()),
        lambda values: bool(values.any()),
        lambda values: values[values > 0],
        lambda values: torch.bincount(values),
        lambda values: values.nonzero(),
        lambda values: values.tolist(),
        lambda values: values.cpu(),
    ],
)
def test_a_read_from_the_device_is_noticed(reading: Callable[[torch.Tensor], Any]) -> None:
    with no_reads(), pytest.raises(AssertionError, match="reads from the device"):
        reading(torch.arange(3))


def hinge(query: torch.Tensor, candidates: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """A loss of its own: how far the score is from the right side of a margin."""
    return functional.relu(1 - (2 * values - 1) * (query * candidates).sum(1))


def test_a_loss_is_added_with_one_entry(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    config = worlds.configured(data, *worlds.QUICK, "--loss.name", "bce", *VALUES)
    entry = LossSpec(f"{__name__}:hinge", pointwise=True, needs_values=True, binary_values=True)
    monkeypatch.setitem(LOSSES, "hinge", entry)
    config = replace(config, loss=replace(config.loss, name="hinge"))
    assert all(holds for _, _, holds in rules(config))
    losses = losses_of_steps(config, data, 60)
    assert sum(losses[-12:]) < 0.5 * sum(losses[:12])


def test_an_unknown_loss_is_refused_by_its_name(data: Dataset) -> None:
    config = worlds.configured(data, *worlds.QUICK)
    config = replace(config, loss=replace(config.loss, name="hinge"))
    with pytest.raises(ConfigError, match=r"loss\.name is 'hinge', expected one of softmax, bpr, mse, bce"):
        losses_of_steps(config, data, 1)


def test_a_training_at_a_very_low_temperature_does_not_diverge(tmp_path: Path) -> None:
    """Scores reach 200 nats, and positives soon lead by more than a float32 can tell from infinitely far."""
    run = tmp_path / "run"
    options = (
        "--data.name synthetic --data.synthetic_users 300 --data.synthetic_items 200 --model.low_rank 0 "
    )
    options += "--data.synthetic_interactions 9000 --model.temperature 0.005 --batches.rows interaction "
    options += "--batches.size 64 --run.epochs 4 --model.dim 32 --device cpu --run.tensorboard false"
    where = ["--data.cache", str(tmp_path / "cache"), "--run.dir", str(run)]
    assert main(["train", *options.split(), *where]) == 0
    assert worlds.figures(run)["ndcg@10"] > 0
