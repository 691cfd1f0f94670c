"""The lists of all users, or of many, as Parquet files of blocks of users.

Each rank of a launch makes blocks of its own, and a process alone makes all of them; the rows are the same. A
block is published by a rename, so that the next start goes on with those that are missing.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import numpy as np
import pyarrow as pa
import torch

from trainer.batch_lists.list_maker import TEST, ListMaker
from trainer.batch_lists.lists_folder import ListsFolder, rows_digest
from trainer.batch_lists.progress import progress
from trainer.batch_lists.ranks import joined, locked, on_first
from trainer.distributed.world import World
from trainer.errors import UserError
from trainer.formatting import format_count
from trainer.ranking.id_files import read_ids
from trainer.serving.known_items import held_out_lists, without_held_out
from trainer.serving.served_run import Restrictions, ServedRun, open_served
from trainer.storage.raw_ids import rows_of

USERS_PER_PART = 4096
USER_COLUMNS = ("user", "user_id", "userId")
NAMED = 5
"""Most unknown users that a note lists."""


@dataclass(frozen=True)
class AllLists:
    """What `recommend_all` has written.

    Attributes:
        folder: Where.
        users: Number of lists.
        rows: Number of rows in all.
        kept: Lists that were there before.
        seconds: How long the others took.
        notes: Sentences about what could not be done.
    """

    folder: Path
    users: int
    rows: int
    kept: int
    seconds: float
    notes: list[str]

    def __str__(self) -> str:
        made = self.users - self.kept
        kept = f", {self.kept:,} of them there before" if self.kept else ""
        speed = f", {made / max(self.seconds, 1e-9):,.0f} users a second" if made else ""
        return (
            f"{self.folder}: lists of {format_count(self.users, 'user')}{kept}, {self.rows:,} rows "
            f"({self.seconds:.1f} s{speed})"
        )


def recommend_all(
    run: Path,
    out: Path,
    k: int = 10,
    *,
    users: Path | Sequence[str | int] | None = None,
    keep_seen: bool = False,
    mark: str | None = None,
    cap: int | None = None,
    users_per_part: int | None = None,
    world: World | None = None,
    **restrictions: Unpack[Restrictions],
) -> AllLists | None:
    """Write the lists of all users, as `recommend` ranks them, into a folder of Parquet files.

    Columns are `user` and `item` (raw ids in their own types), `rank` (from 1), `score`, and with `mark` also
    `test`. Files hold users in the order of the vocabulary, whatever the order in which they are given.

    Args:
        run: Run folder.
        out: Folder, which is new, empty, or has lists of the same run and options, which are gone on with.
        k: Items of a list; fewer where fewer remain.
        users: Raw ids of some users, or a file of them; None: all.
        keep_seen: Whether to rank items that a user already has too.
        mark: `test` ranks the items of the test split too, as an evaluation does, and marks them.
        cap: Most lists that an item may stand in; see `trainer.batch_lists.cap`.
        users_per_part: Users of a file.
        world: Ranks that are there already; None: those of a launch, or this process alone.
        restrictions: What else restricts lists: `where`, `allow`, `deny`, `at_most`.

    Returns:
        What was written, on the first rank; None elsewhere.

    Raises:
        UserError: A restriction does not fit, no user is known, or the folder holds something else.
        CheckpointError: If the folder is no run.
    """
    if mark not in (None, TEST):
        raise UserError(f"--mark {mark}: only items of the test split can be marked. Use --mark test")
    served = open_served(run, k)
    selection = served.selection(**restrictions)
    rows, notes = _users(served, users)
    held_out = held_out_lists(run, served.vocabulary)
    if held_out is None:
        if mark is not None:
            raise UserError(f"--mark {mark}: {without_held_out(run)}")
        notes.append(f"only training and validation items are left out: {without_held_out(run)}")
    size = users_per_part or USERS_PER_PART
    description = {
        "checkpoint": served.saved.digest,
        "k": k,
        "users": f"{len(rows):,} of {rows_digest(rows)}",
        "users_per_part": size,
        "cap": cap,
        "keep_seen": keep_seen,
        "mark": mark,
        "left_out_items": f"{len(selection.left_out):,} of {rows_digest(selection.left_out)}",
        "at_most": dict(restrictions.get("at_most") or {}),
    }
    folder = ListsFolder(out, description, -(-len(rows) // size))
    notes += selection.notes
    with joined(world) as ranks, locked(out, ranks):
        on_first(ranks, folder.prepare)
        for note in notes if ranks.is_first else ():
            print(f"note: {note}", file=sys.stderr, flush=True)
        begun = time.monotonic()
        maker = ListMaker(served, ranks, selection, held_out, k, keep_seen, mark, cap)
        made = _write_parts(folder, maker, rows, size, ranks)
        manifest = on_first(ranks, folder.finish)
        is_first = ranks.is_first
    total = sum(part["rows"] for part in manifest["files"].values())
    done = AllLists(out, len(rows), total, len(rows) - made, time.monotonic() - begun, notes)
    return done if is_first else None


def _users(served: ServedRun, users: Path | Sequence[str | int] | None) -> tuple[np.ndarray, list[str]]:
    """Return the rows of the users that are asked for, ascending, and notes on those that are unknown."""
    known = served.vocabulary.user_ids
    if users is None:
        return np.arange(len(known)), []
    if isinstance(users, Path):
        ids = read_ids(users, "--users", USER_COLUMNS)
    else:
        ids = pa.array([str(each) for each in users], pa.string())
    found = rows_of(known, ids)
    unknown = ids.filter(found.is_null()).to_pylist()
    more = f" and {len(unknown) - NAMED:,} more" if len(unknown) > NAMED else ""
    text = (
        f"--users: {len(unknown):,} of {format_count(len(ids), 'id')} not among the {len(known):,} users of "
        f"{served.run}: {', '.join(map(str, unknown[:NAMED]))}{more}"
    )
    rows = np.unique(found.drop_null().to_numpy(zero_copy_only=False))
    if not len(rows):
        raise UserError(f"{text}. Name users such as {known[0]}")
    return rows, [text] if unknown else []


def _write_parts(folder: ListsFolder, maker: ListMaker, rows: np.ndarray, size: int, world: World) -> int:
    """Write the parts of this rank that are missing; return how many users all ranks have written."""
    # Lists with a cap depend on those before, so that one rank makes all.
    mine = range(folder.parts)[world.rank :: world.size]
    if maker.cap is not None:
        mine = range(folder.parts) if world.is_first else range(0)
    made = 0
    with progress(folder, len(rows), size, world.is_first) as shown:
        for number in mine:
            if folder.is_whole(number):
                if maker.cap is not None:
                    maker.count(folder.read_items(number))
                continue
            block = rows[number * size : (number + 1) * size]
            folder.write(number, maker.columns(block))
            made += len(block)
            shown()
    on_first(world, lambda: None)  # until all ranks are done
    return made if world.size == 1 else int(world.sum(torch.tensor(made)))
