"""The export that is served now, and its replacement by a newer one while requests go on."""

import bisect
import contextlib
import hashlib
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from trainer.errors import UserError

MANIFEST = "manifest.json"
HASH_LENGTH = 12
MOST_VALUES = 200
"""Most values of an attribute that a page offers; the most frequent ones."""
Stamp = tuple[str, tuple[tuple[str, int, int, int], ...]]
Opener = Callable[[Path], Any]
"""Opens a folder as a `trainer.recommender.recommender.Recommender`."""


@dataclass(frozen=True)
class AttributeFacts:
    """What a page needs to know of an attribute of items, to offer it as a filter.

    Attributes:
        name: Its name, as conditions take it.
        kind: `number` or `category`; of a list, the kind of its values.
        values: The most frequent values and how many items have them, most frequent first; none of numbers.
        least: Of numbers, the least.
        most: Of numbers, the greatest.
    """

    name: str
    kind: str
    values: tuple[tuple[str, int], ...] = ()
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class Export:
    """An opened export. A request takes it once and keeps it, whatever is swapped in meanwhile.

    Attributes:
        recommender: What answers.
        folder: The folder, behind symbolic links.
        hash: First digits of the SHA-256 of its manifest, which holds the hashes of all other files.
        step: Step of the checkpoint that it was made of; None where the manifest says nothing.
        opened: When, in Unix seconds.
        attributes: What the items' attributes are, for a page to offer as filters.
        columns: Columns of the catalogue, by name: `item`, `title` and the attributes.
        user_ids: Ids of all users as text, sorted.
    """

    recommender: Any
    folder: Path
    hash: str
    step: int | None
    opened: float = field(default_factory=time.time)
    attributes: Sequence[AttributeFacts] = ()
    columns: dict[str, pa.ChunkedArray] = field(default_factory=dict)
    user_ids: Sequence[str] = ()

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @property
    def items(self) -> int:
        """Number of items of the catalogue."""
        return len(self.columns["item"])

    @cached_property
    def rows(self) -> dict[str, int]:
        """Rows of items by their ids as text."""
        return {str(item): row for row, item in enumerate(self.columns["item"].to_pylist())}

    def title(self, item: Any) -> str | None:
        """Return the title of an item, None where it has none."""
        titles = self.columns.get("title")
        return None if titles is None else titles[self.rows[str(item)]].as_py()

    def attributes_of(self, item: Any) -> dict[str, Any]:
        """Return the attributes of an item that are known."""
        row = self.rows[str(item)]
        values = {each.name: self.columns[each.name][row].as_py() for each in self.attributes}
        known = {name: value for name, value in values.items() if value is not None and value == value}
        # pandas holds whole numbers as floats where some are unknown.
        whole = {n: int(v) for n, v in known.items() if isinstance(v, float) and v.is_integer()}
        return known | whole

    def sentence(self, error: Exception) -> str:
        """Return an error's message as one of a service: without the folder's place, and without options."""
        return str(error).replace(str(self.folder), self.name).removeprefix("--")

    def users_from(self, start: str, limit: int) -> list[str]:
        """Return the first ids of users that begin with a text."""
        first = bisect.bisect_left(self.user_ids, start)
        found = self.user_ids[first : first + limit]
        return [user for user in found if user.startswith(start)]


