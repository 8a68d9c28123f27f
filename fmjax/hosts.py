"""Many hosts: which parts of a job are this process's, and what all processes found."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import jax

T = TypeVar("T")


def share(parts: Iterable[T], process: int | None = None, processes: int | None = None) -> Iterator[T]:
    """Every n-th part, beginning with the process's own."""
    first, step = jax.process_index() if process is None else process, processes or jax.process_count()
    return islice(parts, first, None, step)


def gather(mine: T) -> list[T]:
    """What every process found, in the order of processes."""
    return [mine]
