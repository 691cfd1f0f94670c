"""Ranks that fall silent, at any moment: the others say so in one line and end, soon after the timeout.

SHARDTOWER_SILENCES=20 tries all places, and 20 random moments with each kind of sharding; by default a few
places and one moment.
"""

import importlib
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest
import torch
from torch.distributed import TCPStore

from tests.distributed.ranks import CONTEXT, environment
from trainer import cli

pytestmark = pytest.mark.distributed

MOMENTS = int(os.environ.get("SHARDTOWER_SILENCES", "1"))
TIMEOUT = 5
"""Of the training, in seconds."""
TRAINING = (
    "train --device cpu --data.name synthetic --data.validation_size 0.1 --run.choose false --run.dir run "
    "--run.tensorboard false --model.dim 16 --model.hidden 8 --batches.size 64 --run.epochs 100000 "
    f"--run.save_every 4 --run.evaluate_every 1 --timeout {TIMEOUT}"
)
TABLE_WISE, ROW_PARTITIONED = "--sharding.kind table_wise", "--sharding.kind row_partitioned"


@dataclass(frozen=True)
class Place:
    """Where a rank stops itself.

    Attributes:
        function: Module and name of a function or a method.
        call: Which of its calls, from 1.
        rank: The rank that stops.
        after: Whether it stops after the call, rather than before.
        options: Of the training.
    """

    function: str
    call: int
    rank: int = 1
    after: bool = False
    options: str = TABLE_WISE

    def arm(self) -> None:
        """Have this process stop there."""
        module, _, name = self.function.partition(":")
        *owners, name = name.split(".")
        owner = importlib.import_module(module)
        for each in owners:
            owner = getattr(owner, each)
        function, calls = getattr(owner, name), iter(range(1, sys.maxsize))

        def stopping(*arguments: object, **options: object) -> object:
            is_here = next(calls) == self.call
            if is_here and not self.after:
                os.kill(os.getpid(), signal.SIGSTOP)
            result = function(*arguments, **options)
            if is_here and self.after:
                os.kill(os.getpid(), signal.SIGSTOP)
            return result

        setattr(owner, name, stopping)


CHECKPOINT = "trainer.runs.checkpoint"
PLACES = {
    "a step": Place("trainer.fitting.loop:train_step", 6),
    "a step of row partitions": Place("trainer.fitting.loop:train_step", 6, options=ROW_PARTITIONED),
    "the first rank in a step": Place("trainer.fitting.loop:train_step", 6, rank=0),
    "an exchange in memory": Place("trainer.distributed.shared_memory:SharedBuffers.exchange", 9),
    "the beginning of a checkpoint": Place(f"{CHECKPOINT}:remove_partial", 2, rank=0),
    "the writing of a checkpoint": Place(f"{CHECKPOINT}:write", 2),
    "the publishing of a checkpoint": Place(f"{CHECKPOINT}:publish", 2, rank=0),
    "a checkpoint beside the training": Place(
        "trainer.runs.async_save:write", 2, options=f"{TABLE_WISE} --run.save_async true"
    ),
    "an evaluation": Place("trainer.distributed.world:World.gather_to_first", 1),
    "the figures of an evaluation": Place("trainer.fitting.loop:evaluate_model", 1, rank=0, after=True),
    "the request to stop": Place("trainer.distributed.preemption:Preemption.stop_requested", 6),
    "the exchange of requests": Place(
        "trainer.distributed.preemption:Preemption.stop_requested", 6, after=True
    ),
}


class Training:
    """A training of two ranks in one folder."""

    def __init__(self, folder: Path, cache: Path, options: str, place: Place | None = None) -> None:
        self.folder = folder
        arguments = [*TRAINING.split(), "--data.cache", str(cache), *options.split()]
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.ranks: list[BaseProcess] = [
            CONTEXT.Process(target=run_rank, args=(rank, self._store.port, folder, arguments, place))
            for rank in range(2)
        ]

    def __enter__(self) -> "Training":
        for rank in self.ranks:
            rank.start()
        return self

    def __exit__(self, *_: object) -> None:
        for rank in self.ranks:
            rank.kill()
            rank.join()

    def errors(self, rank: int) -> str:
        """What a rank has written to its standard error."""
        return (self.folder / f"errors-{rank}").read_text()

    def is_silent(self, rank: int) -> bool:
        """Whether a rank is stopped."""
        return psutil.Process(self.ranks[rank].pid).status() == psutil.STATUS_STOPPED

    def wait(self, rank: int, for_what: object) -> None:
        """Wait until `for_what()` is true, while a rank is running."""
        while not for_what():  # type: ignore[operator]
            assert self.ranks[rank].exitcode is None, self.errors(rank)
            time.sleep(0.01)

    def check_end(self, rank: int) -> None:
        """Check that a rank ends soon, and says in one line that it has lost the others."""
        self.ranks[rank].join(timeout=3 * TIMEOUT)
        assert self.ranks[rank].exitcode == cli.LOST, self.errors(rank)
        errors = self.errors(rank)
        assert errors.count(f"error: rank {rank} has lost the others (") == 1
        assert errors.count("error: ") == 1
        assert "Traceback" not in errors


def run_rank(rank: int, port: int, folder: Path, arguments: list[str], place: Place | None) -> None:
    """Be a rank of a training, as `python -m trainer` is."""
    os.environ |= environment(rank, 2, port)
    os.chdir(folder)
    for stream, name in ((1, "output"), (2, "errors")):
        os.dup2(os.open(f"{name}-{rank}", os.O_WRONLY | os.O_CREAT), stream)
    torch.set_num_threads(1)
    if place and place.rank == rank:
        place.arm()
    sys.argv[1:] = arguments
    cli.run_process()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which all trainings find their data prepared."""
    return tmp_path_factory.mktemp("cache")


FEW = ("a step", "a step of row partitions", "the writing of a checkpoint", "the figures of an evaluation")
"""Places that are tried every time; each takes the seconds of its timeout."""


@pytest.mark.parametrize("name", PLACES if "SHARDTOWER_SILENCES" in os.environ else FEW)
def test_a_rank_that_falls_silent_at_a_place_ends_the_other(name: str, cache: Path, tmp_path: Path) -> None:
    place = PLACES[name]
    other = 1 - place.rank
    with Training(tmp_path, cache, place.options, place) as training:
        training.wait(other, lambda: training.is_silent(place.rank))
        training.check_end(other)


@pytest.mark.parametrize("options", [TABLE_WISE, ROW_PARTITIONED])
@pytest.mark.parametrize("moment", range(MOMENTS))
def test_a_rank_that_falls_silent_at_any_moment_ends_the_other(
    moment: int, options: str, cache: Path, tmp_path: Path
) -> None:
    generator = random.Random(moment)
    silent = generator.randrange(2)
    with Training(tmp_path, cache, options) as training:
        first_checkpoint = tmp_path / "run" / "checkpoints" / "step-000000004"
        training.wait(1 - silent, first_checkpoint.exists)
        time.sleep(generator.uniform(0, 1))
        os.kill(training.ranks[silent].pid or 0, signal.SIGSTOP)
        training.check_end(1 - silent)
