"""Trains a grid of runs, each from the furthest checkpoint that lies on its way."""

import time
from pathlib import Path

from benchmarks.proxy_runs.config import RunConfig
from benchmarks.proxy_runs.corpus import Corpus
from benchmarks.proxy_runs.manifest import Rows
from benchmarks.proxy_runs.store import Store, branch_counts
from benchmarks.proxy_runs.training import State, update, validation_loss

SAVE_EVERY = 200


def train_grid(grid: list[RunConfig], work: Path) -> dict[str, Rows]:
    """Trains what is not trained yet and returns every run's rows by its name."""
    corpus = Corpus.of_standard_library()
    print(f"text: {len(corpus.train):,} bytes to train on, {len(corpus.validation):,} held out ({corpus.digest[:12]})")
    return {run.name: train(run, Store(work, run, corpus), corpus, grid) for run in grid}


def train(run: RunConfig, store: Store, corpus: Corpus, grid: list[RunConfig]) -> Rows:
    """The run's rows, read if it was trained to its end before."""
    return store.finished() or Training(run, store, corpus, branch_counts(run, grid)).to_end()


class Training:
    """One run in progress.

    Args:
      run: the run.
      store: where its checkpoints are.
      corpus: the text.
      keep: counts of updates whose checkpoints other runs start from.
    """

    def __init__(self, run: RunConfig, store: Store, corpus: Corpus, keep: set[int]) -> None:
        self._run, self._store, self._corpus, self._keep = run, store, corpus, keep
        self._rates = run.rates()
        self._validation = corpus.validation_set(run.setup)
        self._state, self._rows = store.resume(State.initial(run.setup))
        self._saved = self._state.updates
        self._clock = time.perf_counter()

    def to_end(self) -> Rows:
        """Makes the remaining updates and returns the rows of the whole run."""
        print(f"{self._run.name}: from update {self._state.updates} of {self._run.total_steps}", flush=True)
        self._log()
        while self._state.updates < self._run.total_steps:
            self._update()
            self._log()
            self._checkpoint()
        self._store.finish(self._rows)
        self._forget()
        return self._rows

    def _update(self) -> None:
        setup, count = self._run.setup, self._state.updates
        self._state = update(self._state, self._corpus.batch(setup, count), self._rates[count], setup)

    def _log(self) -> None:
        """Adds the row that is due after the latest update, if it is not there yet."""
        step = self._state.updates - 1
        if self._run.logs(step) and (not self._rows or self._rows[-1][0] < step):
            loss = validation_loss(self._state.params, self._validation, self._run.setup.model)
            self._rows.append((step, loss))

    def _checkpoint(self) -> None:
        count = self._state.updates
        if count in self._keep or count % SAVE_EVERY == 0:
            self._store.save(self._state, self._rows)
            self._forget()
            self._saved = count
            self._report()

    def _forget(self) -> None:
        """Removes the checkpoint before the latest one, unless other runs start from it."""
        if self._saved not in self._keep:
            self._store.discard(self._saved)

    def _report(self) -> None:
        step, loss = self._rows[-1]
        elapsed = time.perf_counter() - self._clock
        print(f"  step {step:5d}  loss {loss:.4f}  lr {self._rates[step]:.2e}  {elapsed:6.0f} s", flush=True)
