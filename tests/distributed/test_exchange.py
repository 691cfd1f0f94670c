"""Ids that are sent ahead of their step: the same training to the last bit, and no step sends its own."""

from contextlib import ExitStack
from unittest import mock

import pytest
import torch
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection

from tests.distributed.ranks import run_on_ranks
from tests.distributed.small_training import Losses, configured, shards, small_dataset, source_of, train_small
from trainer.dataset.dataset import open_dataset
from trainer.fitting.components import assemble
from trainer.fitting.loop import fit
from trainer.sharding import input_dist as exchange

pytestmark = pytest.mark.distributed

AHEAD = "--sharding.exchange_ahead true"
EVALUATED = "--data.validation_size 0.2 --run.evaluate_every 1 --run.patience 1 --run.epochs 20"
TRAININGS = {
    "table-wise": "",
    "made by a thread": "--batches.ahead 2",
    "columns, adagrad": "--sharding.kind column_wise --model.dim 128 --optimizer.name adagrad",
    "partitions, histories": "--sharding.kind row_partitioned --model.history true --loss.candidates sampled "
    "--loss.samples 16 --model.item_id_dropout 0.3",
    "some copies, dense layers": "--sharding.tables.user data_parallel --model.user_features group "
    "--model.item_features labels --model.hidden 8",
    "dense Adam, values": "--optimizer.name adam --loss.name mse --batches.rows interaction",
    "in two bytes": "--sharding.communication float16",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_dataset(tmp_path_factory.mktemp("data"), validation_size=0.2)


def assert_same(options, folder, size):
    waiting, ahead = [
        run_on_ranks(size, train_small, configured(options, *more), folder) for more in ((), (AHEAD,))
    ]
    for one, other in zip(waiting, ahead, strict=True):
        assert one.losses == other.losses
        assert one.metrics == other.metrics
        assert all(torch.equal(a.values, b.values) for a, b in zip(one.after, other.after, strict=True))


@pytest.mark.parametrize("options", TRAININGS.values(), ids=TRAININGS)
def test_a_training_is_the_same_to_the_last_bit(options, folder):
    assert_same(options, folder, 2)


@pytest.mark.parametrize("options", ["", "--sharding.kind column_wise --model.dim 128"])
def test_one_rank_needs_no_exchange(options, folder):
    assert_same(options, folder, 1)


class Figures(Losses):
    """Keeps losses and validation figures."""

    def record(self, step, text, **figures):
        self.losses += [value for name, value in figures.items() if name == "loss" or "@" in name]


def stopped_early(world, config, folder):
    """Figures and weights of a training with evaluations between steps, which ends when they get worse."""
    dataset = open_dataset(folder)
    parts, figures = assemble(config, dataset, world), Figures()
    history, _ = fit(config, dataset, parts, source_of(config, dataset, parts), world, figures)
    return history.validations[-1].step, history.steps, figures.losses, shards(parts.model)


def test_evaluations_between_steps_and_an_early_end_change_nothing(folder):
    # In steps of 30 rows an epoch ends with one of a single row, for three ranks.
    options = f"{EVALUATED} --batches.size 30 --optimizer.learning_rate 0.5"
    waiting, ahead = [
        run_on_ranks(3, stopped_early, configured(options, *more), folder) for more in ((), (AHEAD,))
    ]
    for (end, steps, *figures, weights), (same_end, _, *same_figures, same) in zip(
        waiting, ahead, strict=True
    ):
        assert end == same_end < steps
        assert figures == same_figures
        assert all(torch.equal(a.values, b.values) for a, b in zip(weights, same, strict=True))


def no_step_sends(world, config, folder):
    """Losses of a training in which a collection that is called before its ids have arrived fails."""
    dataset = open_dataset(folder)
    parts, losses = assemble(config, dataset, world), Losses()
    with mock.patch.object(ShardedEmbeddingBagCollection, "forward", side_effect=AssertionError("late")):
        fit(config, dataset, parts, source_of(config, dataset, parts), world, losses)
    return losses.losses


def test_every_lookup_finds_its_ids_arrived(folder):
    losses, _ = run_on_ranks(2, no_step_sends, configured(AHEAD), folder)
    assert len(losses) == 8
    with pytest.raises(AssertionError, match="late"):
        run_on_ranks(2, no_step_sends, configured(""), folder)


def order_of_events(world, config, folder):
    """What happens in which order: which step's ids are counted, sent and looked up."""
    dataset, events = open_dataset(folder), []
    parts = assemble(config, dataset, world)
    source = source_of(config, dataset, parts)

    def noted(name):
        original = getattr(exchange._Exchange, name)
        numbers = iter(range(100))

        def note(*arguments):
            events.append((name, next(numbers)))
            return original(*arguments)

        return mock.patch.object(exchange._Exchange, name, note)

    with ExitStack() as stack:
        for name in ("__init__", "send", "arrive"):
            stack.enter_context(noted(name))
        made = (source.make(step, world.rank, world.size) for step in range(4))
        for step, batch in enumerate(exchange.exchanged_ahead(made, parts.towers, world.device)):
            parts.model(batch.queries, batch.candidates)[0].sum().item()
            events.append(("looked up", step))
    return events


def test_ids_are_sent_one_step_ahead_and_counted_two_steps_ahead(folder):
    events, other = run_on_ranks(2, order_of_events, configured(""), folder)
    assert events == other
    place = {event: number for number, event in enumerate(events)}
    for step in range(4):
        if step >= 1:
            assert place["send", step] < place["looked up", step - 1]
        if step >= 2:
            assert place["__init__", step] < place["looked up", step - 2]
            # What is counted is not waited for before a step has passed.
            assert place["looked up", step - 2] < place["send", step]
        assert place["arrive", step] < place["looked up", step]
