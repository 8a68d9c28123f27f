"""Logged rows as tables of numbers, from the files that tools write: CSV, Parquet and JSON lines."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np

from fmjax._checks import require

_NEEDS = "reading logs needs pyarrow: pip install 'fmjax[data]'"

ROLE_KEYS = frozenset({"split", "type", "phase", "mode"})
"""Columns that tell rows of evaluation from rows of training."""

EVALUATION_ROLES = frozenset({"val", "valid", "validation", "eval", "evaluation", "dev", "test"})

MOST_BYTES = 2**31
"""How much a packed file may unpack to."""


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


def csv_columns(path: Path, *, but: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """The columns of a CSV file that hold numbers, but those whose names end so.

    Raises:
      ValueError: the file is no CSV table.
    """
    csv = arrow_module("csv")
    names = _read("CSV rows", csv.open_csv, path).schema.names if but else []
    wanted = [name for name in names if not name.endswith(but)]
    options = csv.ConvertOptions(strings_can_be_null=True, include_columns=wanted)
    return _numbers(_read("CSV rows", csv.read_csv, path, convert_options=options))


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
        return _numbers(_read("JSON lines", arrow_module("json").read_json, path))
    except ValueError:  # rows that differ in kind, or a line that is no JSON: Python reads on, and names the line
        return columns_of(list(_objects(path.read_text(encoding="utf-8-sig").splitlines())))


READERS = {".csv": csv_columns, ".parquet": parquet_columns, ".jsonl": json_columns, ".ndjson": json_columns}
"""Tables by the ending of their files."""


def parquet_names(path: Path) -> list[str]:
    """Names of the columns of a Parquet file; none where it is not one."""
    try:
        return list(_read("a Parquet file", arrow_module("parquet").read_schema, path).names)
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
    for key in dict.fromkeys(chain.from_iterable(rows)):
        values = [row.get(key) for row in rows]
        try:
            columns[key] = np.array(values, float)
        except (TypeError, ValueError, OverflowError):
            columns[key] = np.array([value if isinstance(value, float) else np.nan for value in values])
            nested = [value if isinstance(value, dict) else {} for value in values]
            columns |= {f"{key}/{inner}": column for inner, column in columns_of(nested).items()}
    return {key: column for key, column in columns.items() if not np.isnan(column).all()}


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


def opened(path: Path) -> IO[bytes]:
    """A file to read from, unpacked if its name ends in ``.gz``."""
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def text_of(path: Path) -> str:
    """The text of a file, other bytes replaced.

    Raises:
      ValueError: a packed file that is broken, or that unpacks to more than ``MOST_BYTES``.
    """
    return bytes_of(path).decode("utf-8-sig", errors="replace")


def bytes_of(path: Path) -> bytes:
    """The content of a file, unpacked; see ``text_of``."""
    try:
        with opened(path) as file:
            content = file.read(MOST_BYTES + 1) if path.suffix == ".gz" else file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"expected a file packed by gzip, but {error}") from None
    require(path.suffix != ".gz" or len(content) <= MOST_BYTES, f"unpacks to more than {MOST_BYTES:g} bytes")
    return content


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
    for key, column in _leaves(table):
        if types.is_boolean(column.type) or types.is_temporal(column.type):
            continue
        try:
            columns[key] = column.cast("float64", safe=False).to_numpy(zero_copy_only=False)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError):
            continue  # text
    return _by_kind(table, columns)


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