class CurrentExport:
    """The export that a folder holds, opened; `reload` opens what has taken its place.

    Attributes:
        export: What is served now. It is replaced as a whole.
        swaps: How often it has been replaced.
        refusals: How often a new one was refused.
        refused: Why the folder's present content was refused; None where it is what is served.
    """

    def __init__(self, folder: Path, opener: Opener) -> None:
        """Open the folder.

        Raises:
            UserError: It holds no export, or a damaged one.
        """
        self.folder = folder
        self._opener = opener
        self._lock = threading.Lock()
        self._tried = self._seen = stamp(folder)
        self.export = open_export(folder, opener)
        self.swaps = self.refusals = 0
        self.refused: str | None = None

    def settled_change(self) -> bool:
        """Return whether the folder holds something else than was last tried, and did so a call earlier too.

        A folder that is being copied, file by file, is left alone until it has come to rest; one that is
        missing for a moment, while it is replaced, is waited for.
        """
        found = stamp(self.folder)
        settled = found is not None and found != self._tried and found == self._seen
        self._seen = found
        return settled

    def reload(self) -> bool:
        """Open what the folder holds now and serve it; return False where it is refused.

        What is refused is named on stderr and in `refused`; the export opened before goes on serving. It may
        be called from any thread.
        """
        with self._lock:
            self._tried = stamp(self.folder)
            before = self.export
            try:
                export = open_export(self.folder, self._opener)
            except Exception as error:  # whatever is wrong with it, the one opened before must go on
                self.refused = str(error) if isinstance(error, UserError) else f"{self.folder}: {error!r}"
                self.refusals += 1
                _say(f"refused: {self.refused}. {before.name} ({before.hash}) goes on serving")
                return False
            self.export, self.refused = export, None
            self.swaps += 1
            _say(f"now serving {export.name} ({export.hash}) in place of {before.name} ({before.hash})")
            return True


def open_export(folder: Path, opener: Opener) -> Export:
    """Open an export and ask it a few questions.

    Raises:
        UserError: It cannot be opened, or is not one.
    """
    # A symbolic link may be switched while files are opened one after another.
    real = folder.resolve()
    recommender = opener(real)
    table = recommender.items
    table = table if isinstance(table, pa.Table) else pa.Table.from_pandas(table, preserve_index=False)
    columns = dict(zip(table.column_names, table.columns, strict=True))
    if len(table):
        _ask_once(recommender, columns["item"][0].as_py())
    digest = hashlib.sha256((real / MANIFEST).read_bytes()).hexdigest()
    names = [name for name in columns if name not in ("item", "title")]
    export = Export(
        recommender,
        real,
        digest[:HASH_LENGTH],
        recommender.manifest.get("checkpoint", {}).get("step"),
        attributes=tuple(attribute_facts(name, columns[name].to_pylist()) for name in names),
        columns=columns,
        user_ids=sorted(map(str, recommender.user_ids.to_pylist())),
    )
    _ = export.rows  # made now, rather than in the first request that needs it
    return export


def _ask_once(recommender: Any, item: Any) -> None:
    """Ask for everything once: what opens and cannot answer is found out, and nobody waits for slow imports.

    Raises:
        UserError: Not even similar items are known.
    """
    recommender.similar(item, k=1)
    recommender.find_titles("a", 1)
    program = recommender.manifest.get("query", {}).get("program") or {}
    names = [each["name"] for each in program.get("inputs", ()) if each["kind"] in ("bag", "numbers")]
    # A run that was trained on values takes no history, and a query tower with layers may lack torch.
    with contextlib.suppress(UserError):
        recommender.recommend(history=[item], k=1, attributes=dict.fromkeys(names), why=1)


def attribute_facts(name: str, values: Sequence[Any]) -> AttributeFacts:
    """Return what a page needs to know of one attribute.

    Args:
        name: Its name.
        values: A value an item: a number, a text or a list of them; None or NaN where unknown.
    """
    flat = [each for value in values for each in (value if isinstance(value, list) else [value])]
    flat = [each for each in flat if each is not None and each == each]
    numbers = [each for each in flat if isinstance(each, int | float) and math.isfinite(each)]
    if flat and len(numbers) == len(flat):
        return AttributeFacts(name, "number", least=min(numbers), most=max(numbers))
    counts = Counter(map(str, flat)).most_common(MOST_VALUES)
    return AttributeFacts(name, "category", tuple(counts))


def stamp(folder: Path) -> Stamp | None:
    """Return what changes when a folder is replaced, or written to; None where it has no manifest."""
    try:
        real = folder.resolve()
        if not (real / MANIFEST).is_file():
            return None
        found = []
        for path in sorted(real.rglob("*")):
            facts = path.stat()
            found.append((str(path.relative_to(real)), facts.st_ino, facts.st_size, facts.st_mtime_ns))
    except OSError:  # it is being replaced right now
        return None
    return str(real), tuple(found)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
