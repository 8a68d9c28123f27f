"""Sweep tables: one row a run, with its final loss and settings in columns, read as runs of one row each."""

import tomllib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fmjax._checks import require, whole, within
from fmjax.curves.loss_curve import LossCurve
from fmjax.importers.column_names import HELD_OUT, LOSSES, plain_name, ranked
from fmjax.importers.contents import begins, ending
from fmjax.importers.run_labels import IDENTITIES
from fmjax.importers.source import refusing
from fmjax.importers.tables import READERS, parquet_names
from fmjax.schedules.batch_stages import Batch, BatchStages, batch_of
from fmjax.schedules.tables import schedule_from

SWEEP_COLUMNS: dict[str, tuple[str, ...]] = {
    "peak_lr": ("peak_lr", "peak_learning_rate", "max_lr", "max_learning_rate", "learning_rate", "base_lr", "lr"),
    "total_steps": ("total_steps", "max_steps", "num_steps", "n_steps", "train_steps", "max_iters", "train_iters"),
    "tokens": ("tokens", "total_tokens", "train_tokens", "num_tokens", "n_tokens"),
    "tokens_per_step": ("tokens_per_step", "tokens_per_batch", "batch_tokens", "tokens_per_update"),
    "batch": ("batch_sequences", "global_batch_size", "batch_size", "batch"),
    "length": ("sequence_length", "seq_length", "seq_len", "context_length", "block_size", "max_seq_len"),
    "model_size": ("active_size", "active_params", "model_size", "n_params", "num_params", "params", "parameters"),
    "family": ("family", "model_family"),
    "kind": ("schedule", "kind", "scheduler", "lr_schedule", "lr_scheduler_type", "lr_decay_style"),
    "decay": ("decay", "decay_type", "anneal"),
    "warmup_steps": ("warmup_steps", "warmup_iters", "warmup", "lr_warmup_steps", "lr_warmup_iters"),
    "final_lr": ("final_lr", "min_lr", "end_lr", "final_learning_rate", "min_learning_rate"),
    "anneal_ratio": ("anneal_ratio", "decay_ratio", "cooldown_ratio", "annealing_ratio"),
    "anneal_steps": ("anneal_steps", "decay_steps", "cooldown_steps"),
}
"""What a column holds, by names in plain form, the most telling first."""

_COUNTERS = ("step", "iter", "iteration", "global_step", "train_global_step", "trainer_global_step", "update", "_step")
_RISING = (*SWEEP_COLUMNS["tokens"], "num_steps", "n_steps", "train_steps", "epoch", "samples", "consumed_samples")
"""Columns that count updates in a curve, and in a sweep are settings."""

_FIELDS = {
    "constant": ("warmup_steps",),
    "cosine": ("warmup_steps", "final_lr"),
    "wsd": ("warmup_steps", "final_lr", "decay", "anneal_ratio", "anneal_steps"),
}
"""Fields of schedules that columns give, beside the peak rate and the number of updates."""

_LARGEST = 2**26
"""Bytes of a file above which it is taken for a log."""


class SweepRun(NamedTuple):
    """A run of one row."""

    curve: LossCurve
    loss: str
    """Column that the loss comes from."""
    rate: str
    """Column of the peak rate."""
    size: str | None = None
    """Column of the model size, where there is one."""


class _SweepTable(NamedTuple):
    columns: Mapping[str, np.ndarray]
    texts: Mapping[str, np.ndarray]
    keys: Mapping[str, str]
    """The column of each item of ``SWEEP_COLUMNS`` that is there."""
    loss: str

    def cell(self, item: str, row: int) -> Any:
        """What the column of an item has in a row; None where there is no such column or cell."""
        key = self.keys.get(item)
        if key is None:
            return None
        value = self.columns[key][row] if key in self.columns else self.texts[key][row]
        if item == "family":
            return None if value is None or value != value else str(value)
        if item in ("kind", "decay"):
            return value if isinstance(value, str) else None
        require(not isinstance(value, str), f"{key!r}: expected a number, found {value!r}")
        return None if value is None or value != value else value


