"""Raw ids -> rows."""

import pyarrow as pa
import pyarrow.compute as pc


def row_of(ids: pa.Array, raw_id: str | int) -> int | None:
    """Return the position of a raw id, or None; a scan takes some milliseconds per million ids."""
    text = str(raw_id)
    if pa.types.is_int64(ids.type):
        try:
            number = pa.scalar(int(text), pa.int64())
        except (ValueError, OverflowError):
            return None
        row = pc.index(ids, number).as_py() if str(number.as_py()) == text else -1
    else:
        row = pc.index(ids, pa.scalar(text, ids.type)).as_py()
    return None if row < 0 else row


def rows_of(ids: pa.Array, raw_ids: pa.Array) -> pa.Array:
    """Return the position of each of many raw ids, null for an unknown one; ids of two types compare as text.

    Args:
        ids: Known ids, each once.
        raw_ids: (n,) integers or strings.
    """
    if ids.type != raw_ids.type:
        ids, raw_ids = ids.cast(pa.string()), raw_ids.cast(pa.string())
    return pc.index_in(raw_ids, value_set=ids, skip_nulls=True).cast(pa.int64())
