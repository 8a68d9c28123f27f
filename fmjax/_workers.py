"""Who computes: work is cut into numbered parts, some workers are handed their numbers and give back the results."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import jax

Result = TypeVar("Result")
GivenBack = TypeVar("GivenBack", covariant=True)
Task = TypeVar("Task", contravariant=True)


class Work(Protocol[GivenBack]):
    """Numbered parts, none of which needs another.

    It goes to other processes, so that it holds data only. A part has the same bytes wherever and whenever it is
    computed.
    """

    def results(self, numbers: Iterable[int]) -> Iterator[GivenBack]:
        """The result of each part, in the given order, on all devices of this process."""


class Workers(Protocol[Task, GivenBack]):
    """Whoever takes numbers of parts and gives back their results, each once and in any order."""

    @property
    def platform(self) -> str:
        """Kind of device that computes, such as "cpu"."""

    def results(self, work: Task, numbers: Sequence[int]) -> Iterator[tuple[int, GivenBack]]:
        """Submits parts a few ahead, and yields the number and the result of each as it comes."""


class Alone:
    """This process, by itself."""

    @property
    def platform(self) -> str:
        """Kind of its devices."""
        return jax.local_devices()[0].platform

    def results(self, work: Work[Result], numbers: Sequence[int]) -> Iterator[tuple[int, Result]]:
        """Computes parts in the given order."""
        yield from zip(numbers, work.results(numbers), strict=True)
