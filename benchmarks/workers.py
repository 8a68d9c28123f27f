"""What a Dask cluster costs: for each task, at 1 to 256 workers, and against one process.

    python -m benchmarks.workers             # all of it
    python -m benchmarks.workers --scaling   # simulated parts on simulated hosts, and how long tasks must be
    python -m benchmarks.workers --search    # a search on two workers, its rate, and what larger searches cost

A simulated part sleeps for a known time, and takes no processor. So 256 hosts fit on a laptop, each a process with a
whole worker; scheduler and client are processes of their own too. The cores of the laptop handle the messages of all
hosts, which have cores of their own in a cluster. Times suffer from that. Seconds of processor do not: they are counted
for each kind of process by itself. A task is a lot of parts. Every lot sends back when it began and when it ended.
"""

import argparse
import asyncio
import contextlib
import logging
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import dask
import distributed
import numpy as np

import fmjax
from fmjax import _dask
from fmjax.searching.parts_folder import Stored
from fmjax.searching.sweeps import planned_search

WORKERS = (1, 8, 64, 256)
SHORT = 0.5
"""Seconds of a short lot, beside those that a search would have."""

LOSS = 0.05
"""Share of the hosts' time that may be lost."""

LOAD = 0.1
"""How busy the scheduler or the client may be: messages that come at once then wait for few others. It is low also so
that this machine, which does the work of all hosts beside, can show that the length found is enough."""

FEW = 50
"""Tasks below which processor time is not worth printing."""

ROUNDS = 8
"""Lots of each simulated host at their full length."""

STEPS, RATIOS = 20_000, 64
"""Updates of the runs that are searched, and ratios of a cell."""

CELL = 21
"""Bytes of a cell that the client keeps."""

MEMORY = 64e9
"""Bytes that a client may have."""


QUIET = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "30s",
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.admin.tick.interval": "5s",
    "distributed.admin.tick.limit": "60s",
}
"""What simulated hosts leave out: a worker that measures itself takes 2 % of a core at rest, so that 64 of them would
take more than a core of this machine. Real workers have cores of their own for it."""


class Sleep(NamedTuple):
    """Parts that take a known time and no processor."""

    seconds: float

    def results(self, numbers: Iterable[int]) -> Iterator[np.ndarray]:
        """A kilobyte for each part, after a lot's time in one sleep: whose lot it is, its begin and its end."""
        lot, begin = list(numbers), time.time()
        time.sleep(self.seconds * len(lot))
        found = np.resize([os.getpid(), begin, time.time()], 128)
        yield from (found.copy() for _ in lot)


# ---------------------------------------------------------------------------------------------------------------------
# A cluster in which each scheduler and each worker is a process
# ---------------------------------------------------------------------------------------------------------------------


def _scheduler(address: Any) -> None:
    logging.disable()

    async def serve() -> None:
        async with distributed.Scheduler(host="127.0.0.1", port=0, dashboard=False) as scheduler:
            address.send(scheduler.address)
            await scheduler.finished()

    asyncio.run(serve())


def _worker(address: str, folder: str, quiet: bool) -> None:
    logging.disable()
    dask.config.set(QUIET if quiet else {})

    async def serve() -> None:
        options: dict[str, Any] = {"nthreads": 1, "memory_limit": 0, "dashboard": False, "local_directory": folder}
        async with distributed.Worker(address, host="127.0.0.1", **options) as worker:
            await worker.finished()

    asyncio.run(serve())


@contextlib.contextmanager
def cluster(workers: int, *, quiet: bool = False) -> Iterator[distributed.Client]:
    """A cluster of workers of one core; its processes are forked from one that has imported fmjax, which is quick."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fmjax._dask", "fmjax.searching.sweeps", "distributed"])
    here, there = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        scheduler = context.Process(target=_scheduler, args=(there,), daemon=True)
        scheduler.start()
        address = here.recv()
        hosts = [context.Process(target=_worker, args=(address, folder, quiet), daemon=True) for _ in range(workers)]
        for host in hosts:
            host.start()
        try:
            with distributed.Client(address, set_as_default=False) as client:
                client.wait_for_workers(workers, timeout=120)
                yield client
        finally:
            for process in (*hosts, scheduler):
                process.kill()
            for process in (*hosts, scheduler):
                process.join()


class Processor(NamedTuple):
    """Seconds of processor."""

    scheduler: float
    client: float
    workers: float

    @classmethod
    def used(cls, client: distributed.Client) -> "Processor":
        """What all processes have used so far."""
        workers = sum(client.run(time.process_time).values())
        return cls(client.run_on_scheduler(time.process_time), time.process_time(), workers)

    def since(self, before: "Processor", rest: "Processor | None" = None, seconds: float = 0.0) -> "Processor":
        """What was used since then, without what the cluster uses at rest in so many seconds."""
        rest = rest or Processor(0.0, 0.0, 0.0)
        return Processor(*(now - then - seconds * idle for now, then, idle in zip(self, before, rest, strict=True)))

    def over(self, count: float) -> "Processor":
        """The same for each of so many."""
        return Processor(*(each / count for each in self))


# ---------------------------------------------------------------------------------------------------------------------
# Simulated hosts
# ---------------------------------------------------------------------------------------------------------------------


class Simulated(NamedTuple):
    """What simulated hosts did."""

    workers: int
    lot: float
    """Seconds that a lot should take."""
    tasks: int
    busy: float
    """Share of the hosts' time that parts took, from the first to the last."""
    gap: float
    """Seconds from the end of a lot of full length to the begin of the host's next one, mean."""
    lost: float
    """Share of the time that these gaps are."""
    each: Processor
    """Processor time of a task."""

    def row(self) -> str:
        """A row of the table."""
        few = self.tasks < FEW
        milliseconds = "".join("          -" if few else f"{1000 * each:11.2f}" for each in self.each)
        shares = f"{100 * self.busy:8.1f}{100 * self.lost:8.1f}{1000 * self.gap:9.1f}"
        return f"{self.workers:7}{self.lot:8.3g}{self.tasks:8}{shares}{milliseconds}"


