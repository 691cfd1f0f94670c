"""Parts of the GPU check that measure: beside a bare alternative in the same process, and beside the plan."""

import itertools
import time
from functools import partial

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from tests.gpu.part import MAKE_UP, SIZES, Part
from tests.gpu.subject import (
    two_tables,
    world_of,
)
from trainer.config.parser import parse_config
from trainer.config.size_defaults import with_fixed_values, with_size_defaults
from trainer.dataset.dataset import open_dataset
from trainer.dataset.prepare import prepare_data
from trainer.distributed.precision import matmul_precision
from trainer.evaluation.topk import top_k
from trainer.fitting.components import assemble, make_batches
from trainer.fitting.step import make_loss, train_step
from trainer.model.losses import mean_squared_error, multi_positive_softmax
from trainer.planning.hardware import hardware_here
from trainer.sharding.optimizers import set_learning_rates, update, zero_gradients

WAITS = ("cudaStreamSynchronize", "aten::_local_scalar_dense")
"""What the CPU waits for the device in."""


def speed(part: Part) -> None:
    """Steps of squared error over tables of four sizes, ours beside FBGEMM's bare module."""
    dim, bags = 64, 65_536 if part.on_gpu else 1024
    sizes = (100_000, 4_000_000, 40_000_000, 225_000_000) if part.on_gpu else (1000, 20_000)
    hardware = hardware_here(part.device)
    if part.on_gpu:
        one = torch.empty(2**28, device=part.place)
        other = torch.empty_like(one)
        copied = 2 * one.numel() * 4 / part.seconds(lambda: other.copy_(one)) / 1e9
        part.tell(f"a copy on the device moves {copied:,.0f} GB/s, read and written", copy_gb_per_s=copied)
        del one, other
    with world_of(part.device) as world:
        for users in sizes:
            items = max(users // 10, 100)
            held = (users + items) * (dim * 4 + 4)
            if part.on_gpu and held * 1.1 > torch.cuda.mem_get_info()[0]:
                part.tell(f"{users:,} rows: {held / 1e9:.0f} GB do not fit this card")
                continue

            def both(users: int = users, items: int = items, held: int = held) -> None:
                draws = [
                    tuple(torch.randint(count, (bags,), device=part.place) for count in (users, items))
                    for _ in range(16)
                ]
                values = torch.randn(bags, device=part.place)
                part.free()
                ours, plan, peak = _our_step(part, world, users, items, dim, draws, values)
                part.free()
                rival = _bare_step(part, users, items, dim, draws, values)
                # A row is read by the lookup and by the update and written; vectors and gradients pass once.
                moved = 2 * bags * (5 * dim * 4 + 8)
                share = moved / ours / 1e9 / hardware.memory_speed
                memory = f", {peak / plan.ranks[0].bytes:.3f} of the planned memory" if peak else ""
                rates = (
                    f"{bags / ours:12,.0f} examples/s, bare FBGEMM {bags / rival:12,.0f} ({rival / ours:.2f})"
                )
                part.tell(
                    f"{held / 1e9:6.2f} GB: {rates}; {100 * share:.0f}% of the bandwidth; "
                    f"step {1e3 * ours:.3f} ms, estimated {plan.estimated_step_ms:.3f}{memory}",
                    **{
                        f"speed/{users}": {
                            "examples_per_second": bags / ours,
                            "bare": bags / rival,
                            "bandwidth_share": share,
                            "step_ms": 1e3 * ours,
                            "estimated_ms": plan.estimated_step_ms,
                            "peak_bytes": peak,
                            "planned_bytes": plan.ranks[0].bytes,
                        }
                    },
                )

            part.attempt(f"{users:,} rows", both)


def _our_step(part: Part, world, users, items, dim, draws, values):
    """Seconds of our step, its plan, and the bytes that the tables took on the GPU."""
    part.peak_bytes()
    before = torch.cuda.memory_allocated() if part.on_gpu else 0
    bags = len(values)
    model = two_tables(world, users, items, dim, "rowwise_adagrad", "table_wise", rate=0.05, bags=bags)
    turn = iter(range(10**9))
    set_learning_rates(model.optimizer, 1.0)

    def step() -> None:
        zero_gradients(model.optimizer)
        vectors = model.vectors(*draws[next(turn) % len(draws)])
        mean_squared_error(*vectors, values).mean().backward()
        update(model.optimizer)

    seconds = part.seconds(step)
    return seconds, model.plan, max(part.peak_bytes() - before, 0)


def _bare_step(part: Part, users, items, dim, draws, values):
    """Seconds of a step of FBGEMM's module and nothing else."""
    where = (
        (EmbeddingLocation.DEVICE, ComputeDevice.CUDA)
        if part.on_gpu
        else (EmbeddingLocation.HOST, ComputeDevice.CPU)
    )
    sides = []
    for rows in (users, items):
        side = SplitTableBatchedEmbeddingBagsCodegen(
            [(rows, dim, *where)],
            optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            learning_rate=0.05,
            eps=1e-8,
            pooling_mode=PoolingMode.SUM,
            device=part.place,
        )
        side.split_embedding_weights()[0].normal_(0, 0.1)
        sides.append(side)
    offsets = torch.arange(len(values) + 1, device=part.place)
    turn = iter(range(10**9))

    def step() -> None:
        ids = draws[next(turn) % len(draws)]
        vectors = [side(each, offsets) for side, each in zip(sides, ids, strict=True)]
        mean_squared_error(*vectors, values).mean().backward()

    return part.seconds(step)


def softmax(part: Part) -> None:
    """A softmax step over many candidates beside the three products that it cannot do without."""
    for dim in (64, 128):
        for precision in ("float32", "tf32", "bfloat16") if part.on_gpu else ("float32",):
            part.attempt(f"dim {dim} {precision}", partial(_softmax_step, part, dim, precision))


def _softmax_step(part: Part, dim: int, precision: str) -> None:
    rows, candidates = (8192, 65_536) if part.on_gpu else (64, 512)
    positives = torch.stack([torch.arange(rows), torch.randint(candidates, (rows,))]).to(part.place)
    counts = torch.ones(rows, dtype=torch.int64, device=part.place)
    query = functional.normalize(torch.randn(rows, dim, device=part.place)).requires_grad_()
    items = (functional.normalize(torch.randn(candidates, dim, device=part.place)) / 0.1).requires_grad_()

    def step() -> None:
        with torch.autocast(part.device, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = multi_positive_softmax(query, items, positives, positives, None, counts)
        loss.sum().backward()

    def products() -> None:
        kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
        one, two = query.detach().to(kind), items.detach().to(kind)
        scores = two @ one.T
        torch.mm(scores.T, two)
        torch.mm(scores, one)

    part.peak_bytes()
    with matmul_precision(precision):
        ours = part.seconds(step)
        peak = part.peak_bytes()
        bare = part.seconds(products)
    part.tell(
        f"{rows:,} x {candidates:,}, dim {dim:>3}, {precision:<8} {1e3 * ours:7.2f} ms, "
        f"{ours / bare:.2f} times the three products, {peak / 2**30:.1f} GiB",
        **{f"softmax/{dim}/{precision}": {"ms": 1e3 * ours, "of_products": ours / bare, "bytes": peak}},
    )


def evaluation(part: Part) -> None:
    """Users ranked in a second, seen items left out, beside one product with top-k that leaves none out."""
    for users, items, seen in ((6040, 3706, 130), (200_000, 50_000, 20)) if part.on_gpu else ((200, 300, 5),):
        part.attempt(f"{users:,} users", partial(_ranking, part, users, items, seen))


def _ranking(part: Part, users: int, items: int, seen: int, chunk: int = 4096) -> None:
    query, vectors = (torch.randn(count, 65, device=part.place) for count in (users, items))
    lengths = torch.full((users,), seen, device=part.place)
    exclude = torch.randint(items, (users * seen,), device=part.place)

    def ours() -> None:
        for first in range(0, users, chunk):
            own = lengths[first : first + chunk]
            listed = exclude[first * seen : first * seen + len(own) * seen]
            top_k(query[first : first + chunk], vectors, 10, (own, listed))

    def bare() -> None:
        for first in range(0, users, chunk):
            (query[first : first + chunk] @ vectors.T).topk(10)

    mine, rival = part.seconds(ours, 1, 3), part.seconds(bare, 1, 3)
    part.tell(
        f"{users:,} users x {items:,} items: {users / mine:,.0f} users/s, a bare product with top-k "
        f"{users / rival:,.0f}, {mine / rival:.2f} times the time",
        **{f"evaluation/{users}": {"users_per_second": users / mine, "bare": users / rival}},
    )


def anatomy(part: Part) -> None:
    """Milliseconds of each stage of a small step, and how often it waits for the device."""
    for optimizer in ("adam", "rowwise_adagrad"):
        part.attempt(optimizer, partial(_small_step, part, optimizer))


def _small_step(part: Part, optimizer: str) -> None:
    words = MAKE_UP.format(*SIZES["default"]) + f" --data.cache {part.folder}/cache --device {part.device}"
    asked = parse_config([*words.split(), "--run.choose", "false", "--optimizer.name", optimizer])
    dataset = open_dataset(prepare_data(asked.data))
    sized = with_size_defaults(asked, dataset.user_count, dataset.item_count, len(dataset.train))
    config = with_fixed_values(sized)
    with world_of(part.device) as world:
        components = assemble(config, dataset, world)
        source, loss_of = make_batches(config, dataset, components), make_loss(config.loss, world)
        made = [source.make(number).to(part.place) for number in range(8)]
        turn = itertools.cycle(range(8))

        def step() -> None:
            set_learning_rates(components.optimizer, 1.0)
            train_step(components.model, components.optimizer, made[next(turn)], loss_of, world)

        seconds = part.seconds(step, 10, 30)
        started = time.perf_counter()
        for _ in range(30):
            step()
        host = (time.perf_counter() - started) / 30
        batch = part.seconds(lambda: source.make(next(turn)), 2, 10)
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if part.on_gpu else [])]
        with profile(activities=activities) as profiled:
            for _ in range(10):
                step()
            part.wait()
    events = {event.key: event for event in profiled.key_averages()}
    print(profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=25)[:12_000])
    waits = sum(events[key].count for key in WAITS if key in events) / 10
    launches = events["cudaLaunchKernel"].count / 10 if "cudaLaunchKernel" in events else 0
    part.tell(
        f"{optimizer:<16} step {1e3 * seconds:.2f} ms, of which the CPU gives out work for {1e3 * host:.2f}; "
        f"a batch is made in {1e3 * batch:.2f}; {launches:.0f} kernels and {waits:.1f} waits a step",
        **{f"anatomy/{optimizer}": {"step_ms": 1e3 * seconds, "host_ms": 1e3 * host, "waits": waits}},
    )
