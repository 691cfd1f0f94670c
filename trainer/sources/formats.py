"""The formats of tables of one's own, and how a file or a folder in one of them is opened."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, cast

from trainer.config.validation import SEPARATORS
from trainer.errors import DataError
from trainer.tables.delimited import LightGCNFile, TextFile
from trainer.tables.folders import part_files, partition_values
from trainer.tables.parquet_file import ParquetFile
from trainer.tables.recognise import (
    find_form,
    format_of,
    is_named_as_table,
    read_sample,
    split_as,
)

Format = Literal["parquet", "csv", "tsv", "recbole", "lightgcn"]
MISSING = ("", "nan", "NaN", "null", "NULL", "None", "\\N")  # what pandas, SQL, Python and Hive write
Rows = TextFile | ParquetFile


@dataclass(frozen=True)
class ColumnsOption:
    """The option that names the columns of files without a header.

    Attributes:
        name: The option.
        columns: Names of an example, for the first fields.
        header: Fields that none but a header has.
        id_columns: The options that name columns of ids where there is a header.
    """

    name: str
    columns: tuple[str, ...]
    header: tuple[str, ...]
    id_columns: str

    def example(self, fields: Sequence[str]) -> str:
        """Return the option with a name for each field of a first line."""
        others = (f"column_{number}" for number in range(len(self.columns) + 1, len(fields) + 1))
        return f"{self.name} {','.join([*self.columns[: len(fields)], *others])}"


OF_INTERACTIONS = ColumnsOption(
    "--data.columns",
    columns=("user", "item", "value", "timestamp"),
    header=("user", "item", "user_id", "item_id", "userId", "itemId"),
    id_columns="columns: --data.user_column and --data.item_column",
)
OF_ATTRIBUTES = {
    f"{side}s": ColumnsOption(
        f"--data.{side}_columns",
        columns=(side,),
        header=(f"{side}_id", f"{side}Id"),
        id_columns=f"column of ids: --data.{side}_column",
    )
    for side in ("user", "item")
}
"""By the option that names the file."""


@dataclass(frozen=True)
class TextOptions:
    """What the user says of text files.

    Attributes:
        encoding: Name of a Python text encoding.
        separator: One character, `::` or a name in SEPARATORS; None: found in each file.
        columns: Names of the fields of files without a header; None: the first line names them.
        columns_option: The option that gives these names.
    """

    encoding: str = "utf-8"
    separator: str | None = None
    columns: Sequence[str] | None = None
    columns_option: ColumnsOption = OF_INTERACTIONS


def _open_text(separator: str) -> Callable[[Path, TextOptions], Rows]:
    """Return what opens text that has a separator of its own, or this one where both would do."""

    def open(path: Path, options: TextOptions) -> Rows:
        sample = read_sample(path, options.encoding)
        if options.separator is None:
            form = find_form(sample, separator, len(options.columns) if options.columns else None)
        else:
            form = split_as(sample, SEPARATORS.get(options.separator, options.separator))[0]
        names = list(options.columns) if options.columns else None
        option = options.columns_option
        if names and set(form.first) & {*names, *option.header}:
            raise DataError(
                f"{path}:1: {', '.join(form.first)} is a header. Leave {option.name} out, and name its "
                f"{option.id_columns}"
            )
        named = f"all its columns: {option.name}; or " if names else ""
        rows = TextFile(
            path,
            form.separator,
            names,
            options.encoding,
            nulls=MISSING,
            quoted=form.quoted,
            trimmed=form.trimmed,
            decimal_comma=form.decimal_comma,
            encoding_remedy="Name the encoding of the file: --data.encoding NAME, such as cp1252",
            separator_remedy=f"Name {named}its separator: --data.separator, one of {', '.join(SEPARATORS)}",
        )
        if form.separator != separator and options.separator is None:
            name = next(name for name, each in SEPARATORS.items() if each == form.separator)
            rows.understood.append(f"fields are taken to be separated by {name}")
        return rows

    return open


@dataclass(frozen=True)
class FileFormat:
    """One format of tables.

    Attributes:
        open: Opens one file.
        attributes: Whether there are tables of attributes.
        typed: Whether columns have types; otherwise all values are text.
        types_in_names: Whether a column's name ends with its type, as in `age:token`.
        delimited: Whether it is text with a separator, whose columns may lack names.
    """

    open: Callable[[Path, TextOptions], Rows]
    attributes: bool = True
    typed: bool = False
    types_in_names: bool = False
    delimited: bool = False


FORMATS: Mapping[Format, FileFormat] = {
    "parquet": FileFormat(lambda path, _: ParquetFile(path), typed=True),
    "csv": FileFormat(_open_text(","), delimited=True),
    "tsv": FileFormat(_open_text("\t"), delimited=True),
    "recbole": FileFormat(_open_text("\t"), types_in_names=True, delimited=True),
    "lightgcn": FileFormat(
        lambda path, options: LightGCNFile(path, options.encoding, "Name the encoding: --data.encoding NAME"),
        attributes=False,
    ),
}
"""Every format by its name in `data.format`, where `auto` means that of each file; a new one is an entry."""


@dataclass(frozen=True)
class Table:
    """An open file.

    Attributes:
        format: Its format.
        rows: What reads it.
        columns_option: The option that names its columns if it has no header.
        reopen: Opens it anew, also in another process.
    """

    format: Format
    rows: Rows
    columns_option: ColumnsOption
    reopen: "Callable[[], Table]"


def open_tables(
    format: Format | Literal["auto"],
    path: Path,
    options: TextOptions,
    buckets: Collection[int] | None = None,
) -> list[Table]:
    """Return the file, or the part files of a folder (of some `buckets`) in the order of their names."""
    if not path.exists():
        raise DataError(f"{path}: there is no such file. Put it there, or name another")
    try:
        paths = part_files(path, buckets) if path.is_dir() else [path]
        if path.is_dir() and format == "auto":
            _refuse_other_files(path, paths)
        return [_open_one(format, path, part, options) for part in paths]
    except OSError as error:
        raise DataError(f"{error.filename or path}: {error.strerror}. Name a readable file") from None


def _refuse_other_files(folder: Path, paths: list[Path]) -> None:
    """Refuse what lies among part files and is named as something else, as a README or a log."""
    for path in paths:
        if path.suffix and not is_named_as_table(path):
            raise DataError(
                f"{path}: is not named as a table is (.parquet, .csv, .tsv, .txt, ...). Move it out of "
                f"{folder}, or name it with a dot or underscore in front, and it is passed over"
            )


def _open_one(format: Format | Literal["auto"], given: Path, path: Path, options: TextOptions) -> Table:
    found = cast(Format, format_of(path, options.encoding)) if format == "auto" else format
    rows = FORMATS[found].open(path, options)
    if path != given and not isinstance(rows, LightGCNFile):
        rows.add_constants(partition_values(given, path))
    if isinstance(rows, LightGCNFile) and format == "auto":
        rows.understood.append("read as LightGCN text: a user and their items a line")
    return Table(found, rows, options.columns_option, partial(_open_one, format, given, path, options))
