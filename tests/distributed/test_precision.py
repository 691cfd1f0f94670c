"""Matrix products in bfloat16 or TF32: what is rounded, what is not, and what is learned."""

import json
from pathlib import Path

import pytest
import torch

from tests import worlds
from trainer.cli import main
from trainer.distributed.precision import autocast, check_precision, matmul_precision
from trainer.distributed.world import join_world
from trainer.errors import ConfigError
from trainer.fitting.components import assemble, make_batches
from trainer.fitting.step import make_loss, train_step
from trainer.model.losses import bayesian_personalised_ranking, multi_positive_softmax

CPU = torch.device("cpu")
RANKING = [multi_positive_softmax, bayesian_personalised_ranking]
POSITIVES = torch.tensor([[0, 0, 1, 2, 3], [5, 7, 0, 1999, 31]])
DENSE = ("--model.hidden", "16", "--model.dim", "16")


def vectors(exact: bool) -> list[torch.Tensor]:
    """Of 4 rows and 2,000 candidates; if `exact`, of halves whose scores have no more than 8 bits."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for rows in (4, 2000):
        values = torch.randn(rows, 12, generator=generator)
        values = values.sign() * (values.abs() > 1) / 2 if exact else values
        found.append(values.requires_grad_())
    return found


def loss_and_gradients(loss, exact: bool, precision: str) -> list[torch.Tensor]:
    query, candidates = vectors(exact)
    log_q = torch.linspace(-3, 0, 2000)
    with autocast(precision, CPU):
        losses = loss(query, candidates, POSITIVES, POSITIVES, log_q)
    losses.sum().backward()
    assert query.grad is not None
    assert candidates.grad is not None
    return [losses.detach(), query.grad, candidates.grad]


@pytest.mark.parametrize("loss", RANKING)
def test_in_bfloat16_nothing_but_factors_and_products_is_rounded(loss) -> None:
    # Where rounding changes neither, a sum over 2,000 candidates in 8 bits would be seen.
    exact, found = (loss_and_gradients(loss, True, precision)[0] for precision in ("float32", "bfloat16"))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("loss", RANKING)
def test_losses_and_gradients_in_bfloat16_are_near_those_in_float32(loss) -> None:
    exact, found = (loss_and_gradients(loss, False, precision) for precision in ("float32", "bfloat16"))
    for before, after in zip(exact, found, strict=True):
        assert after.dtype == torch.float32
        error = float((after - before).norm() / before.norm())
        assert 0 < error < 0.01


def test_dense_layers_are_computed_in_bfloat16_and_kept_in_float32(tmp_path: Path) -> None:
    dataset = worlds.dataset(tmp_path, [(user, item) for user in range(6) for item in range(4)], [(0, 5)])
    config = worlds.configured(dataset, *worlds.QUICK, *DENSE)
    computed: list[torch.dtype] = []
    with join_world("cpu") as world:
        parts = assemble(config, dataset, world)
        batch = make_batches(config, dataset, parts).make(0)
        for side in (parts.towers.query, parts.towers.candidate):
            side.dense.register_forward_hook(lambda _, __, output: computed.append(output.dtype))  # type: ignore[union-attr]
        loss_of = make_loss(config.loss, world)
        loss = train_step(parts.model, parts.optimizer, batch, loss_of, world, precision="bfloat16")
        assert computed == [torch.bfloat16] * 2
        assert loss.dtype == torch.float32
        assert {value.dtype for value in parts.model.parameters()} == {torch.float32}
        parts.towers.queries(batch.queries)
    assert computed[2:] == [torch.float32]


@pytest.mark.parametrize("options", [DENSE, ("--batches.rows", "interaction", "--loss.name", "bpr")])
def test_a_checkerboard_is_learned_as_well_in_bfloat16(options: tuple[str, ...], tmp_path: Path) -> None:
    train, withheld = worlds.checkerboard()
    figures, losses = {}, {}
    for precision in ("float32", "bfloat16"):
        run = tmp_path / precision
        words = [*worlds.options(tmp_path, train, withheld), *worlds.QUICK, "--run.log_every", "1", *options]
        assert main([*words, "--device", "cpu", "--model.precision", precision, "--run.dir", str(run)]) == 0
        figures[precision] = worlds.figures(run)["ndcg@10"]
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses[precision] = torch.tensor([record["loss"] for record in records])
    assert figures["bfloat16"] == pytest.approx(figures["float32"], abs=0.01)
    assert not torch.equal(losses["bfloat16"], losses["float32"])
    torch.testing.assert_close(losses["bfloat16"], losses["float32"], rtol=0.05, atol=0.01)


def test_tf32_on_a_cpu_is_refused_before_anything_is_read(capsys, tmp_path: Path) -> None:
    options = ["--device", "cpu", "--model.precision", "tf32", "--data.root", str(tmp_path)]
    assert main([*options, "--data.source", "none", "--run.dir", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == (
        "error: --model.precision tf32: the device is cpu, and GPUs alone have it. Use float32, bfloat16 or "
        "--device cuda\n"
    )
    check_precision("tf32", "cuda")
    check_precision("bfloat16", "cpu")
    with pytest.raises(ConfigError, match="tf32"):
        check_precision("tf32", "cpu")


def test_products_are_in_tf32_within_a_step_and_nowhere_else() -> None:
    before = torch.get_float32_matmul_precision()
    for precision, expected in (("float32", before), ("bfloat16", before), ("tf32", "high")):
        with matmul_precision(precision):
            assert torch.get_float32_matmul_precision() == expected
        assert torch.get_float32_matmul_precision() == before

    def fail() -> None:
        with matmul_precision("tf32"):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert torch.get_float32_matmul_precision() == before == "highest"
