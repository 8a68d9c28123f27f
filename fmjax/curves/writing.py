"""Runs to disk: a folder with a manifest ``runs.toml`` and one CSV file a run, written whole or not at all."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fmjax._checks import require
from fmjax._files import writing
from fmjax.curves.loss_curve import LossCurve
from fmjax.curves.manifest import RUN_KEYS
from fmjax.schedules.batch_stages import BatchStages
from fmjax.schedules.kinds import Tabulated
from fmjax.schedules.tables import knots_table, schedule_table

_LONGEST = 80


def write_runs(curves: Sequence[LossCurve], folder: Path) -> None:
    """Writes runs for ``load_runs``, which reads the same.

    Of a ``Tabulated`` schedule the rates at the logged rows go into a column ``lr``, where straight lines between them
    give every rate; else the manifest gets as many rates as straight lines need to be within 1e-6 of the peak.

    Files are named by the runs, with other characters than letters, digits, ``._-`` replaced, so none lies elsewhere.

    Raises:
      ValueError: the folder exists, cannot be written, or pyarrow or tomli-w are missing.
    """
    try:
        import tomli_w
    except ImportError:
        raise ValueError("writing runs needs tomli-w: pip install 'fmjax[data]'") from None
    require(not folder.exists(), f"{folder}: expected a folder that does not exist yet, found one")
    partial = folder.with_name(f".{folder.name}.partial")
    with writing(folder):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            files = _file_names([curve.name for curve in curves])
            for curve, file in zip(curves, files, strict=True):
                _write_rows(curve, partial / file)
            tables = [_table(curve, file) for curve, file in zip(curves, files, strict=True)]
            (partial / "runs.toml").write_text(tomli_w.dumps({"runs": tables}), encoding="utf-8")
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _file_names(names: Sequence[str]) -> list[str]:
    """A file name of its own for each run.

    >>> _file_names(["a b", "../a b", "a/b"])
    ['a-b.csv', 'a-b-2.csv', 'a-b-3.csv']
    """
    taken: dict[str, int] = {}
    files = []
    for name in names:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:_LONGEST].strip(".-") or "run"
        count = taken[stem.lower()] = taken.get(stem.lower(), 0) + 1
        files.append(f"{stem}.csv" if count == 1 else f"{stem}-{count}.csv")
    return files


def _write_rows(curve: LossCurve, path: Path) -> None:
    try:
        import pyarrow
        from pyarrow import csv
    except ImportError:
        raise ValueError("writing runs needs pyarrow: pip install 'fmjax[data]'") from None
    columns = {"step": curve.step, "loss": curve.loss}
    if isinstance(curve.schedule, Tabulated) and _rows_give_rates(curve, curve.schedule):
        columns["lr"] = _rates_at_rows(curve, curve.schedule)
    csv.write_csv(pyarrow.table(columns), path, csv.WriteOptions(quoting_style="none"))


def _rates_at_rows(curve: LossCurve, schedule: Tabulated) -> np.ndarray:
    at = np.minimum(curve.step, int(schedule.total_steps) - 1)
    return np.asarray(np.asarray(schedule.lrs, float)[at])


def _rows_give_rates(curve: LossCurve, schedule: Tabulated) -> bool:
    """Whether straight lines between the logged rows give every rate of a table up to the last row, its end."""
    rates, last = np.asarray(schedule.lrs, float), int(curve.step[-1])
    between = np.interp(np.arange(rates.size), curve.step, _rates_at_rows(curve, schedule))
    return last + 1 >= rates.size and bool(np.abs(between - rates).max() <= 1e-6 * rates.max())


def _table(curve: LossCurve, file: str) -> dict[str, object]:
    schedule = curve.schedule
    found: dict[str, object] = {"name": curve.name, "file": file}
    for key in RUN_KEYS:
        value = getattr(curve, key)
        if value is not None:
            found[key] = str(value) if isinstance(value, BatchStages) else value
    if isinstance(schedule, Tabulated) and not _rows_give_rates(curve, schedule):
        return found | {"schedule": knots_table(schedule)}
    if isinstance(schedule, Tabulated):
        return found | ({"warmup_steps": int(schedule.warmup_steps)} if int(schedule.warmup_steps) else {})
    return found | {"schedule": schedule_table(schedule)}
