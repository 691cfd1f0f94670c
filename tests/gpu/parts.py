"""The parts of the GPU check; `python -m tests.gpu.parts NAME cpu|cuda FOLDER` runs one.

A part reports lines in words, each with figures and whether it is as it should be, into FOLDER/NAME.jsonl.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from torch.nn import functional

from tests.gpu.subject import (
    ROOT,
    TwoTables,
    data_root,
    last_loss,
    report,
    train,
    two_tables,
    world_of,
)
from trainer.distributed.precision import matmul_precision
from trainer.evaluation.topk import top_k
from trainer.model.losses import mean_squared_error, multi_positive_softmax
from trainer.planning.hardware import hardware_here
from trainer.runs.checkpoint import entries, read_entry
from trainer.sharding.optimizers import set_fused_step, set_learning_rates, update, zero_gradients

NEAR_NDCG = 0.002
MAKE_UP = "--data.name synthetic --data.synthetic_users {} --data.synthetic_items {} --data.synthetic_interactions {}"
SIZES = {"default": (943, 1682, 100_000), "ml-1m": (6040, 3706, 1_000_000)}
"""Configurations by name, with the sizes of the data sets that made-up ones stand in for."""


class Part:
    """What a part works on and reports to."""

    def __init__(self, name: str, device: str, folder: Path) -> None:
        self.device, self.folder = device, folder / f"{name}.files"
        self.on_gpu = device == "cuda"
        self.place = torch.device("cuda", 0) if self.on_gpu else torch.device("cpu")
        self._report = folder / f"{name}.jsonl"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def tell(self, text: str, ok: bool = True, **figures: object) -> None:
        """Report a line."""
        with self._report.open("a") as file:
            file.write(json.dumps({"text": text, "ok": bool(ok), "figures": figures}) + "\n")
        print(text, flush=True)

    def attempt(self, what: str, work: Callable[[], None]) -> None:
        """Do one thing of several, and report what it raises, so that the others are still done."""
        try:
            work()
        except Exception as error:
            traceback.print_exc()
            self.tell(f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:300]}", ok=False)
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()

    def seconds(self, work: Callable[[], object], warm: int = 5, count: int = 20) -> float:
        """Return the mean seconds of `work`, the device's queue included."""
        for _ in range(warm):
            work()
        self.wait()
        started = time.perf_counter()
        for _ in range(count):
            work()
        self.wait()
        return (time.perf_counter() - started) / count

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def peak_bytes(self) -> int:
        """Return the most bytes that tensors took on the GPU since this was last asked; 0 on CPU."""
        if not self.on_gpu:
            return 0
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return peak


def environment(part: Part) -> None:
    """Versions, driver and card."""
    names = ("torch", "torchrec", "numpy", "pandas", "pyarrow", "jsonargparse")
    found = {name: version(name) for name in names}
    for name in ("fbgemm-gpu", "fbgemm-gpu-cpu"):
        try:
            found[name] = version(name)
        except ImportError:
            continue
    part.tell(
        f"Python {platform.python_version()}, " + ", ".join(f"{name} {each}" for name, each in found.items()),
        versions=found,
    )
    hardware = hardware_here(part.device)
    if not part.on_gpu:
        part.tell(f"no GPU: the CPU form. {hardware.source}", card="cpu")
        return
    query = "name,memory.total,driver_version"
    cards = subprocess.run(
        ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"], capture_output=True, text=True
    ).stdout.splitlines()
    nccl = ".".join(map(str, torch.cuda.nccl.version()))
    part.tell(f"{'; '.join(cards)}; CUDA {torch.version.cuda}, NCCL {nccl}", card=cards[:1], nccl=nccl)
    part.tell(f"planned as {hardware.name}: {hardware.source}")


def optimizers(part: Part) -> None:
    """Five steps of every optimizer by every kernel that has it, against float64."""
    fused = ["rowwise_adagrad", "adagrad", "sgd", *(["adam_fused"] if part.on_gpu else [])]
    cases = [(name, "table_wise") for name in (*fused, "adam")]
    cases += [(name, "data_parallel") for name in ("rowwise_adagrad", "adagrad", "sgd", "adam")]
    with world_of(part.device) as world:
        for name, kind in cases:

            def one(name: str = name, kind: str = kind) -> None:
                model = two_tables(world, 400, 300, 16, name, kind, rate=0.05, bags=64)
                error = _error_against_float64(model, name, part.place)
                text = f"{name:<16} {kind:<14} largest error {error:.1e} of the largest change"
                part.tell(text, error < 1e-3, **{f"error/{name}/{kind}": error})

            part.attempt(f"{name} {kind}", one)


