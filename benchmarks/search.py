"""Search against its peers: final effects of many WSD schedules, in one run, as ratios.

    python -m benchmarks.search            # all of it
    python -m benchmarks.search --quick    # one length of run, smaller scaling
    python -m benchmarks.search --scaling  # only how time and memory grow, to 1e11 candidate-updates
    python -m benchmarks.search --laws     # only every law, runs of 1e3 to 1e6 updates
    python -m benchmarks.search --laws --device cuda

Every candidate of a grid (peak rates x annealing ratios, linear decay to zero) gets its final forward effect and
annealing momentum, and from them a loss. Peers follow every update of every candidate: the published Python loop,
NumPy over all candidates, and a numba kernel on all cores. fmjax computes a few updates of each that stand for all.
Methods take turns; the figure is the median over rounds. Rates are million candidate-updates per second, candidates x
updates / seconds. The table of laws has a plain scan over every update beside each, numba where it has the law, and the
share of the machine's multiply-adds that was reached.
"""

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import peers
from fmjax._names import DEVICES
from fmjax.benchmarking import (
    MEASURED_LAW,
    MEASURED_LENGTHS,
    MEASURED_RATIOS,
    VECTOR,
    law_rates,
    multiply_add_rate,
    ratio_sweep,
    use_device,
)
from fmjax.laws import LAWS
from fmjax.searching.kernels import Kernel

SIZES = (1024, 4096, 16_384, 102_400)
"""Peak rates of the searches that show how time and memory grow."""


def losses(engine: Kernel) -> np.ndarray:
    """Losses ``[peaks, ratios]`` by fmjax."""
    parts = engine.grid.parts(engine.layout.rows)
    return np.concatenate([found[0] for _, found in engine.losses(parts)])


def candidates(engine: Kernel) -> tuple[np.ndarray, np.ndarray]:
    """Peak rate and updates of the anneal of every candidate."""
    peaks, ratios = np.meshgrid(engine.grid.peak_lr, engine.grid.anneal_ratio, indexing="ij")
    return peaks.ravel(), (ratios * int(engine.grid.total_steps[0])).ravel()


