"""Loss curves as CSV files, and the manifest that names them."""

import csv
import io
from pathlib import Path
from typing import Any

import jax

from benchmarks.proxy_runs.config import RunConfig
from benchmarks.proxy_runs.training import architecture
from fmjax.schedules.kinds import Schedule

Rows = list[tuple[int, float, *tuple[float, ...]]]
"""Step and losses of every logged row; a row of step s has seen updates 0 ... s."""

COLUMNS = ("step", "loss", "train_loss", "headers_loss")
"""Columns of a curve; ``loss`` is that of the validation set, and runs without probes end there."""

FIELDS = ("total_steps", "anneal_ratio", "decay", "final_lr", "boundaries", "lrs", "warmup_steps", "init_lr", "peak_lr")


def csv_text(rows: Rows) -> str:
    """The rows as a CSV file."""
    lines = [f"{step}," + ",".join(f"{loss:.6f}" for loss in losses) for step, *losses in rows]
    return "\n".join([",".join(COLUMNS[: len(rows[0])]), *lines]) + "\n"


def read_rows(path: Path) -> Rows:
    """The rows of a file that ``csv_text`` wrote."""
    _, *lines = csv.reader(io.StringIO(path.read_text()))
    return [(int(step), float(loss), *map(float, probes)) for step, loss, *probes in lines]


def manifest_text(grid: list[RunConfig], rows: dict[str, Rows], *, prefix: str = "") -> str:
    """The runs as a TOML file with one ``[[runs]]`` table each; those whose names start with ``prefix``, without it."""
    chosen = [run for run in grid if run.name.startswith(prefix)]
    return "\n".join(_entry(run, run.name.removeprefix(prefix), rows[run.name][-1][1]) for run in chosen)


def _entry(run: RunConfig, name: str, final_loss: float) -> str:
    values = {
        "name": name,
        "file": f"{run.name}.csv",
        "model_size": _model_size(run),
        "tokens_per_step": run.setup.tokens_per_step,
        "final_loss": round(final_loss, 6),
        "split": run.split,
        "schedule": {"kind": type(run.schedule).__name__.lower(), **_settings(run.schedule)},
    }
    return "[[runs]]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())


def _model_size(run: RunConfig) -> int:
    model = architecture(run.setup.model)
    return model.size(jax.eval_shape(lambda: model.init(run.setup.model, run.setup.seed)))


def _settings(schedule: Schedule) -> dict[str, Any]:
    return {name: getattr(schedule, name) for name in FIELDS if hasattr(schedule, name)}


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else repr(value)
