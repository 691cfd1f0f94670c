"""Imports go one way: a module knows only those that stand before it. Sources are read, not run."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import trainer

TRAINER = Path(__file__).resolve().parents[1] / "trainer"

ROOMS = (
    *("errors", "formatting", "atomic_write", "installation"),
    *("facts", "config", "tables", "sources", "distributed", "storage", "dataset", "histories"),
    *("batching", "closed_form", "model"),
    *("planning", "sharding", "evaluation", "shares", "ranking", "reporting", "inspection", "runs"),
    "warm_start",
    *("fitting", "tuning", "training", "serving", "batch_lists"),
    *("recommender", "exporting", "service", "page", "report", "doctor", "api"),
    *("command_line", "commands", "cli", "__main__"),
)
"""Rooms (and modules of their own), lowest first: each imports those before it and itself, and no other."""
MOST_FILES, MOST_LINES = 12, 2100
"""What one room may hold, so that a reader finds their way in it."""

QUICK = (
    "trainer.errors",
    "trainer.config.schema",
    "trainer.config.validation",
    "trainer.config.parser",
    "trainer.config.resume",
    "trainer.command_line.arguments",
    "trainer.commands.train",
    "trainer.commands.plan",
    "trainer.commands.prepare",
    "trainer.commands.evaluate",
    "trainer.commands.recommend",
    "trainer.commands.export",
    "trainer.commands.report",
    "trainer.commands.runs",
    "trainer.commands.serve",
    "trainer.commands.doctor",
    "trainer.doctor.checks",
    "trainer.installation",
    "trainer.cli",
    "trainer.__main__",
)
"""What `--help` and a misspelt option go through; slow imports wait inside functions."""

SLOW = {"torch", "torchrec", "pandas", "pyarrow"}


def test_imports_go_down_the_rooms_and_never_up() -> None:
    assert upward(TRAINER) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle(TRAINER) == []


def test_a_room_holds_few_enough_files_to_be_known() -> None:
    assert crowded(TRAINER) == []


def test_the_model_knows_nothing_of_other_ranks() -> None:
    assert distributed_models(TRAINER) == []


def test_help_waits_for_no_slow_import() -> None:
    assert slow_imports(TRAINER) == []


def test_package_files_of_rooms_re_export_nothing() -> None:
    assert [path for path in TRAINER.glob("*/__init__.py") if list(imported(path))] == []


def test_the_python_api_is_there_and_imports_nothing_before_it_is_used() -> None:
    code = (
        "import sys, trainer; print(sorted({*sys.modules} & {'torch', 'pandas', 'yaml'}), *trainer.__all__)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=TRAINER.parent, capture_output=True, text=True)
    assert done.stdout == "[] Recommender Run open_run parse_config train\n"
    assert all(callable(getattr(trainer, name)) for name in trainer.__all__)
    with pytest.raises(AttributeError, match="no attribute 'fit'; it has Recommender, Run, open_run"):
        trainer.fit  # noqa: B018


def test_the_checks_catch_what_they_forbid(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "config/parser.py": "from trainer import errors",  # down: allowed
            "config/schema.py": "",
            "errors.py": "from trainer.config.schema import Config",
            "dataset/split.py": "from . import dataset",
            "dataset/dataset.py": "def read():\n    from trainer.dataset import split",
            "dataset/storage.py": "from trainer.dataset.dataset import Dataset",  # no circle: allowed
            "attic/trunk.py": "",
            "model/towers.py": "import torch\ndef size(): return torch.distributed.get_world_size()",
            "model/losses.py": "from torch import distributed",
            "training/train.py": "import trainer.serving.recommend as recommend",
            "serving/recommend.py": "",
            "cli.py": "from trainer.dataset import split\ndef later():\n    import torch",
        }
        | {f"runs/file_{number}.py": "" for number in range(MOST_FILES + 1)},
    )
    assert upward(tmp_path) == [
        "trainer.attic.trunk is in no room",
        "trainer.errors imports trainer.config.schema",
        "trainer.training.train imports trainer.serving.recommend",
    ]
    assert circle(tmp_path) == ["trainer.dataset.dataset", "trainer.dataset.split"]
    assert crowded(tmp_path) == [f"runs: {MOST_FILES + 1} files, 0 lines"]
    assert distributed_models(tmp_path) == ["trainer.model.losses", "trainer.model.towers"]


def test_a_quick_module_may_not_import_torch_itself(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "config/schema.py": "try:\n    import torch\nexcept ImportError:\n    pass",
            "cli.py": "from trainer.dataset import split\ndef later():\n    import torch",
            "dataset/split.py": "import pyarrow.compute as pc",
        },
    )
    assert slow_imports(tmp_path) == [
        "trainer.config.schema imports torch",
        "trainer.cli imports trainer.dataset.split imports pyarrow",
    ]


def write(root: Path, files: dict[str, str]) -> None:
    for name, source in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source)


def sources(root: Path) -> dict[str, Path]:
    """Module name to file, sorted, without the package files."""
    paths = (path for path in root.rglob("*.py") if path.name != "__init__.py")
    names = {".".join(("trainer", *path.relative_to(root).with_suffix("").parts)): path for path in paths}
    return dict(sorted(names.items()))


def room(module: str) -> str:
    return module.split(".")[1]


def modules_imported(root: Path) -> dict[str, list[str]]:
    """Modules of the package that each module imports."""
    found = sources(root)
    return {
        module: sorted({name for name in imported(path, module) if name in found and name != module})
        for module, path in found.items()
    }


def upward(root: Path) -> list[str]:
    wrong = [f"{module} is in no room" for module in sources(root) if room(module) not in ROOMS]
    for module, names in modules_imported(root).items():
        if room(module) in ROOMS:
            place = ROOMS.index(room(module))
            wrong += [f"{module} imports {name}" for name in names if room(name) not in ROOMS[: place + 1]]
    return sorted(wrong)


def circle(root: Path) -> list[str]:
    """Modules that are left when those that import no other one left are taken away, again and again."""
    left = {module: set(names) for module, names in modules_imported(root).items()}
    for backwards in (False, True):
        while True:
            needed = {name for names in left.values() for name in names} if backwards else set()
            free = [
                m for m, names in left.items() if (m not in needed if backwards else not names & left.keys())
            ]
            if not free:
                break
            for module in free:
                del left[module]
    return sorted(left)


def crowded(root: Path) -> list[str]:
    files: dict[str, list[Path]] = {}
    for module, path in sources(root).items():
        files.setdefault(room(module), []).append(path)
    sizes = {
        name: (len(paths), sum(len(path.read_text().splitlines()) for path in paths))
        for name, paths in files.items()
    }
    return [
        f"{name}: {count} files, {lines:,} lines"
        for name, (count, lines) in sizes.items()
        if count > MOST_FILES or lines > MOST_LINES
    ]


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
