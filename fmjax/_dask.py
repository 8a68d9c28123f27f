"""The workers of a Dask cluster: parts computed by any number of processes, on any number of machines.

A task is a lot of parts. Its worker process computes it on all of its devices and sends back what is kept of each part.
Dask itself runs the task elsewhere when its worker dies, and uses workers that join. Only functions of fmjax are sent,
by name, with numbers. But Dask runs whatever it is sent by anybody who reaches a scheduler or a worker: a cluster must
be one that you trust, behind a firewall or under TLS.
"""

import logging
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from functools import cached_property
from importlib.metadata import version
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from fmjax._checks import require
from fmjax._devices import use_cores
from fmjax._version import __version__
from fmjax._workers import Result, Work

if TYPE_CHECKING:
    from distributed import Client, Future, Worker

CONNECT = 10
"""Seconds in which a scheduler must answer."""

JOIN = 60
"""Seconds in which a first worker must be there."""

AHEAD = 3
"""Lots in flight for each worker process: one at work, others at hand."""

LOT_SECONDS = 2.0
"""Time that a lot should take where workers are few: long against the milliseconds between two tasks of a worker."""

TASK_SECONDS = 0.005
"""Time between two lots in which one scheduler and one client are at ease. The scheduler takes about half of it for a
task and the client a third (``benchmarks/workers.py`` measures it)."""

GROWTH = 4
"""How much larger than the last a lot may be."""

LAST = 8
"""How many times smaller lots get towards the end, so that workers wait only a moment for the last."""

LOT_BYTES = 2**25
"""Bytes that a lot should send back at most, if its parts allow it."""

GIVEN_UP = 3
"""Times that Dask may give up a part before we do. Dask does so after ``distributed.scheduler.allowed-failures`` + 1
deaths of workers that held it, 4 by default, whether they were at work on it or not."""

COUNTED = 2.0
"""Seconds between counts of the workers."""

_one_at_a_time = threading.Lock()


class Process(NamedTuple):
    """What must be the same in all processes, so that a part has the same bytes in each."""

    fmjax: str
    jax: str
    jaxlib: str
    platform: str


class OnDask:
    """Workers of a Dask cluster.

    Args:
      client: a connected ``distributed.Client``, not an asynchronous one.
    """

    def __init__(self, client: "Client") -> None:
        self._client, self._address = client, _address(client)

    @property
    def platform(self) -> str:
        """Kind of the workers' devices."""
        return self._process.platform

    @cached_property
    def _process(self) -> Process:
        """What every worker runs.

        Raises:
          ValueError: no worker, or one with another version than this process, or with other devices than another.
        """
        with _connected_to(self._client, self._address):
            try:
                self._client.wait_for_workers(1, timeout=JOIN)
            except TimeoutError:
                raise ValueError(f"scheduler {self._address}: no worker joined it in {JOIN:g} s") from None
            found = self._client.run(_process_here, on_error="return")
        _check_scheduler(self._client, self._address)
        own, expected = Process(__version__, jax.__version__, version("jaxlib"), ""), None
        for address, process in found.items():
            if isinstance(process, BaseException):
                raise ValueError(f"worker {address} cannot run fmjax {__version__}: {_first_line(process)}")
            expected = expected or own._replace(platform=process.platform)
            _check_same(process, expected, address)
        assert expected is not None
        return expected

    def results(self, work: Work[Result], numbers: Sequence[int]) -> Iterator[tuple[int, Result]]:
        """Submits lots of parts, a few for each worker, and yields the parts of each lot as it comes."""
        if not len(numbers):
            return
        flight = _Flight(self._client, self._address, work, self._process, _Lots(numbers))
        try:
            while flight.fill():
                yield from flight.arrived()
        finally:
            flight.land()


class _Lot(NamedTuple):
    """Parts that are computed by one task."""

    numbers: Sequence[int]
    given_up: int = 0
    """Times that Dask gave it up, as worker after worker died with it."""


def _lot_seconds(workers: int) -> float:
    """Time that a lot should take.

    ``workers`` that each ask for a lot after ``t`` seconds ask for ``workers / t`` lots a second. The scheduler serves
    so many at ease if ``t`` is at least ``workers * TASK_SECONDS``. That must hold for the last lots too, which are
    ``LAST`` times shorter: 64 workers get lots of 2.6 s that end at 0.3 s, and 256 get lots of 10 s that end at 1.3 s.
    """
    return max(LOT_SECONDS, LAST * workers * TASK_SECONDS)


