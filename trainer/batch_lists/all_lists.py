"""The lists of all users, or of many, as Parquet files of blocks of users.

Each rank of a launch makes blocks of its own, and a process alone makes all of them; the rows are the same. A
block is published by a rename, so that the next start goes on with those that are missing.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, Unpack

import numpy as np
import pyarrow as pa
import torch
from tqdm import tqdm

from trainer.batch_lists.block_queries import KnownItems, Queries
from trainer.batch_lists.block_ranking import Block, BlockRanker
from trainer.batch_lists.cap import Cap
from trainer.batch_lists.lists_folder import ListsFolder, locked, rows_digest
from trainer.distributed.world import World, join_world
from trainer.errors import DivergedError, UserError, diverged
from trainer.formatting import format_count
from trainer.ranking.id_files import read_ids
from trainer.ranking.selection import Selection
from trainer.serving.embed import all_vectors
from trainer.serving.known_items import held_out_lists, without_held_out
from trainer.serving.ordered_history import has_ordered_histories
from trainer.serving.served_run import Restrictions, ServedRun, open_served
from trainer.storage.raw_ids import rows_of

Result = TypeVar("Result")
TEST = "test"
USERS_PER_PART = 4096
LINE_INTERVAL = 60
"""Seconds between lines of progress where there is no terminal."""
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
    with _world() as world:
        _on_first(world, folder.prepare)
        with locked(out) if world.is_first else nullcontext():
            for note in notes if world.is_first else ():
                print(f"note: {note}", file=sys.stderr, flush=True)
            begun = time.monotonic()
            maker = _Maker(served, world, selection, held_out, k, keep_seen, mark, cap)
            made = _write_parts(folder, maker, rows, size, world)
            manifest = _on_first(world, folder.finish, long=True)
    if not world.is_first:
        return None
    total = sum(part["rows"] for part in manifest["files"].values())
    return AllLists(out, len(rows), total, len(rows) - made, time.monotonic() - begun, notes)


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


class _Maker:
    """Makes the lists of blocks of users."""

    def __init__(
        self,
        served: ServedRun,
        world: World,
        selection: Selection,
        held_out: Any,
        k: int,
        keep_seen: bool,
        mark: str | None,
        cap: int | None,
    ) -> None:
        self._served, self._k, self._marked = served, k, held_out if mark else None
        vocabulary = served.vocabulary
        ordered = mark is None and has_ordered_histories(served.saved)

        def vectors() -> Any:
            return all_vectors(served.run, served.saved, from_towers=ordered)

        if world.size > 1 and not ordered:  # the first computes the cache that all others open
            _on_first(world, lambda: vectors() and None, long=True)
        cached, items, tower_pairs = vectors()
        self._queries = Queries(vocabulary, cached, tower_pairs, ordered)
        self._known = KnownItems.of_run(vocabulary, held_out, keep_seen, mark is not None)
        self._ranker = BlockRanker(vocabulary, items, selection.limits)
        permitted = np.ones(len(items), bool)
        permitted[selection.left_out] = False
        self._ranker.permit(permitted)
        self.cap = None if cap is None else Cap(self._ranker, cap, selection)

    def columns(self, rows: np.ndarray) -> dict[str, pa.Array]:
        """Return the lists of some users, column by column.

        Raises:
            DivergedError: A score is not finite.
        """
        vocabulary = self._served.vocabulary
        block = Block(rows, self._queries.of(rows), *self._known.of(rows))
        try:
            items, scores = (self.cap or self._ranker).lists(block, self._k)
        except DivergedError:
            raise diverged(str(self._served.run), "scores are NaN or infinite") from None
        there = items >= 0
        counts, flat = there.sum(1), items[there]
        users = np.repeat(rows, counts)
        ranks = np.arange(len(flat)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
        columns = {
            "user": vocabulary.user_ids.take(pa.array(users)),
            "rank": pa.array(ranks, pa.int32()),
            "item": vocabulary.item_ids.take(pa.array(flat)),
            "score": pa.array(scores[there], pa.float32()),
        }
        if self._marked is not None:
            lengths, held_out = self._marked.take(rows)
            count = len(vocabulary.item_ids)
            columns[TEST] = pa.array(
                np.isin(users * count + flat, np.repeat(rows, lengths) * count + held_out)
            )
        return columns

    def count(self, items: pa.Array) -> None:
        """Count the items of lists that were there before, where there is a cap."""
        if self.cap is not None:
            rows = rows_of(self._served.vocabulary.item_ids, items).to_numpy()
            self.cap.counts += np.bincount(rows, minlength=len(self.cap.counts))


def _write_parts(folder: ListsFolder, maker: _Maker, rows: np.ndarray, size: int, world: World) -> int:
    """Write the parts of this rank that are missing; return how many users all ranks have written."""
    # Lists with a cap depend on those before, so that one rank makes all.
    mine = range(folder.parts)[world.rank :: world.size]
    if maker.cap is not None:
        mine = range(folder.parts) if world.is_first else range(0)
    made = 0
    with _progress(folder, len(rows), size, world.is_first) as shown:
        for number in mine:
            if folder.is_whole(number):
                if maker.cap is not None:
                    maker.count(folder.read_items(number))
                continue
            block = rows[number * size : (number + 1) * size]
            folder.write(number, maker.columns(block))
            made += len(block)
            shown()
    _on_first(world, lambda: None, long=True)  # until all ranks are done
    return made if world.size == 1 else int(world.sum(torch.tensor(made)))


@contextmanager
def _progress(folder: ListsFolder, users: int, size: int, active: bool) -> Iterator[Callable[[], None]]:
    """Give a function that shows how far all ranks are: as a bar on a terminal, else by a line a minute."""
    begun = last = time.monotonic()
    on_terminal = active and sys.stderr.isatty()

    def done() -> int:
        return min(sum(folder.part(number).exists() for number in range(folder.parts)) * size, users)

    before = done() if active else 0
    with tqdm(
        total=users, initial=before, desc="lists", unit="user", delay=2, disable=not on_terminal, leave=False
    ) as bar:

        def shown() -> None:
            nonlocal last
            now = time.monotonic()
            if on_terminal:
                bar.update(done() - bar.n)
            elif active and now - last >= LINE_INTERVAL:
                last, there = now, done()
                left = (now - begun) / max(there - before, 1) * (users - there)
                print(f"{there:,} of {users:,} lists, {left:,.0f} s left", file=sys.stderr, flush=True)

        yield shown


@contextmanager
def _world() -> Iterator[World]:
    """Join the ranks of a launch, or be alone, without a process group."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        with join_world("cpu") as world:
            yield world
    else:
        yield World(0, 1, 0, 1, torch.device("cpu"))


def _on_first(world: World, work: Callable[[], Result], *, long: bool = False) -> Result:
    return work() if world.size == 1 else world.on_first(work, long=long)
