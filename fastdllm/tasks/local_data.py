"""Rows of local JSON and CSV files, each value as the file has it.

`datasets` guesses one type for each column: a single fraction makes 93 to 93.0 in all rows, text
that looks like a date becomes a time, and in CSV `NA` and 007 become something else. A task that
prints such a value then asks or expects what nobody wrote. Here nothing is guessed, and no cache
is involved, which could hold the rows of an older file.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import datasets

from fastdllm.common.errors import UserError
from fastdllm.common.files import cannot

_LARGEST_INT = 2**63 - 1
_SIMPLE = {str: "string", bool: "bool", float: "float64"}
_TRUTHS = {"True": True, "False": False}
_OPENERS: Mapping[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}

Row = dict[str, Any]
# Rows by their place: file and line.
Rows = Iterator[tuple[str, Row]]


class _Number(float):
    """A fraction that Python writes otherwise than the file: 2.50, which would become 2.5."""

    text = ""


class _NotJson:
    """NaN or an infinity, which Python's parser accepts and JSON does not have."""

    def __init__(self, text: str) -> None:
        self.text = text


def read_splits(
    builder: str, files: Mapping[str, Iterable[Path]], options: Mapping[str, Any] | None = None
) -> tuple[datasets.DatasetDict, dict[str, list[str]], dict[str, str]]:
    """Read the files of each split.

    Also return where each row of a split stands (file and line), and the values that Python writes
    otherwise than the files, as {"2.5": "2.50", "True": "true"}.

    Args:
        builder: `json` or `csv`, as in `dataset_path` of a task.
        options: its `dataset_kwargs`: `field` of JSON, `delimiter` or `sep` of CSV.

    Raises:
        UserError: naming file, row and column of what cannot be read.
    """
    rows_of = _READERS[builder]
    rows = {
        split: dict(pair for path in paths for pair in _rows(path, rows_of, options or {}))
        for split, paths in files.items()
    }
    of_all = [row for of_split in rows.values() for row in of_split.values()]
    written = dict(pair for row in of_all for pair in _as_written(row))
    if builder == "csv":
        _find_types([list(of_split.values()) for of_split in rows.values()])
    splits = {split: _dataset(of_split) for split, of_split in rows.items()}
    return datasets.DatasetDict(splits), {s: list(of) for s, of in rows.items()}, written


def _as_written(value: Any) -> Iterator[tuple[str, str]]:
    """Yield values that Python writes otherwise than the file, each with what the file has."""
    if isinstance(value, bool | _Number):
        yield repr(value), str(value).lower() if isinstance(value, bool) else value.text
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _as_written(inner)


def _rows(path: Path, rows_of: Callable[..., Rows], options: Mapping[str, Any]) -> Rows:
    opened = _OPENERS.get(path.suffix, open)
    try:
        # Some programs begin UTF-8 with a mark.
        with opened(path, "rt", encoding="utf-8-sig", newline="") as stream:
            yield from rows_of(stream, path, options)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason})") from None
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path}: cannot be unpacked ({error}); copy the file again") from None
    except OSError as error:
        if error.errno is None:  # of gzip and bz2: not packed at all
            line = f"{path}: cannot be unpacked ({error}); name it as what it is"
            raise UserError(line) from None
        raise cannot("read", path, error) from None


def _json_rows(stream: IO[str], path: Path, options: Mapping[str, Any]) -> Rows:
    """Yield the objects of JSON lines, of one list, or of the list under `field`."""
    text, field = stream.read(), options.get("field")
    if field is not None or text.lstrip().startswith("["):
        values = _parsed(text, str(path))
        if field is not None:
            values = dict(values).get(field) if isinstance(values, _Pairs) else None
        if not isinstance(values, list) or isinstance(values, _Pairs):
            raise UserError(f"{path}: field {field!r}: there is no such list in it")
        for number, value in enumerate(values, start=1):
            where = f"{path}, row {number}"
            yield where, _row(value, where)
        return
    # Not splitlines, which also splits at letters that JSON allows within a text.
    lines = [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    for number, line in lines:
        where = f"{path}, line {number}"
        row = _row(_parsed(line, where), where)
        if len(lines) == 1 and all(isinstance(value, list | dict) for value in row.values()):
            raise UserError(
                f"{path}: is one object of columns or rows, which would be one item; write an "
                'object for each item (pandas: to_json(..., orient="records", lines=True))'
            )
        yield where, row


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(
            text, parse_constant=_NotJson, object_pairs_hook=_Pairs, parse_float=_number
        )
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON ({error})") from None


def _number(text: str) -> float:
    number = _Number(text)
    if repr(number) == text:
        return float(text)
    number.text = text
    return number


class _Pairs(list[tuple[str, Any]]):
    """The keys and values of a JSON object, of which a key may occur twice."""


def _row(value: Any, where: str) -> Row:
    if not isinstance(value, _Pairs) or not value:
        raise UserError(f'{where}: expected an object, such as {{"question": "..."}}')
    return {key: _plain(inner, f"{where}, column {key!r}") for key, inner in _once(value, where)}


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, _NotJson):
        raise UserError(f"{where}: {value.text} is no value in JSON; write a number or null")
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UserError(f"{where}: half a character (a lone surrogate) is no text") from None
    if isinstance(value, _Pairs):
        return {key: _plain(inner, where) for key, inner in _once(value, where)}
    return [_plain(inner, where) for inner in value] if isinstance(value, list) else value


