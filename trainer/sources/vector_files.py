"""Dense vectors of users or items, such as embeddings of texts and images, in NumPy's own files."""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa

from trainer.errors import DataError

REMEDY = "Save one with np.savez(FILE, ids=ids, vectors=vectors), or give FILE.npy and FILE_ids.npy"


def files_of(path: Path) -> list[Path]:
    """Return the file itself and, of a `.npy` file, that of its rows' ids: `image_ids.npy` of `image.npy`."""
    return [path] if path.suffix == ".npz" else [path, path.with_name(f"{path.stem}_ids.npy")]


def read_vectors(option: str, path: Path) -> pa.Table:
    """Return the columns `id` and `vector` (a fixed-size list of float32), a row a user or an item.

    Args:
        option: The option that names the file, for messages.
        path: A `.npz` file with the arrays `ids` and `vectors`, or a `.npy` file beside one of the ids.

    Raises:
        DataError: A file is missing or holds something else.
    """
    if path.suffix == ".npz":
        arrays = _load(option, path)
        if missing := {"ids", "vectors"} - set(arrays):
            raise DataError(f"{option} {path}: holds no array `{min(missing)}`. {REMEDY}")
        ids, vectors = arrays["ids"], arrays["vectors"]
    else:
        vectors, ids = (_load(option, file)["vectors"] for file in files_of(path))
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu" or not vectors.shape[1]:
        raise DataError(
            f"{option} {path}: vectors have shape {vectors.shape} and type {vectors.dtype}, expected numbers "
            "in two dimensions, a row a vector. Reshape them"
        )
    if ids.ndim != 1 or ids.dtype.kind not in "iuUS":
        raise DataError(
            f"{option} {path}: ids have shape {ids.shape} and type {ids.dtype}, expected one dimension of "
            "integers or texts. Convert them: np.asarray(ids, dtype=str)"
        )
    if len(ids) != len(vectors):
        raise DataError(
            f"{option} {path}: {len(ids):,} ids for {len(vectors):,} vectors, expected as many. Save both"
        )
    keys = pa.array(ids.astype(str) if ids.dtype.kind in "US" else ids.astype(np.int64))
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    return pa.table({"id": keys, "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])})


def _load(option: str, path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file by name; the one of a `.npy` file is called `vectors`."""
    if not path.is_file():
        raise DataError(f"{option}: {path}: no such file. {REMEDY}")
    try:
        loaded = np.load(path, allow_pickle=False)
        return {"vectors": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        reason = "it holds Python objects" if "pickle" in str(error) else " ".join(str(error).split())
        raise DataError(f"{option}: {path}: cannot be read ({reason}). {REMEDY}") from None
