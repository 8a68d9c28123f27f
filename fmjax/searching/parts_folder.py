"""The folder of a search: finished parts, each written whole or not at all, to go on from when interrupted."""

import json
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from fmjax._checks import require
from fmjax._files import write_whole, writing
from fmjax.searching.grid import Grid, Part

FOLDER_FORMAT = 1
"""Version of the files in the folder."""


class Reduced(NamedTuple):
    """What a search keeps of a part."""

    columns: np.ndarray
    """``[rows]`` best ratio of each cell, and what goes with it."""
    top: np.ndarray
    """``[top]`` index in the grid and loss of the part's best candidates."""
    intervals: np.ndarray
    """``[rows, 4]`` bootstrap intervals of the best ratio and of the loss; no rows without samples."""


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
            if found.exists():
                folder._check(found, about)
            else:
                strange = [entry.name for entry in folder.path.iterdir() if not entry.name.startswith(".")]
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

    def load(self, index: int) -> Reduced | None:
        """What was kept of a part; None where it is not there or damaged."""
        if self.table and not self._rows(index).exists():
            return None
        try:
            with np.load(self._part(index), allow_pickle=False) as stored:
                return Reduced(*(stored[name] for name in Reduced._fields))
        except Exception:  # whatever the damage
            return None

    def save(self, part: Part, reduced: Reduced, losses: np.ndarray, grid: Grid) -> None:
        """Writes what is kept of a part, after its rows of the table.

        Raises:
          ValueError: the folder cannot be written; what was there before is as it was.
        """
        with writing(self.path):
            if self.table:
                write_whole(self._rows(part.number), lambda file: _write_rows(file, part, losses, grid))
            write_whole(self._part(part.number), lambda file: _save_arrays(file, reduced))


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
    columns = {
        "total_steps": np.full(rows * ratios, part.total_steps),
        "peak_lr": np.repeat(part.peak_lr, ratios),
        "decay": names,
        "final_lr": np.repeat(part.final_lr, ratios),
        "anneal_ratio": np.tile(grid.anneal_ratio, rows),
        "loss": losses.ravel(),
    }
    _parquet().write_table(pyarrow.table(columns), file)
