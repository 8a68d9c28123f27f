"""Runs from disk: a manifest ``runs.toml`` beside CSV or Parquet files of logged rows."""

import csv
import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from fmjax._checks import choose, require, within
from fmjax.curves.loss_curve import LossCurve
from fmjax.effects.recursions import rising_start
from fmjax.schedules.kinds import Constant, Tabulated
from fmjax.schedules.tables import (
    MOST_UPDATES,
    table_fields,
)

RUN_KEYS = ("model_size", "tokens_per_step", "final_loss", "split", "data_order", "family")
"""What a run may say of itself, beside its schedule."""

_UNKNOWN = Constant(peak_lr=1.0, total_steps=2**53)  # stands in until the logged rates are tabulated


def load_runs(path: str | PathLike[str]) -> tuple[LossCurve, ...]:
    r"""Reads every run of a manifest.

    Each ``[[runs]]`` table has ``name`` and ``file`` (CSV, or Parquet by its ending; relative to the manifest), and may
    have ``model_size``, ``tokens_per_step``, ``final_loss``, ``split``, ``data_order``, ``family`` (of models; see
    ``LossCurve``) and ``schedule``: ``kind`` (one of ``KINDS``) with the fields of that class; "wsd" takes
    ``anneal_ratio`` or ``anneal_steps``. A batch that changes is text such as "65536@0,131072@2000", tokens an update
    from an update on. Files have the columns ``step`` and ``loss``; without a schedule the column ``lr`` is
    interpolated linearly to every update from 0 to the last logged step (``warmup_steps`` of the run then says how many
    of them are warmup; by default those in which the rate rises to its peak).

    Args:
      path: the manifest, or the folder that holds it as ``runs.toml``.

    Returns:
      The runs in the manifest's order.

    Raises:
      ValueError: one sentence naming the manifest, the run and, for logged rows, the file and row (counted from 1).

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.csv").write_text("step,loss,lr\n0,4.0,1e-3\n10,3.5,5e-4\n")
    ...     _ = Path(folder, "runs.toml").write_text("[[runs]]\nname = 'a'\nfile = 'a.csv'\n")
    ...     runs = load_runs(folder)
    >>> [(run.name, run.schedule.total_steps) for run in runs]
    [('a', 11)]
    """
    manifest = Path(path) / "runs.toml" if Path(path).is_dir() else Path(path)
    with within(manifest):
        runs = [_run(i, table) for i, table in enumerate(_tables(manifest), start=1)]
        _check_names([run["name"] for run in runs])
        return tuple(_curve(run, manifest.parent) for run in runs)


def select_runs(curves: Sequence[LossCurve], selection: str) -> tuple[LossCurve, ...]:
    """The runs that any of the comma-separated items picks, in their own order.

    Args:
      curves: the runs to choose from.
      selection: items ``split:LABEL``, a run's name, or a glob over names.

    Raises:
      ValueError: naming an item that matches no run.

    >>> runs = [LossCurve(name, [0], [3.0], Constant(1e-3, 10)) for name in ("cosine", "wsd_0.1", "wsd_0.2")]
    >>> [run.name for run in select_runs(runs, "wsd_0.2,cos*")]
    ['cosine', 'wsd_0.2']
    """
    whole = [curve for curve in curves if curve.name == selection]
    if whole:  # a name with a comma in it, or one that begins like a split
        return tuple(whole)
    items = [item.strip() for item in selection.split(",")]
    for item in items:
        if not any(_matches(curve, item) for curve in curves):
            _explain_no_match(curves, item)
    return tuple(curve for curve in curves if any(_matches(curve, item) for item in items))


def _matches(curve: LossCurve, item: str) -> bool:
    if item.startswith("split:"):
        return curve.split is not None and fnmatchcase(curve.split, item.removeprefix("split:"))
    return curve.name == item or fnmatchcase(curve.name, item)


def _explain_no_match(curves: Sequence[LossCurve], item: str) -> None:
    splits = sorted({curve.split for curve in curves if curve.split is not None})
    awkward = [curve.name for curve in curves if "," in curve.name or curve.name.startswith("split:")]
    with within(f"selection {item!r} matches no run"):
        for name in awkward:
            near = item.strip() and item in name
            glob = name.replace(",", "?").replace("split:", "split?")
            require(not near, f"the name {name!r} is read as a list or a split; write {glob!r} for it")
        if item.startswith("split:"):
            require(splits, "no run has a split")
            choose(item.removeprefix("split:"), splits, "split")
        choose(item, [curve.name for curve in curves], "name or glob")


