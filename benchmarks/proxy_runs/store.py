"""Checkpoints and finished curves in a work folder, named by the history that led to them.

A checkpoint's name is a digest of the text, the setup and the learning rates of the updates made so far. Runs that
agree up to some update thus share their checkpoints up to there: an anneal starts from its stem's checkpoint exactly as
if the run had been trained alone, and a killed run goes on from its own.
"""

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from benchmarks.proxy_runs.config import RunConfig
from benchmarks.proxy_runs.corpus import Corpus
from benchmarks.proxy_runs.manifest import Rows, csv_text, read_rows
from benchmarks.proxy_runs.training import State


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file such that readers find it whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


class Store:
    """Checkpoints and the finished curve of one run, in ``folder``.

    Args:
      folder: the work folder, shared by all runs.
      run: the run.
      corpus: the text it is trained on.
    """

    def __init__(self, folder: Path, run: RunConfig, corpus: Corpus) -> None:
        self.run = run
        self._folder = folder
        self._names = list(_history(run, corpus))

    def finished(self) -> Rows | None:
        """The rows of the whole run, once it has been trained to its end."""
        return read_rows(self._curve) if self._curve.exists() else None

    def finish(self, rows: Rows) -> None:
        """Writes the rows of the whole run."""
        write_atomically(self._curve, csv_text(rows).encode())

    @property
    def _curve(self) -> Path:
        return self._folder / "curves" / f"{self.run.name}-every{self.run.log_every}-{self._names[-1]}.csv"

    def save(self, count: int, state: State, rows: Rows) -> None:
        """Writes a checkpoint after ``count`` updates."""
        arrays = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
        content = io.BytesIO()
        np.savez(content, rows=np.array(rows, np.float64), **arrays)
        write_atomically(self._path(count), content.getvalue())

    def discard(self, count: int) -> None:
        """Removes the checkpoint after ``count`` updates, if there is one."""
        self._path(count).unlink(missing_ok=True)

    def resume(self, initial: State) -> tuple[int, State, Rows]:
        """Updates made, state and rows of the furthest checkpoint on this run's way; else those of a new run."""
        for count in range(self.run.total_steps, 0, -1):
            if self._path(count).exists():
                return count, *self._load(count, initial)
        return 0, initial, []

    def _load(self, count: int, like: State) -> tuple[State, Rows]:
        with np.load(self._path(count), allow_pickle=False) as saved:
            leaves = [saved[f"leaf{i}"] for i in range(len(jax.tree.leaves(like)))]
            rows = [(int(step), *losses) for step, *losses in saved["rows"].tolist() if self.run.logs(int(step))]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), rows

    def _path(self, count: int) -> Path:
        return self._folder / "checkpoints" / f"{self._names[count]}.npz"


def _history(run: RunConfig, corpus: Corpus) -> Iterator[str]:
    """Names of the states after 0 ... T updates."""
    digest = hashlib.sha256(f"{corpus.digest} {run.setup}".encode() + corpus.headers.tobytes())
    yield digest.hexdigest()[:20]
    for rate in run.rates():
        digest.update(rate.tobytes())
        yield digest.hexdigest()[:20]


def branch_counts(run: RunConfig, grid: list[RunConfig]) -> set[int]:
    """Counts at which other runs of the grid leave this run's way: their checkpoints are to be kept."""
    counts = {shared_updates(run, other) for other in grid if other.setup == run.setup and other.name != run.name}
    return counts - {0}


def shared_updates(run: RunConfig, other: RunConfig) -> int:
    """Updates that two runs of one setup have in common."""
    length = min(run.total_steps, other.total_steps)
    differ = run.rates()[:length] != other.rates()[:length]
    return int(np.argmax(differ)) if differ.any() else length
