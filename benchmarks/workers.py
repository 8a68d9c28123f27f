"""What a Dask cluster costs: per part, at 1 to 256 workers, and against one process.

    python -m benchmarks.workers             # all of it
    python -m benchmarks.workers --scaling   # simulated parts on simulated workers
    python -m benchmarks.workers --overhead  # a search on two workers of one core against one process of two

Simulated parts sleep for a known time on workers that are threads of this process, so that 256 of them fit on a laptop.
One core then does the work of the scheduler, of the client and of all workers' messages; in a cluster, workers have
cores of their own. "Busy" is the share of the workers' time that parts took. As other programs on the machine disturb
times but not processor time, the processor time for each task is printed beside it; it bounds what one scheduler and
one client can serve: workers that together ask for more tasks a second than that wait.
"""

import argparse
import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import distributed
import numpy as np

import fmjax
from fmjax import _dask

WORKERS = (1, 8, 64, 256)
LOTS = (0.1, 0.5, 2.0)
"""Seconds that a lot should take."""


class Sleep(NamedTuple):
    """Parts that take a known time and no processor."""

    seconds: float

    def results(self, numbers: Iterable[int]) -> Iterator[np.ndarray]:
        """A kilobyte for each part, after a lot's time in one sleep."""
        lot = list(numbers)
        time.sleep(self.seconds * len(lot))
        yield from (np.zeros(128) for _ in lot)


@contextlib.contextmanager
def cluster(workers: int, processes: bool) -> Iterator[distributed.Client]:
    """A cluster of workers with one thread each on this machine."""
    local: dict[str, Any] = {"host": "127.0.0.1", "dashboard_address": ":0", "memory_limit": 0, "protocol": "tcp"}
    with (
        distributed.LocalCluster(n_workers=workers, threads_per_worker=1, processes=processes, **local) as started,
        distributed.Client(started, set_as_default=False) as client,
    ):
        yield client


def scaling(seconds: float, part: float, counts: Sequence[int], lots: Sequence[float]) -> None:
    """Prints how busy simulated workers are, by their number and by the length of lots."""
    print(f"simulated parts of {1000 * part:g} ms, {seconds:g} s for each worker")
    print("workers   lot s    parts   tasks   busy %   processor ms a task  tasks/s at most")
    _dask._one_at_a_time = contextlib.nullcontext()  # type: ignore[assignment]  # these workers share a process
    for workers in counts:
        with cluster(workers, processes=False) as client:
            on_dask = _dask.OnDask(client)
            assert on_dask.platform
            for lot in lots:
                _dask.LOT_SECONDS = lot
                count, tasks = int(workers * seconds / part), []
                with counted(client, tasks):
                    begin, spent = time.perf_counter(), time.process_time()
                    assert sum(1 for _ in on_dask.results(Sleep(part), range(count))) == count
                    taken, spent = time.perf_counter() - begin, time.process_time() - spent
                busy, each = count * part / taken / workers, spent / len(tasks)
                print(f"{workers:7}{lot:8g}{count:9}{len(tasks):8}{100 * busy:9.1f}{1000 * each:22.2f}{1 / each:17.0f}")


@contextlib.contextmanager
def counted(client: distributed.Client, tasks: list[Any]) -> Iterator[None]:
    """Collects the tasks that a client submits."""
    submit = client.map
    client.map = lambda call, lots, **named: tasks.extend(lots) or submit(call, lots, **named)
    try:
        yield
    finally:
        client.map = submit


def overhead(rounds: int, peaks: int) -> None:
    """Prints the time of a search on two workers of one core as a multiple of that of one process of two cores."""
    fit = fmjax.fit("lr-annealing", fmjax.datasets.demo_runs())
    grid: dict[str, Any] = {"total_steps": 20_000, "peak_lr": np.geomspace(1e-4, 1e-2, peaks), "warmup_steps": 100}
    grid |= {"anneal_ratio": np.linspace(0.01, 0.5, 64)}
    few = grid | {"peak_lr": grid["peak_lr"][:2048]}
    with cluster(2, processes=True) as client:
        fmjax.search(fit, **few)
        fmjax.search(fit, **few, client=client)
        found: dict[str, list[tuple[float, float]]] = {"one process": [], "two workers": []}
        for _ in range(rounds):
            for name, where in zip(found, (None, client), strict=True):
                begin, spent = time.perf_counter(), processor_time(client)
                result = fmjax.search(fit, **grid, client=where)
                found[name].append((time.perf_counter() - begin, processor_time(client) - spent))
                assert result.candidates == peaks * 64
    (alone, alone_cpu), (pair, pair_cpu) = (np.median(times, axis=0) for times in found.values())
    print(f"\nsearch of {peaks * 64} candidates of 20 000 updates, median of {rounds} rounds in turns")
    print(f"{'':14}{'seconds':>10}{'processor seconds':>20}")
    print(f"{'one process':14}{alone:10.1f}{alone_cpu:20.1f}\n{'two workers':14}{pair:10.1f}{pair_cpu:20.1f}")
    print(
        f"overhead {100 * (pair / alone - 1):.1f} % of time, {100 * (pair_cpu / alone_cpu - 1):.1f} % of processor time"
    )


def processor_time(client: distributed.Client) -> float:
    """Seconds of processor that this process and the workers have used."""
    return time.process_time() + sum(client.run(time.process_time).values())


def main() -> None:
    """Parses the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--overhead", action="store_true")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each simulated worker")
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS, help="numbers of simulated workers")
    parser.add_argument("--lots", type=float, nargs="+", default=LOTS, help="seconds that a lot should take")
    parser.add_argument("--part", type=float, default=0.02, help="seconds of a simulated part")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peaks", type=int, default=200_000, help="peak rates of the search")
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if given.scaling or not given.overhead:
        scaling(given.seconds, given.part, given.workers, given.lots)
    if given.overhead or not given.scaling:
        overhead(given.rounds, given.peaks)


if __name__ == "__main__":
    main()