def _tables(manifest: Path) -> list[object]:
    try:
        content = tomllib.loads(manifest.read_text(encoding="utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"expected a TOML manifest, but {error}") from None
    for key in content:
        choose(key, ["runs"], "top-level key")
    tables = content.get("runs")
    require(isinstance(tables, list) and tables, f"expected [[runs]] tables, found {tables or 'none'}")
    return list(tables or ())


def _check_names(names: list[str]) -> None:
    for i, name in enumerate(names):
        first = names.index(name)
        require(first == i, f"run {i + 1}: name {name!r} is already taken by run {first + 1}, expected one name a run")


def _run(number: int, table: object) -> dict[str, Any]:
    name = table.get("name") if isinstance(table, Mapping) else None
    with within(f"run {name!r}" if isinstance(name, str) and name else f"run {number}"):
        run = table_fields(table, ("name", "file"), (*RUN_KEYS, "schedule", "warmup_steps"), "key")
        beside = {"schedule", "warmup_steps"} <= run.keys()
        require(not beside, "expected warmup_steps inside the schedule, found it beside")
    return run


def _curve(run: dict[str, Any], folder: Path) -> LossCurve:
    meta = {key: value for key, value in run.items() if key not in ("file", "schedule", "warmup_steps")}
    schedule, file = run.get("schedule"), folder / run["file"]
    # one row that is always right: what fails here is the manifest's, what fails below is the file's
    curve = LossCurve(step=[0], loss=[1.0], schedule=_UNKNOWN if schedule is None else schedule, **meta)
    with within(f"{file}: run {curve.name!r}"):
        rows = _read_rows(file, ("step", "loss") if schedule else ("step", "loss", "lr"))
    with within(file):
        curve = dataclasses.replace(curve, step=rows["step"], loss=rows["loss"])
    if schedule is not None:
        return curve
    with within(f"{file}: run {curve.name!r}"):
        lrs = _every_update(curve.step, rows)
    warmup = run["warmup_steps"] if "warmup_steps" in run else int(rising_start(lrs))
    return dataclasses.replace(curve, schedule=Tabulated(lrs, warmup))


def _every_update(kept: np.ndarray, rows: dict[str, np.ndarray]) -> np.ndarray:
    """The logged rates of the kept steps, interpolated linearly to every update up to the last."""
    logged, last = rows["lr"], int(kept[-1])
    bad = ~(np.isfinite(logged) & (logged >= 0))
    require(not bad.any(), f"row {np.argmax(bad) + 1}: lr must be a number of at least 0, got {logged[np.argmax(bad)]}")
    require(logged.any(), "expected a rate above zero in column 'lr', found only zeros")
    require(last < MOST_UPDATES, f"expected fewer than {MOST_UPDATES} updates, but the last step is {last}")
    rate = dict(zip(rows["step"].tolist(), logged.tolist(), strict=True))  # of a repeated step the last
    return np.interp(np.arange(last + 1), kept, [rate[step] for step in kept.tolist()])


def _read_rows(file: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    read = _read_parquet if file.suffix.lower() == ".parquet" else _read_csv
    columns = read(file, names)
    require(len(columns["step"]), "expected at least one row, found only a header")
    return {name: _floats(columns[name], name) for name in names}


def _read_csv(file: Path, names: Sequence[str]) -> Mapping[str, Sequence[float | str]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            lines = [line for line in csv.reader(text) if line]
    except csv.Error as error:
        raise ValueError(f"expected CSV rows, but {error}") from None
    require(lines, f"expected a header with {', '.join(names)}, found an empty file")
    header, rows = [cell.strip() for cell in lines[0]], lines[1:]
    _check_header(header, names)
    for i, row in enumerate(rows, start=1):
        require(len(row) == len(header), f"row {i}: expected {len(header)} cells as in the header, found {len(row)}")
    return {name: [row[header.index(name)] for row in rows] for name in names}


def _read_parquet(file: Path, names: Sequence[str]) -> Mapping[str, Sequence[float | str]]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ValueError("reading Parquet needs pyarrow: pip install 'fmjax[data]'") from None
    try:
        source = parquet.ParquetFile(file)
    except ValueError:
        raise ValueError("expected a Parquet file, found other bytes") from None
    _check_header(source.schema_arrow.names, names)
    return source.read(columns=list(names)).to_pydict()


def _check_header(header: Sequence[str], names: Sequence[str]) -> None:
    for name in names:
        why = "; without a schedule in the manifest the rates come from it" if name == "lr" else ""
        found = ", ".join(header)
        require(header.count(name) == 1, f"expected one column {name!r} in the header, found: {found}{why}")


def _floats(cells: Sequence[float | str], name: str) -> np.ndarray:
    values = np.empty(len(cells))
    for i, cell in enumerate(cells):
        try:
            values[i] = float(cell)
        except (TypeError, ValueError):
            raise ValueError(f"row {i + 1}: expected a number in column {name!r}, found {cell!r}") from None
    return values
