"""Trains a grid of runs, each from the furthest checkpoint that lies on its way."""

import multiprocessing
import os
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.proxy_runs.config import RunConfig, Setup
from benchmarks.proxy_runs.corpus import Corpus
from benchmarks.proxy_runs.manifest import Rows
from benchmarks.proxy_runs.store import Store, branch_counts
from benchmarks.proxy_runs.training import State, advance, validation_losses

SAVE_EVERY = 500
"""Updates between two checkpoints of a run."""

MOST = 50
"""Updates made in one call, at most."""

KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**31)}
"""For the C library of the workers: memory of one update serves the next; else an update takes 1.7 times as long."""

_corpus = cache(Corpus.of_standard_library)


def train_grid(grid: list[RunConfig], work: Path, *, workers: int, lanes: int, only: str = "*") -> dict[str, Rows]:
    """Trains what is not trained yet and returns the rows of what is trained by its name.

    Args:
      grid: the runs.
      work: folder of checkpoints and finished curves.
      workers: processes; each keeps to one core, so that a curve does not depend on how many there are. 1 trains in
        this process, on whatever device JAX has.
      lanes: runs of one shape that a process trains at once. A curve's rounding depends on it.
      only: globs of the names of the runs to train, comma-separated; others keep their place in the grid, so that what
        they start from is kept.
    """
    corpus = _corpus()
    print(f"text: {len(corpus.train):,} bytes to train on, {len(corpus.validation):,} held out ({corpus.digest[:12]})")
    tasks = groups(grid, across_stems=lanes > 1)
    if workers == 1:
        for task in tasks:
            train_group(task, work, lanes, only)
    else:
        _in_processes(tasks, work, workers, lanes, only)
    return finished(grid, work)


def finished(grid: list[RunConfig], work: Path) -> dict[str, Rows]:
    """The rows of the runs that are trained to their end."""
    found = {run.name: Store(work, run, _corpus()).finished() for run in grid}
    return {name: rows for name, rows in found.items() if rows is not None}


def groups(grid: list[RunConfig], *, across_stems: bool) -> list[list[RunConfig]]:
    """Runs that are trained by one process, in the grid's order: those of one shape, or only those of one stem."""
    found: dict[Any, list[RunConfig]] = {}
    for run in grid:
        shape = replace(run.setup, seed=0)
        found.setdefault(shape if across_stems else (run.setup, run.schedule.peak_lr), []).append(run)
    return list(found.values())


def _in_processes(tasks: list[list[RunConfig]], work: Path, workers: int, lanes: int, only: str) -> None:
    os.environ.update(KEEP_MEMORY)
    context = multiprocessing.get_context("spawn")
    cores = context.SimpleQueue()
    for core in sorted(os.sched_getaffinity(0)) * workers:
        cores.put(core)
    with ProcessPoolExecutor(workers, context, _keep_to_one_core, (cores,)) as pool:
        for done in as_completed([pool.submit(train_group, task, work, lanes, only) for task in tasks]):
            done.result()


def _keep_to_one_core(cores: Any) -> None:
    os.sched_setaffinity(0, {cores.get()})


def train_group(runs: list[RunConfig], work: Path, lanes: int, only: str = "*") -> None:
    """Trains runs of one shape: first those that others start from, then the others."""
    corpus = _corpus()
    stems = [run for run in runs if run.is_stem]
    for wave in (stems, [run for run in runs if not run.is_stem]):
        asked = [run for run in wave if any(fnmatchcase(run.name, glob) for glob in only.split(","))]
        waiting = [run for run in asked if Store(work, run, corpus).finished() is None]
        _train(waiting, work, lanes, grid=runs)


def _train(waiting: list[RunConfig], work: Path, lanes: int, grid: list[RunConfig]) -> None:
    waiting, active = list(waiting), []
    while waiting or active:
        while waiting and len(active) < lanes:
            active.append(Lane(waiting.pop(0), work, _corpus(), grid))
        advance_lanes(active, lanes)
        active = [lane for lane in active if not lane.is_finished]


