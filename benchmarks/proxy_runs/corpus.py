"""The text, as bytes: source files of Python's own standard library, and NumPy's C headers as another domain."""

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
    """Training and validation text, ``[bytes]`` each, a digest of both, and text of another domain."""

    train: np.ndarray
    validation: np.ndarray
    digest: str
    headers: np.ndarray

    @classmethod
    def of_standard_library(cls) -> "Corpus":
        """All source files of the running Python; about one file in ten, chosen by its path, is held out."""
        parts: dict[bool, list[bytes]] = {False: [], True: []}
        for path, text in _sources(Path(sysconfig.get_paths()["stdlib"])):
            parts[_held_out(path)].append(text)
        train, validation = b"".join(parts[False]), b"".join(parts[True])
        digest = hashlib.sha256(hashlib.sha256(train).digest() + validation).hexdigest()
        headers = b"".join(_headers(Path(np.get_include())))
        return cls(_bytes(train), _bytes(validation), digest, _bytes(headers))

    def batch(self, setup: Setup, count: int) -> np.ndarray:
        """Sequences of update ``count``, ``[batch, context + 1]``: windows drawn from the training text.

        The generator is counter-based, so an update's data depends on nothing but the seed and the update's count.
        """
        draw = np.random.Generator(np.random.Philox(key=np.array([setup.seed, count], np.uint64)))
        starts = draw.integers(0, len(self.train) - setup.context, size=setup.batch)
        return _windows(self.train, starts, setup.context)

    def validation_set(self, setup: Setup) -> np.ndarray:
        """The fixed validation sequences, evenly spaced over the held-out text, ``[sequences, context + 1]``."""
        return _evenly_spaced(self.validation, setup.validation_sequences, setup.context)

    def measured_sets(self, setup: Setup) -> list[np.ndarray]:
        """What losses are measured on: the validation set, and those of the training text and the other domain."""
        probes = [self.train, self.headers] if setup.probe_sequences else []
        spaced = [_evenly_spaced(text, setup.probe_sequences, setup.context) for text in probes]
        return [self.validation_set(setup), *spaced]


def _sources(root: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(file.relative_to(root).as_posix() for file in root.rglob("*.py")):
        if EXCLUDED.isdisjoint(path.split("/")) and not path.startswith(BUILD_SPECIFIC):
            yield path, (root / path).read_bytes()


def _bytes(text: bytes) -> np.ndarray:
    return np.frombuffer(text, np.uint8)


def _headers(root: Path) -> Iterator[bytes]:
    for path in sorted(file.relative_to(root).as_posix() for file in root.rglob("*.h")):
        if not path.endswith("_numpyconfig.h"):  # describes one build
            yield (root / path).read_bytes()


def _held_out(path: str) -> bool:
    return hashlib.sha256(path.encode()).digest()[0] % 10 == 0


def _evenly_spaced(text: np.ndarray, sequences: int, context: int) -> np.ndarray:
    starts = np.linspace(0, len(text) - context - 1, sequences).astype(np.int64)
    return _windows(text, starts, context)


def _windows(text: np.ndarray, starts: np.ndarray, context: int) -> np.ndarray:
    return text[starts[:, None] + np.arange(context + 1)]