def is_sweep(path: Path) -> bool:
    """Whether a file is a table with one row a run: settings of runs and no counter, or a name for every row."""
    if not path.is_file() or ending(path) not in (".csv", ".tsv", ".parquet") or path.stat().st_size > _LARGEST:
        return False
    header = begins(path, 2**16).split("\n")[0].replace(";", ",").replace("\t", ",").split(",")
    names = parquet_names(path) if ending(path) == ".parquet" else [name.strip().strip('"') for name in header]
    plain = {plain_name(name) for name in names}
    lengths = plain.intersection((*SWEEP_COLUMNS["total_steps"], *SWEEP_COLUMNS["tokens"]))
    if not (lengths and plain.intersection(SWEEP_COLUMNS["peak_lr"]) and any("loss" in name for name in plain)):
        return False
    try:
        columns = READERS[ending(path)](path)
    except ValueError:
        return False
    if any("final" in name and "loss" in name for name in plain) and not plain.intersection(_COUNTERS):
        return True
    if plain.intersection(_COUNTERS) or any(_rises(columns[key]) for key in columns if plain_name(key) in _RISING):
        return _names_every_row(columns)
    return True


def _rises(values: np.ndarray) -> bool:
    """Whether a column may count the updates of a curve."""
    known = values[np.isfinite(values)]
    return known.size > 1 and bool((np.diff(known) >= 0).all() and known[-1] > known[0])


def _names_every_row(columns: Mapping[str, np.ndarray]) -> bool:
    found = {**columns, **getattr(columns, "texts", {})}
    named = (cells for key, cells in found.items() if plain_name(key) in IDENTITIES[:-1])
    return any(cells.size > 1 and len(set(cells.tolist())) == cells.size for cells in named)


def load_sweep(
    path: str | PathLike[str],
    *,
    schedule: str = "",
    loss: str | None = None,
    validation: bool = False,
    tokens_per_step: Batch | str | None = None,
    model_size: float | None = None,
) -> tuple[LossCurve, ...]:
    r"""Reads a table with one row a run as runs of one row each: the loss after their last update.

    A row needs a final loss, a peak rate, and the number of updates, or of tokens beside those of an update. Batches in
    sequences are counted in tokens where a column has the length of a sequence. ``SWEEP_COLUMNS`` has the names that
    columns may have. Of models of which a part is active, the active size is taken. A column
    ``family`` names the family of models that each run belongs to.

    Args:
      path: a CSV or Parquet file.
      schedule: fields of the schedule of all runs as a manifest has them, such as ``kind = "cosine", final_lr = 1e-5``;
        those that it does not name come from columns of each run.
      loss: column of the losses.
      validation: whether to prefer losses on held-out text.
      tokens_per_step: tokens per update of all runs.
      model_size: number of parameters of all runs.

    Raises:
      ValueError: no row that can be read; other such rows are left out with a warning that names the first.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     table = Path(folder, "sweep.csv")
    ...     _ = table.write_text("peak_lr,total_steps,final_loss\n1e-3,500,3.0\n2e-3,500,2.9\n")
    ...     runs = load_sweep(table, schedule="kind = 'cosine', warmup_steps = 50")
    >>> [(run.name, run.final_loss, float(run.schedule.peak_lr), run.step.tolist()) for run in runs]
    [('sweep-1', 3.0, 0.001, [499]), ('sweep-2', 2.9, 0.002, [499])]
    """
    batch = None if tokens_per_step is None else batch_of(tokens_per_step, "tokens_per_step")
    given = {"tokens_per_step": batch, "model_size": model_size}
    return tuple(run.curve for run in read_sweep(Path(path), schedule, loss, validation, given))


def read_sweep(
    path: Path, schedule: str, loss: str | None, validation: bool, given: Mapping[str, Any]
) -> tuple[SweepRun, ...]:
    """The runs of a sweep table, see ``load_sweep``; ``given`` is what all runs share."""
    with within(path):
        fields = _fields_of(schedule)
        table = _table_of(path, loss, validation)
        count = table.columns[table.loss].size
        names = _names_of_rows(path, table, count)
        refused: list[str] = []
        runs: list[SweepRun] = []
        for row in range(count):
            with refusing(refused), within(f"row {row + 1}"):
                runs.append(_run_of_row(table, row, names[row], fields, given))
        require(runs, next(iter(refused), "expected rows, found none"))
    if refused:
        more = f", and {len(refused) - 1} rows more" * (len(refused) > 1)
        warnings.warn(f"{path}: {refused[0]}: left out{more}", stacklevel=3)
    return tuple(runs)


def _fields_of(schedule: str) -> dict[str, Any]:
    try:
        return dict(tomllib.loads(f"schedule = {{ {schedule} }}")["schedule"])
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"schedule: expected KEY = VALUE, ..., got {schedule!r} ({error})") from None