class Lane:
    """One run in progress.

    Args:
      run: the run.
      work: where its checkpoints are.
      corpus: the text.
      grid: all runs; where others leave this run's way, its checkpoints are kept.
    """

    def __init__(self, run: RunConfig, work: Path, corpus: Corpus, grid: list[RunConfig]) -> None:
        self.run, self.rates = run, run.rates()
        self._store, self._corpus = Store(work, run, corpus), corpus
        self._keep = branch_counts(run, grid)
        self.count, self.state, self._rows = self._store.resume(State.initial(run.setup))
        self._saved, self._first, self._clock = self.count, self.count, time.perf_counter()

    @property
    def is_finished(self) -> bool:
        """Whether all updates were made."""
        return self.count == self.run.total_steps

    def until_next_stop(self) -> int:
        """Updates until the next row or checkpoint is due."""
        later = range(self.count + 1, self.run.total_steps + 1)
        return next(count for count in later if self.run.logs(count - 1) or self._saves(count)) - self.count

    def data(self, updates: int) -> tuple[np.ndarray, np.ndarray]:
        """Sequences ``[MOST, batch, context + 1]`` and rates ``[MOST]`` of the next updates, then zeros."""
        setup = self.run.setup
        tokens, rates = np.zeros((MOST, setup.batch, setup.context + 1), np.uint8), np.zeros(MOST, np.float32)
        for i in range(updates):
            tokens[i] = self._corpus.batch(setup, self.count + i)
        rates[:updates] = self.rates[self.count : self.count + updates]
        return tokens, rates

    def logs_after(self, updates: int) -> bool:
        """Whether a row is due after some more updates."""
        return self.run.logs(self.count + updates - 1)

    def accept(self, state: State, updates: int, losses: tuple[float, ...]) -> None:
        """Takes over the state after some updates, and its losses if a row is due."""
        self.state, self.count = state, self.count + updates
        if self.run.logs(self.count - 1):
            self._rows.append((self.count - 1, *losses))
        if self.is_finished:
            self._store.finish(self._rows)
            self._report()
        elif self._saves(self.count):
            self._store.save(self.count, self.state, self._rows)
        else:
            return
        self._forget()

    def _saves(self, count: int) -> bool:
        return count in self._keep or count % SAVE_EVERY == 0

    def _forget(self) -> None:
        """Removes the checkpoint before the latest one, unless other runs start from it."""
        if self._saved not in self._keep and self._saved != self._first:
            self._store.discard(self._saved)
        self._saved = self.count

    def _report(self) -> None:
        elapsed = time.perf_counter() - self._clock
        start = f"from update {self._first} of {self.run.total_steps}"
        print(f"{self.run.name}: {start}, loss {self._rows[-1][1]:.4f}, {elapsed:.0f} s", flush=True)


def advance_lanes(active: list[Lane], lanes: int) -> None:
    """Makes updates in all lanes until one of them stops; idle lanes repeat the last active one."""
    setup, updates = replace(active[0].run.setup, seed=0), min(MOST, *(lane.until_next_stop() for lane in active))
    filled = active + active[-1:] * (lanes - len(active))
    tokens, rates = map(np.stack, zip(*(lane.data(updates) for lane in filled), strict=True))
    states = advance(_stacked(lane.state for lane in filled), tokens, rates, updates, setup)
    sets = _measured_sets(setup) if any(lane.logs_after(updates) for lane in active) else []
    losses = [validation_losses(states.params, sequences, setup.model) for sequences in sets]
    for i, lane in enumerate(active):
        own = tuple(float(loss[i]) for loss in losses)
        lane.accept(jax.tree.map(lambda leaf, i=i: leaf[i], states), updates, own)


@cache
def _measured_sets(setup: Setup) -> list[np.ndarray]:
    return _corpus().measured_sets(setup)


def _stacked(states: Iterable[State]) -> State:
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *states)
