"""The folder of a search: finished parts, each written whole or not at all, to go on from when interrupted.

Any number of processes, also on different machines, may write parts of one search into one folder. A part has the same
bytes whoever writes it, and takes its place in one step, so that no process needs to wait for another.
"""

import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from fmjax._checks import require, within
from fmjax._files import write_whole, writing
from fmjax._workers import Workers
from fmjax.searching.grid import Grid, Part
from fmjax.searching.parts import Computed, Reduced, Sweep

FOLDER_FORMAT = 1
"""Version of the files in the folder."""

NAMED_RUNS = 4
"""Runs of missing parts that a notice names."""

_PART = re.compile(r"\d{8,}\.npz")


class Folder(NamedTuple):
    """A folder of finished parts: ``search.json`` says of which search, ``parts`` and ``table`` hold a file a part."""

    path: Path
    table: bool

    @classmethod
    def open(cls, path: str | Path, search: dict[str, object], *, table: bool) -> "Folder":
        """Opens the folder of a search, or makes one.

        Raises:
          ValueError: a folder of another search or with other files, one that cannot be written, or no pyarrow.
        """
        folder, about = cls(Path(path), table), {"format": FOLDER_FORMAT, **search}
        if table:
            _parquet()
        with writing(folder.path):
            folder.path.mkdir(parents=True, exist_ok=True)
            found = folder.path / "search.json"
            # listed before the record is looked for: another process may open the folder at the same moment, and
            # whoever sees its files then sees its record, which is written first
            strange = [entry.name for entry in folder.path.iterdir() if not entry.name.startswith(".")]
            if found.exists():
                folder._check(found, about)
            else:
                require(not strange, f"{folder.path}: expected an empty folder or one of a search, found {strange[:1]}")
            text = json.dumps(about, indent=1, allow_nan=False) + "\n"
            write_whole(
                found, lambda part: part.write_text(text, encoding="utf-8")
            )  # first: it tells whose the rest is
            for name in ("parts", "table") if table else ("parts",):
                (folder.path / name).mkdir(exist_ok=True)
        return folder

    def _check(self, found: Path, about: dict[str, object]) -> None:
        try:
            recorded = json.loads(found.read_text(encoding="utf-8"))
        except (ValueError, OSError):
            raise ValueError(f"{found}: not the record of a search") from None
        other = [key for key in about if not isinstance(recorded, dict) or recorded.get(key) != about[key]]
        require(not other, f"{self.path}: belongs to another search, with other {', '.join(other)}")

    def _part(self, index: int) -> Path:
        return self.path / "parts" / f"{index:08d}.npz"

    def _rows(self, index: int) -> Path:
        return self.path / "table" / f"{index:08d}.parquet"

    def numbers(self) -> set[int]:
        """Numbers of the parts that have a file."""
        with within(self.path):
            return {int(file.stem) for file in (self.path / "parts").iterdir() if _PART.fullmatch(file.name)}

    def load(self, index: int) -> Reduced | None:
        """What was kept of a part; None where it is not there or damaged."""
        if self.table and not self._rows(index).exists():
            return None
        path = self._part(index)
        with within(path):
            data = path.read_bytes() if path.exists() else b""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as stored:
                return Reduced(*(stored[name] for name in Reduced._fields))
        except Exception:  # whatever the damage
            return None

    def save(self, part: Part, computed: Computed, grid: Grid) -> None:
        """Writes what is kept of a part, after its rows of the table.

        Raises:
          ValueError: the folder cannot be written; what was there before is as it was.
        """
        with writing(self.path):
            if self.table:
                write_whole(self._rows(part.number), lambda file: _write_rows(file, part, computed.losses[0], grid))
            write_whole(self._part(part.number), lambda file: _save_arrays(file, computed.reduced))


class Stored(NamedTuple):
    """Workers that take from a folder what is there, have others compute the rest, and keep it."""

    folder: Folder
    behind: Workers[Sweep, Computed]
    notice: Callable[[str], None] | None = None
    """Called with a line where some parts of a search were there and others were not."""

    @property
    def platform(self) -> str:
        """Kind of device of those that compute."""
        return self.behind.platform

    def results(self, work: Sweep, numbers: Sequence[int]) -> Iterator[tuple[int, Computed]]:
        """Yields the parts of the folder, then the others as they come, each once it is kept."""
        missing = []
        for number in numbers:
            reduced = self.folder.load(number)
            if reduced is not None and work.is_of(number, reduced):
                yield number, work.stored(reduced)
            else:
                missing.append(number)
        if self.notice is not None and 0 < len(missing) < len(numbers):
            these = f"{len(missing)} of {len(numbers)} parts ({ranges(missing)})"
            self.notice(f"{self.folder.path}: {these} are missing or damaged, and computed now")
        for number, computed in self.behind.results(work, missing):
            self.folder.save(work.part(number), computed, work.kernel.grid)
            yield number, computed


def ranges(numbers: Sequence[int]) -> str:
    """Rising numbers in words: runs of them by their ends, the first few."""
    if not numbers:
        return "none"
    breaks = [i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1] + 1]
    ends = zip([0, *breaks], [*breaks, len(numbers)], strict=True)
    runs = [f"{numbers[a]} ... {numbers[b - 1]}" if b - a > 1 else str(numbers[a]) for a, b in ends]
    return ", ".join(runs[:NAMED_RUNS]) + (" and others" if len(runs) > NAMED_RUNS else "")


def _save_arrays(file: Path, reduced: Reduced) -> None:
    with file.open("wb") as stream:
        np.savez(stream, **reduced._asdict())


def _parquet() -> ModuleType:
    try:
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise ValueError("writing a table needs pyarrow: pip install 'fmjax[data]'") from None
    return parquet


def _write_rows(file: Path, part: Part, losses: np.ndarray, grid: Grid) -> None:
    import pyarrow

    rows, ratios = losses.shape
    names = pyarrow.DictionaryArray.from_arrays(np.zeros(rows * ratios, np.int8), [part.decay])
    batch, batches = part.tokens_per_step, grid.tokens_per_step
    as_text = batches is not None and batches.dtype == object  # where any batch changes
    told = {"model_size": part.model_size, "tokens_per_step": str(batch) if as_text else batch}
    columns = {
        **{name: np.full(rows * ratios, value) for name, value in told.items() if value is not None},
        "total_steps": np.full(rows * ratios, part.total_steps),
        "peak_lr": np.repeat(part.peak_lr, ratios),
        "decay": names,
        "final_lr": np.repeat(part.final_lr, ratios),
        "anneal_ratio": np.tile(grid.anneal_ratio, rows),
        "loss": losses.ravel(),
    }
    _parquet().write_table(pyarrow.table(columns), file)