def _error_against_float64(model: TwoTables, name: str, place: torch.device, rate: float = 0.05) -> float:
    """Largest error of a weight after five steps, relative to the largest change of one."""
    generator = torch.Generator().manual_seed(1)
    dense = name == "adam"
    first = {table: values.detach().cpu().double() for table, values in model.tables.items()}
    wanted = {table: values.clone() for table, values in first.items()}
    states = {table: [torch.zeros_like(each), torch.zeros_like(each)] for table, each in first.items()}
    for step in range(1, 6):
        ids = {t: torch.randint(len(each), (64,), generator=generator) for t, each in first.items()}
        targets = {t: torch.randn(64, each.shape[1], generator=generator) for t, each in first.items()}
        set_fused_step(model.optimizer, step - 1)
        set_learning_rates(model.optimizer, 1.0)
        zero_gradients(model.optimizer)
        found = model.vectors(ids["user"].to(place), ids["item"].to(place))
        pairs = zip(found, (targets["user"], targets["item"]), strict=True)
        sum((vectors * target.to(place)).sum() for vectors, target in pairs).backward()
        update(model.optimizer)
        for table, weights in wanted.items():
            gradient = torch.zeros_like(weights).index_add_(0, ids[table], targets[table].double())
            rows = torch.arange(len(weights)) if dense else torch.unique(ids[table])
            weights[rows] -= rate * _change(name, gradient[rows], states[table], rows, step)
    return max(
        float(
            (model.tables[t].detach().cpu().double() - wanted[t]).abs().max()
            / (wanted[t] - first[t]).abs().max()
        )
        for t in wanted
    )


def _change(
    name: str, gradient: torch.Tensor, states: list[torch.Tensor], rows: torch.Tensor, step: int
) -> torch.Tensor:
    """What an optimizer subtracts, but for the learning rate; Duchi et al. 2011, Kingma and Ba 2015."""
    first, second = states
    if name == "sgd":
        return gradient
    if name in ("adam", "adam_fused"):
        first[rows] = 0.9 * first[rows] + 0.1 * gradient
        second[rows] = 0.999 * second[rows] + 0.001 * gradient**2
        return first[rows] / (1 - 0.9**step) / ((second[rows] / (1 - 0.999**step)).sqrt() + 1e-8)
    square = gradient**2 if name == "adagrad" else (gradient**2).mean(1, keepdim=True).expand_as(gradient)
    first[rows] += square
    return gradient / (first[rows].sqrt() + 1e-8)


