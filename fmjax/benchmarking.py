"""What a device can do with fmjax: candidate-updates and fits per second, beside the device's own limits."""

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmjax._json import Record, plain
from fmjax._version import __version__
from fmjax.datasets import demo_runs
from fmjax.effects.updates import Update
from fmjax.fitting.fits import fit_groups
from fmjax.fitting.lanes import Jobs, minimise
from fmjax.fitting.options import ONE_FIT
from fmjax.fitting.problem import prepare
from fmjax.laws import LAWS, ForwardMomentum, Law, LRAnnealing, Row, make_law
from fmjax.searching.grid import Grid
from fmjax.searching.kernels import Kernel, Layout, stands_for_all
from fmjax.searching.panels import Panels
from fmjax.searching.run_ends import Alike, Run, alike, end_effects, groups_of

BENCHMARK_FORMAT = 1
"""Version of the JSON of a benchmark."""

MEASURED_LAW = ForwardMomentum()
"""Law of the searches by size."""

VECTOR = np.array([2.0, 0.3, 0.05, 0.5])
"""Its parameters L0, A, C, alpha."""

MEASURED_RATIOS = np.linspace(0.01, 0.5, 64)
"""Annealing ratios of each peak rate."""

MEASURED_STEPS = 20_000
"""Updates of each schedule."""

MEASURED_LENGTHS = (1000, 10_000, 100_000, 1_000_000)
"""The same of the searches by law."""

SCANNED = 64, 1000
"""Candidates of a plain scan, and updates of each."""

HOSTS = 64
"""Hosts of the largest machine in the table of capacities."""


class SearchRate(NamedTuple):
    """Speed of a search: final effects and losses of WSD schedules with linear decay, law ``forward-momentum``."""

    dtype: str
    share_stem: bool
    """Always False: no schedule is followed, so that schedules share nothing on the way."""
    candidates: int
    total_steps: int
    compile_seconds: float
    seconds: float
    candidate_updates_per_s: float
    """candidates x total_steps / seconds; a few updates of each candidate stand for all."""
    flops_per_s: float
    """Arithmetic that effects took, as XLA counts it: what a loop repeats counts once, a root as little as a sum."""
    fraction_of_peak: float
    """The same as a share of the measured multiply-add rate."""
    processor_seconds: float = float("nan")
    """What a run takes of the host's processors; more than its time where several cores are busy."""