class _Lots:
    """Cuts parts into lots that take about the same time, by how long the last one took.

    The first ones have a single part, and each is at most ``GROWTH`` times as large as the last, as a compilation or an
    idle core may have slowed that down. Towards the end lots get smaller again, so that the workers end together. What
    a part is computed with does not depend on its lot, and neither do its bytes.
    """

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers, self._next, self._again = numbers, 0, deque[_Lot]()
        self._each, self._most = LOT_SECONDS, 1
        """Seconds of a part, and parts of a lot at most."""

    def take(self, workers: int) -> _Lot | None:
        """The next lot, if there is one."""
        if self._again:
            return self._again.popleft()
        left = len(self._numbers) - self._next
        if not left:
            return None
        size = max(1, min(int(_lot_seconds(workers) / self._each), self._most))
        even = max(left // (2 * max(1, workers)), size // LAST, 1)
        begin, size = self._next, min(size, even, left)
        self._next += size
        return _Lot(self._numbers[begin : begin + size])

    def measured(self, parts: int, seconds: float, size: int) -> None:
        """Learns from a lot what it took and how many bytes it sent back."""
        self._each = max(seconds, 1e-6) / parts
        self._most = min(GROWTH * parts, LOT_BYTES * parts // max(size, 1))

    def give_again(self, lot: _Lot) -> None:
        """Has the parts of a lot that Dask gave up be taken once more, one by one, unless that is hopeless."""
        few = f"parts {lot.numbers[0]} ... {lot.numbers[-1]}" if len(lot.numbers) > 1 else f"part {lot.numbers[0]}"
        hopeless = lot.given_up + 1 >= GIVEN_UP
        require(not hopeless, f"every worker that computed {few} died; its log has the reason (too little memory?)")
        self._again.extend(_Lot([number], lot.given_up + 1) for number in lot.numbers)


class _Flight:
    """The lots of one work that are under way, bounded by the number of workers."""

    def __init__(self, client: "Client", address: str, work: Work[Any], process: Process, lots: _Lots) -> None:
        self._client, self._address, self._process, self._lots = client, address, process, lots
        self._name = f"fmjax-{type(work).__name__.lower()}-{uuid.uuid4().hex}"  # Dask's dashboard shows all but the hex
        self._lot_of: dict[Future, _Lot] = {}
        self._done: SimpleQueue[Future] = SimpleQueue()
        self._workers, self._counted, self._seen = 0, -COUNTED, time.monotonic()
        with _connected_to(client, address):
            # a task of its own, so that the work goes to each worker once; were it scattered, it could not be had anew
            # when the worker that holds it dies
            self._work = client.submit(_itself, work, key=f"{self._name}-work")

    def fill(self) -> bool:
        """Submits lots until enough are under way, all in one message; whether any is."""
        self._count()
        free = AHEAD * max(1, self._workers) - len(self._lot_of)
        lots = [lot for lot in (self._lots.take(self._workers) for _ in range(free)) if lot is not None]
        if lots:
            keys = [(self._name, int(lot.numbers[0]), lot.given_up) for lot in lots]
            shared: dict[str, Any] = {"work": self._work, "expected": self._process}
            with _connected_to(self._client, self._address):
                futures = self._client.map(_computed, [lot.numbers for lot in lots], key=keys, **shared)
            self._lot_of.update(zip(futures, lots, strict=True))
            for future in futures:
                future.add_done_callback(self._done.put)
        return bool(self._lot_of)

    def _count(self) -> None:
        """Counts the workers now and then, to use those that join and not to wait for ever where all have left."""
        now = time.monotonic()
        if now - self._counted < COUNTED:
            return
        with _connected_to(self._client, self._address):
            self._workers, self._counted = len(self._client.nthreads()), now
        self._seen = now if self._workers else self._seen
        gone = now - self._seen > JOIN
        require(not gone, f"scheduler {self._address}: all its workers left, and none joined in {JOIN:g} s")

    def arrived(self) -> Iterator[tuple[int, Any]]:
        """The parts of the lots that have come; none where none has come for a while."""
        futures: list[Future] = []
        with suppress(Empty):
            futures.append(self._done.get(timeout=COUNTED))
            while True:
                futures.append(self._done.get_nowait())
        came = [future for future in futures if future.status == "finished"]
        with _connected_to(self._client, self._address):
            results = dict(zip(came, self._client.gather(came), strict=True))  # in one message
        for future in futures:
            yield from self._parts(future, results)

    def _parts(self, future: "Future", results: "dict[Future, Any]") -> Iterator[tuple[int, Any]]:
        """The parts of a lot; none where Dask gave it up and it must be submitted again."""
        from distributed import KilledWorker

        lot = self._lot_of.pop(future)
        try:
            with _connected_to(self._client, self._address):
                found, seconds, size = results.pop(future) if future in results else future.result()
        except KilledWorker:
            self._lots.give_again(lot)
            return
        self._lots.measured(len(found), seconds, size)
        yield from zip(lot.numbers, found, strict=True)

    def land(self) -> None:
        """Drops what is under way."""
        if self._lot_of and self._client.status == "running":
            with suppress(Exception):
                self._client.cancel([*self._lot_of])


def _itself(work: Work[Any]) -> Work[Any]:
    return work


def _process_here(dask_worker: "Worker") -> Process:
    """What a worker runs; called with it by Dask.

    XLA runs its own threads on as many cores as the machine has, unless ``NPROC`` is set when it starts. Where several
    workers share a machine, these threads wait for each other: a worker of one core of two took a quarter more time.
    """
    if dask_worker.state.nthreads < (os.cpu_count() or 1):
        os.environ.setdefault("NPROC", str(dask_worker.state.nthreads))
    return Process(__version__, jax.__version__, version("jaxlib"), jax.local_devices()[0].platform)


def _version_here() -> str:
    return __version__


def _check_scheduler(client: "Client", address: str) -> None:
    """The scheduler reads what is sent through it, and so it needs fmjax too."""
    where = f"scheduler {address}"
    try:
        found = client.run_on_scheduler(_version_here)
    except Exception as error:
        raise ValueError(f"{where} cannot read what is sent by fmjax {__version__}: {_first_line(error)}") from None
    require(found == __version__, f"{where} has fmjax {found}, this process has {__version__}")


def _computed(numbers: Sequence[int], work: Work[Result], expected: Process) -> tuple[list[Result], float, int]:
    """In a worker: the parts of a lot, the seconds they took, and their bytes.

    Dask begins as many tasks at once as a worker has threads. Each would take all devices, so that they go one by one.
    """
    from distributed import get_worker

    worker = get_worker()
    _check_same(_process_here(worker), expected, worker.address)  # it may have joined after the others were asked
    use_cores(worker.state.nthreads)
    with _one_at_a_time:
        began = time.perf_counter()
        found = list(work.results(numbers))
        seconds = time.perf_counter() - began
    return found, seconds, sum(leaf.nbytes for leaf in jax.tree.leaves(found) if hasattr(leaf, "nbytes"))


def _check_same(process: Process, expected: Process, address: str) -> None:
    for name, has, needs in zip(Process._fields, process, expected, strict=True):
        ours = "the other workers run on" if name == "platform" else "this process has"
        require(has == needs, f"worker {address} has {name} {has}, {ours} {needs}; parts would have other bytes")


@contextmanager
def _connected_to(client: "Client", address: str) -> Iterator[None]:
    """Makes one line of what goes wrong on the way to the scheduler and the workers, and in a worker.

    A client whose scheduler is gone raises whatever its own code meets then, such as an ``AttributeError``.
    """
    from distributed import KilledWorker

    try:
        yield
    except (ValueError, KilledWorker):
        raise
    except Exception as error:
        lost, of_dask = client.status != "running", isinstance(error, CancelledError | OSError)
        if not lost and not of_dask:
            raise ValueError(f"a worker of {address} failed: {_first_line(error)}") from None
        reason = getattr(error, "reason", None) or (_first_line(error) if of_dask else "the connection is closed")
        what = "dropped the work" if not lost and isinstance(error, CancelledError) else "is gone"
        kept = "parts that came back are in the folder, if there is one"
        raise ValueError(f"scheduler {address} {what}: {reason}; {kept}") from None


def _address(client: "Client") -> str:
    return str(getattr(client.scheduler, "address", None) or "of Dask")


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def dask_client(address: str) -> Iterator["Client"]:
    """A client of the scheduler at an address, for the time of a ``with`` block; Dask's own log keeps still.

    Raises:
      ValueError: dask.distributed is not installed, or nobody answers there.
    """
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise ValueError("a Dask scheduler needs dask.distributed: pip install 'fmjax[dask]'") from None
    for name in ("distributed", "tornado", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        client = Client(address, timeout=CONNECT, set_as_default=False)
    except Exception as error:
        raise ValueError(f"scheduler {address}: cannot be reached: {_first_line(error)}") from None
    try:
        yield client
    finally:
        with suppress(Exception):
            client.close(timeout=CONNECT if client.status == "running" else 0)
