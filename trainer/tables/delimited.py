"""Text as blocks of raw columns: delimited, or LightGCN's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from trainer.errors import DataError
from trainer.formatting import format_count
from trainer.tables.recognise import UNREADABLE, open_stream, reason, wrong_encoding

BLOCK_BYTES = 4 << 20  # a line must fit
T = TypeVar("T")


def with_constants(
    batch: pa.RecordBatch, names: Sequence[str], constants: Mapping[str, str | None]
) -> pa.RecordBatch:
    """Return the columns `names`: those of a block, and texts that are the same in all its rows."""
    columns = [
        pa.repeat(pa.scalar(constants[name], pa.string()), len(batch))
        if name in constants
        else batch.column(name)
        for name in names
    ]
    return pa.RecordBatch.from_arrays(columns, [*names])


@dataclass
class TextFile:
    """Delimited text as blocks of strings.

    Lines with a wrong number of fields are left out and remembered, and so are lines that repeat the header,
    as they stand where files were joined.

    Attributes:
        separator: One character, or `::`.
        given_names: Names of the fields; None: the first line names them.
        encoding: Name of a Python text encoding.
        nulls: Texts that stand for a missing value.
        quoted: Whether fields may stand in double quotes; None: with a comma alone.
        trimmed: Whether spaces around fields are left out.
        decimal_comma: Whether numbers may be written `0,5`.
        encoding_remedy: What the user may do about bytes that are no text in the encoding.
        separator_remedy: What the user may do where all lines have a wrong number of fields.

    Raises:
        DataError: There is no such file, or nothing in it.
    """

    path: Path
    separator: str
    given_names: list[str] | None = None
    encoding: str = "utf-8"
    nulls: Sequence[str] = ()
    quoted: bool | None = None
    trimmed: bool = False
    decimal_comma: bool = False
    encoding_remedy: str = ""
    separator_remedy: str = ""

    def __post_init__(self) -> None:
        if not self.path.is_file():
            raise DataError(f"{self.path}: there is no such file. Put it there, or name another")
        if self.path.stat().st_size == 0:
            raise DataError(
                f"{self.path}: the file is empty, expected a line a row. Put the whole file there"
            )
        self.malformed: list[int] = []
        self.malformed_fault = ""
        self.understood: list[str] = []  # remarks
        self.constants: dict[str, str | None] = {}
        self.repeated: list[int] = []  # headers in the middle, as rows from 0 with the right number of fields
        self.fields: list[str] = self.given_names or self._caught(lambda: self._open([]).schema.names)
        self.names = [name.strip() for name in self.fields] if self.trimmed else self.fields

    @property
    def breaks_lines(self) -> bool:
        """Whether fields may stand in quotes, and so go on over several lines."""
        return self.separator == "," if self.quoted is None else self.quoted

    @property
    def encoding_fault(self) -> str:
        """What is said of bytes that are no text."""
        return f"which is no {self.encoding} text"

    def remarks(self) -> list[str]:
        """Return how the file was understood and what was left out, once all was read."""
        count = len(self.repeated)
        lines = "line that repeats the header was" if count == 1 else "lines that repeat the header were"
        return [*self.understood, f"{count:,} {lines} left out"] if count else self.understood

    def batches(self, names: list[str]) -> Iterator[pa.RecordBatch]:
        """Return the fields `names` as strings, in file order, BLOCK_BYTES of text at a time.

        Raises:
            DataError: The text cannot be read, or another header stands in the middle.
        """
        self.repeated.clear()
        row = 0
        own = [name for name in names if name not in self.constants] or self.names[:1]
        for block in self._blocks([self.fields[self.names.index(name)] for name in own]):
            columns = [self._trimmed(column) for column in block.columns] if self.trimmed else block.columns
            batch = pa.RecordBatch.from_arrays(columns, own)
            batch = self._without_headers(batch, row) if self.given_names is None else batch
            yield with_constants(batch, names, self.constants) if self.constants else batch
            row += len(block)

    def add_constants(self, constants: Mapping[str, str | None]) -> None:
        """Add columns that folders such as `day=2020-09-17` give all rows; the file's own come first."""
        self.constants = {name: value for name, value in constants.items() if name not in self.names}
        self.names = [*self.names, *self.constants]

    def _blocks(self, fields: list[str]) -> Iterator[pa.RecordBatch]:
        """Return `fields` as the parser cuts them, and remember the lines that it cannot cut."""
        self.malformed.clear()
        with self._caught(lambda: self._open(fields)) as reader:
            while (block := self._caught(lambda: next(reader, None))) is not None:
                yield block

    def position(self, row: int) -> int:
        """Return the line, from 1, of row `row`, from 0, among those that `batches` returns."""
        for number in self.repeated:
            row += number <= row
        return self._line(row)

    def _line(self, row: int) -> int:
        line = row + 1 + (self.given_names is None)
        for number in self.malformed:
            line += number <= line
        return line

    def _without_headers(self, batch: pa.RecordBatch, row: int) -> pa.RecordBatch:
        """Return the rows of a block that do not repeat the header; `row` is that of its first row."""
        suspects = pc.is_in(batch.column(0), value_set=pa.array(self.names, pa.string())).fill_null(False)
        if not suspects.true_count:
            return batch
        for place in np.flatnonzero(suspects.to_numpy(zero_copy_only=False)):
            values = [column[place].as_py() for column in batch.columns]
            if values == batch.schema.names:
                self.repeated.append(row + int(place))
            elif len(values) > 1 and set(values) <= set(self.names):
                line = self._line(row + int(place))
                raise DataError(
                    f"{self.path}:{line}: a header in another order ({', '.join(values)}) stands in the "
                    "middle. Give both files the same columns before they are joined"
                )
        keeps = np.ones(len(batch), bool)
        keeps[[number - row for number in self.repeated if number >= row]] = False
        return batch.filter(pa.array(keeps))

    def _trimmed(self, texts: pa.Array) -> pa.Array:
        texts = pc.ascii_trim_whitespace(texts)
        if self.quoted:  # the parser takes a quote behind a space for a part of the value
            texts = pc.replace_substring_regex(texts, '^"(.*)"$', r"\1")
        empty = pc.is_in(texts, value_set=pa.array([*self.nulls], pa.string()))
        return pc.if_else(empty, None, texts) if self.nulls else texts

    def _caught(self, read: Callable[[], T]) -> T:
        """Call `read`, and turn what goes wrong into one line."""
        try:
            return read()
        except UnicodeError as error:
            raise DataError(wrong_encoding(self.path, self.encoding, error)) from None
        except UNREADABLE as error:
            raise DataError(f"{self.path}: {self._explained(reason(error))}. Mend the file") from None

    def _explained(self, fault: str) -> str:
        if "straddl" not in fault:
            return fault
        quotes = ", or a quote is not closed" if self.breaks_lines else ""
        return f"a line is longer than {BLOCK_BYTES >> 20} MiB{quotes}"

    def _open(self, include: list[str]) -> csv.CSVStreamingReader:
        source, separator = open_stream(self.path, self.encoding), self.separator
        if separator == "::":
            source, separator = pa.lib.TransformInputStream(source, _with_unit_separators()), "\x1f"
        options = csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES)
        options.column_names = self.given_names or []
        return csv.open_csv(
            source,
            options,
            csv.ParseOptions(
                delimiter=separator,
                quote_char='"' if self.breaks_lines else False,
                newlines_in_values=self.breaks_lines,
                ignore_empty_lines=False,
                invalid_row_handler=self._remember,  # which is told line numbers by a single thread only
            ),
            csv.ConvertOptions(
                check_utf8=False,
                include_columns=include,
                column_types=dict.fromkeys(include, pa.string()),
                null_values=list(self.nulls),
                strings_can_be_null=True,
            ),
        )

    def _remember(self, row: csv.InvalidRow) -> Literal["skip"]:
        if not self.malformed:
            fields = format_count(row.actual_columns, "field")
            self.malformed_fault = f"{fields}, expected {row.expected_columns}"
        self.malformed.append(row.number)
        return "skip"


