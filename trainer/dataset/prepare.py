"""From a data configuration to the folder of its prepared form, which is made once."""

import os
from pathlib import Path

from trainer.config.schema import DataConfig
from trainer.dataset.build import Build, prepare
from trainer.dataset.split import Rule
from trainer.sources.configured import source_of
from trainer.storage import arrays


def prepare_data(
    data: DataConfig, validation_seed: int | None = None, build_with: Build | None = None
) -> Path:
    """Return the folder of the prepared data, which is written if it does not exist yet.

    Args:
        data: Data section of the configuration.
        validation_seed: Seed of the validation split alone, by default `data.split_seed`.
        build_with: What writes the folder in place of this process alone.

    Raises:
        DataError: Data are missing or cannot be read.
    """
    make_source, key = source_of(data)
    return prepare(
        make_source,
        key,
        cache_folder(data.cache),
        name=data.name,
        min_value=data.min_value,
        k_core=data.k_core,
        split=rule_of(data),
        test_size=data.test_size,
        validation_size=data.validation_size,
        split_seed=data.split_seed,
        validation_seed=validation_seed,
        order=data.order,
        repeats=data.repeats,
        negatives=data.negatives,
        attribute_kinds=data.attribute_kinds,
        build=build_with,
    )


def rule_of(data: DataConfig) -> Rule:
    """Return the rule of the split: a file of held-out interactions implies `given`."""
    return "given" if data.held_out and data.split != "none" else data.split


def cache_folder(cache: str | None) -> Path:
    """Return the folder of prepared data sets: the given one, or the user's cache."""
    if cache:
        return Path(cache)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shardtower"


def find_prepared(data: DataConfig, key: str) -> Path | None:
    """Return the prepared form with a key, if it stands in the folder of prepared data; else None."""
    for folder in cache_folder(data.cache).glob(f"{data.name}-*{key[:20]}"):
        if arrays.is_whole(folder) and arrays.read_meta(folder, "")["key"] == key:
            return folder
    return None
