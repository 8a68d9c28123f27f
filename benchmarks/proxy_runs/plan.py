"""What a grid costs: the updates of each of its setups, and the hours they take at the speed of this machine."""

import time
from dataclasses import replace

import jax
import numpy as np

from benchmarks.proxy_runs.config import RunConfig, Setup
from benchmarks.proxy_runs.corpus import Corpus
from benchmarks.proxy_runs.runner import MOST, groups
from benchmarks.proxy_runs.store import shared_updates
from benchmarks.proxy_runs.training import State, advance, validation_losses

Speed = tuple[float, float]
"""Seconds of processor time of an update, and of measuring the losses once."""


def plan_text(grid: list[RunConfig]) -> str:
    """A line for each setup and peak rate, in the order of training, and the sum."""
    corpus, speeds, lines, total = Corpus.of_standard_library(), dict[Setup, Speed](), [], 0.0
    for runs in groups(grid, across_stems=False):
        shape = replace(runs[0].setup, seed=0)
        if shape not in speeds:
            speeds[shape] = _speed(shape, corpus)
        update, measuring = speeds[shape]
        count = _updates(runs)
        hours = count * (update + measuring / runs[0].log_every) / 3600
        total += hours
        name = runs[0].name.rsplit("-T", 1)[0]
        cost = f"{1e3 * update:.1f} ms, {1e3 * measuring:.0f} ms to measure losses"
        lines.append(f"{name}: {len(runs)} runs, {count} updates of {cost}: {hours:.2f} h")
    return "\n".join([*lines, f"{len(grid)} runs, {total:.1f} hours of one core"])


def _updates(runs: list[RunConfig]) -> int:
    """Updates of the runs of one stem, shared ones counted once."""
    stem, *others = runs
    return stem.total_steps + sum(run.total_steps - shared_updates(run, stem) for run in others)


def _speed(setup: Setup, corpus: Corpus) -> Speed:
    """Measured on the second of two calls; the first compiles."""
    states = jax.tree.map(lambda leaf: np.asarray(leaf)[None], State.initial(setup))
    tokens = np.stack([corpus.batch(setup, i) for i in range(MOST)])[None]
    rates = np.full((1, MOST), 1e-4, np.float32)
    sets = corpus.measured_sets(setup)
    for _ in range(2):
        start = time.process_time()
        states = jax.block_until_ready(advance(states, tokens, rates, MOST, setup))
        middle = time.process_time()
        for sequences in sets:
            validation_losses(states.params, sequences, setup.model)
        end = time.process_time()
    return (middle - start) / MOST, end - middle
