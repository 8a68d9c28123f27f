"""Trains proxy runs whose batch changes, and predicts them from the shipped runs of one batch each.

    python -m benchmarks.batch_ramps [--work build/batch_ramps]

Prints for each run the mean error of its rows after warmup and the error of its final loss: under the stages of its
batch, and as if it had had its mean batch throughout. The runs are those of the shipped folder ``batches`` but for the
batch: 0.1M parameters, peak rate 0.0025, 2 000 updates. They take four minutes on one core, and are kept in the folder.
"""

import argparse
import dataclasses
from pathlib import Path

import jax
import numpy as np

import fmjax
from benchmarks.proxy_runs.config import Setup
from benchmarks.proxy_runs.corpus import Corpus
from benchmarks.proxy_runs.training import State, advance, validation_losses
from fmjax import LossCurve
from fmjax.fitting.records import RunMetrics
from fmjax.schedules.batch_stages import BatchStages
from fmjax.schedules.kinds import WSD, Constant, Schedule, lrs

TOTAL, EVERY = 2000, 50
_STEADY = Constant(2.5e-3, TOTAL, 100)
RAMPS: dict[str, tuple[Schedule, dict[int, int]]] = {
    "ramp, anneal of 0.2": (WSD(2.5e-3, TOTAL, 0.2, warmup_steps=100), {0: 4, 300: 8, 800: 16}),
    "doubled twice, constant rate": (_STEADY, {0: 16, 1400: 32, 1700: 64}),
    "times eight, constant rate": (_STEADY, {0: 4, 1000: 32}),
    "an eighth, constant rate": (_STEADY, {0: 32, 1000: 4}),
}
"""Schedule, and sequences an update from an update on, by name."""


def trained(schedule: Schedule, sequences: dict[int, int]) -> list[float]:
    """Validation losses after every ``EVERY`` updates."""
    setup, corpus = Setup(), Corpus.of_standard_library()
    held_out, rates = corpus.validation_set(setup), np.asarray(lrs(schedule), np.float32)
    state, losses = jax.tree.map(lambda leaf: np.asarray(leaf)[None], State.initial(setup)), []
    for begin in range(0, TOTAL, EVERY):
        batch = next(size for start, size in reversed(sequences.items()) if start <= begin)
        own = dataclasses.replace(setup, batch=batch)
        tokens = np.stack([corpus.batch(own, begin + i) for i in range(EVERY)])[None]
        state = jax.tree.map(np.asarray, advance(state, tokens, rates[None, begin : begin + EVERY], EVERY, own))
        losses.append(float(validation_losses(state.params, held_out, setup.model)[0]))
    return losses


def ramp(name: str, work: Path) -> LossCurve:
    """One of ``RAMPS``, trained unless it lies in the folder."""
    schedule, sequences = RAMPS[name]
    file = work / f"{name.replace(' ', '-')}.csv"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(f"{loss:.6f}" for loss in trained(schedule, sequences)), encoding="utf-8")
    stages = BatchStages(tuple(sequences), tuple(64.0 * size for size in sequences.values()))
    step = np.arange(EVERY, TOTAL + 1, EVERY) - 1
    return LossCurve(name, step, np.loadtxt(file), schedule, model_size=98_624, tokens_per_step=stages)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser("python -m benchmarks.batch_ramps", description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=Path("build/batch_ramps"), help="folder of trained runs (default: %(default)s)"
    )
    ramps = [ramp(name, parser.parse_args().work) for name in RAMPS]
    even = [dataclasses.replace(one, name=f"{one.name}, mean", tokens_per_step=one.mean_batch) for one in ramps]
    train = fmjax.datasets.proxy_runs("batches", "*")
    found = fmjax.evaluate("intrinsic-momentum", [*train, *ramps, *even], train=train)
    print(f"fitted: {len(train)} runs of one batch each, mean error {found.train_mape_percent:.2f} %")
    for staged, mean in zip(found.runs[len(train) : -len(even)], found.runs[-len(even) :], strict=True):
        errors = (f"{run.mape_percent:.2f} % (final {_final_error(run):+.2f} %)" for run in (staged, mean))
        print(f"{staged.name}: {', with its mean batch '.join(errors)}")


def _final_error(run: RunMetrics) -> float:
    return 100 * (run.final_loss_predicted / run.final_loss - 1)


if __name__ == "__main__":
    main()
