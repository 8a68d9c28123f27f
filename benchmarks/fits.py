"""Measures the batch engine against SciPy on bootstrap samples of one fit: time, objective reached, memory.

    python benchmarks/fits.py [RUNS] [--train split:train] [--law lr-annealing] [--quick] [--json FILE]

A bootstrap sample gives exponential weights to blocks of rows; engine and SciPy get the same samples and the same start
(the fit of the unweighted rows). Objectives are compared sample by sample with the least that any method found. Engine
figures use every core, SciPy figures one process.
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

import fmjax
from fmjax.curves import manifest
from fmjax.fitting import lanes
from fmjax.fitting.fits import fit_groups
from fmjax.fitting.objective import Objective, Rows, bounds, exponent_grid
from fmjax.fitting.objective import value as objective_value
from fmjax.fitting.options import FitOptions
from fmjax.fitting.problem import prepare
from fmjax.fitting.starts import closed_form_starts

BLOCK = 10
"""Successive rows that share a bootstrap weight."""

NOISE = 1e-3
"""Relative noise on rows that repeat another."""

CLOSE = 1e-9
"""Relative gap to the best known objective up to which a lane counts as solved."""

TIGHT = {"ftol": 1e-15, "gtol": 1e-12, "maxiter": 10_000, "maxfun": 200_000}
"""L-BFGS-B options that leave stopping to rounding."""


class Sizes(NamedTuple):
    """How much is measured."""

    lanes: int = 1024
    repeats: int = 5
    peers: int = 64
    grids: int = 4
    many_lanes: tuple[int, ...] = (64, 256, 1024, 4096, 16_384, 65_536)
    many_rows: tuple[int, ...] = (100, 300, 1000, 3000, 10_000)
    lanes_of_rows: int = 256


QUICK = Sizes(128, 2, 8, 1, (64, 256, 1024), (100, 300, 1000), 64)


class Case(NamedTuple):
    """One problem: the rows of some runs under a law, and the fit that every lane starts from."""

    law: fmjax.laws.Law
    rows: Rows
    run: np.ndarray
    """``[rows]`` run of each row."""
    start: np.ndarray
    """``[parameters]``."""
    objective: Objective


class Solved(NamedTuple):
    """What a method reached on each sample, and its time for each."""

    params: np.ndarray
    objective: np.ndarray
    seconds: np.ndarray
    success: np.ndarray


# ---------------------------------------------------------------------------------------------------------------------
# The problem and its bootstrap samples
# ---------------------------------------------------------------------------------------------------------------------


def load(path: str, train: str | None, law: str) -> Case:
    """The problem that ``fmjax.fit`` would solve for these runs."""
    curves = fmjax.load_runs(path)
    curves = manifest.select_runs(curves, train) if train else curves
    options, everyone = FitOptions(), np.ones(len(curves), bool)
    problem = prepare(law, curves, fitted=everyone.tolist(), options=options)
    found = fit_groups(problem, everyone[None], options)[0].lanes
    start = found.params[lanes.best(found)]
    objective = Objective(options.delta, options.over_weight)
    return Case(problem.law, problem.rows(everyone), problem.run_of_row(everyone), start, objective)


def weights_of(run: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Exponential weights on blocks of rows as a function of lane indices: the same whatever the chunk."""
    position = np.arange(run.size) - np.searchsorted(run, run)
    block = np.unique(run * run.size + position // BLOCK, return_inverse=True)[1]
    count = block.max() + 1

    def weights(index: np.ndarray) -> np.ndarray:
        cells = np.asarray(index, np.uint64)[:, None] * np.uint64(count) + np.arange(count, dtype=np.uint64)
        return -np.log(_uniform(cells))[:, block]

    return weights


def _uniform(x: np.ndarray) -> np.ndarray:
    """Numbers in (0, 1) from counters by SplitMix64."""
    x = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).astype(float) * 2.0**-53 + 2.0**-54


