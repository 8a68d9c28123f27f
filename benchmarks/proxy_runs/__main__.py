"""Trains a grid of small language models that differ in their schedules, and writes their loss curves."""

import argparse
import os
from pathlib import Path

from benchmarks.proxy_runs.config import RunConfig
from benchmarks.proxy_runs.grids import DEMO, GRIDS
from benchmarks.proxy_runs.manifest import Rows, csv_text, manifest_text, read_rows
from benchmarks.proxy_runs.plan import plan_text
from benchmarks.proxy_runs.runner import train_grid
from benchmarks.proxy_runs.store import write_atomically


def main() -> None:
    """Trains a grid and publishes its curves."""
    arguments = _parser().parse_args()
    grid = GRIDS[arguments.grid]()
    if arguments.plan:
        print(plan_text(grid))
        return
    out = arguments.out or arguments.work / arguments.grid
    trained = train_grid(grid, arguments.work, workers=arguments.workers, lanes=arguments.lanes, only=arguments.only)
    rows = published(grid, out) | trained
    publish([run for run in grid if run.name in rows], rows, out)
    if waiting := [run.name for run in grid if run.name not in rows]:
        print(f"{len(waiting)} runs are not trained yet: {waiting[0]} ... {waiting[-1]}")


def published(grid: list[RunConfig], folder: Path) -> dict[str, Rows]:
    """The rows of the runs of a grid that have a curve in a folder, by name; they may have been trained elsewhere."""
    paths = {run.name: folder / f"{run.name}.csv" for run in grid}
    return {name: read_rows(path) for name, path in paths.items() if path.exists()}


def publish(grid: list[RunConfig], rows: dict[str, Rows], folder: Path) -> None:
    """Writes the grid's curves and their manifest."""
    for run in grid:
        write_atomically(folder / f"{run.name}.csv", csv_text(rows[run.name]).encode())
    write_atomically(folder / "runs.toml", manifest_text(grid, rows).encode())
    if demo := manifest_text(grid, rows, prefix=DEMO):
        write_atomically(folder / "demo.toml", demo.encode())
    print(f"{len(grid)} curves and runs.toml in {folder}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.proxy_runs", description=__doc__)
    parser.add_argument("grid", choices=GRIDS, nargs="?", default="wide", help="which runs to train (default: wide)")
    work = "checkpoints and finished curves; a run that was stopped goes on from here (default: build/proxy_runs)"
    parser.add_argument("--work", type=Path, default=Path("build/proxy_runs"), help=work)
    parser.add_argument("--out", type=Path, help="where the CSV files and runs.toml go (default: WORK/GRID)")
    only = "globs of the runs to train, comma-separated; curves of others, trained or in OUT, are published too"
    parser.add_argument("--only", default="*", metavar="GLOBS", help=only)
    parser.add_argument("--plan", action="store_true", help="print how many updates the grid takes, and train nothing")
    workers = "processes that train at once, one core each; 1 trains on JAX's own device (default: one per core)"
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help=workers)
    lanes = "runs that a process trains at once, for accelerators (default: 1)"
    parser.add_argument("--lanes", type=int, default=1, help=lanes)
    return parser


if __name__ == "__main__":
    main()
