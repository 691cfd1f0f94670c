"""Metadata of checkpoints as other versions of Python pickle them, and what is none."""

import io
import pickle
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import Metadata, TensorProperties, TensorStorageMetadata

from trainer.errors import CheckpointError
from trainer.runs.safe_reader import SafeReader


class ByGetattr(pickle.Pickler):
    """Pickles members of enumerations as Python 3.11.2 does, which Debian 12 has."""

    def reducer_override(self, value: Any) -> Any:
        return (getattr, (type(value), value.name)) if isinstance(value, Enum) else NotImplemented


class Asks:
    """Is pickled as a call of `getattr`."""

    def __init__(self, owner: Any, name: str) -> None:
        self.asked = (owner, name)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, str]]:
        return getattr, self.asked


def metadata() -> Metadata:
    properties = TensorProperties.create_from_tensor(torch.zeros(2, 3))
    return Metadata({"weight": TensorStorageMetadata(properties, torch.Size([2, 3]), [])})


def test_members_of_enumerations_are_read_as_python_3_11_2_writes_them(tmp_path: Path) -> None:
    written = io.BytesIO()
    ByGetattr(written, protocol=4).dump(metadata())
    assert b"getattr" in written.getvalue()
    (tmp_path / ".metadata").write_bytes(written.getvalue())
    found = SafeReader(tmp_path).read_metadata().state_dict_metadata["weight"]
    assert isinstance(found, TensorStorageMetadata)
    assert found.properties.memory_format is torch.contiguous_format
    assert found.size == torch.Size([2, 3])


@pytest.mark.parametrize("asked", [(torch.Size, "__subclasses__"), (torch.float32, "__class__")])
def test_nothing_else_is_looked_up_by_name(asked: tuple[Any, str], tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Asks(*asked)))
    with pytest.raises(CheckpointError, match="no tensor needs"):
        SafeReader(tmp_path).read_metadata()