def _with_unit_separators() -> Callable[[pa.Buffer], bytes]:
    """Return a transform that replaces `::`, which pyarrow cannot split at, even across two chunks."""
    held = b""

    def transform(chunk: pa.Buffer) -> bytes:
        nonlocal held
        text, held = held + memoryview(chunk), b""
        if len(chunk) and text.endswith(b":") and not text.endswith(b"::"):
            text, held = text[:-1], b":"
        return _with_unit_separator(text)

    return transform


def _with_unit_separator(text: bytes) -> bytes:
    r"""Return `text.replace(b"::", b"\x1f")`, in half the time."""
    characters = np.frombuffer(text, np.uint8)
    colons = characters == ord(":")
    pairs = colons[1:] & colons[:-1]
    if (pairs[1:] & pairs[:-1]).any():  # three in a row, of which the first two are the pair
        return text.replace(b"::", b"\x1f")
    replaced = characters.copy()
    replaced[:-1] -= pairs * np.uint8(ord(":") - ord("\x1f"))
    stays = np.ones(len(text), bool)
    np.logical_not(pairs, out=stays[1:])
    return replaced[stays].tobytes()


class LightGCNFile(TextFile):
    """A line a user, `user item item ...`, as one pair an item; a user may stand alone.

    Source: He et al., SIGIR 2020 (the data files of LightGCN).
    """

    HEADERS = pa.array(["user", "user_id", "userid", "uid", "item", "item_id", "itemid", "iid"])

    def __init__(self, path: Path, encoding: str = "utf-8", encoding_remedy: str = ""):
        # This separator stands in no text: a line is one field.
        super().__init__(path, "\x1f", ["line"], encoding, encoding_remedy=encoding_remedy)
        self.names = ["user_id", "item_id"]

    def batches(self, names: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield users and items as strings, a pair a row.

        Raises:
            DataError: A line is a header, which this format has none of.
        """
        line, self.first_row, self.lines = 1, 0, np.zeros(0, np.int64)
        for block in self._blocks(["line"]):
            words = pc.ascii_split_whitespace(pc.ascii_trim_whitespace(block["line"]))
            starts, flat = words.offsets.to_numpy()[:-1], words.flatten()
            items = np.ones(len(flat), bool)
            items[starts] = False
            counts = words.value_lengths().to_numpy() - 1
            self.first_row += len(self.lines)
            self.lines = np.repeat(np.arange(line, line + len(block)), counts)
            line += len(block)
            pairs = {"user_id": flat.take(np.repeat(starts, counts)), "item_id": flat.filter(items)}
            batch = pa.RecordBatch.from_pydict(pairs)
            self._refuse_header(batch)
            yield batch.select(names)

    def _refuse_header(self, batch: pa.RecordBatch) -> None:
        named = [pc.is_in(pc.utf8_lower(column), value_set=self.HEADERS) for column in batch.columns]
        if (place := pc.index(pc.and_(*named), True).as_py()) >= 0:
            raise DataError(
                f"{self.path}:{self.lines[place]}: {batch['user_id'][place]} {batch['item_id'][place]} is a "
                "header, which LightGCN text has none of. Remove the line, or read pairs: --data.format csv"
            )

    def position(self, row: int) -> int:
        """Return the line, from 1, of pair `row`, from 0."""
        return int(self.lines[row - self.first_row])
