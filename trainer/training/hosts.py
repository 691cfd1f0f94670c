"""What hosts must have in common before the first step: software, configuration, data, and the run folder."""

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

import trainer
from trainer.config.parser import config_text
from trainer.config.resume import PATHS
from trainer.config.schema import Config
from trainer.dataset.dataset import Dataset
from trainer.distributed.agreement import agree
from trainer.distributed.world import World
from trainer.runs.data_digest import data_digests
from trainer.runs.run_folder import CONFIG, DIGESTED

PACKAGES = ("torch", "torchrec", "fbgemm-gpu-cpu", "fbgemm-gpu", "numpy", "pandas", "pyarrow", "scipy")
"""Distributions that compute what ranks exchange, or prepare what they read."""
OWN = (
    *(f"data.{name}" for name in (*PATHS, "source", "user_vectors", "item_vectors")),
    *("run.dir", "sharding.plan"),
)
"""Options that name places, which each host may have elsewhere."""
SHOWN_DIGITS = 12
SLICE = 2**17
"""Ids that are hashed at a time."""


def agree_on_start(config: Config, world: World) -> None:
    """Compare software and options of all hosts.

    Raises:
        ConfigError: They differ.
    """
    if config.run.dir is not None:
        has_run = {f"--run.dir {config.run.dir}": _run_there(Path(config.run.dir))}
        agree(world, lambda: has_run, "Name a folder that all hosts share, by its full path")
    agree(world, software, "Install the same on all hosts: the same checkout, and bash launch/setup.sh")
    agree(world, lambda: options(config), "Start the training with the same options on all hosts")


def agree_on_data(dataset: Dataset, world: World) -> None:
    """Compare the data that each host has prepared, by their content, wherever they lie.

    Raises:
        ConfigError: They differ.
    """
    agree(world, lambda: data_facts(dataset), "Copy the same files to all hosts")


def software() -> dict[str, str]:
    """Return the versions of Python and packages, and the hash of this package's own files."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {f"shardtower {trainer.__version__}, code": code_digest(Path(trainer.__file__).parent)} | found


def code_digest(package: Path) -> str:
    """Return the first digits of the SHA-256 of a package's Python files, by their names and contents."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(
            f"{path.relative_to(package)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        )
    return digest.hexdigest()[:SHOWN_DIGITS]


def options(config: Config) -> dict[str, str]:
    """Return every option with its value, but for those that name places."""
    flat = _flat("", yaml.safe_load(config_text(config)))
    return {f"--{key}": str(value) for key, value in flat.items() if key not in OWN}


def _flat(prefix: str, tree: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if key not in OWN and isinstance(value, dict):
            found |= _flat(f"{key}.", value)
        else:
            found[key] = value
    return found


def data_facts(dataset: Dataset) -> dict[str, str]:
    """Return the digest of each part of the data, by its name in messages."""
    ids = {f"ids of {side}": _id_digest(ids) for side, ids in _ids(dataset).items()}
    digests = {DIGESTED.get(name, name): digest for name, digest in data_digests(dataset).items()}
    return {f"hash of {name}": digest[:SHOWN_DIGITS] for name, digest in (ids | digests).items()}


def _ids(dataset: Dataset) -> dict[str, pa.Array]:
    if dataset.shares is not None:  # users are in the digests of the splits
        return {"items": dataset.item_ids}
    return {"users": dataset.user_ids, "items": dataset.item_ids}


def _id_digest(ids: pa.Array) -> str:
    digest = hashlib.sha256(f"{ids.type} {len(ids)}\n".encode())
    for start in range(0, len(ids), SLICE):
        digest.update(repr(ids.slice(start, SLICE).to_pylist()).encode())
    return digest.hexdigest()


def _run_there(run: Path) -> str:
    return "holds a run" if (run / CONFIG).is_file() else "holds no run"
