"""Runs in an S3 store, over HTTP: hosts without a common disk, real kills, and a store that is away."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.distributed.launches import environment
from tests.distributed.ranks import run_on_ranks
from tests.distributed.small_training import Losses, configured, small_dataset, source_of
from tests.stores import BUCKET, as_client, cache_of, s3_server, variables_of_client
from trainer.dataset.dataset import open_dataset
from trainer.distributed.world import World
from trainer.fitting.components import assemble
from trainer.fitting.loop import fit
from trainer.object_storage.copies import open_place
from trainer.object_storage.marker import read_marker
from trainer.object_storage.store import ObjectStore
from trainer.object_storage.working_copy import working_path
from trainer.runs.checkpoint_policy import save_outcome
from trainer.runs.checkpoint_store import newest
from trainer.runs.run_folder import describe_run
from trainer.runs.uploads import uploaded

pytestmark = pytest.mark.distributed

MADE_UP = (
    "--data.name synthetic --data.synthetic_users 250 --data.synthetic_items 220 --run.choose false "
    "--data.synthetic_interactions 4000 --model.dim 8 --run.tensorboard false --device cpu"
)


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[bytes]]:
    with s3_server() as process:
        yield process


class Silent(Losses):
    """Keeps nothing."""

    def record(self, step: int, text: str, **figures: float) -> None:
        pass


def train_as_host(
    world: World, config: Any, data: Path, url: str, caches: Path, client: dict[str, str]
) -> tuple[list[str], int, int]:
    """Train with this rank as a host with a disk of its own.

    Returns: the shards that it has written of the outcome, the step of the outcome, and the last step.
    """
    host = replace(world, local_rank=0, local_size=1)
    with as_client(client | cache_of(caches / f"host-{world.rank}")):
        run, dataset = working_path(url), open_dataset(data)
        parts = assemble(config, dataset, world)
        with uploaded(run, host) as uploads:
            assert uploads is not None
            world.on_first(lambda: describe_run(run, config, dataset, parts.plan, parts.tower_pairs))
            progress: Any = Silent()
            source = source_of(config, dataset, parts)
            history, watch = fit(config, dataset, parts, source, host, progress, run, uploads=uploads)
            settings = {"model": parts.model, "optimizer": parts.optimizer, "world": host, "history": history}
            name = config.optimizer.name
            step = save_outcome(
                run, config.run, **settings, optimizer_name=name, seconds=watch.seconds, uploads=uploads
            )
            shards = (run / "checkpoints" / f"step-{step:09d}").glob("*.distcp")
            own = sorted(path.name for path in shards if path.name.startswith(f"__{world.rank}_"))
            uploads.publish()
            uploads.complete()
            assert {path.name for path in (run / "checkpoints").glob("*/*.distcp")} > {*own}
            if world.is_first:
                newest(run)  # refuses a damaged one
            return own, step, history.validations[-1].step if history.validations else history.steps


WAYS = {
    "last": "--run.keep_last 1",
    "async": "--run.keep_last 1 --run.save_async true",
    # Trained for long enough to overfit, so that the best weights are those of a checkpoint before.
    "best": "--data.validation_size 0.2 --run.evaluate_every 1 --run.patience 3 --run.epochs 30 "
    "--optimizer.learning_rate 1",
}
SLOW = {"async": pytest.mark.slow, "best": pytest.mark.slow}


@pytest.mark.parametrize("way", [pytest.param(way, marks=SLOW.get(way, ())) for way in WAYS])
def test_hosts_without_a_common_disk_gather_one_checkpoint(
    server: subprocess.Popen[bytes], tmp_path: Path, way: str
) -> None:
    url = f"s3://{BUCKET}/runs/{way}"
    config = configured("--sharding.kind row_partitioned --run.save_every 2", WAYS[way])
    data = small_dataset(tmp_path / "data", validation_size=0.2 if way == "best" else 0)
    work = train_as_host, config, data, url, tmp_path, variables_of_client()
    (own, step, last), (others, *_) = run_on_ranks(2, *work, timeout=120)
    assert (step < last) == (way == "best")
    assert {name[:3] for name in own} == {"__0"}
    assert {name[:3] for name in others} == {"__1"}
    with mock.patch.dict(os.environ, cache_of(tmp_path / "reader")):
        saved = newest(open_place(url), step)
    assert {path.name for path in saved.folder.glob("*.distcp")} == {*own, *others}


def train(folder: Path, options: Sequence[str], cache: str) -> subprocess.Popen[str]:
    """A training of its own process, on a host whose caches are empty."""
    command = [sys.executable, "-m", "trainer", "train", *options]
    own = cache_of(folder / cache) | {"SHARDTOWER_STORE_LEASE_SECONDS": "4"}
    out = (folder / f"{cache}.log").open("w")
    return subprocess.Popen(command, env=environment() | own, cwd=folder, stdout=out, stderr=out, text=True)


def said(folder: Path, cache: str) -> str:
    return (folder / f"{cache}.log").read_text()


def weights(run: Path) -> dict[str, str]:
    files = newest(run).folder.glob("*.distcp")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def wait_for(url: str, step: int) -> None:
    """Wait until a checkpoint of this step or a later one is in force."""
    store = ObjectStore(url)
    for _ in range(1200):
        marker = read_marker(store)
        names = marker.below("checkpoints") if marker else {}
        if any(int(name.split("/")[1][5:]) >= step for name in names):
            return
        time.sleep(0.05)
    raise TimeoutError


@pytest.mark.slow
def test_a_training_that_was_killed_goes_on_on_another_host(
    server: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    options, url = (
        [*MADE_UP.split(), "--run.epochs", "400", "--run.save_every", "100"],
        f"s3://{BUCKET}/killed",
    )
    assert train(tmp_path, [*options, "--run.dir", "plain"], "plain-host").wait(120) == 0
    first = train(tmp_path, [*options, "--run.dir", url], "first")
    wait_for(url, 200)
    first.kill()
    first.wait()
    assert train(tmp_path, ["--run.dir", url], "second").wait(120) == 0
    assert re.search(r"Going on after step [2-9]00 of 1,600", said(tmp_path, "second"))
    assert "for a sign of life" in said(tmp_path, "second")
    with mock.patch.dict(os.environ, cache_of(tmp_path / "reader")):
        run = open_place(url)
        assert weights(run) == weights(tmp_path / "plain") != {}
        figures = [
            json.loads((each / "metrics.json").read_text())["model"] for each in (run, tmp_path / "plain")
        ]
    assert figures[0] == figures[1]


@pytest.mark.slow
def test_a_store_that_is_away_for_30_seconds_is_waited_for(
    server: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    options, url = (
        [*MADE_UP.split(), "--run.epochs", "2000", "--run.save_every", "500"],
        f"s3://{BUCKET}/away",
    )
    training = train(tmp_path, [*options, "--run.dir", url], "host")
    wait_for(url, 500)
    server.send_signal(signal.SIGSTOP)
    time.sleep(30)
    server.send_signal(signal.SIGCONT)
    assert training.wait(120) == 0
    text = said(tmp_path, "host")
    assert f"{url}: does not answer (" in text
    assert re.search(rf"{url}: answers again after \d+ s", text)
    with mock.patch.dict(os.environ, cache_of(tmp_path / "reader")):
        assert newest(open_place(url)).step == 8000