def resized(case: Case, count: int) -> Case:
    """The case with ``count`` rows: evenly chosen ones, or all of them repeated under fresh noise."""
    have = case.run.size
    copies = -(-count // have)
    index = np.sort(np.tile(np.arange(have), copies)[np.linspace(0, copies * have - 1, count).round().astype(int)])
    noise = NOISE * np.random.default_rng(0).standard_normal(count) if copies > 1 else np.zeros(count)
    rows = jax.tree.map(lambda x: x[:, index], case.rows)
    return case._replace(rows=rows._replace(loss=rows.loss * np.exp(noise)), run=case.run[index])


# ---------------------------------------------------------------------------------------------------------------------
# The engine
# ---------------------------------------------------------------------------------------------------------------------


def engine(case: Case, weights: Any, count: int) -> lanes.Lanes:
    """Fits samples 0 ... ``count`` - 1 from the start; the outcome is on the host."""
    jobs = lanes.Jobs(np.zeros(count, int), weights, np.tile(case.start, (count, 1)))
    return lanes.minimise(case.law, case.rows, jobs, case.objective)


def timed(call: Callable[[], Any], repeats: int) -> tuple[Any, float, float]:
    """Result, seconds of the first call beyond a later one, and the median of later ones."""
    jax.clear_caches()
    begin = time.perf_counter()
    result = call()
    first, times = time.perf_counter() - begin, []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    steady = statistics.median(times)
    return result, max(0.0, first - steady), steady


def measure(case: Case, weights: Any, count: int, repeats: int) -> tuple[lanes.Lanes, dict[str, Any]]:
    """Engine lanes with time and success beside each other."""
    found, compile_s, steady_s = timed(partial(engine, case, weights, count), repeats)
    return found, {
        "lanes": count,
        "rows": case.run.size,
        "compile_s": compile_s,
        "seconds": steady_s,
        "fits_per_s": count / steady_s,
        "mean_iterations": float(found.iterations.mean()),
        "max_iterations": int(found.iterations.max()),
        "converged": float(np.isin(found.status, (lanes.CONVERGED, lanes.AT_BOUND)).mean()),
        "peak_rss_mb": _peak_rss_mb(),
    }


def _peak_rss_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def growth(case: Case, sizes: Sizes) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Figures for more and more lanes, and for more and more rows; weights are made when a chunk needs them."""
    by_lanes = [measure(case, weights_of(case.run), count, min(sizes.repeats, 3))[1] for count in sizes.many_lanes]
    cases = [resized(case, count) for count in sizes.many_rows]
    by_rows = [measure(c, weights_of(c.run), sizes.lanes_of_rows, min(sizes.repeats, 3))[1] for c in cases]
    return by_lanes, by_rows


def single_precision(case: Case, weights: np.ndarray, repeats: int) -> tuple[lanes.Lanes, dict[str, Any]]:
    """The same lanes with rows, weights and starts in float32; objectives are those reached, in float64."""
    small = case._replace(rows=jax.tree.map(np.float32, case.rows), start=np.float32(case.start))
    with jax.enable_x64(False):
        found, record = measure(small, np.float32(weights), len(weights), repeats)
    record["statuses"] = {name: int(np.sum(found.status == i)) for i, name in enumerate(lanes.FIT_STATUS)}
    return found._replace(objective=objectives(case, weights, np.float64(found.params))), record


@jax.jit
def _objectives(case: Case, weights: jax.Array, params: jax.Array) -> jax.Array:
    one = partial(objective_value, case.law, "log", jax.tree.map(lambda x: x[0], case.rows), options=case.objective)
    return jax.lax.map(lambda lane: one(weights=lane[0], params=lane[1]), (weights, params))


def objectives(case: Case, weights: np.ndarray, params: np.ndarray) -> np.ndarray:
    """Objective of each lane at given parameters."""
    return np.asarray(_objectives(case, weights, params))


# ---------------------------------------------------------------------------------------------------------------------
# The best known objective of every lane
# ---------------------------------------------------------------------------------------------------------------------


def from_closed_form(case: Case, weights: np.ndarray, keep: int = 8) -> lanes.Lanes:
    """Each lane's best from its own closed-form starts."""
    count, grid = len(weights), exponent_grid(case.law)
    sets = np.zeros(count, int)
    starts = closed_form_starts(case.law, case.rows, sets, weights, case.objective, grid, residual="log", keep=keep)
    each = starts.shape[1]
    jobs = lanes.Jobs(np.repeat(sets, each), lambda i: weights[i // each], np.concatenate(np.asarray(starts)))
    found = lanes.minimise(case.law, case.rows, jobs, case.objective)
    found = jax.tree.map(lambda x: x.reshape(count, each, *x.shape[1:]), found)
    best = found.objective.argmin(axis=1)
    return jax.tree.map(lambda x: x[np.arange(count), best], found)


@partial(jax.jit, static_argnames="steps")
def polished(case: Case, weights: jax.Array, params: jax.Array, *, steps: int = 30) -> jax.Array:
    """Least objective of each lane by exact Newton steps (autodiff, not the engine's curvature) until none helps."""
    lower, upper = (jnp.asarray(bound) for bound in bounds(case.law))
    lengths = jnp.array([0.0, 1.0, 0.5, 0.25, 1 / 16, 1 / 256])
    rows = jax.tree.map(lambda x: x[0], case.rows)

    def lane(part: tuple[jax.Array, jax.Array]) -> jax.Array:
        weights, start = part
        value = partial(objective_value, case.law, "log", rows, weights, case.objective)
        unit = jnp.diag(jnp.where(start == 0, 1.0, jnp.abs(start)))

        def step(x: jax.Array, _: Any) -> tuple[jax.Array, None]:
            grad, hessian = unit @ jax.grad(value)(x), unit @ jax.hessian(value)(x) @ unit
            free = ~jnp.where(grad > 0, x <= lower, x >= upper)
            hessian = jnp.where(free[:, None] & free[None, :], hessian, jnp.diag(jnp.trace(hessian) * ~free))
            ridge = 1e-14 * jnp.trace(hessian) * jnp.eye(x.size)
            tries = x + lengths[:, None] * (unit @ jnp.linalg.solve(hessian + ridge, -grad * free))[None, :]
            tries = jnp.clip(tries, lower[None, :], upper[None, :])
            values = jax.vmap(value)(tries)
            return tries[jnp.argmin(jnp.where(jnp.isnan(values), jnp.inf, values))], None

        return value(jax.lax.scan(step, start, length=steps)[0])

    return jax.lax.map(lane, (weights, params), batch_size=64)


# ---------------------------------------------------------------------------------------------------------------------
# SciPy
# ---------------------------------------------------------------------------------------------------------------------


class Peer:
    """The objective of one sample in plain NumPy, in units of the start where a method is helped by that.

    Written for laws with one exponent: the second term is x^-alpha, the others do not depend on it.
    """

    def __init__(self, case: Case, weights: np.ndarray) -> None:
        row = jax.tree.map(lambda x: x[0], case.rows)
        basis = jax.vmap(case.law.basis, in_axes=(0, None), out_axes=-1)(row.effects, jnp.ones(1))
        self.fixed, self.log_x = np.delete(np.asarray(basis), 1, axis=0), np.log(np.asarray(basis)[1])
        self.log_loss, self.weights, self.delta = np.log(np.asarray(row.loss)), weights, case.objective.delta
        self.linear = np.delete(np.arange(case.start.size - 1), 1)
        self.start, self.unit = case.start, np.where(case.start == 0, 1.0, np.abs(case.start))
        self.bounds = bounds(case.law)

    def error(self, params: np.ndarray) -> np.ndarray:
        """Log predicted - log loss, large where nothing positive is predicted."""
        predicted = params[self.linear] @ self.fixed + params[1] * np.exp(params[-1] * self.log_x)
        return np.where(predicted > 0, np.log(np.where(predicted > 0, predicted, 1.0)) - self.log_loss, 10.0)

    def objective(self, params: np.ndarray) -> float:
        """The engine's objective: sum of weighted Huber losses."""
        size = np.abs(self.error(params))
        return self.weights @ np.where(size <= self.delta, 0.5 * size**2, self.delta * (size - 0.5 * self.delta))

    def plain(self) -> optimize.OptimizeResult:
        """L-BFGS-B as one would first write it; its tolerances are absolute, so objectives near 1e-4 end early."""
        return optimize.minimize(self.objective, self.start, method="L-BFGS-B", bounds=np.transpose(self.bounds))

    def scaled(self, start: np.ndarray | None = None, **options: float) -> optimize.OptimizeResult:
        """L-BFGS-B on parameters and objective in units of those at the start."""
        first, bounds = self.objective(self.start), np.transpose(self.bounds / self.unit)
        start = (self.start if start is None else start) / self.unit
        found = optimize.minimize(
            lambda z: self.objective(z * self.unit) / first, start, method="L-BFGS-B", bounds=bounds, options=options
        )
        found.x = found.x * self.unit
        return found

    def grid(self) -> optimize.OptimizeResult:
        """The best of ``scaled`` from a grid of starts."""
        return min((self.scaled(start) for start in start_grid(self.start)), key=lambda found: found.fun)

    def least_squares(self) -> optimize.OptimizeResult:
        """Trust-region least squares with the same objective.

        SciPy's huber on sqrt(weight) x residual would move the threshold with the weight; a loss given as a function of
        (residual / delta)^2 for all rows at once can weigh each row after the threshold instead.
        """

        def loss(z: np.ndarray) -> np.ndarray:
            root = np.sqrt(np.maximum(z, 1.0))  # 1 within delta
            huber = np.where(z <= 1, z, 2 * root - 1)
            return self.weights * np.stack([huber, 1 / root, np.where(z <= 1, 0.0, -0.5 / root**3)])

        return self._trust_region(loss)

    def huber(self) -> optimize.OptimizeResult:
        """``least_squares(loss="huber")``; the same objective for unit weights only."""
        return self._trust_region("huber")

    def _trust_region(self, loss: Any) -> optimize.OptimizeResult:
        start = np.clip(self.start, self.bounds[0] + 1e-12, self.bounds[1])  # must be strictly inside
        tight = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15, "max_nfev": 1000, "x_scale": self.unit}
        return optimize.least_squares(self.error, start, bounds=self.bounds, loss=loss, f_scale=self.delta, **tight)


def start_grid(start: np.ndarray) -> list[np.ndarray]:
    """Coefficients of half, once and twice the start's with four exponents: 108 starts for three coefficients."""
    factors = itertools.product((0.5, 1.0, 2.0), repeat=start.size - 1)
    return [np.append(start[:-1] * f, alpha) for f in factors for alpha in (0.1, 0.3, 0.6, 1.2)]


def check_peer(case: Case, weights: np.ndarray) -> None:
    """Stops unless the NumPy objective is the engine's, also away from the start."""
    params = case.start * np.linspace(1.01, 1.03, case.start.size)
    if case.start.size == len(case.law.coefficients) + 1:
        mine, theirs = Peer(case, weights).objective(params), objectives(case, weights[None], params[None])[0]
        if abs(mine / theirs - 1) < 1e-10:
            return
    raise SystemExit(f"{case.law.name}: SciPy's side is written for runs of one model size and a law with one exponent")


def solve(case: Case, weights: np.ndarray, method: Callable[[Peer], optimize.OptimizeResult]) -> Solved:
    """Runs a SciPy method on each sample."""
    params, values, seconds, success = [], [], [], []
    for row in weights:
        peer = Peer(case, row)
        begin = time.perf_counter()
        found = method(peer)
        seconds.append(time.perf_counter() - begin)
        params.append(found.x)
        values.append(peer.objective(found.x))
        success.append(bool(found.success))
    return Solved(*map(np.array, (params, values, seconds, success)))


PEERS: dict[str, Callable[[Peer], optimize.OptimizeResult]] = {
    "L-BFGS-B, as first written": Peer.plain,
    "L-BFGS-B, scaled": Peer.scaled,
    "L-BFGS-B, scaled, tight": lambda peer: peer.scaled(**TIGHT),
    "least_squares, weighted huber": Peer.least_squares,
}
"""SciPy from one start; derivatives by finite differences."""


# ---------------------------------------------------------------------------------------------------------------------
# Comparison
# ---------------------------------------------------------------------------------------------------------------------


def compare(case: Case, sizes: Sizes) -> dict[str, Any]:
    """Times every method on the same samples and sets its objectives against the best known ones."""
    weights = weights_of(case.run)(np.arange(sizes.lanes))
    check_peer(case, weights[0])
    found, record = measure(case, weights, sizes.lanes, sizes.repeats)
    single, single_record = single_precision(case, weights, sizes.repeats)
    peers = {name: solve(case, weights[: sizes.peers], method) for name, method in PEERS.items()}
    grid = f"L-BFGS-B, scaled, {len(start_grid(case.start))} starts"
    peers[grid] = solve(case, weights[: sizes.grids], Peer.grid)
    closed = from_closed_form(case, weights)
    reached = {
        "engine": found.objective,
        "engine, float32": single.objective,
        "engine, 8 closed-form starts": closed.objective,
        "engine, then exact Newton steps": np.asarray(polished(case, weights, found.params)),
        "8 closed-form, then exact Newton": np.asarray(polished(case, weights, closed.params)),
        **{name: solved.objective for name, solved in peers.items()},
    }
    best = np.min([np.append(v, np.full(sizes.lanes - v.size, np.inf)) for v in reached.values()], axis=0)
    methods = {name: _gaps(values, best) for name, values in reached.items()}
    methods["engine"] |= {key: record[key] for key in ("fits_per_s", "converged")}
    methods["engine, float32"] |= {key: single_record[key] for key in ("fits_per_s", "converged")}
    for name, solved in peers.items():
        rate = float(1 / np.median(solved.seconds))
        speed = {"fits_per_s": rate, "converged": float(solved.success.mean()), "slower": record["fits_per_s"] / rate}
        methods[name] |= speed
    same = _gaps(found.objective[: sizes.peers], best)
    return {
        "engine": record,
        "float32": single_record,
        "methods": {"engine": methods.pop("engine"), f"engine, first {sizes.peers} samples": same, **methods},
        "unit_weights": unit_weights(case),
    }


def _gaps(values: np.ndarray, best: np.ndarray) -> dict[str, Any]:
    gap = values / best[: values.size] - 1
    found = {"samples": values.size, "median_gap": float(np.median(gap)), "max_gap": float(gap.max())}
    return {**found, "close": float(np.mean(gap <= CLOSE))}


def unit_weights(case: Case) -> dict[str, float]:
    """``least_squares(loss="huber")`` on the unweighted rows, where its objective is the engine's."""
    solved = solve(case, np.ones((1, case.run.size)), Peer.huber)
    mine = Peer(case, np.ones(case.run.size)).objective(case.start)
    return {"seconds": float(solved.seconds[0]), "gap": float(solved.objective[0] / mine - 1)}


# ---------------------------------------------------------------------------------------------------------------------
# Printing
# ---------------------------------------------------------------------------------------------------------------------


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned text: the first column to the left, the others to the right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    lines = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in (header, *rows)]
    return "\n".join("  ".join(line) for line in lines)


def print_engine(record: dict[str, Any], single: dict[str, Any]) -> None:
    """The main case, in both precisions."""
    for name, r in (("float64", record), ("float32", single)):
        print(
            f"{name}: {r['lanes']} lanes of {r['rows']} rows: compile {r['compile_s']:.2f} s, then {r['seconds']:.3f} s"
            f" = {r['fits_per_s']:.0f} fits/s; iterations mean {r['mean_iterations']:.1f}, max {r['max_iterations']}; "
            f"converged {r['converged']:.2%}"
        )
    print("float32 statuses:", ", ".join(f"{name} {count}" for name, count in single["statuses"].items() if count))


def print_growth(records: Sequence[dict[str, Any]]) -> None:
    """Time and memory as a case grows; the peak is that of the process so far."""
    header = ("lanes", "rows", "compile s", "seconds", "fits/s", "converged", "iterations", "peak RSS MB")
    keys = ("lanes", "rows", "compile_s", "seconds", "fits_per_s", "converged", "mean_iterations", "peak_rss_mb")
    forms = ("d", "d", ".2f", ".3f", ".0f", ".2%", ".1f", ".0f")
    print(table(header, [[format(r[key], form) for key, form in zip(keys, forms, strict=True)] for r in records]))


def print_methods(methods: dict[str, dict[str, Any]]) -> None:
    """Speed, success and objective of every method; gaps are relative to the best any method found for a sample."""
    header = ("method", "samples", "fits/s", "engine is", "success", "median gap", "max gap", f"within {CLOSE:g}")
    forms = {"fits_per_s": ".1f", "slower": ".0f", "converged": ".1%"}
    rows = []
    for name, r in methods.items():
        rate, slower, converged = (format(r[key], form) if key in r else "-" for key, form in forms.items())
        slower = slower if slower == "-" else f"{slower} x"
        gaps = [f"{r['median_gap']:.1e}", f"{r['max_gap']:.1e}", f"{r['close']:.1%}"]
        rows.append([name, str(r["samples"]), rate, slower, converged, *gaps])
    print(table(header, rows))


def pin_blas() -> None:
    """Starts the process again with one BLAS thread: the libraries read that when they are loaded."""
    names = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
    if any(os.environ.get(name) != "1" for name in names):
        os.environ.update(dict.fromkeys(names, "1"))
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def main() -> None:
    """Runs everything and prints it."""
    arguments = _parser().parse_args()
    pin_blas()
    sizes = QUICK if arguments.quick else Sizes()
    with jax.enable_x64(True):
        case = load(arguments.runs, arguments.train, arguments.law)
        print(f"{arguments.law}, {case.run.size} rows, {case.start.size} parameters, {jax.devices()[0].device_kind}")
        by_lanes, by_rows = growth(case, sizes)  # first, as its peaks of memory are those of the process so far
        found = compare(case, sizes)
    print_engine(found["engine"], found["float32"])
    print()
    print_methods(found["methods"])
    unit = found["unit_weights"]
    print(f'\nunit weights, least_squares(loss="huber"): {unit["seconds"]:.3f} s, gap to the fit {unit["gap"]:.1e}\n')
    print_growth(by_lanes)
    print()
    print_growth(by_rows)
    if arguments.json:
        record = {"law": arguments.law, **found, "by_lanes": by_lanes, "by_rows": by_rows}
        arguments.json.write_text(json.dumps(record, indent=1))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", default=str(fmjax.datasets.DEMO_RUNS), help="manifest (default: shipped)")
    parser.add_argument("--train", help="runs to fit, such as split:train (default: all)")
    parser.add_argument("--law", default="lr-annealing", help="law with one exponent (default: lr-annealing)")
    parser.add_argument("--quick", action="store_true", help="fewer lanes, samples and repeats")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    return parser


if __name__ == "__main__":
    main()