HEADER = "workers   lot s   tasks  busy %  lost %   gap ms  scheduler     client    workers (processor ms a task)"


@contextlib.contextmanager
def lots_of(seconds: float) -> Iterator[None]:
    """Has lots take so long, whatever the number of workers."""
    usual = _dask.LOT_SECONDS, _dask.TASK_SECONDS
    _dask.LOT_SECONDS, _dask.TASK_SECONDS = seconds, 0.0
    try:
        yield
    finally:
        _dask.LOT_SECONDS, _dask.TASK_SECONDS = usual


def simulated(client: distributed.Client, workers: int, lot: float, part: float) -> Simulated:
    """Has simulated hosts compute parts of ``part`` seconds in lots of about ``lot`` seconds."""
    on_dask = _dask.OnDask(client)
    assert on_dask.platform
    before = Processor.used(client)
    time.sleep(3)
    rest = Processor.used(client).since(before).over(3)
    count = int(workers * ROUNDS * lot / part)
    with lots_of(lot):
        before, begin = Processor.used(client), time.time()
        parts = np.array([found[:3] for _, found in on_dask.results(Sleep(part), range(count))])
        taken = time.time() - begin
        spent = Processor.used(client).since(before, rest, taken)
    lots = np.unique(parts, axis=0)  # whose, begin, end, sorted
    assert len(parts) == count
    length = lots[:, 2] - lots[:, 1]
    full = length > 0.6 * lot  # neither while they grow nor towards the end
    follows = (lots[1:, 0] == lots[:-1, 0]) & full[1:] & full[:-1]
    gaps = (lots[1:, 1] - lots[:-1, 2])[follows]
    lost = gaps.sum() / (gaps.sum() + length[1:][follows].sum())
    busy, each = length.sum() / taken / workers, spent.over(len(lots))
    return Simulated(workers, lot, len(lots), float(busy), float(gaps.mean()), float(lost), each)


def scaling(part: float, counts: Sequence[int]) -> None:
    """Prints what tasks cost, how long they must be, and whether they then do."""
    print(f"simulated parts of {1000 * part:g} ms, {ROUNDS} lots of full length a host")
    for workers in counts:
        with cluster(workers, quiet=True) as client:
            print(f"\n{HEADER}")
            found = simulated(client, workers, _dask._lot_seconds(workers), part)
            print(found.row(), flush=True)
            print(simulated(client, workers, SHORT, part).row(), flush=True)
            least, bound = least_lot(found)
            print(
                f"  least length of a lot for {100 * LOSS:g} %: {least:.2f} s, for {bound}; hosts that have it:",
                flush=True,
            )
            if least > part:
                print(simulated(client, workers, least, part).row(), flush=True)


def least_lot(found: Simulated) -> tuple[float, str]:
    """Least seconds of a lot, and what asks for them.

    A host loses the gap of each lot. Hosts that ask for ``workers / length`` tasks a second keep the scheduler busy for
    its time for a task times that, which may be ``LOAD``; and so the client.
    """
    asked = {"the gap of a host": found.gap * (1 - LOSS) / LOSS}
    if found.tasks >= FEW:
        asked["the scheduler"] = found.workers * found.each.scheduler / LOAD
        asked["the client"] = found.workers * found.each.client / LOAD
    bound = max(asked, key=asked.__getitem__)
    return asked[bound], bound


# ---------------------------------------------------------------------------------------------------------------------
# A search
# ---------------------------------------------------------------------------------------------------------------------


