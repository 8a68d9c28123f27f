"""What an importer of logs gives: how to tell its files, how to read them, and what it calls step, loss and rate."""

import glob
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fmjax._checks import require, within
from fmjax.importers.cells import notes_on_cells
from fmjax.importers.column_names import LOGGED_BATCHES, MULTIPLIERS, SPENT, Preference, ranked
from fmjax.importers.contents import begins
from fmjax.importers.run_labels import is_label
from fmjax.importers.tables import Table


class Columns(NamedTuple):
    """Which columns to take; None for those that the source names."""

    step: str | None = None
    loss: str | None = None
    rate: str | None = None
    validation: bool = False
    """Whether to prefer the validation loss."""


class Source(NamedTuple):
    """A tool's logs. Keys are patterns over the names of columns, the most telling first, or a preference."""

    name: str
    title: str
    """The tool, in words."""
    accepts: Callable[[Path], bool]
    """Whether a file is one of its logs, by its name and beginning."""
    read: Callable[[Path], list[Table]]
    """The runs of one file."""
    step: tuple[str, ...] | Preference
    loss: tuple[str, ...] | Preference
    """Training loss."""
    validation: tuple[str, ...] | Preference
    rate: tuple[str, ...] | Preference
    first: int | None = None
    """What the row after the first update has for a step; None where tools differ, see ``logs.first_step``."""
    place: Callable[[Path], Path] = lambda path: path.with_name(path.name.removesuffix(".gz")).with_suffix("")
    """The path that stands for the run of a file, and names it."""
    multiplier: tuple[str, ...] | Preference = MULTIPLIERS
    """Columns of the rate relative to its peak."""
    tells: tuple[str, ...] = ()
    """Keys that tell the tool's files from others that it would read too; one stands in the beginning of a file."""
    smoothed: tuple[str, ...] = ()
    """Columns of losses that the tool itself smooths."""
    has_whole_history: bool = False
    """Whether each file of a run repeats the rows of those before, so that the longest has them all."""
    read_named: Callable[[Path, Sequence[str]], list[Table]] | None = None
    """``read`` with columns that the user names, where it does not read every column."""


def is_told(source: Source, file: Path) -> bool:
    """Whether a file looks like the source's, and not only like one that it can read."""
    return source.accepts(file) and (not source.tells or any(key in begins(file, 2**20) for key in source.tells))


def matching(columns: Mapping[str, np.ndarray], *kinds: Preference | Sequence[str]) -> list[str]:
    """Names of the columns of one of the kinds that hold at least one number, in the order of the kinds.

    >>> matching({"a/lr": np.ones(2), "lr": np.ones(2), "loss": np.ones(2)}, ("lr", "*/lr"), ("loss",))
    ['lr', 'a/lr', 'loss']
    """
    return list(dict.fromkeys(key for kind in kinds for key in ranked(columns, kind)))


def merged(tables: Sequence[Table]) -> list[Table]:
    """Tables of one run each: those of the same name, such as charts exported one by one, put together."""
    by_name: dict[str, list[Table]] = {}
    for table in tables:
        by_name.setdefault(table.name, []).append(table)
    return [_together(name, parts) for name, parts in by_name.items()]


def _together(name: str, parts: Sequence[Table]) -> Table:
    """One beside the other where they agree in the columns that they share, else one below the other."""
    if len(parts) == 1:
        return parts[0]
    columns = dict(parts[0].columns)
    for part in parts[1:]:
        shared = columns.keys() & part.columns.keys()
        agree = (np.array_equal(columns[key], part.columns[key], equal_nan=True) for key in shared)
        if not shared or not all(agree):
            return _below(name, parts)
        columns |= part.columns
    return _with_rest(name, columns, parts)


def _below(name: str, parts: Sequence[Table]) -> Table:
    rows = [len(next(iter(part.columns.values()), ())) for part in parts]
    keys = dict.fromkeys(key for part in parts for key in part.columns)
    blank = [np.full(count, np.nan) for count in rows]
    columns = {
        key: np.concatenate([part.columns.get(key, none) for part, none in zip(parts, blank, strict=True)])
        for key in keys
    }
    return _with_rest(name, columns, parts)


def _with_rest(name: str, columns: dict[str, np.ndarray], parts: Sequence[Table]) -> Table:
    """The columns of a run with what else its parts have."""
    others = tuple(dict.fromkeys(key for part in parts for key in part.others))
    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
    total = max((part.total_steps for part in parts if part.total_steps), default=None)
    files = tuple(dict.fromkeys(file for part in parts for file in part.files))
    return Table(name, columns, others, total, notes, files=files)


def only(name: str) -> tuple[str]:
    """The pattern that matches a name and nothing else."""
    return (glob.escape(name),)


