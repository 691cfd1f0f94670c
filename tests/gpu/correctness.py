"""Parts of the GPU check that compare results: with float64, with the CPU, with a training left alone."""

import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from tests.gpu.part import MAKE_UP, SIZES, Part
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
from trainer.planning.hardware import hardware_here
from trainer.runs.checkpoint import entries, read_entry
from trainer.sharding.optimizers import set_fused_step, set_learning_rates, update, zero_gradients

NEAR_NDCG = 0.002


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
            found[device], seconds = figures["model"]["ndcg@10"], figures["seconds"]["train"]
            part.tell(
                f"{name:<8} {device:<5} NDCG@10 {found[device]:.4f}, trained in {seconds:.1f} s",
                **{
                    f"ndcg/{name}/{device}": found[device],
                    f"seconds/{name}/{device}": seconds,
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
"""By name: options, those of the plain training, how near its loss must be (0: the CPU's), GPU alone."""


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
