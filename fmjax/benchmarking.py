"""What a device can do with fmjax: candidate-updates and fits per second, beside the device's own limits."""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from fmjax._json import Record, plain
from fmjax._version import __version__
from fmjax.datasets import demo_runs
from fmjax.effects.updates import Block, One
from fmjax.fitting.fits import fit_groups
from fmjax.fitting.lanes import Jobs, minimise
from fmjax.fitting.options import ONE_FIT
from fmjax.fitting.problem import prepare
from fmjax.laws import ForwardMomentum, Law, LRAnnealing
from fmjax.searching.grid import Grid
from fmjax.searching.kernels import Kernel, Layout
from fmjax.searching.rollout import BLOCK_SIZES, block_phases

BENCHMARK_FORMAT = 1
"""Version of the JSON of a benchmark."""

MEASURED_LAW = ForwardMomentum()
"""Law of the searches."""

VECTOR = np.array([2.0, 0.3, 0.05, 0.5])
"""Its parameters L0, A, C, alpha."""

MEASURED_RATIOS = np.linspace(0.01, 0.5, 64)
"""Annealing ratios of each peak rate."""

MEASURED_STEPS = 20_000
"""Updates of each schedule."""

HOSTS = 64
"""Hosts of the largest machine in the table of capacities."""


class SearchRate(NamedTuple):
    """Speed of a search: final effects and losses of WSD schedules with linear decay, law ``forward-momentum``."""

    dtype: str
    share_stem: bool
    """Whether schedules of one peak rate share their stem; else each is followed from its first update."""
    candidates: int
    total_steps: int
    compile_seconds: float
    seconds: float
    candidate_updates_per_s: float
    """candidates x total_steps / seconds, whether an update was computed by itself, in a block or shared."""
    flops_per_s: float
    """Arithmetic that was really done, as XLA counts it."""
    fraction_of_peak: float
    """The same as a share of the measured multiply-add rate."""


class FitRate(NamedTuple):
    """Speed of the fit of ``lr-annealing`` to the shipped curves under random row weights, in float64."""

    lanes: int
    rows: int
    compile_seconds: float
    seconds: float
    fits_per_s: float


class Capacity(NamedTuple):
    """What so many candidate-updates cost at the best measured rate."""

    candidate_updates: float
    seconds: float
    seconds_on_hosts: float
    """On ``HOSTS`` such hosts; parts of a search do not talk to each other."""


@dataclass(frozen=True)
class Benchmark(Record):
    """Measured rates of one machine, and what they were measured on."""

    environment: dict[str, object]
    """``fmjax``, ``jax``, ``python`` versions, ``platform``, ``device`` kind, ``devices``, ``cores``."""
    memory_bytes_per_s: float
    """Measured rate of reading and writing a large array."""
    multiply_adds_per_s: dict[str, float]
    """Measured rate of multiply-adds (2 flops each) on all devices, by dtype."""
    search: tuple[SearchRate, ...]
    fits: tuple[FitRate, ...]

    @property
    def capacities(self) -> tuple[Capacity, ...]:
        """Time that 1e9, 1e12 and 1e15 candidate-updates take at the best rate of a search."""
        best = max(rate.candidate_updates_per_s for rate in self.search)
        return tuple(Capacity(work, work / best, work / best / HOSTS) for work in (1e9, 1e12, 1e15))

    def to_dict(self) -> dict[str, object]:
        """The benchmark as plain values for JSON: the fields above, ``format``, ``capacities`` and ``hosts``."""
        records = {name: [one._asdict() for one in getattr(self, name)] for name in ("search", "fits", "capacities")}
        limits = {name: getattr(self, name) for name in ("environment", "memory_bytes_per_s", "multiply_adds_per_s")}
        return plain({"format": BENCHMARK_FORMAT, **limits, **records, "hosts": HOSTS})


