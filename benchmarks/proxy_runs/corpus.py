"""The text: source files of Python's own standard library, as bytes."""

import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.proxy_runs.config import Setup

EXCLUDED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "idle_test"}
BUILD_SPECIFIC = ("config-", "_sysconfigdata")


class Corpus(NamedTuple):
    """Training and validation text, ``[bytes]`` each, and a digest of both."""

    train: np.ndarray
    validation: np.ndarray
    digest: str

    @classmethod
    def of_standard_library(cls) -> "Corpus":
        """All source files of the running Python; about one file in ten, chosen by its path, is held out."""
        parts: dict[bool, list[bytes]] = {False: [], True: []}
        for path, text in _sources(Path(sysconfig.get_paths()["stdlib"])):
            parts[_held_out(path)].append(text)
        train, validation = b"".join(parts[False]), b"".join(parts[True])
        digest = hashlib.sha256(hashlib.sha256(train).digest() + validation).hexdigest()
        return cls(np.frombuffer(train, np.uint8), np.frombuffer(validation, np.uint8), digest)

    def batch(self, setup: Setup, count: int) -> np.ndarray:
        """Sequences of update ``count``, ``[batch, context + 1]``: windows drawn from the training text.

        The generator is counter-based, so an update's data depends on nothing but the seed and the update's count.
        """
        draw = np.random.Generator(np.random.Philox(key=np.array([setup.seed, count], np.uint64)))
        starts = draw.integers(0, len(self.train) - setup.context, size=setup.batch)
        return _windows(self.train, starts, setup.context)

    def validation_set(self, setup: Setup) -> np.ndarray:
        """The fixed validation sequences, evenly spaced over the held-out text, ``[sequences, context + 1]``."""
        last = len(self.validation) - setup.context - 1
        starts = np.linspace(0, last, setup.validation_sequences).astype(np.int64)
        return _windows(self.validation, starts, setup.context)


def _sources(root: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(file.relative_to(root).as_posix() for file in root.rglob("*.py")):
        if EXCLUDED.isdisjoint(path.split("/")) and not path.startswith(BUILD_SPECIFIC):
            yield path, (root / path).read_bytes()


def _held_out(path: str) -> bool:
    return hashlib.sha256(path.encode()).digest()[0] % 10 == 0


def _windows(text: np.ndarray, starts: np.ndarray, context: int) -> np.ndarray:
    return text[starts[:, None] + np.arange(context + 1)]
