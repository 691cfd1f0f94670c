"""A folder of lists: files of blocks of users, and a manifest that says of which run and options they are."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.atomic_write import replaced, write_text
from trainer.batch_lists.ranks import LOCK
from trainer.errors import UserError
from trainer.runs.checkpoint_store import digest_of

FORMAT = 1
MANIFEST = "_manifest.json"
"""Readers of a folder of Parquet files pass over names that begin with an underscore or a dot."""
PART = "part-{:05d}.parquet"
OWNER = b"shardtower"
"""Key of a file's metadata that tells which lists it belongs to."""
REMEDY = "Name another folder, or remove this one"


@dataclass(frozen=True)
class ListsFolder:
    """A folder that lists are written into.

    Attributes:
        path: The folder.
        description: What lists are in it: run, checkpoint, users, options.
        parts: Number of files.
    """

    path: Path
    description: dict[str, Any]
    parts: int

    @property
    def digest(self) -> str:
        """SHA-256 of the description, in hexadecimal."""
        return digest_of(self.description)

    def part(self, number: int) -> Path:
        """Return the file of a block of users."""
        return self.path / PART.format(number)

    def prepare(self) -> None:
        """Begin in an empty folder, or check that another one holds parts of these lists and nothing else.

        Raises:
            UserError: It holds other lists or other files.
        """
        others = [path for path in self.path.iterdir() if path.name != LOCK]
        if not others:
            self._write_manifest({})
            return
        self._check(self._manifest())
        for path in self.path.glob(".*.partial*"):  # left by a process that was killed
            path.unlink(missing_ok=True)

    def _manifest(self) -> dict[str, Any]:
        try:
            return json.loads((self.path / MANIFEST).read_text())
        except (OSError, ValueError):
            raise UserError(f"--out {self.path}: holds other files than lists. {REMEDY}") from None

    def _check(self, manifest: dict[str, Any]) -> None:
        """Refuse the folder of other lists, and name the first difference."""
        before = manifest.get("lists") or {}
        for name, value in self.description.items():
            if before.get(name) != value:
                was, now = (_shown(each) for each in (before.get(name), value))
                what = "of another run or checkpoint" if name == "checkpoint" else f"with another {name}"
                raise UserError(f"--out {self.path}: holds lists {what} ({was}, not {now}). {REMEDY}")

    def finish(self) -> dict[str, Any]:
        """Write the manifest of a complete folder, with rows and SHA-256 of every file, and return it."""
        files = {}
        for number in range(self.parts):
            path = self.part(number)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            files[path.name] = {"rows": pq.read_metadata(path).num_rows, "sha256": digest}
        return self._write_manifest(files)

    def _write_manifest(self, files: dict[str, Any]) -> dict[str, Any]:
        manifest = {"format": FORMAT, "complete": bool(files), "lists": self.description, "files": files}
        write_text(self.path / MANIFEST, json.dumps(manifest, indent=1) + "\n")
        return manifest

    def is_whole(self, number: int) -> bool:
        """Return whether a part is there, undamaged, and belongs to these lists."""
        path = self.part(number)
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                if (file.schema_arrow.metadata or {}).get(OWNER) != self.digest.encode():
                    return False
                for _ in file.iter_batches():  # reads, and so verifies, every page
                    pass
        except (OSError, pa.ArrowException):
            return False
        return True

    def write(self, number: int, columns: dict[str, pa.Array]) -> None:
        """Write a part atomically.

        Args:
            number: Of the part.
            columns: Of equal lengths.
        """
        table = pa.table(columns).replace_schema_metadata({OWNER: self.digest.encode()})
        with replaced(self.part(number)) as beside:
            pq.write_table(table, beside, compression="zstd", write_page_checksum=True)

    def read_items(self, number: int) -> pa.Array:
        """Return the raw ids of all items in a part."""
        return pq.read_table(self.part(number), columns=["item"])["item"].combine_chunks()


def rows_digest(rows: np.ndarray) -> str:
    """Return the SHA-256 of row numbers, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(rows, "<i8").tobytes()).hexdigest()


def _shown(value: object) -> str:
    text = "none" if value in (None, [], {}, False) else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
