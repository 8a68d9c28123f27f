"""Shares of a search: the jobs of an array each compute one into a shared folder, and none waits for another.

Share I of N takes every N-th part. Shares may run in any order, on any machines of one kind, and may be repeated: a
part that the folder has is not computed again. ``search`` with the same options and folder merges them, and computes
what is still missing. As a Slurm job array, ``sbatch --array=1-64 job.sh`` with this in ``job.sh``::

    SHARE=$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT
    srun fmjax search fit.json --total-steps 24000 --peak-lr 1e-4:1e-2:100000 --folder /shared/search --share $SHARE

As an indexed job of Kubernetes, whose indices begin at 0::

    spec:
      completionMode: Indexed
      completions: 64
      parallelism: 64
      template:
        spec:
          restartPolicy: OnFailure
          containers:
          - command: ["sh", "-c", "fmjax search fit.json --total-steps 24000 --peak-lr 1e-4:1e-2:100000
              --share $((JOB_COMPLETION_INDEX + 1))/64 --folder /shared/search"]

The folder must be on a file system that all of them share, where renaming a file is one step (NFS, Lustre, GPFS, a
ReadWriteMany volume).
"""

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from fmjax._checks import require
from fmjax._files import writing
from fmjax._json import Record, plain
from fmjax.fitting.records import FitResult
from fmjax.searching.parts_folder import Stored
from fmjax.searching.sweeps import planned_search

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]


class Share(NamedTuple):
    """One of several shares of a search."""

    number: int
    """From 1."""
    of: int

    @classmethod
    def parse(cls, text: str) -> "Share":
        """Reads I/N.

        Raises:
          ValueError: other text, or no such share.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"share: expected I/N with I from 1 to N, got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def parts(self, count: int) -> range:
        """Its parts of so many."""
        return range(self.number - 1, count, self.of)


@dataclass(frozen=True)
class ShareResult(Record):
    """What became of a share: every part of it is in the folder."""

    share: Share
    folder: str
    parts: int
    """Parts of the share."""
    computed: int
    """Parts of it that were computed now; the folder had the others."""
    missing: int
    """Parts of the whole search that the folder does not have yet."""
    parts_of_search: int

    def to_dict(self) -> dict[str, object]:
        """The share as plain values for JSON."""
        counts = {name: getattr(self, name) for name in ("folder", "parts", "computed", "missing", "parts_of_search")}
        return plain({"share": str(self.share), **counts})


def search_share(
    result: FitResult,
    share: Share,
    *,
    folder: str | Path,
    progress: Callable[[int, int], None] | None = None,
    notice: Callable[[str], None] | None = None,
    **options: Any,
) -> ShareResult:
    """Computes one share of a search into a folder that other shares may be writing to.

    Args:
      result: a fit that converged.
      share: which of how many.
      folder: folder of the search, the same for all shares.
      progress: called with (candidates done, candidates of the share) after each part.
      notice: called with a line that is worth seeing at once.
      options: the other options of ``search``, the same for all shares.

    Raises:
      ValueError: what ``search`` refuses, or another process is at work on this share.
    """
    planned = planned_search(result, folder=folder, notice=notice, **options)
    assert isinstance(planned.workers, Stored)
    store, count = planned.workers.folder, planned.sweep.parts
    mine = share.parts(count)
    with _alone_on(store.path, share):
        computed = sum(part.is_new for _, part in planned.results(mine, progress))
    missing = len(set(range(count)) - store.numbers())
    return ShareResult(share, str(folder), len(mine), computed, missing, count)


@contextmanager
def _alone_on(folder: Path, share: Share) -> Iterator[None]:
    """Refuses a share that another process is at work on.

    The lock is the system's and goes with the process that holds it, however that ends, so that a share whose job was
    killed can be repeated at once. On a file system without locks nothing is refused: two processes then compute the
    same bytes, and each file takes its place in one step.
    """
    path = folder / f".share-{share.number}-of-{share.of}.lock"
    with writing(path):
        stream = path.open("wb")
    with stream:
        require(_locked(stream), f"{folder}: another process is at work on share {share}")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _locked(stream: IO[bytes]) -> bool:
    """Whether this process has the lock of a file, or there are no locks here."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True
