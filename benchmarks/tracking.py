"""What tracking S and M costs a training step: the same step with and without it, in turn.

    python -m benchmarks.tracking

The model is the byte-level transformer of ``benchmarks/proxy_runs``; the tracker's work does not depend on the model's
size, so the smallest model shows it at its largest share.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from benchmarks.proxy_runs import model
from benchmarks.proxy_runs.config import Setup
from benchmarks.proxy_runs.grids import SIZES
from fmjax import WSD, track_annealing

Step = Callable[[Any, Any, Any], tuple[Any, Any]]


def main() -> None:
    """Times the step for each size and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="0.025M,0.1M,0.4M", help="models, comma-separated (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=60, help="pairs of timings of each model (default: 60)")
    parser.add_argument("--updates", type=int, default=10, help="updates per timing (default: 10)")
    arguments = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, {arguments.rounds} pairs of {arguments.updates} updates")
    print(f"{'model':>8}  {'plain, ms':>9}  {'tracked, ms':>11}  ratio (90 % interval of the median)")
    for size in arguments.sizes.split(","):
        plain, tracked = timings(size, arguments.rounds, arguments.updates)
        low, high = interval(tracked / plain)
        times = f"{1e3 * np.median(plain):9.2f}  {1e3 * np.median(tracked):11.2f}"
        print(f"{size:>8}  {times}  {np.median(tracked / plain):.4f} ({low:.4f} ... {high:.4f})", flush=True)


def timings(size: str, rounds: int, updates: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds per update without and with the tracker, ``[rounds]`` each; pairs are timed one right after the other."""
    setup = Setup(SIZES[size])
    tokens = np.random.default_rng(0).integers(256, size=(setup.batch, setup.context + 1)).astype(np.uint8)
    schedule = WSD(2.5e-3, 4000, 0.3, warmup_steps=100)
    params = model.init(setup.model, 0)
    optimizers = [optax.adamw(schedule), optax.chain(optax.adamw(schedule), track_annealing(schedule))]
    steps = [jax.jit(partial(_step, optimizer, setup)) for optimizer in optimizers]
    carries = [(params, optimizer.init(params)) for optimizer in optimizers]
    found = np.zeros((rounds + 1, 2))
    for i in range(rounds + 1):
        for k in (0, 1) if i % 2 else (1, 0):
            found[i, k], carries[k] = _timed(steps[k], carries[k], tokens, updates)
    return found[1:, 0], found[1:, 1]  # the first round compiles


def _step(optimizer: Any, setup: Setup, params: Any, state: Any, tokens: Any) -> tuple[Any, Any]:
    gradients = jax.grad(model.loss)(params, tokens, setup.model)
    changes, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, changes), state


def _timed(step: Step, carry: Any, tokens: np.ndarray, updates: int) -> tuple[float, Any]:
    begin = time.perf_counter()
    for _ in range(updates):
        carry = step(*carry, tokens)
    jax.block_until_ready(carry)
    return (time.perf_counter() - begin) / updates, carry


def interval(ratios: np.ndarray) -> tuple[float, float]:
    """90 % interval of the median, by resampling."""
    draws = np.random.default_rng(0).choice(ratios, (2000, ratios.size))
    low, high = np.quantile(np.median(draws, axis=1), [0.05, 0.95])
    return float(low), float(high)


if __name__ == "__main__":
    main()