def tests(part: Part) -> None:
    """The suite's CUDA tests; without a GPU they are all skipped."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--tb=short",
        "tests/gpu/test_cuda.py",
    ]
    junit = part.folder / "tests.xml"
    done = subprocess.run([*command, f"--junitxml={junit}"], cwd=ROOT, capture_output=True, text=True)
    print(done.stdout[-20_000:], done.stderr[-4000:])
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    for line in lines[:20]:
        part.tell(line[:300], ok=False)
    part.tell((done.stdout.strip().splitlines() or ["nothing was printed"])[-1], done.returncode in (0, 5))


def quality(part: Part) -> None:
    """Two configurations on the device and on the CPU, and the default as it is, tuning included."""
    root = data_root()
    for name, sizes in SIZES.items():
        if not part.on_gpu and name != "default":
            continue
        base = ["--config", str(ROOT / "configs" / f"{name}.yaml"), "--run.tensorboard", "false"]
        if root is None or not (root / ("ml-100k" if name == "default" else name)).is_dir():
            base += (MAKE_UP.format(*sizes) + ("" if part.on_gpu else " --run.epochs 4")).split()
        else:
            base += ["--data.root", str(root), "--data.source", "none"]
        found = {}
        for device in dict.fromkeys(("cpu", part.device)):
            run = train(part.folder, f"{name}-{device}", device, "--run.choose", "false", base=base)
            figures = report(run)
            found[device] = figures["model"]["ndcg@10"]
            part.tell(
                f"{name:<8} {device:<5} NDCG@10 {found[device]:.4f}, trained in {figures['seconds']['train']:.1f} s",
                **{
                    f"ndcg/{name}/{device}": found[device],
                    f"seconds/{name}/{device}": figures["seconds"]["train"],
                },
            )
        gap = abs(found[part.device] - found["cpu"])
        part.tell(f"{name:<8} NDCG@10 differs by {gap:.4f}, at most {NEAR_NDCG} allowed", gap <= NEAR_NDCG)
        if part.on_gpu:
            figures = report(train(part.folder, f"{name}-tuned", part.device, base=base))
            seconds = {key: round(value, 1) for key, value in figures["seconds"].items()}
            part.tell(
                f"{name:<8} tuned NDCG@10 {figures['model']['ndcg@10']:.4f}, seconds {seconds}",
                **{f"ndcg/{name}/tuned": figures["model"]["ndcg@10"], f"seconds/{name}/tuned": seconds},
            )


def resume(part: Part) -> None:
    """A training that is cut after 30 steps and resumed, against one that is not."""
    often = ("--run.save_every", "30", "--run.keep_last", "9")
    names = ["adam", "rowwise_adagrad", *(["adam_fused"] if part.on_gpu else [])]
    for name in names:

        def one(name: str = name) -> None:
            options = (*often, "--optimizer.name", name)
            whole = train(part.folder, "whole", part.device, *options)
            again = train(part.folder, "again", part.device, *options)
            resumed = _cut(whole, part.folder / "resumed")
            train(part.folder, "resumed", part.device, *options, fresh=False)
            same, after = (_largest_gap(_last(whole), _last(run)) for run in (again, resumed))
            text = f"{name:<16} repeated: largest difference of a weight {same:.1e}; resumed: {after:.1e}"
            part.tell(
                text, after <= max(1e-4, 10 * same), **{f"repeated/{name}": same, f"resumed/{name}": after}
            )

        part.attempt(name, one)

    def across() -> None:
        """Half on the CPU, the rest on the device, opened on the CPU."""
        options = (*often, "--optimizer.name", "rowwise_adagrad")
        whole = train(part.folder, "cpu-whole", "cpu", *options)
        moved = _cut(whole, part.folder / "moved")
        train(part.folder, "moved", part.device, *options, fresh=False)
        gap = _largest_gap(_last(whole), _last(moved))
        back = _cut(moved, part.folder / "back")
        train(part.folder, "back", "cpu", *options, fresh=False)
        end = _largest_gap(_last(whole), _last(back))
        text = f"CPU to {part.device}: largest difference {gap:.1e}; and back to CPU: {end:.1e}"
        part.tell(text, max(gap, end) < 1e-3, across=gap, back=end)

    part.attempt("across devices", across)


def _last(run: Path) -> Path:
    return max((run / "checkpoints").iterdir())


def _cut(run: Path, copy: Path) -> Path:
    """Copy a run folder as it was after its first checkpoint."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy)
    (copy / "metrics.json").unlink()
    for folder in sorted((copy / "checkpoints").iterdir())[1:]:
        shutil.rmtree(folder)
    return copy


def _largest_gap(one: Path, two: Path) -> float:
    gaps = [0.0]
    for key in entries(one).keys() & entries(two).keys():
        if not key.startswith("optimizer."):
            left, right = read_entry(one, key).double(), read_entry(two, key).double()
            gaps.append(float((left - right).abs().max()) if left.numel() else 0.0)
    return max(gaps)


ROWWISE = ("--optimizer.name", "rowwise_adagrad")
OPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...], float, bool]] = {
    "prefetch": (("--batches.ahead", "2"), ("--batches.ahead", "0"), 1e-4, False),
    "exchange_ahead": ((*ROWWISE, "--sharding.exchange_ahead", "true"), ROWWISE, 1e-4, False),
    "torchrec lookups": ((*ROWWISE, "--sharding.lookup", "torchrec"), ROWWISE, 1e-4, False),
    "row_partitioned": (
        (*ROWWISE, "--sharding.kind", "row_partitioned", "--sharding.partitions.user", "3"),
        ROWWISE,
        1e-4,
        False,
    ),
    "row_wise": ((*ROWWISE, "--sharding.kind", "row_wise"), ROWWISE, 1e-4, True),
    "table_row_wise": ((*ROWWISE, "--sharding.kind", "table_row_wise"), ROWWISE, 1e-4, True),
    "column_wise": (
        ("--optimizer.name", "adagrad", "--sharding.kind", "column_wise"),
        ("--optimizer.name", "adagrad"),
        1e-4,
        False,
    ),
    "data_parallel": ((*ROWWISE, "--sharding.kind", "data_parallel"), ROWWISE, 1e-3, False),
    "data_parallel adagrad": (
        ("--optimizer.name", "adagrad", "--sharding.kind", "data_parallel"),
        ("--optimizer.name", "adagrad"),
        1e-3,
        False,
    ),
    "data_parallel adam": (
        ("--optimizer.name", "adam", "--sharding.kind", "data_parallel"),
        ("--optimizer.name", "adam"),
        1e-3,
        False,
    ),
    "float16 tables": ((*ROWWISE, "--model.table_dtype", "float16"), ROWWISE, 1e-2, False),
    "tf32": ((*ROWWISE, "--model.precision", "tf32"), ROWWISE, 1e-2, True),
    "bfloat16": ((*ROWWISE, "--model.precision", "bfloat16"), ROWWISE, 2e-2, False),
    "save_async": ((*ROWWISE, "--run.save_every", "20", "--run.save_async", "true"), ROWWISE, 1e-4, False),
    "uvm_caching": ((*ROWWISE, "--sharding.uvm_caching", "true"), ROWWISE, 1e-4, True),
    "deterministic": ((*ROWWISE, "--deterministic", "true"), ROWWISE, 1e-4, False),
    "history": ((*ROWWISE, "--model.history", "true", "--batches.ahead", "2"), (), 0.0, False),
    "hidden layers": (("--model.hidden", "[32]", "--model.learn_temperature", "true"), (), 0.0, False),
}
"""By name: options, those of the plain training, how near its loss must be (0: the CPU's, 1e-3), GPU alone."""


