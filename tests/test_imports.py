"""Imports go one way: a module knows only those that stand before it. Sources are read, not run."""

import ast
from collections.abc import Iterator
from pathlib import Path

TRAINER = Path(__file__).resolve().parents[1] / "trainer"

HALL = ("errors", "config", "rules", "options", "continuing")
ROOMS = {
    "data": (
        *("source", "rows", "movielens", "tables", "synthetic", "download"),
        *("features", "split", "storage", "columns", "encode", "parts", "dataset", "vocabulary"),
        *("candidates", "history", "inputs", "prepare", "extend", "batch", "batches"),
    ),
    "model": ("partitions", "towers", "losses", "low_rank", "fold_in", "served"),
    "parallel": (
        *(
            "memory",
            "shared_memory",
            "world",
            "pause",
            "words",
            "hardware",
            "plan",
            "traffic",
            "capacity",
            "communication",
        ),
        *("placement", "planner", "follow", "state", "optimizer_state", "exchange", "kernels"),
        *("direct", "shard", "ahead", "precision"),
        *("compare_plans", "bars", "svg", "picture"),
    ),
    "evaluation": (
        "running_best",
        "topk",
        "metrics",
        "baselines",
        "neighbours",
        "beyond",
        "compare",
        "table",
        "evaluate",
    ),
    "training": (
        *(
            "stopping",
            "published",
            "reader",
            "checkpoint",
            "progress",
            "with_size_defaults",
            "search",
            "closed_form",
            "layout",
        ),
        *("initial", "assembly", "records", "background", "saving", "fit", "choose", "runs", "grown"),
        *("words", "train", "measure"),
        *("what_if", "what_helps", "plan_words", "plan_command"),
    ),
    "serving": ("vectors", "towers", "recommend"),
}
"""The modules of each room, in the order in which data passes through them."""
ENTRANCE = ("cli", "__main__")

IN_ROOMS = tuple(f"{room}.{module}" for room, modules in ROOMS.items() for module in modules)
MODULES = tuple(f"trainer.{name}" for name in (*HALL, *IN_ROOMS, *ENTRANCE))

QUICK = (
    "trainer.errors",
    "trainer.config.schema",
    "trainer.config.validation",
    "trainer.config.parser",
    "trainer.config.resume",
    "trainer.cli",
    "trainer.__main__",
)
"""What `--help` and a misspelt option go through; slow imports wait inside functions."""

SLOW = {"torch", "torchrec", "pandas", "pyarrow"}


def test_every_module_imports_only_earlier_ones() -> None:
    assert out_of_order(TRAINER) == []


def test_every_module_has_a_place_in_the_order() -> None:
    assert without_a_place(TRAINER) == []


def test_the_model_knows_nothing_of_other_ranks() -> None:
    assert distributed_models(TRAINER) == []


def test_help_waits_for_no_slow_import() -> None:
    assert slow_imports(TRAINER) == []


def test_package_files_re_export_nothing() -> None:
    assert [path for path in TRAINER.rglob("__init__.py") if list(imported(path))] == []


def test_the_checks_catch_what_they_forbid(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "config.py": "from trainer import errors",  # earlier: allowed
            "errors.py": "from trainer.config.schema import Config",
            "data/source.py": "def read():\n    from trainer.dataset.dataset import Dataset",
            "data/split.py": "from . import dataset",
            "data/dataset.py": "from trainer.sources.schema import read",  # earlier: allowed
            "data/helpers.py": "",
            "model/towers.py": "import torch\ndef size(): return torch.distributed.get_world_size()",
            "model/losses.py": "from torch import distributed",
            "training/train.py": "import trainer.serving.recommend as recommend",
            "cli.py": "from trainer.data import batches\ndef later():\n    import torch",
            "data/batches.py": "import pyarrow.compute as pc",
        },
    )
    assert out_of_order(tmp_path) == [
        "trainer.sources.schema imports trainer.dataset.dataset",
        "trainer.dataset.split imports trainer.dataset.dataset",
        "trainer.errors imports trainer.config.schema",
        "trainer.commands.train imports trainer.serving.recommend",
    ]
    assert without_a_place(tmp_path) == ["trainer.data.helpers"]
    assert distributed_models(tmp_path) == ["trainer.model.losses", "trainer.model.towers"]
    assert slow_imports(tmp_path) == ["trainer.cli imports trainer.batching.sampler imports pyarrow"]


def test_a_quick_module_may_not_import_torch_itself(tmp_path: Path) -> None:
    write(tmp_path, {"config.py": "try:\n    import torch\nexcept ImportError:\n    pass"})
    assert slow_imports(tmp_path) == ["trainer.config.schema imports torch"]


def write(root: Path, files: dict[str, str]) -> None:
    for name, source in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(source)


def sources(root: Path) -> dict[str, Path]:
    """Module name to file, sorted, without the package files."""
    paths = (path for path in root.rglob("*.py") if path.name != "__init__.py")
    names = {".".join(("trainer", *path.relative_to(root).with_suffix("").parts)): path for path in paths}
    return dict(sorted(names.items()))


def out_of_order(root: Path) -> list[str]:
    known = {module: place for place, module in enumerate(MODULES)}
    return [
        f"{module} imports {name}"
        for module, path in sources(root).items()
        for name in sorted(set(imported(path, module)))
        if name in known and known[name] >= known.get(module, len(known))
    ]


def without_a_place(root: Path) -> list[str]:
    return [module for module in sources(root) if module not in MODULES]


def distributed_models(root: Path) -> list[str]:
    return [
        module
        for module, path in sources(root).items()
        if module.startswith("trainer.model.")
        and "torch.distributed" in {*imported(path, module), *attributes_of_torch(path)}
    ]


def slow_imports(root: Path) -> list[str]:
    """The way from a quick module to a slow package, through what is imported as soon as it is."""
    files, found = sources(root), []
    ways = [[module] for module in QUICK if module in files]
    while ways:
        way = ways.pop(0)
        for name in sorted(set(imported(files[way[-1]], way[-1], inside_functions=False))):
            if name in SLOW:
                found.append(" imports ".join((*way, name)))
            elif name in files and name not in way and name not in QUICK:
                ways.append([*way, name])
    return found


def imported(path: Path, module: str = "", inside_functions: bool = True) -> Iterator[str]:
    """Dotted names that a file imports with all packages above them: `a`, `a.b` for `from a import b`."""
    for node in statements(ast.parse(path.read_text()), inside_functions):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            base = ".".join((*package, *([node.module] if node.module else [])))
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def statements(node: ast.AST, inside_functions: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        yield child
        if inside_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from statements(child, inside_functions)


def attributes_of_torch(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
            yield f"torch.{node.attr}"
