"""Logged rows as tables of numbers, from the files that tools write: CSV, Parquet, JSON lines and lines of text."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from fmjax._checks import require

_NEEDS = "reading logs needs pyarrow: pip install 'fmjax[data]'"

ROLE_KEYS = frozenset({"split", "type", "phase", "mode"})
"""Columns that tell rows of evaluation from rows of training."""

EVALUATION_ROLES = frozenset({"val", "valid", "validation", "eval", "evaluation", "dev", "test"})

_SAMPLE = 1000
"""Lines of text in which keys are looked for."""


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


class NumberColumns(dict[str, np.ndarray]):
    """Columns of numbers by name, beside the columns that hold text."""

    def __init__(self, columns: Mapping[str, np.ndarray], texts: Mapping[str, np.ndarray]) -> None:
        super().__init__(columns)
        self.texts = texts
        """``[rows]`` cells; of a column of numbers, those that are none, and None for the others."""


def csv_columns(path: Path, *, but: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """The columns of a CSV file that hold numbers, but those whose names end so.

    Raises:
      ValueError: the file is no CSV table.
    """
    csv = _arrow("csv")
    names = _read("CSV rows", csv.open_csv, path).schema.names if but else []
    wanted = [name for name in names if not name.endswith(but)]
    options = csv.ConvertOptions(strings_can_be_null=True, include_columns=wanted)
    return _numbers(_read("CSV rows", csv.read_csv, path, convert_options=options))


def parquet_columns(path: Path) -> dict[str, np.ndarray]:
    """The columns of a Parquet file that hold numbers.

    Raises:
      ValueError: the file is no Parquet table.
    """
    parquet = _arrow("parquet")
    return _numbers(_read("a Parquet file", lambda: parquet.ParquetFile(path).read()))


def json_columns(path: Path) -> dict[str, np.ndarray]:
    """The numbers of a file with one JSON object a line, by key; those of nested objects by ``outer/inner``.

    A last line that a killed run left unfinished is dropped.

    Raises:
      ValueError: another line is no JSON object; its number is named.
    """
    try:
        return _numbers(_read("JSON lines", _arrow("json").read_json, path))
    except ValueError:  # rows that differ in kind, or a line that is no JSON: Python reads on, and names the line
        return columns_of(list(_objects(path.read_text(encoding="utf-8-sig").splitlines())))


READERS = {".csv": csv_columns, ".parquet": parquet_columns, ".jsonl": json_columns, ".ndjson": json_columns}
"""Tables by the ending of their files."""


def parquet_names(path: Path) -> list[str]:
    """Names of the columns of a Parquet file; none where it is not one."""
    try:
        return list(_read("a Parquet file", _arrow("parquet").read_schema, path).names)
    except ValueError:
        return []


def _objects(lines: list[str]) -> Iterator[Mapping[str, Any]]:
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


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
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


def line_columns(path: Path, row: str, cell: str, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Numbers in those lines of a text file that are rows of a log.

    Args:
      path: the file.
      row: regular expression that a row has; its group ``v`` is the step.
      cell: regular expression of a key and its number, with ``{key}`` in the place of the key.
      keys: keys to look for; others are found in the first rows.

    Raises:
      ValueError: no row, or no text.
    """
    csv, compute = _arrow("csv"), _arrow("compute")
    form = {
        "read_options": csv.ReadOptions(column_names=["line"]),
        "parse_options": csv.ParseOptions(delimiter="\x01", quote_char=False),
        "convert_options": csv.ConvertOptions(column_types={"line": "string"}),
    }
    lines = _read("lines of text", csv.read_csv, path, **form)["line"]
    lines = lines.filter(compute.match_substring_regex(lines, re.sub(r"\?P<v>", "?:", row)))
    require(len(lines), "expected rows of a log, found none")
    texts = "\n".join(line for line in lines[:_SAMPLE].to_pylist())
    found = [match[1] for match in re.finditer(cell.format(key=r"([A-Za-z_][\w ./()-]*?)"), texts)]
    columns = {"step": _matches(lines, row)}
    for key in dict.fromkeys([*keys, *found]):
        column = _matches(lines, cell.format(key=re.escape(key)))
        columns |= {key: column} if np.isfinite(column).any() else {}
    return columns


def _matches(lines: Any, pattern: str) -> np.ndarray:
    compute = _arrow("compute")
    found = compute.struct_field(compute.extract_regex(lines, pattern), [0])
    return compute.cast(found, "float64").to_numpy(zero_copy_only=False)


def _arrow(module: str) -> Any:
    """A module of pyarrow."""
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
    texts: dict[str, np.ndarray] = {}
    for key, column in _leaves(table):
        if types.is_boolean(column.type) or types.is_temporal(column.type):
            continue
        try:
            columns[key] = column.cast("float64", safe=False).to_numpy(zero_copy_only=False)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError):
            if types.is_string(column.type) or types.is_large_string(column.type):
                texts[key] = np.array(column.to_pylist(), object)
    for key, cells in texts.items():
        some = [cell for cell in cells[:: max(len(cells) // 100, 1)] if cell is not None]
        if sum(_number_in(cell) is not None for cell in some) * 2 > len(some):
            numbers = [_number_in(cell) for cell in cells]
            columns[key] = np.array(numbers, float)
            rest = [cell if number is None else None for cell, number in zip(cells, numbers, strict=True)]
            texts[key] = np.array(rest, object)
    return NumberColumns(_by_kind(table, columns), texts)


def _number_in(cell: str | None) -> float | None:
    """The number that text is; None where it is none."""
    try:
        return float(cell or "")
    except ValueError:
        return None


def _by_kind(table: Any, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns, with what rows of evaluation share with rows of training as columns ``eval/...`` of their own."""
    for key in ROLE_KEYS.intersection(table.column_names):
        held_out = np.array([str(kind).lower() in EVALUATION_ROLES for kind in table[key].to_pylist()], bool)
        for name in [name for name in columns if "loss" in name.lower()]:
            apart = np.where(held_out, columns[name], np.nan), np.where(held_out, np.nan, columns[name])
            if all(np.isfinite(part).any() for part in apart):
                columns[f"eval/{name}"], columns[name] = apart
    return columns


def _leaves(table: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Columns that are not nested, by their path."""
    import pyarrow

    for key, column in zip(table.column_names, table.columns, strict=True):
        if pyarrow.types.is_struct(column.type):
            names = [field.name for field in column.type]
            yield from _leaves(pyarrow.table(column.flatten(), names=names), f"{prefix}{key}/")
        else:
            yield prefix + key, column
