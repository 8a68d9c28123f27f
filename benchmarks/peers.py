"""Forward effect S and annealing momentum M of many schedules, written without fmjax: what its speed is compared with.

    python -m benchmarks.peers

checks every peer against fmjax and prints how fast each one is. Schedules are WSD with linear decay to zero and no
warmup, given by peak rate and updates of anneal A = R T (which may be fractional, at most T). Results are S and M after
the last update. Every candidate runs through all T updates of its own.
"""

import math
import statistics
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np

import fmjax

BETA1, BETA2, EPS, SCALE = 0.9, 0.999, 1e-8, 1e5
"""Published coefficients of M, the defaults of ``fmjax.annealing_momentum``."""

BLOCKS = {"float64": 128, "float32": 256}
"""Candidates that ``numba_kernel`` takes through all updates together: 6 KiB of state."""

CLOSE = {"float64": 1e-10, "float32": 1e-3}
"""Largest relative difference from fmjax in float64; float32 adds up plainly, and loses digits with every update."""

TURNS = 5
"""Times that ``check`` times each peer."""

Effects = tuple[np.ndarray, np.ndarray]


def published_loop(peak_lr: float, anneal_steps: float, total_steps: int) -> tuple[float, float]:
    """S and M of one candidate as published code computes them: update by update into whole histories.

    On lists of Python floats, which is faster than indexing arrays of NumPy.

    Args:
      peak_lr: peak learning rate.
      anneal_steps: updates A of anneal.
      total_steps: number of updates T.
    """
    start = total_steps - anneal_steps
    lrs = [peak_lr * (1 - max(i - start, 0.0) / anneal_steps) for i in range(total_steps)]
    forward, momentum, first, second = [lrs[0]], [0.0], [0.0], [0.0]
    for i in range(1, total_steps):
        delta = lrs[i - 1] - lrs[i]
        first.append(BETA1 * first[-1] + (1 - BETA1) * delta)
        second.append(BETA2 * second[-1] + (1 - BETA2) * delta**2)
        unbiased_first = first[-1] / (1 - BETA1 ** (i + 1))
        unbiased_second = SCALE * second[-1] / (1 - BETA2 ** (i + 1))
        forward.append(forward[-1] + lrs[i])
        momentum.append(momentum[-1] + unbiased_first / (math.sqrt(unbiased_second + EPS) + EPS))
    return forward[-1], momentum[-1]


def numpy_loop(peak_lr: np.ndarray, anneal_steps: np.ndarray, total_steps: int) -> Effects:
    """S and M of ``[n]`` candidates: a Python loop over updates, NumPy over candidates.

    Args:
      peak_lr: ``[n]`` peak learning rates.
      anneal_steps: ``[n]`` updates A of anneal.
      total_steps: number of updates T.
    """
    slope, before = peak_lr / anneal_steps, peak_lr
    forward, momentum, first, second = np.zeros((4, peak_lr.size))
    for i in range(total_steps):
        lr = np.minimum(peak_lr, slope * (total_steps - i))
        delta, before = before - lr, lr
        first += (1 - BETA1) * (delta - first)
        second += (1 - BETA2) * (delta**2 - second)
        weight1, weight2 = 1 / (1 - BETA1 ** (i + 1)), SCALE / (1 - BETA2 ** (i + 1))
        forward += lr
        momentum += weight1 * first / (np.sqrt(weight2 * second + EPS) + EPS)
    return forward, momentum