def searched(law: str, rounds: int, peaks: int) -> None:
    """Prints the time of a search on two workers of one core beside that of one process of two cores."""
    fit = fmjax.fit(law, fmjax.datasets.demo_runs())
    grid: dict[str, Any] = {"total_steps": STEPS, "peak_lr": np.geomspace(1e-4, 1e-2, peaks), "warmup_steps": 100}
    grid |= {"anneal_ratio": np.linspace(0.01, 0.5, RATIOS)}
    few = grid | {"peak_lr": grid["peak_lr"][:2048]}
    with cluster(2) as client:
        fmjax.search(fit, **few)
        begin = time.perf_counter()
        fmjax.search(fit, **few, client=client)
        first = time.perf_counter() - begin
        found: dict[str, list[tuple[float, ...]]] = {"one process": [], "two workers": []}
        for _ in range(rounds):
            for name, where in zip(found, (None, client), strict=True):
                begin, before = time.perf_counter(), Processor.used(client)
                result = fmjax.search(fit, **grid, client=where)
                found[name].append((time.perf_counter() - begin, *Processor.used(client).since(before)))
                assert result.candidates == peaks * RATIOS
    updates, parts = peaks * RATIOS * STEPS, planned_search(fit, **grid).sweep.parts
    print(f"\nsearch of {updates:.3g} candidate-updates in {parts} parts, median of {rounds} rounds in turns")
    print(f"{'':14}{'seconds':>10}{'scheduler':>12}{'client':>10}{'workers':>10} (processor seconds)")
    median = {name: np.median(times, axis=0) for name, times in found.items()}
    for name, (seconds, *spent) in median.items():
        print(f"{name:14}{seconds:10.1f}{spent[0]:12.2f}{spent[1]:10.2f}{spent[2]:10.2f}")
    (alone, *alone_spent), (pair, *pair_spent) = median.values()
    print(
        f"overhead {100 * (pair / alone - 1):.1f} % of time, "
        f"{100 * (sum(pair_spent) / sum(alone_spent) - 1):.1f} % of processor time"
    )
    table(updates / pair_spent[2], updates / parts, first, float(pair_spent[1]) / parts, kept(fit, few))


def kept(fit: fmjax.FitResult, grid: dict[str, Any]) -> float:
    """Seconds that it takes to keep a part in a folder on this disk."""
    with tempfile.TemporaryDirectory() as folder:
        planned = planned_search(fit, **grid, folder=folder)
        assert isinstance(planned.workers, Stored)
        store, numbers = planned.workers.folder, range(planned.sweep.parts)
        found = [
            (planned.sweep.part(number), computed)
            for number, computed in planned.workers.results(planned.sweep, numbers)
        ]
        begin = time.perf_counter()
        for part, computed in 100 * found:
            store.save(part, computed, planned.sweep.kernel.grid)
        assert len(list((Path(folder) / "parts").iterdir())) == len(found)
        return (time.perf_counter() - begin) / (100 * len(found))


def table(rate: float, part: float, first: float, client: float, folder: float) -> None:
    """Prints what searches cost at the measured rate of a worker, and what bounds them next.

    Args:
      rate: candidate-updates in a second of a worker's processor.
      part: candidate-updates of a part.
      first: seconds of the first search of a new cluster, which compiles.
      client: seconds of the client's processor for a part.
      folder: seconds to keep a part.
    """
    lot, seconds = _dask.LOT_SECONDS * rate, part / rate
    print(f"\none worker of one core: {rate:.3g} candidate-updates in a second of its processor")
    print(f"a part has {part:.3g} and takes {seconds:.2f} s")
    print(f"a lot of {_dask.LOT_SECONDS:g} s has {lot:.2g} candidate-updates, {lot / part:.1f} parts")
    print(f"the first search of a new cluster takes {first:.1f} s, most of it compilation")
    for name, each in (("", client), (" with a folder", client + folder)):
        print(f"the client takes {1000 * each:.2f} ms a part{name}: it serves {seconds / each:.0f} such workers")
    print("candidate-updates   workers       hours   of all workers   memory of the cells   bound next by")
    most = seconds / (client + folder)
    for work in (1e12, 1e15, 1e18):
        memory = CELL * work / STEPS / RATIOS
        for workers in WORKERS:
            computing = work / rate / workers
            hours, total = (first + computing) / 3600, work / rate / 3600
            bound = bottleneck(first > computing, memory > MEMORY, workers > most)
            print(f"{work:17.0e}{workers:10}{hours:12.4g}{total:17.4g}{memory / 1e9:19.4g} GB   {bound}")


def bottleneck(short: bool, large: bool, many: bool) -> str:
    """What bounds a search beside arithmetic, if anything does."""
    if short:
        return "compilation"
    if large:
        return "memory of the client: search the grid in pieces"
    return "the client, where a folder keeps the parts" if many else "arithmetic: more workers"


def main() -> None:
    """Parses the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS, help="numbers of simulated hosts")
    parser.add_argument("--part", type=float, default=0.1, help="seconds of a simulated part")
    parser.add_argument("--law", default="intrinsic-momentum", help="law of the search (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peaks", type=int, default=200_000, help="peak rates of the search")
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if given.scaling or not given.search:
        scaling(given.part, given.workers)
    if given.search or not given.scaling:
        searched(given.law, given.rounds, given.peaks)


if __name__ == "__main__":
    main()