def loss_of(effects: tuple[np.ndarray, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """The law's loss from S and M."""
    (floor, scale, gain, power), (s, m) = VECTOR, effects
    return (floor + scale * np.asarray(s, float) ** -power - gain * np.asarray(m, float)).reshape(shape)


def race(methods: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Median seconds and last result of each method; they take turns, after one untimed call each."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    results = {name: run() for name, run in methods.items()}
    for _ in range(rounds):
        for name, run in methods.items():
            start = time.perf_counter()
            results[name] = run()
            seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(taken)) for name, taken in seconds.items()}, results


def compare(title: str, engines: dict[str, Kernel], steps: int, rounds: int) -> None:
    """Prints the rates of fmjax's engines beside the numba kernels, and how far their losses are apart."""
    first = next(iter(engines.values()))
    (peaks, lengths), shape = candidates(first), (first.grid.peak_lr.size, first.grid.anneal_ratio.size)
    numba = {"numba float64": peers.numba_kernel(np.float64), "numba float32": peers.numba_kernel(np.float32)}
    methods: dict[str, Callable[[], Any]] = {
        name: lambda run=run: loss_of(run(peaks, lengths, steps), shape) for name, run in numba.items()
    }
    methods |= {name: lambda engine=engine: losses(engine) for name, engine in engines.items()}
    seconds, found = race(methods, rounds)
    work, base = peaks.size * steps, seconds["numba float64"]
    print(f"\n{title}: {peaks.size} candidates, {steps} updates")
    print(f"{'':28}{'M/s':>10}{'x numba float64':>18}{'worst loss error':>20}")
    for name, taken in seconds.items():
        error = np.abs(found[name] - found["numba float64"]).max()
        print(f"{name:28}{work / taken / 1e6:10.0f}{base / taken:18.2f}{error:20.1e}")


def slow_peers(steps: int) -> None:
    """Prints the rates of the Python loops on few candidates."""
    peaks, lengths = np.geomspace(1e-4, 1e-2, 4), np.linspace(0.1, 0.9, 4) * steps
    many = np.geomspace(1e-4, 1e-2, 4096), np.linspace(0.01, 0.99, 4096) * 2000
    print(f"\nPython loops\n{'':28}{'M/s':>10}")
    for name, work, run in (
        ("published loop", 4 * steps, lambda: peers.published_loops(peaks, lengths, steps)),
        ("NumPy over 4 096 candidates", 4096 * 2000, lambda: peers.numpy_loop(*many, 2000)),
    ):
        start = time.perf_counter()
        run()
        print(f"{name:28}{work / (time.perf_counter() - start) / 1e6:10.2f}")


def scaling(sizes: tuple[int, ...], steps: int) -> None:
    """Prints how time and memory grow with the number of candidates."""
    print(f"\nScaling, float64, {steps} updates, 1 000 ratios")
    print(f"{'candidate-updates':>20}{'s':>10}{'peak MB':>10}")
    work, taken = [], []
    for peaks in sizes:
        engine = ratio_sweep(peaks, np.linspace(0.01, 0.5, 1000), steps, "float64")
        for warm in (True, False):
            start = time.perf_counter()
            for _, found in engine.losses(engine.grid.parts(engine.layout.rows)):
                found[0].min()
                if warm:
                    break
        work.append(float(engine.grid.candidates) * steps)
        taken.append(time.perf_counter() - start)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{work[-1]:20.2e}{taken[-1]:10.3f}{memory:10.0f}")
    print(f"slope of log time over log work: {np.polyfit(np.log(work), np.log(taken), 1)[0]:.3f}")


def every_law(lengths: tuple[int, ...]) -> None:
    """Prints how fast a search under each law is, by length of the runs, beside scans over every update."""
    peak, ratios = multiply_add_rate("float64"), MEASURED_RATIOS
    device, count = jax.local_devices()[0], jax.local_device_count()
    print(f"\nEvery law, 64 peak rates x {ratios.size} ratios, float64, {count} x {device.device_kind}")
    print(f"at most {peak / 1e9:.3g}e9 multiply-adds/s; scan and numba: million candidate-updates/s")
    print("by updates of a run: milliseconds (of processor)")
    print(f"{'':20}{'scan':>10}{'numba':>10}" + "".join(f"{steps:>15}" for steps in lengths) + f"{'of peak':>22}")
    for name in LAWS:
        rates = list(law_rates(name, lengths, 2 * peak))
        scan, found = rates[0].scan_updates_per_s, [rate.search for rate in rates]
        numba = f"{numba_rate(ratios):10.0f}" if name == MEASURED_LAW.name else " " * 10
        print(f"{name:20}{scan / 1e6:10.3g}{numba}", end="")
        shares = [rate.fraction_of_peak for rate in found]
        taken = [f"{1e3 * rate.seconds:.1f} ({1e3 * rate.processor_seconds:.1f})" for rate in found]
        print("".join(f"{times:>15}" for times in taken) + f"{min(shares):14.1%} -{max(shares):6.1%}", flush=True)


def numba_rate(ratios: np.ndarray, steps: int = 10_000) -> float:
    """Million candidate-updates per second of numba on all cores; NaN where it is not installed."""
    try:
        kernel = peers.numba_kernel(np.float64)
    except SystemExit:
        return float("nan")
    peaks, lengths = candidates(ratio_sweep(64, ratios, steps, "float64"))
    seconds, _ = race({"numba": lambda: kernel(peaks, lengths, steps)}, 3)
    return peaks.size * steps / seconds["numba"] / 1e6


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one length of run, smaller scaling")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each method")
    parser.add_argument("--scaling", action="store_true", help="only how time and memory grow")
    parser.add_argument("--laws", action="store_true", help="only every law, by length of the runs")
    parser.add_argument("--device", choices=DEVICES, help="kind of device, if not JAX's own choice")
    arguments = parser.parse_args()
    if arguments.device:
        use_device(arguments.device)
    if arguments.laws:
        return every_law(MEASURED_LENGTHS)
    if arguments.scaling:
        return scaling(SIZES, 1000)
    slow_peers(20_000)
    for steps in (20_000,) if arguments.quick else (4096, 20_000, 65_536):
        ratios = np.linspace(0.01, 0.99, 16)
        engines = {f"fmjax {dtype}": ratio_sweep(1024, ratios, steps, dtype) for dtype in ("float64", "float32")}
        compare("1 024 peak rates x 16 ratios", engines, steps, arguments.rounds)
    scaling((1024, 4096) if arguments.quick else SIZES, 1000)


if __name__ == "__main__":
    main()
