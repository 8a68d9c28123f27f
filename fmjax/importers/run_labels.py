"""Columns that name the run of each row: names, seeds, and settings that differ between runs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fmjax._checks import require
from fmjax.importers.restarts import has_rival_rates
from fmjax.importers.tables import Table

IDENTITIES = (
    *("run", "run_name", "run_id", "name", "exp", "exp_name", "exp_id", "experiment", "experiment_name"),
    *("experiment_id", "trial", "trial_id", "job", "job_id", "config", "variant", "model", "model_name", "seed"),
)
"""Columns that name runs, the best name first."""

SETTINGS = (
    *("lr", "learning_rate", "peak_lr", "max_lr", "base_lr", "init_lr", "min_lr", "final_lr", "batch", "batch_size"),
    *("global_batch_size", "bs", "bsz", "tokens_per_step", "weight_decay", "wd", "warmup", "warmup_steps", "width"),
    *("warmup_iters", "depth", "n_layer", "n_layers", "n_embd", "d_model", "dim", "hidden_size", "model_size"),
    *("n_params", "params", "beta1", "beta2", "momentum", "optimizer", "schedule", "scheduler", "decay", "dataset"),
    *("anneal_ratio", "max_iters", "total_steps", "max_steps"),
)
"""Columns of settings, which tell runs apart where several begin in one table."""

_LEAST = 3
"""Rows that a run has on average, at the least."""


EPOCH = "epoch"
"""The column that tells an epoch's first step from that of another run."""


def is_label(name: str) -> bool:
    """Whether a column may tell runs, or epochs, apart.

    >>> [is_label(name) for name in ("Run ID", "seed", "batch_size", "loss")]
    [True, True, True, False]
    """
    return plain_label(name) in (*IDENTITIES, *SETTINGS, EPOCH)


def epochs_of(table: Table) -> np.ndarray | None:
    """``[rows]`` the epoch of each row, where there is such a column of numbers."""
    found = (cells for key, cells in table.labels.items() if plain_label(key) == EPOCH and cells.dtype.kind == "f")
    return next(found, None)


def plain_label(name: str) -> str:
    """A name in lower case, its words joined by ``_``."""
    return "_".join(name.lower().replace("-", " ").replace("_", " ").replace("/", " ").split())


def runs_by_label(table: Table, step: np.ndarray, loss: np.ndarray) -> list[Table]:
    """The table of each run, named by its label; the table itself where no column tells runs apart.

    Args:
      table: the rows, with the labels that they bear.
      step: ``[rows]`` steps.
      loss: ``[rows]`` losses.

    Raises:
      ValueError: one row a run.
    """
    known = np.isfinite(step) & np.isfinite(loss)
    for keys in (_identities(table, known), *_settings(table, known, step, loss)):
        if keys:
            return _split(table, keys, known)
    return [table]


def _identities(table: Table, known: np.ndarray) -> list[str]:
    """The columns of names that differ from row to row, but those that add nothing to others."""
    order = {name: i for i, name in enumerate(IDENTITIES)}
    keys = sorted((key for key in table.labels if plain_label(key) in order), key=lambda key: order[plain_label(key)])
    kept: list[str] = []
    for key in keys:
        cells = table.labels[key][known]
        complete = all(cell is not None and cell == cell for cell in cells)
        if complete and _groups_of(table, [*kept, key], known) > max(_groups_of(table, kept, known), 1):
            kept.append(key)
    count = _groups_of(table, kept, known)
    several = count * 2 <= known.sum() or not kept
    require(several, f"column {kept[:1]} names {count} runs in {known.sum()} rows: a table with one row a run")
    return kept


def _settings(table: Table, known: np.ndarray, step: np.ndarray, loss: np.ndarray) -> Sequence[list[str]]:
    """A column of settings by which rows are runs that begin alike; none where the steps are of one run."""
    if not (np.diff(step[known]) < 0).any() and not has_rival_rates(step, loss):
        return []
    keys = [key for key in table.labels if plain_label(key) in SETTINGS]
    return [[key] for key in keys if _tells_apart(table.labels[key][known], step[known])]


def _tells_apart(cells: np.ndarray, step: np.ndarray) -> bool:
    """Whether the rows of each value are a run from the first step on, with every step once."""
    values = list(dict.fromkeys(cells.tolist()))
    if any(value is None or value != value for value in values) or not 1 < len(values) <= cells.size / _LEAST:
        return False
    groups = [step[cells == value] for value in values]
    return all(group.min() == step.min() and np.unique(group).size == group.size > 1 for group in groups)


def _split(table: Table, keys: Sequence[str], known: np.ndarray) -> list[Table]:
    rows = list(zip(*(table.labels[key].tolist() for key in keys), strict=True))
    of: dict[tuple[Any, ...], list[int]] = {row: [] for row, counts in zip(rows, known, strict=True) if counts}
    for place, row in enumerate(rows):
        if row in of:
            of[row].append(place)
    note = f"rows are those of {len(of)} runs, by the column {' and '.join(map(repr, keys))}"
    tables = []
    for label, mine in of.items():
        columns = {key: column[mine] for key, column in table.columns.items()}
        labels = {key: cells[mine] for key, cells in table.labels.items()}
        name = " ".join(_in_words(key, cell) for key, cell in zip(keys, label, strict=True))
        tables.append(table._replace(name=name, columns=columns, labels=labels, notes=(*table.notes, note)))
    return tables


def _in_words(key: str, cell: Any) -> str:
    return cell if isinstance(cell, str) else f"{key}={cell:g}"


def _groups_of(table: Table, keys: Sequence[str], known: np.ndarray) -> int:
    """How many runs the columns tell apart."""
    return len(set(zip(*(table.labels[key][known].tolist() for key in keys), strict=True))) if keys else 1
