"""Shardtower: a distributed trainer of two-tower retrieval models on sharded embedding tables.

The names below are the Python API; each is imported when it is first used.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.api.run import Run, open_run
    from trainer.api.training import train
    from trainer.config.parser import parse_config
    from trainer.recommender.recommender import Recommender

__version__ = "0.1.0"

_MODULES = {
    "Recommender": "trainer.recommender.recommender",
    "Run": "trainer.api.run",
    "open_run": "trainer.api.run",
    "parse_config": "trainer.config.parser",
    "train": "trainer.api.training",
}
__all__ = ["Recommender", "Run", "open_run", "parse_config", "train"]


# FBGEMM 1.6 and 1.7 warn in every process that they have no entry for themselves in their table of versions.
logging.getLogger().addFilter(lambda record: "_fbgemm_torch_compat_table has no entry" not in str(record.msg))


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'trainer' has no attribute '{name}'; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_MODULES[name]), name)
