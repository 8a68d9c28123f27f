"""Many hosts: one program as many processes, each with its share of the parts, all ending with the whole result.

Processes meet through JAX's distributed runtime, whose coordinator (process 0) holds the few bytes they exchange. While
they work they do not wait for each other. One that fails, dies or falls silent ends the others with a line on stderr
within a minute; none is left hanging.
"""

import atexit
import io
import itertools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax._src import distributed  # JAX exports no key-value store; these methods are the same from 0.8 on

from fmjax._checks import require

T = TypeVar("T")
Arrays = TypeVar("Arrays", bound=tuple)

JOIN = 45
"""Seconds in which all processes must have joined."""

SILENT = 25
"""Seconds without a beat after which a process counts as dead."""

BEAT = 1.0
"""Seconds between beats."""

PIECE = 2**20
"""Bytes of a value in the store."""

_gathers = itertools.count()


class Cluster(NamedTuple):
    """Which processes make one program; what is None is taken from the cluster environment that JAX detects."""

    coordinator: str | None = None
    """HOST:PORT of process 0."""
    processes: int | None = None
    process: int | None = None


def share(parts: Iterable[T], process: int | None = None, processes: int | None = None) -> Iterator[T]:
    """Every n-th part, beginning with the process's own."""
    first, step = jax.process_index() if process is None else process, processes or jax.process_count()
    return itertools.islice(parts, first, None, step)


def gather(mine: Arrays) -> list[Arrays]:
    """The arrays of every process, in the order of processes, to the bit."""
    if jax.process_count() == 1:
        return [mine]
    store, call = _store(), next(_gathers)
    buffer = io.BytesIO()
    np.savez(buffer, *mine)
    data, name = buffer.getvalue(), f"fmjax/found/{call}"
    pieces = [data[i : i + PIECE] for i in range(0, len(data), PIECE)]
    for k, piece in enumerate(pieces):
        store.key_value_set_bytes(f"{name}/{jax.process_index()}/{k}", piece)
    store.key_value_set_bytes(f"{name}/{jax.process_index()}/pieces", str(len(pieces)).encode())
    return [_read(type(mine), f"{name}/{process}") for process in range(jax.process_count())]


def _read(kind: Any, name: str) -> Any:
    pieces = int(_wait_for(f"{name}/pieces"))
    with np.load(io.BytesIO(b"".join(_wait_for(f"{name}/{k}") for k in range(pieces))), allow_pickle=False) as stored:
        return kind(*(stored[f"arr_{i}"] for i in range(len(stored.files))))


def _store() -> Any:
    return distributed.global_state.client


def _wait_for(key: str) -> bytes:
    """The value of a key once it is there; what keeps watch ends a wait without hope."""
    while True:
        try:
            return _store().key_value_try_get_bytes(key)
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" not in str(error):
                raise
        time.sleep(0.1)


@contextmanager
def joined(cluster: Cluster | None) -> Iterator[None]:
    """Joins a cluster for the time of a ``with`` block; None is no cluster.

    Raises:
      ValueError: no cluster is detected and none is described, or it cannot be joined.
    """
    if cluster is None:
        yield
        return
    _join(cluster)
    watch = _Watch()
    try:
        yield
    except BaseException as error:
        watch.fail(error)
        raise
    watch.closing = True
    jax.distributed.shutdown()  # waits for the others; afterwards none needs this process
    watch.over.set()


def _join(cluster: Cluster) -> None:
    described = [value is not None for value in cluster]
    require(all(described) or not any(described), "give all of coordinator, processes and process, or none of them")
    late = f"not all {cluster.processes or ''} processes joined {cluster.coordinator or 'the cluster'} in {JOIN} s"
    if cluster.coordinator and cluster.process == 0:
        _check_free(cluster.coordinator)  # JAX would crash
    timer = threading.Timer(JOIN, _die, [" ".join(late.split())])  # before JAX's own, which aborts without a word
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            *cluster,
            initialization_timeout=JOIN + 60,
            heartbeat_timeout_seconds=SILENT + 15,
            cluster_detection_method="deactivate" if cluster.coordinator else None,
        )
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # JAX takes the signal for a notice and goes on
        jax.local_devices()  # the processes tell each other their devices
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"cannot join a cluster: {reason} (describe it by coordinator, processes, process)") from None
    finally:
        timer.cancel()


def _check_free(coordinator: str) -> None:
    port = coordinator.rpartition(":")[2]
    require(port.isdigit(), f"coordinator: expected HOST:PORT, got {coordinator!r}")
    try:
        socket.create_server(("", int(port))).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"coordinator {coordinator}: {error}") from None


def _die(line: str) -> None:
    """Ends the process at once: JAX's way out would wait for the others."""
    with suppress(Exception):
        sys.stdout.flush()
    os.write(2, f"fmjax: {line}\n".encode())
    os._exit(1)


class _Watch:
    """A thread that shows the others this process is alive, and ends it when one of them is not."""

    def __init__(self) -> None:
        self.over, self.closing = threading.Event(), False
        self._me = jax.process_index()
        self._heard: dict[int, tuple[str | None, float]] = {}
        threading.Thread(target=self._watch, daemon=True).start()

    def fail(self, error: BaseException) -> None:
        """Tells the others that this process fails, and has it exit without waiting for them."""
        with suppress(Exception):
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            _store().key_value_set(f"fmjax/watch/failed/{self._me}", reason)
            self.closing = True
            time.sleep(3 * BEAT if self._me == 0 else 0)  # process 0 holds the store: the others must read it first
        atexit.register(self._leave)

    def _leave(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(2)

    def _watch(self) -> None:
        for beat in itertools.count():
            if self.over.wait(BEAT):
                return
            try:
                _store().key_value_set(f"fmjax/watch/beat/{self._me}", str(beat), allow_overwrite=True)
                found = dict(_store().key_value_dir_get("fmjax/watch/"))
            except Exception:
                if not self.closing:
                    _die(f"process {self._me} stops: process 0, the coordinator, is gone")
                return
            if not self.closing:
                self._check(found)

    def _check(self, found: dict[str, str]) -> None:
        for process in range(jax.process_count()):
            failed, beat = (found.get(f"fmjax/watch/{what}/{process}") for what in ("failed", "beat"))
            if failed is not None and process != self._me:
                _die(f"process {self._me} stops: process {process} failed: {failed}")
            now, heard = time.monotonic(), self._heard.get(process)
            if heard is None or heard[0] != beat:
                self._heard[process] = (beat, now)
            elif now - heard[1] > SILENT:
                _die(f"process {self._me} stops: process {process} has been silent for {SILENT} s")