class LawRate(NamedTuple):
    """Speed of a search with a law, 64 peak rates x 64 ratios in float64, beside a scan over every update."""

    law: str
    search: SearchRate
    scan_updates_per_s: float
    """Candidate-updates per second of ``Law.step`` under ``lax.scan`` and ``vmap``, on one device."""

    def to_dict(self) -> dict[str, object]:
        """The fields of all in one record."""
        return {"law": self.law, **self.search._asdict(), "scan_updates_per_s": self.scan_updates_per_s}


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
    laws: tuple[LawRate, ...] = ()
    """Every law by length of the runs."""

    @property
    def capacities(self) -> tuple[Capacity, ...]:
        """Time that 1e9, 1e12 and 1e15 candidate-updates take at the best rate of a search."""
        best = max(rate.candidate_updates_per_s for rate in self.search)
        return tuple(Capacity(work, work / best, work / best / HOSTS) for work in (1e9, 1e12, 1e15))

    def to_dict(self) -> dict[str, object]:
        """The benchmark as plain values for JSON: the fields above, ``format``, ``capacities`` and ``hosts``."""
        records = {name: [one._asdict() for one in getattr(self, name)] for name in ("search", "fits", "capacities")}
        records["laws"] = [one.to_dict() for one in self.laws]
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
        for batch in batches:
            say(f"search of {batch:g} candidates, {dtype}")
            kernel = ratio_sweep(int(batch) // MEASURED_RATIOS.size, MEASURED_RATIOS, MEASURED_STEPS, dtype)
            search.append(search_rate(kernel, 2 * peaks[dtype]))
    laws: list[LawRate] = []
    for name in ("forward-momentum", "intrinsic-momentum") if quick else LAWS:
        say(f"searches with {name}")
        laws.extend(law_rates(name, MEASURED_LENGTHS[::3] if quick else MEASURED_LENGTHS, 2 * peaks["float64"]))
    fits = []
    for lanes in (1024,) if quick else (1024, 16_384):
        say(f"{lanes} fits")
        fits.append(fit_rate(lanes))
    return Benchmark(_environment(), memory, peaks, tuple(search), tuple(fits), tuple(laws))


def use_device(kind: str) -> None:
    """Has this process compute on one kind of device, one of ``DEVICES``; before it has computed anything.

    Raises:
      ValueError: if the machine has none, or JAX has no plugin for it.
    """
    jax.config.update("jax_platforms", kind)
    try:
        jax.local_devices()
    except RuntimeError as error:
        raise ValueError(f"--device {kind}: JAX finds none here ({str(error).splitlines()[0]})") from None


def _environment() -> dict[str, object]:
    device = jax.local_devices()[0]
    versions = {"fmjax": __version__, "jax": jax.__version__, "python": platform.python_version()}
    machine = {"platform": device.platform, "device": device.device_kind, "devices": jax.local_device_count()}
    return {**versions, **machine, "cores": os.cpu_count()}


class _Timed(NamedTuple):
    """What runs of one program take, in seconds."""

    compiling: float
    best: float
    """Of the best run after the first."""
    processor: float
    """Of the host's processors, in that run."""


def _timed(run: Callable[[], object], repeats: int = 3) -> _Timed:
    """Times a run that compiles, and some after it."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter(), time.process_time()
        run()
        seconds.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    best = min(seconds[1:])
    return _Timed(max(seconds[0][0] - best[0], 0.0), *best)


def _on_all(function: Callable[[jax.Array], jax.Array], make: Callable[[], jax.Array]) -> float:
    """Seconds of the function on an array of each device at once."""
    compiled = jax.jit(function)
    arrays = [jax.device_put(make(), device) for device in jax.local_devices()]
    return _timed(lambda: jax.block_until_ready([compiled(array) for array in arrays])).best


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
    return Kernel(law, vector[None], grid, dtype, layout)


def search_rate(kernel: Kernel, peak_flops: float) -> SearchRate:
    """Measures a search; ``peak_flops`` is what the machine could do."""
    grid, rows = kernel.grid, kernel.layout.rows

    def run() -> None:
        for _ in kernel.losses(grid.parts(rows)):
            pass

    compiling, seconds, processor = _timed(run)
    total = int(grid.total_steps[0])
    updates, flops = grid.candidates * total / seconds, _flops(kernel) / seconds
    return SearchRate(
        kernel.dtype, False, grid.candidates, total, compiling, seconds, updates, flops, flops / peak_flops, processor
    )


def law_rates(name: str, lengths: Sequence[int], peak_flops: float) -> Iterator[LawRate]:
    """Measures searches with a law, of runs of several lengths."""
    law = make_law(name)
    values = [1.0] * len(law.coefficients) + [exponent.starts[0] for exponent in law.exponents]
    settled = law.settled(np.array(values))
    scan = scan_rate(settled[0])
    for total in lengths:
        kernel = ratio_sweep(64, MEASURED_RATIOS, total, "float64", *settled)
        yield LawRate(name, search_rate(kernel, peak_flops), scan)


def scan_rate(law: Law) -> float:
    """Candidate-updates per second of the recursion over every update, of ``SCANNED`` candidates side by side."""

    def last(lrs: jax.Array) -> Row:
        def advance(state: Any, update: Update) -> tuple[Any, None]:
            return law.step(state, update), None

        return law.observe(jax.lax.scan(advance, law.init(lrs.dtype), law.counted(lrs, 0))[0])

    with jax.enable_x64(True):
        peaks, falling = np.geomspace(1e-4, 1e-2, SCANNED[0]), np.linspace(1, 0.1, SCANNED[1])
        run = jax.jit(jax.vmap(last))
        rates = jnp.asarray(peaks[:, None] * falling)
        seconds = _timed(lambda: jax.block_until_ready(run(rates))).best
    return float(np.prod(SCANNED)) / seconds


def _flops(kernel: Kernel) -> float:
    """Arithmetic of the effects of all candidates of a grid of one part, as XLA counts it for a few."""
    grid, law = kernel.grid, jax.tree.map(float, kernel.law)
    scaled = stands_for_all(law, grid)
    part, lanes = grid.part(0, kernel.layout.rows), 1 if scaled else kernel.layout.lanes
    seen = grid.unit(part) if scaled else part
    group = [next(groups_of(law, seen, grid, lanes))]
    runs, panels = alike(law, group, seen, grid, (1, lanes), kernel.dtype)

    def follow(law: Law, runs: Alike, panels: Panels, run: Run) -> Row:
        return end_effects(law, jax.tree.map(lambda x: x[0], runs), panels, run, decay=part.decay)

    with jax.enable_x64(True):
        run = Run(part.total_steps, grid.warmup_steps, grid.init_lr)
        cost = jax.jit(follow).lower(law, runs, panels, run).compile().cost_analysis()
    return float((cost or {})["flops"]) * grid.candidates / (grid.peak_lr.size if scaled else lanes)


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
        compiling, seconds, _ = _timed(lambda: minimise(problem.law, rows, jobs))
    return FitRate(lanes, count, compiling, seconds, lanes / seconds)
