"""The local devices, for work that is cut into independent parts: one program over several, threads over cores."""

import os
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

Outcome = TypeVar("Outcome")

_own_cores: int | None = None

_compiled: set[Hashable] = set()
_locks: dict[Hashable, threading.Lock] = {}
_adding = threading.Lock()


def use_cores(count: int) -> None:
    """Has this process use so many cores of its CPU, as one of several on a machine."""
    global _own_cores
    _own_cores = count


def cores() -> int:
    """Cores that this process may use; a job may have fewer than its machine."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return _own_cores or (len(affinity(0)) if affinity else os.cpu_count() or 1)


EACH = "devices"
"""Name of the axis of a mesh of devices."""

REPLICATED: Any = PartitionSpec()
SHARDED: Any = PartitionSpec(EACH)
"""Of an argument that every device gets whole, and of one of whose first axis each gets a share."""


def local_mesh() -> Mesh | None:
    """All local devices in a row, where there is more than one."""
    devices = jax.local_devices()
    return Mesh(np.array(devices), (EACH,)) if len(devices) > 1 else None


def over_mesh(mesh: Mesh | None, call: Callable[..., Outcome], given: Any, found: Any) -> Callable[..., Outcome]:
    """A call as one program for all devices of a mesh, each with its share and none waiting for another.

    Args:
      mesh: the devices; without one the call is left as it is.
      call: what a device does.
      given: a ``PartitionSpec`` for each argument.
      found: of the result.
    """
    if mesh is None:
        return call
    # devices exchange nothing, so there is nothing to check
    each: Callable[..., Outcome] = jax.shard_map(call, mesh=mesh, in_specs=given, out_specs=found, check_vma=False)
    return each


def threads() -> int:
    """Threads that hand out work.

    XLA runs most of our programs on one core of a CPU, so one thread a core keeps all of them busy. Other devices, or
    several, run one program at a time (``over_mesh``). While they work for one thread, another makes the next call
    ready.
    """
    devices = jax.local_devices()
    return cores() if devices[0].platform == "cpu" and len(devices) == 1 else 2


class Pool:
    """Threads that run calls; closes, and drops what has not begun, as a context.

    Args:
      x64: whether calls compute in float64; a thread begins with JAX's default, whatever its parent has.
    """

    def __init__(self, *, x64: bool) -> None:
        self.size, self._x64 = threads(), x64
        self._threads = ThreadPoolExecutor(self.size)

    def submit(self, call: Callable[[], Outcome], *, program: Hashable = None) -> "Future[Outcome]":
        """Has a thread run a call.

        Args:
          call: the work.
          program: what the call compiles, if that may be new; see ``_once_compiled``.
        """

        def work() -> Outcome:
            with jax.enable_x64(self._x64):
                return call() if program is None else _once_compiled(program, call)

        return self._threads.submit(work)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)


def beside(call: Callable[[], Outcome]) -> "Future[Outcome]":
    """Has a thread of its own run a call, in the precision of this one, beside what follows.

    For calls whose result this process would wait for anyway, above all those that compile: XLA needs no Python then.
    """
    x64, found = jnp.result_type(float) == jnp.float64, Future[Outcome]()

    def work() -> None:
        try:
            with jax.enable_x64(x64):
                found.set_result(call())
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=work).start()
    return found


def once_compiled(jitted: Callable[..., Outcome], *args: Any, **static: Hashable) -> Outcome:
    """Calls a jitted function of pytrees; threads that need the same program wait for the first of them.

    Args:
      jitted: the function, or what stands for it.
      args: its arguments, pytrees of arrays and numbers.
      static: its static arguments.
    """
    leaves, structure = jax.tree.flatten(args)
    shapes = tuple((np.shape(x), getattr(x, "dtype", type(x))) for x in leaves)
    program = (jitted, structure, shapes, tuple(static.items()), jnp.result_type(float))
    return _once_compiled(program, lambda: jitted(*args, **static))


def _once_compiled(program: Hashable, call: Callable[[], Outcome]) -> Outcome:
    """Runs a call; of several that need a program nobody has compiled yet, one runs first and the others wait.

    Threads that meet the same new program at once would each compile it, as JAX fills its cache only at the end. A
    program's lock is for that first call alone: whoever waited for it looks again, finds the program compiled, and runs
    outside the lock, beside the others. Different programs are compiled side by side.
    """
    if program not in _compiled:
        with _adding:
            lock = _locks.setdefault(program, threading.Lock())
        with lock:
            if program not in _compiled:
                found = call()
                _compiled.add(program)
                return found
    return call()