def options(part: Part) -> None:
    """The last loss under each option beside that of a plain training."""
    plain: dict[tuple[str, tuple[str, ...]], float] = {}

    def loss(device: str, *words: str) -> float:
        if (device, words) not in plain:
            plain[device, words] = last_loss(train(part.folder, "plain", device, *words))
        return plain[device, words]

    chosen = {name: case for name, case in OPTIONS.items() if part.on_gpu or not case[3]}
    for name, (words, without, near, _) in chosen.items() if part.on_gpu else [*chosen.items()][:3]:

        def one(
            name: str = name,
            words: tuple[str, ...] = words,
            without: tuple[str, ...] = without,
            near: float = near,
        ) -> None:
            found = last_loss(train(part.folder, "run", part.device, *words))
            expected = loss(part.device, *without) if near else loss("cpu", *words)
            gap = abs(found - expected) / abs(expected)
            against = "the plain one's" if near else "the CPU's"
            text = f"{name:<22} loss {found:.5f}, {against} {expected:.5f}: off by {gap:.1e}"
            part.tell(text, gap <= (near or 1e-3), **{f"loss/{name}": found, f"gap/{name}": gap})

        part.attempt(name, one)


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
                ours, plan, peak = _our_step(part, world, users, items, dim, draws, values)
                rival = _bare_step(part, users, items, dim, draws, values)
                # A row is read by the lookup and by the update and written; vectors and gradients pass once.
                moved = 2 * bags * (5 * dim * 4 + 8)
                share = moved / ours / 1e9 / hardware.memory_speed
                memory = f", {peak / plan.ranks[0].bytes:.3f} of the planned memory" if peak else ""
                part.tell(
                    f"{held / 1e9:6.2f} GB: {bags / ours:12,.0f} examples/s, bare FBGEMM {bags / rival:12,.0f} "
                    f"({rival / ours:.2f} times it); {100 * share:.0f}% of the memory's {hardware.memory_speed:,.0f} "
                    f"GB/s; step {1e3 * ours:.3f} ms, estimated {plan.estimated_step_ms:.3f}{memory}",
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
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

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
    rows, candidates = (8192, 65_536) if part.on_gpu else (64, 512)
    positives = torch.stack([torch.arange(rows), torch.randint(candidates, (rows,))]).to(part.place)
    counts = torch.ones(rows, dtype=torch.int64, device=part.place)
    for dim in (64, 128):
        query = functional.normalize(torch.randn(rows, dim, device=part.place)).requires_grad_()
        items = (functional.normalize(torch.randn(candidates, dim, device=part.place)) / 0.1).requires_grad_()
        for precision in ("float32", "tf32", "bfloat16") if part.on_gpu else ("float32",):

            def step() -> None:
                with torch.autocast(part.device, torch.bfloat16, enabled=precision == "bfloat16"):
                    loss = multi_positive_softmax(query, items, positives, positives, None, counts)
                loss.sum().backward()

            def products() -> None:
                kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
                one, two = query.detach().to(kind), items.detach().to(kind)
                scores = two @ one.T
                scores.T @ two
                scores @ one

            part.peak_bytes()
            with matmul_precision(precision):
                ours = part.seconds(step)
                peak = part.peak_bytes()
                bare = part.seconds(products)
            part.tell(
                f"{rows:,} x {candidates:,}, dim {dim:>3}, {precision:<8} {1e3 * ours:7.2f} ms, "
                f"{ours / bare:.2f} times the three products, {peak / 2**30:.1f} GiB",
                **{
                    f"softmax/{dim}/{precision}": {
                        "ms": 1e3 * ours,
                        "of_products": ours / bare,
                        "bytes": peak,
                    }
                },
            )


def evaluation(part: Part) -> None:
    """Users ranked in a second, seen items left out, beside one product with top-k that leaves none out."""
    for users, items, seen in ((6040, 3706, 130), (200_000, 50_000, 20)) if part.on_gpu else ((200, 300, 5),):
        query, vectors = (torch.randn(count, 65, device=part.place) for count in (users, items))
        lengths = torch.full((users,), seen, device=part.place)
        exclude = torch.randint(items, (users * seen,), device=part.place)
        chunk = 4096

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
    from torch.profiler import ProfilerActivity, profile

    from trainer.config.parser import parse_config
    from trainer.config.size_defaults import with_fixed_values, with_size_defaults
    from trainer.dataset.dataset import open_dataset
    from trainer.dataset.prepare import prepare_data
    from trainer.training.components import assemble, make_batches
    from trainer.training.step import make_loss, train_step

    words = MAKE_UP.format(*SIZES["default"]) + f" --data.cache {part.folder}/cache --device {part.device}"
    for optimizer in ("adam", "rowwise_adagrad"):
        asked = parse_config([*words.split(), "--run.choose", "false", "--optimizer.name", optimizer])
        dataset = open_dataset(prepare_data(asked.data))
        sized = with_size_defaults(asked, dataset.user_count, dataset.item_count, len(dataset.train))
        config = with_fixed_values(sized)
        with world_of(part.device) as world:
            components = assemble(config, dataset, world)
            source, loss_of = make_batches(config, dataset, components), make_loss(config.loss, world)
            made = [source.make(number).to(part.place) for number in range(8)]
            turn = iter(range(10**9))

            def step() -> None:
                set_learning_rates(components.optimizer, 1.0)
                batch = made[next(turn) % len(made)]
                train_step(components.model, components.optimizer, batch, loss_of, world)

            seconds = part.seconds(step, 10, 30)
            host = time.perf_counter()
            for _ in range(30):
                step()
            host = (time.perf_counter() - host) / 30
            batch = part.seconds(lambda: source.make(next(turn) % 8), 2, 10)
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if part.on_gpu else [])]
            with profile(activities=activities) as profiled:
                for _ in range(10):
                    step()
                part.wait()
        events = {event.key: event for event in profiled.key_averages()}
        print(profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=25)[:12_000])
        waits = sum(
            events[key].count
            for key in ("cudaStreamSynchronize", "aten::_local_scalar_dense")
            if key in events
        )
        launches = events["cudaLaunchKernel"].count / 10 if "cudaLaunchKernel" in events else 0
        part.tell(
            f"{optimizer:<16} step {1e3 * seconds:.2f} ms, of which the CPU gives out work for {1e3 * host:.2f}; "
            f"a batch is made in {1e3 * batch:.2f}; {launches:.0f} kernels and {waits / 10:.1f} waits a step",
            **{
                f"anatomy/{optimizer}": {
                    "step_ms": 1e3 * seconds,
                    "host_ms": 1e3 * host,
                    "batch_ms": 1e3 * batch,
                }
            },
        )