def benchmark(*, quick: bool = False, progress: Callable[[str], None] | None = None) -> Benchmark:
    """Measures this machine; every figure is the best of a few runs, after compilation.

    Args:
      quick: fewer sizes, below a minute on two cores.
      progress: called with the name of each measurement.

    >>> from fmjax.benchmarking import benchmark
    >>> benchmark(quick=True).capacities[0].candidate_updates  # doctest: +SKIP
    1000000000.0
    """
    say = progress or (lambda stage: None)
    batches = (1e5,) if quick else (1e3, 1e4, 1e5, 1e6)
    say("memory and arithmetic")
    memory = memory_bandwidth()
    peaks = {dtype: multiply_add_rate(dtype) for dtype in ("float32", "float64")}
    search = []
    for dtype in peaks:
        for share in (True, False):
            for batch in batches:
                say(f"search of {batch:g} candidates, {dtype}" + ("" if share else ", each from its first update"))
                search.append(
                    search_rate(dtype, share, int(batch) // MEASURED_RATIOS.size, MEASURED_STEPS, 2 * peaks[dtype])
                )
    fits = []
    for lanes in (1024,) if quick else (1024, 16_384):
        say(f"{lanes} fits")
        fits.append(fit_rate(lanes))
    return Benchmark(_environment(), memory, peaks, tuple(search), tuple(fits))


def _environment() -> dict[str, object]:
    device = jax.local_devices()[0]
    versions = {"fmjax": __version__, "jax": jax.__version__, "python": platform.python_version()}
    machine = {"platform": device.platform, "device": device.device_kind, "devices": jax.local_device_count()}
    return {**versions, **machine, "cores": os.cpu_count()}


def _timed(run: Callable[[], object], repeats: int = 3) -> tuple[float, float]:
    """(seconds of compilation, seconds of the best run after it)."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return max(seconds[0] - min(seconds[1:]), 0.0), min(seconds[1:])


def _on_all(function: Callable[[jax.Array], jax.Array], make: Callable[[], jax.Array]) -> float:
    """Seconds of the function on an array of each device at once."""
    compiled = jax.jit(function)
    arrays = [jax.device_put(make(), device) for device in jax.local_devices()]
    return _timed(lambda: jax.block_until_ready([compiled(array) for array in arrays]))[1]


def memory_bandwidth(elements: int = 2**26) -> float:
    """Bytes per second of reading and writing arrays of float32, all devices together."""
    seconds = _on_all(lambda x: x + 1, lambda: jnp.zeros(elements, jnp.float32))
    return 2 * 4 * elements * jax.local_device_count() / seconds


def multiply_add_rate(dtype: str, size: int = 1024) -> float:
    """Multiply-adds per second of products of square matrices at full precision, all devices together."""

    def products(x: jax.Array) -> jax.Array:
        for _ in range(4):
            x = jnp.matmul(x, x, precision=jax.lax.Precision.HIGHEST)
        return x

    with jax.enable_x64(True):
        seconds = _on_all(products, lambda: jnp.full((size, size), 1.0 / size, dtype))
    return 4 * size**3 * jax.local_device_count() / seconds


def ratio_sweep(
    peaks: int,
    ratios: np.ndarray,
    total_steps: int,
    dtype: str,
    share_stem: bool,
    law: Law = MEASURED_LAW,
    vector: np.ndarray = VECTOR,
) -> Kernel:
    """The kernel of a search with a law over peak rates from 1e-4 to 1e-2 and ratios, linear to zero."""
    grid = Grid.of(
        total_steps=total_steps,
        peak_lr=np.geomspace(1e-4, 1e-2, peaks),
        decay="linear",
        final_lr=0.0,
        anneal_ratio=ratios,
        warmup_steps=0,
        init_lr=0.0,
    )
    layout = Layout.of(grid, 1, jax.local_devices()[0].platform, law)
    return Kernel(law, vector[None], grid, dtype, layout, share_stem)


def search_rate(dtype: str, share_stem: bool, peaks: int, total_steps: int, peak_flops: float) -> SearchRate:
    """Measures a search over ``peaks`` peak rates and ``MEASURED_RATIOS`` through the kernel that searches use."""
    kernel = ratio_sweep(peaks, MEASURED_RATIOS, total_steps, dtype, share_stem)
    grid, rows = kernel.grid, kernel.layout.rows
    compiling, seconds = _timed(lambda: [losses for _, losses in kernel.losses(grid.parts(rows))])
    flops = peaks * _flops(MEASURED_LAW, dtype, grid, share_stem) / seconds
    updates = grid.candidates * total_steps / seconds
    return SearchRate(
        dtype, share_stem, grid.candidates, total_steps, compiling, seconds, updates, flops, flops / peak_flops
    )


def _flops(law: ForwardMomentum, dtype: str, grid: Grid, share_stem: bool) -> float:
    """Arithmetic of all ratios of one peak rate: the updates and blocks taken, at what XLA counts for each."""
    total = int(grid.total_steps[0])
    starts = np.floor(total - grid.anneal_ratio * total).astype(np.int32)
    pieces = [(start, total - start) for start in starts]
    pieces += [(0, int(starts.max()))] if share_stem else [(0, start) for start in starts]
    taken = np.sum([_taken(*piece) for piece in pieces], axis=0)
    return float(taken @ [_cost(law, dtype, size) for size in BLOCK_SIZES])


def _taken(kink: int, length: int) -> np.ndarray:
    """Updates and blocks of each of ``BLOCK_SIZES`` in a smooth piece."""
    levels, _, counts = map(np.asarray, block_phases(kink, kink + length, kink, kink + length))
    return np.bincount(levels, counts, minlength=len(BLOCK_SIZES))


def _cost(law: ForwardMomentum, dtype: str, size: int) -> float:
    """Flops of one update or block of one candidate."""

    def step(state: chex.ArrayTree, rate: jax.Array, drop: jax.Array) -> chex.ArrayTree:
        return law.step(state, One(rate, drop) if size == 1 else Block((rate,) * 4, (drop,) * 4, size))

    with jax.enable_x64(True):
        lanes = jnp.ones(1024, dtype)
        state = jax.tree.map(lambda x: jnp.broadcast_to(x, lanes.shape), law.init(dtype))
        cost = jax.jit(jax.vmap(step)).lower(state, lanes, lanes).compile().cost_analysis()
    return float((cost or {})["flops"]) / lanes.size


def fit_rate(lanes: int) -> FitRate:
    """Measures fits under random row weights, from one closed-form start each."""
    curves = demo_runs()
    everyone = np.ones((1, len(curves)), bool)
    problem = prepare(LRAnnealing(decay=0.98, rho=0.5), curves, fitted=everyone[0], options=ONE_FIT)
    fitted, rows = fit_groups(problem, everyone, ONE_FIT)[0], problem.rows(everyone[0])
    count = rows.loss.shape[1]
    weights = np.random.default_rng(0).exponential(size=(lanes, count))
    jobs = Jobs(np.zeros(lanes, int), weights, np.repeat(fitted.vector[None], lanes, axis=0))
    with jax.enable_x64(True):
        compiling, seconds = _timed(lambda: minimise(problem.law, rows, jobs))
    return FitRate(lanes, count, compiling, seconds, lanes / seconds)
