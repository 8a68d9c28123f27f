"""How long ``fmjax import`` takes, and how much memory, for many long logs of each kind.

    python -m benchmarks.intake --runs 100 --rows 100000

Each run is a WSD schedule of its own ratio and logs every update; files are written to a temporary folder first, which
is not timed. ``--kinds TensorBoard --rows 1000`` measures event files, which are left out by default.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import fmjax
from benchmarks.effects_choice import table

Run = tuple[str, np.ndarray, np.ndarray]


def logged(runs: int, rows: int) -> Iterator[Run]:
    """Name, losses and rates of each run."""
    rng = np.random.default_rng(0)
    for i, ratio in enumerate(np.linspace(0.05, 0.6, runs)):
        schedule = fmjax.WSD(peak_lr=1e-3, total_steps=rows, anneal_ratio=float(ratio), warmup_steps=rows // 50)
        rates = np.asarray(schedule(np.arange(rows)), float)
        yield f"run-{i}", 2.5 + 3 / np.sqrt(1e3 * np.cumsum(rates) + 1) + 0.01 * rng.standard_normal(rows), rates


def write_csv(folder: Path, runs: Iterator[Run]) -> None:
    """One file a run."""
    for name, loss, rate in runs:
        rows = (f"{step},{x:.6f},{r:.8g}" for step, (x, r) in enumerate(zip(loss, rate, strict=True)))
        (folder / f"{name}.csv").write_text("\n".join(["step,loss,lr", *rows]))


def write_json_lines(folder: Path, runs: Iterator[Run]) -> None:
    """Histories of Weights & Biases, one file a run."""
    for name, loss, rate in runs:
        rows = (
            json.dumps({"_step": step, "_timestamp": 1.7e9 + step, "train/loss": round(x, 6), "train/lr": r})
            for step, (x, r) in enumerate(zip(loss.tolist(), rate.tolist(), strict=True))
        )
        (folder / f"{name}.jsonl").write_text("\n".join(rows))


def write_chart(folder: Path, runs: Iterator[Run]) -> None:
    """One chart of losses and one of rates, all runs in each."""
    names, losses, rates = zip(*runs, strict=True)
    for key, columns in (("train/loss", losses), ("train/lr", rates)):
        with (folder / f"{key.replace('/', '-')}.csv").open("w", newline="") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL)
            writer.writerow(["Step", *(f"{name} - {key}{end}" for name in names for end in ("", "__MIN", "__MAX"))])
            writer.writerows([step, *np.repeat(row, 3)] for step, row in enumerate(np.transpose(columns)))


def write_trainer_state(folder: Path, runs: Iterator[Run]) -> None:
    """States of the Hugging Face Trainer."""
    for name, loss, rate in runs:
        (folder / name).mkdir()
        rows = [
            {"epoch": 1e-4 * step, "grad_norm": 1.0, "learning_rate": r, "loss": round(x, 4), "step": step + 1}
            for step, (x, r) in enumerate(zip(loss.tolist(), rate.tolist(), strict=True))
        ]
        (folder / name / "trainer_state.json").write_text(json.dumps({"log_history": rows}, indent=2))


def write_lines(folder: Path, runs: Iterator[Run]) -> None:
    """Standard output of Megatron-LM."""
    for name, loss, rate in runs:
        cells = "consumed samples: {samples:12d} | elapsed time per iteration (ms): 310.1 | learning rate: {r:.6E} |"
        line = " iteration {step:8d}/{rows:8d} | " + cells + " global batch size:   256 | lm loss: {x:.6E} |"
        rows = (
            line.format(step=step + 1, rows=loss.size, samples=256 * (step + 1), r=r, x=x)
            for step, (x, r) in enumerate(zip(loss, rate, strict=True))
        )
        (folder / f"{name}.log").write_text("\n".join(rows))


def write_events(folder: Path, runs: Iterator[Run]) -> None:
    """Event files by TensorBoard's own writer, which takes longer than the import."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    for name, loss, rate in runs:
        writer = EventFileWriter(str(folder / name))
        for step, values in enumerate(zip(loss, rate, strict=True)):
            pairs = zip(("train/loss", "train/learning_rate"), values, strict=True)
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in pairs])
            writer.add_event(Event(step=step, wall_time=float(step), summary=summary))
        writer.close()


WRITERS: dict[str, Callable[[Path, Iterator[Run]], None]] = {
    "CSV": write_csv,
    "W&B history": write_json_lines,
    "W&B chart": write_chart,
    "Hugging Face": write_trainer_state,
    "Megatron-LM stdout": write_lines,
    "TensorBoard": write_events,
}


def measured(folder: Path) -> tuple[float, float]:
    """Seconds and GiB at most of one import."""
    with tempfile.TemporaryDirectory() as out:
        command = [Path(sys.executable).with_name("fmjax"), "import", str(folder), "-o", f"{out}/runs", "--json"]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0, f"the import ended with {status}"
        return time.perf_counter() - started, usage.ru_maxrss / 2**20


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--kinds", nargs="+", choices=list(WRITERS), default=[*WRITERS][:-1])
    arguments = parser.parse_args()
    lines = []
    for kind in arguments.kinds:
        with tempfile.TemporaryDirectory() as folder:
            WRITERS[kind](Path(folder), logged(arguments.runs, arguments.rows))
            size = sum(file.stat().st_size for file in Path(folder).rglob("*")) / 2**20
            seconds, memory = measured(Path(folder))
        lines.append([kind, f"{size:.0f} MiB", f"{seconds:.1f} s", f"{memory:.2f} GiB"])
    print(f"{arguments.runs} runs of {arguments.rows} rows")
    print(table([["kind", "size", "time", "memory"], *lines]))


if __name__ == "__main__":
    main()