def _table_of(path: Path, loss: str | None, validation: bool) -> _SweepTable:
    columns = READERS[ending(path)](path)
    texts: Mapping[str, np.ndarray] = getattr(columns, "texts", {})
    known = {plain_name(key): key for key in (*texts, *columns)}
    keys = {item: next((known[name] for name in names if name in known), None) for item, names in SWEEP_COLUMNS.items()}
    kinds = (HELD_OUT, LOSSES) if validation else (LOSSES, HELD_OUT)
    losses = [loss] if loss is not None else [key for kind in kinds for key in ranked(columns, kind)]
    losses.sort(key=lambda key: "final" not in plain_name(key))
    require(losses and losses[0] in columns, f"expected a column of final losses, found {', '.join(columns)}")
    return _SweepTable(columns, texts, {item: key for item, key in keys.items() if key is not None}, losses[0])


def _names_of_rows(path: Path, table: _SweepTable, count: int) -> Sequence[str]:
    """The names in a column, where they differ, else the file's and the number of the row."""
    known = {plain_name(key): key for key in (*table.texts, *table.columns)}
    for name in IDENTITIES[:-1]:
        if name in known:
            cells = table.texts[known[name]] if known[name] in table.texts else table.columns[known[name]]
            texts = [cell if isinstance(cell, str) else f"{name}={cell}" for cell in cells]
            if len(set(texts)) == count and None not in cells.tolist():
                return texts
    return [f"{path.name.split('.')[0]}-{row + 1}" for row in range(count)]


def _run_of_row(
    table: _SweepTable, row: int, name: str, fields: Mapping[str, Any], given: Mapping[str, Any]
) -> SweepRun:
    loss, tokens_per_step = float(table.columns[table.loss][row]), given.get("tokens_per_step")
    require(np.isfinite(loss) and loss > 0, f"{table.loss!r}: expected a loss above zero, got {loss:g}")
    if tokens_per_step is None:
        tokens_per_step = _tokens_per_step(table, row)
    total = fields.get("total_steps", table.cell("total_steps", row))
    if total is None and tokens_per_step and table.cell("tokens", row) is not None:
        tokens = table.cell("tokens", row)
        of_stages = tokens_per_step.updates(tokens) if isinstance(tokens_per_step, BatchStages) else None
        total = round(tokens / tokens_per_step if of_stages is None else float(of_stages))
    require(total is not None, "expected a number of updates, or of tokens beside those of an update; found neither")
    size = given.get("model_size")
    size = table.cell("model_size", row) if size is None else size
    schedule = schedule_from(_schedule_of_row(table, row, {"total_steps": whole(total, "total_steps"), **fields}))
    last = int(schedule.total_steps) - 1
    family = table.cell("family", row) or None
    curve = LossCurve(name, [last], [loss], schedule, size, tokens_per_step, loss, family=family)
    by_column = None if given.get("model_size") is not None else table.keys.get("model_size")
    return SweepRun(curve, table.loss, table.keys.get("peak_lr", ""), by_column)


def _tokens_per_step(table: _SweepTable, row: int) -> float | None:
    tokens, batch, length = (table.cell(item, row) for item in ("tokens_per_step", "batch", "length"))
    if tokens is None and batch is not None and length is not None:
        return float(batch * length)
    return None if tokens is None else float(tokens)


def _schedule_of_row(table: _SweepTable, row: int, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The table of a run's schedule: the fields given, and those in its columns."""
    kind = fields.get("kind", table.cell("kind", row))
    peak = table.keys.get("peak_lr", "peak_lr")
    hint = f"such as 'kind = \"cosine\", final_lr = 1e-5'; the peak rate is that of {peak!r}"
    require(kind is not None, f"one row a run, and no column has the schedule's kind: give the schedule, {hint}")
    found = dict(_given_by_columns(table, row, str(kind).lower()))
    if "anneal_ratio" in fields or "anneal_steps" in fields:
        found = {key: value for key, value in found.items() if not key.startswith("anneal")}
    if str(kind).lower() == "linear":  # from the end of warmup to the end of the run
        rest = {**found, **fields}
        share = 1 - rest.get("warmup_steps", 0) / rest["total_steps"]
        return {**rest, "kind": "wsd", "decay": "linear", "anneal_ratio": share}
    return {**found, **fields, "kind": str(kind).lower()}


def _given_by_columns(table: _SweepTable, row: int, kind: str) -> Iterator[tuple[str, Any]]:
    for item in ("peak_lr", *_FIELDS.get(kind, ("warmup_steps", "final_lr"))):
        value = table.cell(item, row)
        if value is not None and not (item == "anneal_steps" and table.cell("anneal_ratio", row) is not None):
            counts = item in ("warmup_steps", "anneal_steps")
            yield item, value if isinstance(value, str) else whole(value, item) if counts else float(value)
