"""A checkpoint reader that never runs code embedded in a checkpoint.

torch stores its metadata as a pickle, which can call any function when it is opened, and reads values that
are not tensors in the same way. This reader accepts metadata of torch's descriptions of tensors alone.
"""

import pickle
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from trainer.errors import CheckpointError

DESCRIPTIONS = {
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata", "ChunkStorageMetadata"),
        *("TensorProperties", "_MEM_FORMAT_ENCODING"),
    },
    "pathlib": {"PosixPath", "PurePosixPath"},
}
"""Names that metadata of tensors may refer to, by module."""


class SafeReader(FileSystemReader):
    """Reads tensors alone."""

    def __init__(self, checkpoint: Path) -> None:
        """Read from a checkpoint's folder."""
        super().__init__(checkpoint)
        self._checkpoint = checkpoint

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """Return the checkpoint's metadata.

        Raises:
            CheckpointError: They describe anything but tensors.
        """
        try:
            with (self._checkpoint / ".metadata").open("rb") as file:
                metadata = _Unpickler(file).load()
        except (pickle.UnpicklingError, EOFError) as error:
            raise CheckpointError(f"{self._checkpoint.name}: {error or 'its metadata are empty'}") from None
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def _member(kind: Any, name: str) -> Any:
    """Return a member of an enumeration.

    Raises:
        UnpicklingError: Something else is asked for.
    """
    if isinstance(kind, type) and issubclass(kind, Enum) and name in kind.__members__:
        return kind.__members__[name]
    raise pickle.UnpicklingError(f"its metadata ask for {name} of {kind}, which no tensor needs")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _member  # Python 3.11.0 to 3.11.3 write members of enumerations so
        allowed = name in DESCRIPTIONS.get(module, ())
        if allowed or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"its metadata name {module}.{name}, which no tensor needs")