def files_below(path: Path) -> list[Path]:
    """The file itself, or all files below a folder, numbers in their names by size: ``checkpoint-900`` first.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("checkpoint-1000", "checkpoint-900"):
    ...         Path(folder, name).touch()
    ...     [file.name for file in files_below(Path(folder))]
    ['checkpoint-900', 'checkpoint-1000']
    """
    if path.is_file():
        return [path]
    return sorted((file for file in path.rglob("*") if file.is_file()), key=lambda file: _by_number(str(file)))


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"([0-9]{1,18})", name)]


@contextmanager
def refusing(refused: list[str]) -> Iterator[None]:
    """Keeps the reason why a file or run cannot be read, and goes on to the next one."""
    try:
        yield
    except ValueError as error:
        refused.append(str(error))


def read_files(source: Source, files: Sequence[tuple[Path, Path]], columns: Columns, refused: list[str]) -> list[Table]:
    """The runs in files, with the columns that may be needed.

    Args:
      source: the tool; of a folder's files only those that it accepts are read.
      files: each with the path that was asked for: itself, or the folder that it lies in.
      columns: columns that the user names.
      refused: gets a sentence for each file that cannot be read, where others can.

    Raises:
      ValueError: naming the file that cannot be read, or that there is none of the source.
    """
    accepted = [(file, asked) for file, asked in files if file == asked or source.accepts(file)]
    require(accepted, f"expected logs of {source.title}, found none")
    tables: list[Table] = []
    named = [name for name in (columns.step, columns.loss, columns.rate) if name is not None]
    places = [source.place(file.absolute()) for file, _ in accepted]
    names = _apart({place: _name(place, asked.absolute()) for place, (_, asked) in zip(places, accepted, strict=True)})
    failed: list[str] = []
    for place, (file, _) in zip(places, accepted, strict=True):
        with refusing(failed), within(file):
            read = source.read(file) if source.read_named is None else source.read_named(file, named)
            named_tables = (table._replace(name=table.name or names[place], files=(str(file),)) for table in read)
            tables += [_needed(source, table, columns) for table in named_tables]
    require(tables, next(iter(failed), f"expected logs of {source.title}, found none"))
    refused += failed
    return merged(_longest(source, tables) if source.has_whole_history else tables)


def _longest(source: Source, tables: Sequence[Table]) -> list[Table]:
    """Of the tables of one run that which goes furthest, the later of several."""
    found: dict[str, Table] = {}
    for table in tables:
        if table.name not in found or _last_step(source, table) >= _last_step(source, found[table.name]):
            found[table.name] = table
    return list(found.values())


def _last_step(source: Source, table: Table) -> float:
    steps = matching(table.columns, source.step)
    return float(np.nanmax(table.columns[steps[0]])) if steps else -1.0


def _apart(names: Mapping[Path, str]) -> dict[Path, str]:
    """Names by place; those that several places share get as many more folders in front as make them differ.

    >>> list(_apart({Path("/a/x/out"): "out", Path("/a/y/out"): "out", Path("/a/z"): "z"}).values())
    ['x/out', 'y/out', 'z']
    """
    apart = dict(names)
    for depth in range(2, 1 + max((len(place.parts) for place in names), default=1)):
        counts = Counter(apart.values())
        shared = [place for place, name in apart.items() if counts[name] > 1]
        apart |= {place: "/".join(place.parts[-max(depth, len(Path(apart[place]).parts)) :]) for place in shared}
    return apart


def _name(place: Path, root: Path) -> str:
    """A run's place below the folder that is read, as TensorBoard names runs."""
    return place.relative_to(root).as_posix() if root.is_dir() and root in place.parents else place.name


def _needed(source: Source, table: Table, columns: Columns) -> Table:
    """The table under a printable name, with the columns that source or user name, and those of tokens and batches."""
    named = [glob.escape(name) for name in (columns.step, columns.loss, columns.rate) if name is not None]
    kinds = (source.step, source.loss, source.validation, source.rate, source.multiplier, named)
    taken = matching(table.columns, *kinds)
    batches = ranked(table.columns, LOGGED_BATCHES)
    kept = {key: table.columns[key] for key in dict.fromkeys((*taken, *ranked(table.columns, SPENT), *batches))}
    name = "".join(character if character.isprintable() else " " for character in table.name).strip()
    others = tuple(key for key in table.columns if key not in kept)
    texts: Mapping[str, np.ndarray] = getattr(table.columns, "texts", {})
    labels = {key: cells for key, cells in {**table.columns, **texts}.items() if is_label(key)}
    notes = (
        *table.notes,
        *(note for key in (*taken, *batches) if key in texts for note in notes_on_cells(key, texts[key])),
    )
    return table._replace(name=name or "run", columns=kept, others=others, labels=labels, notes=notes)
