"""Logged rows as tables of numbers, from the files that tools write: CSV, Parquet and JSON lines."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from fmjax._checks import require
from fmjax.importers.cells import NumberColumns, with_texts
from fmjax.importers.column_names import EVALUATION_ROLES
from fmjax.importers.contents import begins, ending, is_wide, text_of
from fmjax.importers.dialects import dialect_of

_NEEDS = "reading logs needs pyarrow: pip install 'fmjax[data]'"

ROLE_KEYS = frozenset({"split", "type", "phase", "mode"})
"""Columns that tell rows of evaluation from rows of training."""


class Table(NamedTuple):
    """The log of one run."""

    name: str
    """Empty for the run that the file as a whole is of."""
    columns: dict[str, np.ndarray]
    """``[rows]`` numbers by key; NaN where a row has none."""
    others: tuple[str, ...] = ()
    """Names of columns that were left out."""
    total_steps: int | None = None
    """Planned number of updates, where the file has it."""
    notes: tuple[str, ...] = ()
    """What was found on the way."""
    labels: Mapping[str, np.ndarray] = MappingProxyType({})
    """``[rows]`` cells, text or numbers, of columns that may tell runs apart."""
    files: tuple[str, ...] = ()
    """The files that it was read from."""


def csv_columns(path: Path, *, but: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """The columns of a file of separated values that hold numbers, but those whose names end so.

    Separators are commas, semicolons or tabs; numbers may have decimal commas or separators of thousands. A file of two
    columns without names has steps and losses.

    Raises:
      ValueError: the file is no such table.
    """
    csv, found = arrow_module("csv"), dialect_of(begins(path, 2**16))
    form: dict[str, Any] = {
        "read_options": csv.ReadOptions(column_names=found.names),
        "parse_options": csv.ParseOptions(delimiter=found.delimiter),
    }
    names = _read("CSV rows", csv.open_csv, _readable(path), **form).schema.names if but else []
    wanted = [name for name in names if not name.endswith(but)]
    options = csv.ConvertOptions(strings_can_be_null=True, include_columns=wanted, decimal_point=found.decimal_point)
    return _numbers(_read("CSV rows", csv.read_csv, _readable(path), convert_options=options, **form))


def _readable(path: Path) -> Any:
    """What pyarrow reads a file from: the file, or its text where that is packed or not in UTF-8."""
    plain = path.suffix != ".gz" and not is_wide(path)
    return path if plain else arrow_module("BufferReader")(text_of(path).encode())


def parquet_columns(path: Path) -> dict[str, np.ndarray]:
    """The columns of a Parquet file that hold numbers.

    Raises:
      ValueError: the file is no Parquet table.
    """
    parquet = arrow_module("parquet")
    return _numbers(_read("a Parquet file", lambda: parquet.ParquetFile(path).read()))


def json_columns(path: Path) -> dict[str, np.ndarray]:
    """The numbers of a file with one JSON object a line, by key; those of nested objects by ``outer/inner``.

    A last line that a killed run left unfinished is dropped.

    Raises:
      ValueError: another line is no JSON object; its number is named.
    """
    try:
        return _numbers(_read("JSON lines", arrow_module("json").read_json, _readable(path)))
    except ValueError:  # rows that differ in kind, or a line that is no JSON: Python reads on, and names the line
        return columns_of_rows(list(objects_of(text_of(path).splitlines())))


def json_file_columns(path: Path) -> dict[str, np.ndarray]:
    """The numbers of a JSON file: an array of objects, an object of arrays, or one object a line.

    Raises:
      ValueError: the file is none of these.
    """
    try:
        value = parsed(text_of(path))
    except ValueError:
        return json_columns(path)
    if isinstance(value, dict) and any(isinstance(column, list) for column in value.values()):
        columns = {key: column for key, column in value.items() if isinstance(column, list)}
        most = max(map(len, columns.values()))
        value = [dict(zip(columns, row, strict=True)) for row in zip(*_of_length(columns, most), strict=True)]
    require(isinstance(value, list | dict), "expected an array of objects, an object of arrays or JSON lines")
    rows = value if isinstance(value, list) else [value]
    require(all(isinstance(row, dict) for row in rows), "expected an array of objects, found other values in it")
    return columns_of_rows(rows)


def read_json_object(content: bytes) -> Any:
    """An Arrow table of one row that holds one JSON object.

    Raises:
      ValueError: it is none, or a list in it has items of several kinds.
    """
    json_module, whole = arrow_module("json"), {"block_size": len(content) + 1, "use_threads": False}
    form = json_module.ParseOptions(newlines_in_values=True)
    buffer = arrow_module("BufferReader")(content)
    options = {"read_options": json_module.ReadOptions(**whole), "parse_options": form}
    table = _read("a JSON object", json_module.read_json, buffer, **options)
    require(table.num_rows == 1, f"expected one JSON object, found {table.num_rows}")
    return table


def struct_columns(column: Any) -> dict[str, np.ndarray]:
    """The numbers by key of a column whose cell is a list of objects.

    Raises:
      ValueError: it is none, or empty.
    """
    import pyarrow

    rows = column.combine_chunks().flatten() if pyarrow.types.is_list(column.type) else None
    require(rows is not None and len(rows) and pyarrow.types.is_struct(rows.type), "expected rows, found none")
    assert rows is not None
    names = [field.name for field in rows.type]
    columns = _numbers(pyarrow.table(rows.flatten(), names=names))
    return {key: values for key, values in columns.items() if not np.isnan(values).all()}


def _of_length(columns: Mapping[str, list[Any]], length: int) -> Iterator[list[Any]]:
    return (column if len(column) == length else [None] * length for column in columns.values())


READERS = {
    ".csv": csv_columns,
    ".tsv": csv_columns,
    ".parquet": parquet_columns,
    ".jsonl": json_columns,
    ".ndjson": json_columns,
    ".json": json_file_columns,
}
"""Tables by the ending of their files."""


def is_table(path: Path) -> bool:
    """Whether a file is named as tables are, and a JSON file also begins with rows."""
    if ending(path) != ".json":
        return ending(path) in READERS
    return bool(re.match(_ROWS, begins(path, 2**16))) and "loss" in begins(path, 2**16).lower()


_ROWS = r"""\s*(?:\[\s*\{|\{[^\n]*\}\s*\n\s*\{|\{\s*"[^"]*"\s*:\s*\[\s*[-\d.])"""
"""The beginning of JSON files with rows: an array of objects, an object a line, or an object of arrays."""


def parquet_names(path: Path) -> list[str]:
    """Names of the columns of a Parquet file; none where it is not one."""
    try:
        return list(_read("a Parquet file", arrow_module("parquet").read_schema, path).names)
    except ValueError:
        return []


def objects_of(lines: list[str]) -> Iterator[Mapping[str, Any]]:
    """The JSON objects of lines; a last line that is cut off is left out."""
    for i, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parsed(line)
        except ValueError as error:
            if i == len(lines) and i > 1:
                return
            raise ValueError(f"line {i}: {error}") from None
        require(isinstance(row, Mapping), f"line {i}: expected a JSON object, found {line[:40]!r}")
        yield row


def parsed(text: str) -> Any:
    """The value of JSON text.

    Raises:
      ValueError: the text is no JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"expected JSON, but {error.msg} at character {error.pos + 1}") from None
    except ValueError as error:
        raise ValueError(f"expected JSON, but {str(error)[:80]}") from None
    except RecursionError:
        raise ValueError("expected JSON, but it is nested too deeply") from None


def columns_of(rows: Sequence[Mapping[str, Any]]) -> NumberColumns:
    """The numbers of rows by key, NaN where a row has none.

    >>> {key: column.tolist() for key, column in columns_of([{"step": 1}, {"step": 2, "eval": {"loss": 3.0}}]).items()}
    {'step': [1.0, 2.0], 'eval/loss': [nan, 3.0]}
    """
    columns: dict[str, np.ndarray] = {}
    texts: dict[str, np.ndarray] = {}
    for key in dict.fromkeys(chain.from_iterable(rows)):
        values = [row.get(key) for row in rows]
        try:
            columns[key] = np.array(values, float)
        except (TypeError, ValueError, OverflowError):
            columns[key] = np.array([value if isinstance(value, float) else np.nan for value in values])
            texts[key] = np.array([value if isinstance(value, str) else None for value in values], object)
            nested = [value if isinstance(value, dict) else {} for value in values]
            columns |= {f"{key}/{inner}": column for inner, column in columns_of(nested).items()}
    known = {key: column for key, column in columns.items() if not np.isnan(column).all()}
    return NumberColumns(known, texts)


def columns_of_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """``columns_of``, with the losses of rows of evaluation as columns of their own."""
    kinds = {key: [row.get(key) for row in rows] for key in ROLE_KEYS if any(key in row for row in rows)}
    columns = columns_of(rows)
    return NumberColumns(_by_kind(kinds, columns), columns.texts)


def arrow_module(module: str) -> Any:
    """A module of pyarrow, or another of its names."""
    try:
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.json
        import pyarrow.parquet
    except ImportError:
        raise ValueError(_NEEDS) from None
    return getattr(pyarrow, module)


def _read(expected: str, read: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a reader of pyarrow gives; its error in one line."""
    import pyarrow

    try:
        return read(*arguments, **options)
    except (pyarrow.ArrowException, pyarrow.ArrowInvalid) as error:
        raise ValueError(f"expected {expected}, but {str(error).splitlines()[0][:200]}") from None


def _numbers(table: Any) -> dict[str, np.ndarray]:
    """Columns of an Arrow table that hold numbers, or text that reads as numbers in every cell."""
    import pyarrow
    from pyarrow import types

    columns: dict[str, np.ndarray] = {}
    texts: dict[str, list[str | None]] = {}
    for key, column in _leaves(table):
        if types.is_boolean(column.type) or types.is_temporal(column.type):
            continue
        try:
            columns[key] = column.cast("float64", safe=False).to_numpy(zero_copy_only=False)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError):
            if types.is_string(column.type) or types.is_large_string(column.type):
                texts[key] = column.to_pylist()
    kinds = {key: table[key].to_pylist() for key in ROLE_KEYS.intersection(table.column_names)}
    found = with_texts(columns, texts)
    return NumberColumns(_by_kind(kinds, found), found.texts)


def _by_kind(kinds: Mapping[str, Sequence[Any]], columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns, with what rows of evaluation share with rows of training as columns ``eval/...`` of their own."""
    for found in kinds.values():
        held_out = np.array([str(kind).lower() in EVALUATION_ROLES for kind in found], bool)
        keep_apart(columns, [name for name in columns if "loss" in name.lower()], held_out)
    return columns


def keep_apart(columns: dict[str, np.ndarray], names: Sequence[str], held_out: np.ndarray) -> None:
    """Makes columns ``eval/...`` of the numbers in rows of evaluation, where other rows have such numbers too."""
    for name in names:
        apart = np.where(held_out, columns[name], np.nan), np.where(held_out, np.nan, columns[name])
        if all(np.isfinite(part).any() for part in apart):
            columns[f"eval/{name}"], columns[name] = apart


def _leaves(table: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Columns that are not nested, by their path."""
    import pyarrow

    for key, column in zip(table.column_names, table.columns, strict=True):
        if pyarrow.types.is_struct(column.type):
            names = [field.name for field in column.type]
            yield from _leaves(pyarrow.table(column.flatten(), names=names), f"{prefix}{key}/")
        else:
            yield prefix + key, column