@cache
def numba_kernel(dtype: type[np.floating] = np.float64, block: int | None = None) -> Callable[..., Effects]:
    """``numpy_loop`` compiled by Numba on all cores, arithmetic and results in ``dtype``.

    A block of candidates stays in the L1 cache for the whole run, and the loop over it is compiled to packed
    instructions: for each update one division, one square root and twelve other operations. State is loaded
    and stored once for two updates. Outside of the loop over blocks there are no array expressions, as Numba would make
    a parallel region of its own of each.

    Args:
      dtype: ``np.float64`` or ``np.float32``.
      block: candidates in a block; by default those of ``BLOCKS``.

    Raises:
      SystemExit: without Numba.
    """
    try:
        import numba
    except ImportError:
        raise SystemExit("benchmarks need: pip install numba") from None
    size = block or BLOCKS[np.dtype(dtype).name]
    beta1, beta2, eps = dtype(BETA1), dtype(BETA2), dtype(EPS)
    fast = {"nnan", "ninf", "nsz", "contract"}  # not "arcp": in float32 it trades division for slower estimates

    @numba.njit(parallel=True, fastmath=fast, error_model="numpy")
    def kernel(peak_lr: np.ndarray, anneal_steps: np.ndarray, total_steps: int) -> Effects:
        n = peak_lr.size
        forward, momentum = np.empty(n, dtype), np.empty(n, dtype)
        weight1, weight2 = np.empty(total_steps, dtype), np.empty(total_steps, dtype)
        for i in range(total_steps):  # bias corrections; 1 - beta is taken out of the moments and into these
            weight1[i] = (1 - BETA1) / (1 - BETA1 ** (i + 1))
            weight2[i] = SCALE * (1 - BETA2) / (1 - BETA2 ** (i + 1))
        for at in numba.prange((n + size - 1) // size):
            begin = at * size
            count = min(size, n - begin)
            peak, slope, s, m, first, second = np.zeros((6, size), dtype)
            for j in range(count):
                peak[j] = peak_lr[begin + j]
                slope[j] = peak_lr[begin + j] / anneal_steps[begin + j]
                s[j] = peak_lr[begin + j] * (total_steps % 2)  # update 0 of an odd run adds its rate alone
            for i in range(total_steps % 2, total_steps, 2):
                for j in range(size):
                    for k in range(i, i + 2):
                        lr = min(peak[j], slope[j] * dtype(total_steps - k))
                        delta = min(peak[j] - lr, slope[j])  # the last rate less this one
                        s[j] += lr
                        first[j] = beta1 * first[j] + delta
                        second[j] = beta2 * second[j] + delta * delta
                        m[j] += weight1[k] * first[j] / (np.sqrt(weight2[k] * second[j] + eps) + eps)
            for j in range(count):
                forward[begin + j] = s[j]
                momentum[begin + j] = m[j]
        return forward, momentum

    return kernel


def published_loops(peak_lr: np.ndarray, anneal_steps: np.ndarray, total_steps: int) -> Effects:
    """``published_loop`` of one candidate after the other."""
    pairs = zip(peak_lr.tolist(), anneal_steps.tolist(), strict=True)  # Python floats: faster here
    forward, momentum = np.array([published_loop(peak, anneal, total_steps) for peak, anneal in pairs]).T
    return forward, momentum


def reference(peak_lr: np.ndarray, anneal_steps: np.ndarray, total_steps: int) -> Effects:
    """S and M of ``[n]`` candidates by fmjax in float64, from stored rates."""

    def last(peak: Any, ratio: Any) -> tuple[jax.Array, jax.Array]:
        lrs = fmjax.schedules.lrs(fmjax.WSD(peak, total_steps, ratio), total_steps)
        return fmjax.forward_effect(lrs)[-1], fmjax.annealing_momentum(lrs)[-1]

    with jax.enable_x64(True):
        forward, momentum = jax.jit(jax.vmap(last))(peak_lr, anneal_steps / total_steps)
    return np.asarray(forward), np.asarray(momentum)


def check() -> None:
    """Holds every peer against fmjax and prints the largest relative differences and the rates.

    Rates are candidates times updates over seconds: the median and the best of turns that the peers take.

    Raises:
      AssertionError: when a peer differs by more than ``CLOSE``.
    """
    peers: dict[str, tuple[Callable[..., Effects], int, int]] = {  # and the candidates and updates to time it with
        "published loop": (published_loops, 2, 10_000),
        "numpy loop": (numpy_loop, 4096, 1000),
        "numba float64": (numba_kernel(np.float64), 4096, 10_000),
        "numba float32": (numba_kernel(np.float32), 4096, 10_000),
    }
    gaps, rates = {name: _gap(run) for name, (run, _, _) in peers.items()}, {name: [] for name in peers}
    for _ in range(TURNS):
        for name, (run, candidates, total_steps) in peers.items():
            peak_lr = np.geomspace(1e-4, 1e-2, candidates)
            anneal_steps = np.linspace(0.01, 0.99, candidates) * total_steps
            begin = time.perf_counter()
            run(peak_lr, anneal_steps, total_steps)
            rates[name].append(candidates * total_steps / (time.perf_counter() - begin) / 1e6)
    print(f"{'M candidate-updates/s':<22}{'median':>8}{'best':>8}{'off by':>10}")
    for name, gap in gaps.items():
        print(f"{name:<22}{statistics.median(rates[name]):>8.1f}{max(rates[name]):>8.1f}{gap:>10.1e}")


def _gap(run: Callable[..., Effects]) -> float:
    """Largest relative difference from fmjax, for even and odd T, on a full block and part of one."""
    gap = 0.0
    for total_steps in (1000, 1001):
        anneal_steps = np.resize([0.5, 1.0, 1.5, 37.25, 200.0, 640.625, 999.9, total_steps], 300)
        peak_lr = np.geomspace(1e-4, 1e-2, anneal_steps.size)
        found, expected = run(peak_lr, anneal_steps, total_steps), reference(peak_lr, anneal_steps, total_steps)
        for x, y in zip(found, expected, strict=True):
            np.testing.assert_allclose(x, y, rtol=CLOSE[x.dtype.name], atol=0)
            gap = max(gap, float(np.max(np.abs(x - y) / np.where(y == 0, 1, y))))
    return gap


if __name__ == "__main__":
    check()