def _once(pairs: _Pairs, where: str) -> _Pairs:
    keys = [key for key, _ in pairs]
    for key in keys:
        _plain(key, where)
        if keys.count(key) > 1:
            raise UserError(f"{where}: key {key!r} is given twice")
    return pairs


def _csv_rows(stream: IO[str], path: Path, options: Mapping[str, Any]) -> Rows:
    """Yield the rows below the names of the columns; every value is text as yet."""
    delimiter = options.get("delimiter", options.get("sep", ","))
    if not isinstance(delimiter, str) or len(delimiter) != 1:
        raise UserError(
            f'{path}: delimiter {delimiter!r} is not one letter; in YAML, a tab is "\\t"'
        )
    try:
        rows = csv.DictReader(stream, delimiter=delimiter, strict=True)
        for name in (names := rows.fieldnames or ()):
            if names.count(name) > 1:
                raise UserError(f"{path}, row 1: column {name!r} is given twice")
        for number, row in enumerate(rows, start=2):
            if None in row or None in row.values():
                raise UserError(f"{path}, row {number}: has another number of columns than row 1")
            for before, cell in enumerate(row.values()):
                _check_cell(cell, delimiter, before, len(names), f"{path}, row {number}")
            yield f"{path}, row {number}", row
    except csv.Error as error:
        raise UserError(f"{path}: cannot be read as CSV ({error})") from None


def _check_cell(cell: str, delimiter: str, before: int, n_columns: int, where: str) -> None:
    """Refuse rows that a quotation mark made one cell: the lines of it are such rows.

    Only with rare delimiters; a text of several lines may well have commas.
    """
    counts = [line.count(delimiter) for line in cell.split("\n")]
    of_rows = [n_columns - 1 - before, *[n_columns - 1] * (len(counts) - 2), before]
    if delimiter != "," and len(counts) > 1 < n_columns and counts == of_rows:
        raise UserError(
            f"{where}: a quotation mark that opens a cell makes {len(counts)} rows one; double "
            "the marks in the cell and put others around it, or take them out"
        )


_READERS = {"json": _json_rows, "csv": _csv_rows}


def _find_types(splits: Sequence[Sequence[Row]]) -> None:
    """Make the texts of a column numbers or truths where each of them prints as its text.

    Templates can then compute with them, as where `datasets` reads the file. Splits in which the
    column is empty, as hidden labels are, have no say.
    """
    for column in dict.fromkeys(column for rows in splits for row in rows for column in row):
        filled = (rows for rows in splits if any(row.get(column) for row in rows))
        cells = [row for rows in filled for row in rows if column in row]
        for parse in (int, float, _TRUTHS.__getitem__):
            values = [_value(parse, row[column]) for row in cells]
            if None not in values:
                for row, value in zip(cells, values, strict=True):
                    row[column] = value
                break


def number_of(text: str) -> int | float | None:
    """Return the number that prints as a text, if there is one."""
    number: int | float | None = _value(int, text)
    return _value(float, text) if number is None else number


def _value(parse: Callable[[str], Any], text: str) -> Any:
    """Return the value of a text, and None for what would print otherwise: 007, 1e5, nan."""
    try:
        value = parse(text)
    except (ValueError, KeyError):
        return None
    return value if str(value) == text and abs(value) <= _LARGEST_INT else None


def _dataset(rows: Mapping[str, Row]) -> datasets.Dataset:
    columns = dict.fromkeys(key for row in rows.values() for key in row)
    for column in columns:
        if "\0" in column:
            where = next(where for where, row in rows.items() if column in row)
            raise UserError(
                f"{where}: the name of column {column!r} has a zero byte; write it anew"
            )
    values = {column: [row.get(column) for row in rows.values()] for column in columns}
    features = datasets.Features({column: _feature(values[column]) for column in columns})
    mixed = [column for column in columns if isinstance(features[column], datasets.Json)]
    # Text of a Json column is taken for JSON, so every value is given as such.
    encoded = {c: [v if v is None else json.dumps(v) for v in values[c]] for c in mixed}
    dataset = datasets.Dataset.from_dict(values | encoded, features=features)
    for column in mixed:
        for where, kept, value in zip(rows, dataset[column], values[column], strict=True):
            if str(kept) != str(value):
                raise UserError(
                    f"{where}, column {column!r}: {value!r} would become {kept!r} beside values of "
                    "other types; write the values of the column as text"
                )
    return dataset


def _feature(values: list[Any]) -> Any:
    """Return the type of a column: that of all its values, else one that keeps each as it is."""
    kinds = {
        float if isinstance(value, float) else type(value) for value in values if value is not None
    }
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind in _SIMPLE:
        return datasets.Value(_SIMPLE[kind])
    if kind is int and all(abs(value or 0) <= _LARGEST_INT for value in values):
        return datasets.Value("int64")
    if kind is list and {type(v) for value in values for v in value or ()} == {str}:
        return datasets.List(datasets.Value("string"))
    return datasets.Json()
