"""What only a GPU can show: the same training on CUDA as on the CPU, and its options as without them."""

import json
import os
from contextlib import closing
from pathlib import Path

import pytest
import torch

from tests import worlds
from tests.distributed.launches import end, start
from trainer.batching.prefetch import in_advance
from trainer.batching.sampler import batches
from trainer.cli import main
from trainer.distributed.precision import matmul_precision
from trainer.distributed.world import join_world
from trainer.fitting import loop
from trainer.fitting.components import assemble, make_batches

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


TWO_GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
PLAIN = ("--batches.ahead", "0")
DATA = Path(os.environ.get("SHARDTOWER_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


def losses_of(folder: Path, name: str, *options: str) -> torch.Tensor:
    """Loss of every step of a training on one GPU."""
    train, withheld = worlds.checkerboard()
    run, words = folder / name, [*worlds.options(folder, train, withheld), *worlds.QUICK]
    more = ["--run.log_every", "1", "--device", "cuda", "--run.dir", str(run), *options]
    assert main([*words, *more]) == 0
    return recorded(run)


def recorded(run: Path) -> torch.Tensor:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return torch.tensor([record["loss"] for record in records if "loss" in record])


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad", "sgd", "adam"])
def test_a_training_on_cuda_loses_what_it_loses_on_the_cpu(optimizer: str, tmp_path: Path) -> None:
    train, withheld = worlds.checkerboard()
    losses = {}
    for device in ("cpu", "cuda"):
        run = tmp_path / device
        options = [*worlds.options(tmp_path, train, withheld), *worlds.QUICK, "--run.log_every", "1"]
        assert main([*options, "--optimizer.name", optimizer, "--device", device, "--run.dir", str(run)]) == 0
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses[device] = torch.tensor([record["loss"] for record in records])
    torch.testing.assert_close(losses["cuda"], losses["cpu"], rtol=1e-3, atol=1e-5)


def test_a_fused_adam_is_the_dense_one_where_every_step_looks_up_every_row(tmp_path: Path) -> None:
    every_row = ("--batches.size", "16", "--loss.candidates", "catalogue")
    dense, fused = (
        losses_of(tmp_path, name, *every_row, "--optimizer.name", name) for name in ("adam", "adam_fused")
    )
    torch.testing.assert_close(fused, dense, rtol=1e-3, atol=1e-5)


def test_a_fused_adam_moves_looked_up_rows_alone(tmp_path: Path) -> None:
    dense, fused = (losses_of(tmp_path, name, "--optimizer.name", name) for name in ("adam", "adam_fused"))
    assert not torch.allclose(fused, dense, rtol=1e-3, atol=1e-5)


def test_evaluations_do_not_change_what_a_fused_adam_learns(tmp_path: Path) -> None:
    more = ("--optimizer.name", "adam_fused", "--data.validation_size", "0.2", "--run.patience", "0")
    alone = losses_of(tmp_path, "alone", *more, "--run.evaluate_every", "0")
    evaluated = losses_of(tmp_path, "evaluated", *more, "--run.evaluate_every", "1")
    torch.testing.assert_close(evaluated, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adam", "adam_fused", "rowwise_adagrad"])
@pytest.mark.parametrize("save", ["false", "true"], ids=["at once", "in a thread"])
def test_a_resumed_training_loses_what_an_unbroken_one_does(
    optimizer: str, save: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--optimizer.name", optimizer, "--run.save_every", "10", "--run.save_async", save)
    whole = losses_of(tmp_path, "whole", *options)
    taken, step = [0], loop.train_step

    def interrupted(*arguments: object, **more: object) -> torch.Tensor:
        taken[0] += 1
        if taken[0] == 35:
            raise KeyboardInterrupt
        return step(*arguments, **more)

    train, withheld = worlds.checkerboard()
    command = [*worlds.options(tmp_path, train, withheld), *worlds.QUICK, "--run.log_every", "1", *options]
    command += ["--device", "cuda", "--run.dir", str(tmp_path / "broken")]
    with monkeypatch.context() as patched:
        patched.setattr(loop, "train_step", interrupted)
        assert main(command) == 130
    assert len(list((tmp_path / "broken").rglob("*.distcp"))) > 0
    assert main(command) == 0
    torch.testing.assert_close(recorded(tmp_path / "broken"), whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adam", "adam_fused", "rowwise_adagrad"])
@pytest.mark.parametrize("candidates", ["catalogue", "in_batch"])
def test_a_deterministic_training_repeats_to_the_last_bit(
    optimizer: str, candidates: str, tmp_path: Path
) -> None:
    options = ("--deterministic", "true", "--model.history", "true", "--model.hidden", "8")
    options += ("--optimizer.name", optimizer, "--loss.candidates", candidates)
    first, again = (losses_of(tmp_path, name, *options) for name in ("first", "again"))
    assert torch.equal(first, again)
    assert worlds.figures(tmp_path / "first") == worlds.figures(tmp_path / "again")
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.real_data
@pytest.mark.skipif(not (DATA / "ml-100k").is_dir(), reason="no ml-100k at hand")
def test_the_default_training_of_ml_100k_ranks_as_well_as_on_the_cpu(tmp_path: Path) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        run = tmp_path / device
        options = ["--data.root", str(DATA), "--data.source", "none", "--data.cache", str(tmp_path / "cache")]
        assert main([*options, "--device", device, "--run.dir", str(run), "--run.tensorboard", "false"]) == 0
        found[device] = worlds.figures(run)["ndcg@10"]
    assert found["cuda"] == pytest.approx(found["cpu"], abs=0.002)


def test_a_run_on_cuda_is_measured_and_recommended_from_on_the_cpu(tmp_path: Path, capsys) -> None:
    train, withheld = worlds.checkerboard()
    run = tmp_path / "run"
    options = [*worlds.options(tmp_path, train, withheld), *worlds.QUICK]
    assert main([*options, "--device", "cuda", "--run.dir", str(run)]) == 0
    then = json.loads((run / "metrics.json").read_text())["model"]
    capsys.readouterr()
    assert main(["evaluate", str(run), "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == pytest.approx(then, abs=1e-3)
    assert main(["recommend", str(run), "--user", str(train[0][0]), "--json"]) == 0


def test_batches_made_in_advance_are_whole_when_they_are_used(tmp_path: Path) -> None:
    train, withheld = worlds.checkerboard()
    dataset = worlds.dataset(tmp_path, train, withheld)
    config = worlds.configured(dataset, *worlds.QUICK, "--model.history", "true")
    with join_world("cuda") as world:
        parts = assemble(config, dataset, world)
        source = make_batches(config, dataset, parts)
        expected = list(batches(source, 20, 0, 1))
        with closing(in_advance(batches(source, 20, 0, 1), 2, world.device)) as made:
            for there, here in zip(made, expected, strict=True):
                # Late kernels read the batch while the thread makes, copies and frees others.
                torch.cuda._sleep(10_000_000)
                assert there.weights.device == world.device
                for name in ("positives", "seen", "weights"):
                    assert torch.equal(getattr(there, name).cpu(), getattr(here, name)), name
                for name in ("queries", "candidates"):
                    ids, same = getattr(there, name), getattr(here, name)
                    assert torch.equal(ids.values().cpu(), same.values()), name
                    assert torch.equal(ids.lengths().cpu(), same.lengths()), name
        pinned = expected[0].pin_memory()
        tensors = (pinned.queries.values(), pinned.candidates.lengths(), pinned.positives, pinned.weights)
        assert all(tensor.is_pinned() for tensor in tensors)


@pytest.mark.parametrize(
    "options",
    [
        ("--batches.ahead", "2"),
        (*PLAIN, "--sharding.exchange_ahead", "true"),
        ("--batches.ahead", "2", "--sharding.exchange_ahead", "true"),
        (
            "--sharding.exchange_ahead",
            "true",
            "--sharding.kind",
            "row_partitioned",
            "--sharding.partitions.user",
            "3",
        ),
    ],
)
def test_what_is_done_ahead_changes_no_loss(options: tuple[str, ...], tmp_path: Path) -> None:
    expected = losses_of(tmp_path, "plain", *PLAIN)
    torch.testing.assert_close(losses_of(tmp_path, "ahead", *options), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_losses_in_less_precision_are_near_those_in_float32(precision: str, tmp_path: Path) -> None:
    dense = ("--model.dim", "16", "--model.hidden", "16")
    expected = losses_of(tmp_path, "float32", *dense)
    found = losses_of(tmp_path, precision, *dense, "--model.precision", precision)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.01)
    assert worlds.figures(tmp_path / precision)["ndcg@10"] == pytest.approx(
        worlds.figures(tmp_path / "float32")["ndcg@10"], abs=0.02
    )


def test_products_are_rounded_in_tf32_and_only_there() -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("TF32 needs Ampere or newer")
    left, right = torch.randn(2, 512, 512, device="cuda")
    exact = (left.double() @ right.double()).float()

    def error() -> float:
        return float(((left @ right) - exact).norm() / exact.norm())

    assert error() < 1e-5
    with matmul_precision("tf32"):
        assert 1e-5 < error() < 1e-2
    assert error() < 1e-5


@TWO_GPUS
@pytest.mark.parametrize(
    ("options", "near"),
    [
        ("--sharding.exchange_ahead true", 1e-4),
        ("--sharding.exchange_ahead true --sharding.kind row_wise", 1e-4),
        ("--sharding.communication float16", 0.01),
        ("--sharding.communication bfloat16 --sharding.kind row_wise", 0.05),
    ],
)
def test_two_gpus_lose_what_one_does(options: str, near: float, tmp_path: Path) -> None:
    train, withheld = worlds.checkerboard()
    words = [*worlds.options(tmp_path, train, withheld), *worlds.QUICK, "--run.log_every", "1"]
    run = tmp_path / "two"
    training = start(tmp_path, " ".join([*words, "--device cuda", f"--run.dir {run}", options]))
    _, errors = end(training, seconds=300)
    assert training.returncode == 0, errors
    torch.testing.assert_close(recorded(run), losses_of(tmp_path, "one", *PLAIN), rtol=near, atol=near)
