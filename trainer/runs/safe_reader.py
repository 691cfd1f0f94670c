"""Checkpoints read without running what a stranger may have put into them.

The library keeps its metadata as a pickle, which may call anything when it is opened, and opens values that
are no tensors in the same way. Here metadata are made of the library's own descriptions of tensors alone.
"""

import pickle
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
"""What metadata of tensors are made of, by module."""


class Reader(FileSystemReader):
    """A reader of tensors; metadata that name anything else raise CheckpointError."""

    def __init__(self, checkpoint: Path) -> None:
        """Of a checkpoint's folder."""
        super().__init__(checkpoint)
        self._checkpoint = checkpoint

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """The metadata of the checkpoint."""
        try:
            with (self._checkpoint / ".metadata").open("rb") as file:
                metadata = _Unpickler(file).load()
        except (pickle.UnpicklingError, EOFError) as error:
            raise CheckpointError(f"{self._checkpoint.name}: {error or 'its metadata are empty'}") from None
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = name in DESCRIPTIONS.get(module, ())
        if known or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"its metadata name {module}.{name}, which no tensor needs")
