"""Batches made in advance are the same ones, and the thread that makes them ends with the loop."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import worlds
from trainer.batching.batch import Batch
from trainer.batching.prefetch import in_advance
from trainer.batching.sampler import batches
from trainer.distributed.world import join_world
from trainer.fitting.components import assemble, make_batches
from trainer.fitting.loop import fit
from trainer.reporting.progress import Progress

CPU = torch.device("cpu")
PAIRS = [(user, item) for user in range(12) for item in range(user % 3, 9, 2)]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


def numbered(count: int, made: list[int] | None = None) -> Iterator[Any]:
    """Numbers stand for batches: on the CPU nothing looks into them."""
    for number in range(count):
        if made is not None:
            made.append(number)
        yield number


@pytest.mark.parametrize("ahead", [None, 0, 1, 2, 9])
def test_the_batches_are_the_same_in_the_same_order(ahead: int | None) -> None:
    class Stays(int):
        def to(self, _: torch.device) -> "Stays":
            return self

    found: Any = in_advance(map(Stays, numbered(5)), ahead, CPU)  # type: ignore[arg-type]
    assert list(found) == [0, 1, 2, 3, 4]
    assert threads() == []


def test_no_more_are_made_than_were_asked_for() -> None:
    made: list[int] = []
    with closing(in_advance(numbered(10, made), 2, CPU)) as found:
        assert next(found) == 0
        [thread] = [each for each in threading.enumerate() if each.name.startswith("batches")]
    # One is in use and two are ready; what closing finds begun is finished.
    assert not thread.is_alive()
    assert made in ([0], [0, 1], [0, 1, 2])


def test_they_are_made_by_another_thread() -> None:
    def where() -> Iterator[Any]:
        yield threading.current_thread()

    with closing(in_advance(where(), 1, CPU)) as found:
        assert next(found) is not threading.current_thread()


def test_an_error_of_the_maker_comes_where_its_batch_would_have() -> None:
    def failing() -> Iterator[Any]:
        yield from numbered(2)
        raise ValueError("no third batch")

    found = in_advance(failing(), 2, CPU)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="no third batch"):
        next(found)
    assert threads() == []


def test_the_thread_ends_when_the_loop_breaks() -> None:
    with closing(in_advance(numbered(10), 2, CPU)) as found:
        for _ in found:
            assert threads() != []
            break
    assert threads() == []


def test_the_thread_ends_when_a_step_fails() -> None:
    def loop() -> None:
        with closing(in_advance(numbered(10), 2, CPU)) as found:
            for _ in found:
                raise RuntimeError("the step")

    with pytest.raises(RuntimeError, match="the step"):
        loop()
    assert threads() == []


def trained(folder: Path, ahead: str, *options: str) -> dict[str, torch.Tensor]:
    """Weights of all tables after a training of several epochs."""
    dataset = worlds.dataset(folder, PAIRS, [(0, 1), (1, 2)])
    arguments = (*worlds.QUICK, "--run.epochs", "4", "--batches.ahead", ahead, *options)
    config = worlds.configured(dataset, *arguments)
    with join_world("cpu") as world, Progress(None, 0, active=False, tensorboard=False) as progress:
        parts = assemble(config, dataset, world)
        source = make_batches(config, dataset, parts)
        fit(config, dataset, parts, source, world, progress)
        state = parts.model.state_dict()
        return {key: value.local_shards()[0].tensor.clone() for key, value in state.items() if "bags" in key}


@pytest.mark.parametrize(
    "options", [(), ("--loss.candidates", "sampled", "--loss.samples", "4", "--model.history", "true")]
)
def test_a_training_ends_with_the_same_weights(options: tuple[str, ...], tmp_path: Path) -> None:
    at_once, ahead = (trained(tmp_path / count, count, *options) for count in ("0", "2"))
    assert at_once.keys() == ahead.keys()
    assert all(torch.equal(values, ahead[key]) for key, values in at_once.items())
    assert len(at_once) >= 2


def test_pinning_and_recording_take_in_every_tensor_of_a_batch(tmp_path: Path, monkeypatch) -> None:
    dataset = worlds.dataset(tmp_path, PAIRS, [(0, 1)])
    config = worlds.configured(dataset, *worlds.QUICK, "--loss.candidates", "sampled", "--loss.samples", "4")
    with join_world("cpu") as world:
        parts = assemble(config, dataset, world)
    source = make_batches(config, dataset, parts)
    (batch,) = batches(source, 1, 0, 1)
    # Stand-ins for what needs a GPU: copies, and a note of what is recorded.
    recorded: list[int] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, _: recorded.append(tensor.data_ptr()))
    pinned = batch.pin_memory()
    pinned.record_stream(None)  # type: ignore[arg-type]
    tensors = tensors_of(pinned)
    assert set(recorded) >= {tensor.data_ptr() for tensor in tensors}
    for before, after in zip(tensors_of(batch), tensors, strict=True):
        assert torch.equal(before, after)
        assert before.data_ptr() != after.data_ptr()
    assert len(tensors) == 8


def tensors_of(batch: Batch) -> list[torch.Tensor]:
    features = (batch.queries, batch.candidates)
    assert batch.log_q is not None
    others = [batch.positives, batch.seen, batch.log_q, batch.weights]
    return [each for kjt in features for each in (kjt.values(), kjt.lengths())] + others