def two_gpus(part: Part) -> None:
    """Two ranks over NCCL lose what one does."""
    one = last_loss(train(part.folder, "one", part.device, *ROWWISE))
    for name, words in {"plain": (), "row_wise": ("--sharding.kind", "row_wise")}.items():
        run = part.folder / f"two-{name}"
        command = [
            sys.executable,
            "launch/ranks.py",
            "--standalone",
            "--nproc_per_node=2",
            "-m",
            "trainer",
            "train",
        ]
        from tests.gpu.subject import SMALL

        more = ["--data.cache", str(part.folder / "cache"), "--device", "cuda", "--run.dir", str(run)]
        done = subprocess.run(
            [*command, *SMALL, *more, *ROWWISE, *words], cwd=ROOT, capture_output=True, text=True
        )
        print(done.stdout[-2000:], done.stderr[-4000:])
        if done.returncode:
            part.tell(f"{name}: ended with {done.returncode}: {done.stderr.strip()[-300:]}", ok=False)
            continue
        gap = abs(last_loss(run) - one) / one
        part.tell(f"{name}: loss {last_loss(run):.5f}, of one rank {one:.5f}: off by {gap:.1e}", gap < 1e-3)


def main() -> None:
    """Run the part that is named."""
    name, device, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    warnings.simplefilter("ignore")
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
    part = Part(name, device, folder)
    part.attempt(name, lambda: globals()[name](part))


if __name__ == "__main__":
    main()
