"""Reads the rows that tools print, by the formats of ``line_formats``."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fmjax._checks import require
from fmjax.importers.column_names import EVALUATION, HELD_OUT, LOGGED_BATCHES, LOSSES, MULTIPLIERS, plain_name
from fmjax.importers.contents import begins, text_of
from fmjax.importers.epochs import counted_by_bars, counted_over_epochs
from fmjax.importers.line_formats import FORMATS, LineFormat
from fmjax.importers.source import Source, matching
from fmjax.importers.tables import Table, arrow_module, keep_apart

ENDINGS = re.compile(r"\.(?:txt|log|out|err|stdout|stderr|[oe]\d+)(?:\.gz)?|(?:\.gz)?")
"""Ends of the names of files in which printed rows are looked for."""

HEAD = 2**20
"""Bytes at the beginning of a file in which its format is looked for."""

_SAMPLE = 200
"""Rows in which columns are looked for."""


_WIDEST = 4000
"""Characters of a row in which columns are looked for."""


def format_of(path: Path) -> LineFormat | None:
    """The format of the rows printed in a file; None where there are none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return _format_of(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=10_000)
def _format_of(path: Path, changed: int, size: int) -> LineFormat | None:
    if not ENDINGS.fullmatch("".join(path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:])):
        return None
    head = _without_colours(begins(path, HEAD))
    return next((form for form in FORMATS if _is_of(form, head)), None)


def _is_of(form: LineFormat, head: str) -> bool:
    """Whether rows with a loss are read from the beginning of a file; its last line may be cut off."""
    if not any(re.search(row, head, re.MULTILINE) for row in form.rows):
        return False
    lines = head.splitlines()
    columns = _columns_of(lines[:-1] if len(lines) > 1 and len(head) >= HEAD else lines, form)
    rows = max((column.size for column in columns.values()), default=0)
    enough = rows > 0 and rows >= form.share * sum(bool(line.strip()) for line in lines)
    return enough and bool(matching(columns, form.loss, form.validation))


def rows_printed(path: Path, form: LineFormat, named: Sequence[str] = ()) -> list[Table]:
    """The run whose rows are printed in a file.

    Args:
      path: the file.
      form: how its rows look.
      named: columns that the user names.

    Raises:
      ValueError: no row, or no step in them.
    """
    lines = _without_colours(text_of(path)).splitlines()
    columns = _columns_of(lines, form, named)
    require(columns, f"expected rows of {form.title}, found none")
    columns = counted_by_bars(columns, lines) if form.is_counted_in_epochs else counted_over_epochs(columns)
    total = columns.get("total", np.full(1, np.nan))
    known = total[np.isfinite(total)]
    kept = {key: column for key, column in columns.items() if key not in ("total", "line")}
    return [Table("", kept, total_steps=int(known[-1]) if known.size else None, notes=form.notes)]


def _without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text) if "\x1b[" in text else text


# ---------------------------------------------------------------------------------------------------------------------
# Columns
# ---------------------------------------------------------------------------------------------------------------------


def _columns_of(lines: Sequence[str], form: LineFormat, named: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Numbers by column, a row for each line that is one; ``line`` is its place."""
    compute = arrow_module("compute")
    texts = arrow_module("array")(lines, "string")
    matches = [compute.extract_regex(texts, row) for row in form.rows]
    marks = [match.is_valid().to_numpy(zero_copy_only=False) for match in matches]
    found = np.flatnonzero(np.any(marks, axis=0))
    if not found.size:
        return {}
    rows = texts.take(found)
    columns = {"line": found.astype(float)}
    for row, match in zip(form.rows, matches, strict=True):
        for key, column in _in_groups(match.take(found), row).items():
            columns[key] = np.where(np.isnan(columns.get(key, column)), column, columns.get(key, column))
    if form.is_block:
        columns |= _values_below(texts, found, form, named)
    elif form.pairs:
        columns |= _values_beside(rows, form, named)
    named_plainly = {"epoch" if plain_name(key) == "epoch" else key: column for key, column in columns.items()}
    return {key: column for key, column in named_plainly.items() if not np.isnan(column).all()}


def _unnamed(pattern: str) -> str:
    return re.sub(r"\?P<\w+>", "?:", pattern)


def _groups(texts: Any, pattern: str) -> dict[str, np.ndarray]:
    """Numbers in the named groups of a pattern, NaN where a text has none."""
    return _in_groups(arrow_module("compute").extract_regex(texts, pattern), pattern)


def _in_groups(matches: Any, pattern: str) -> dict[str, np.ndarray]:
    compute = arrow_module("compute")
    names = re.compile(pattern).groupindex
    return {name: _as_numbers(compute.struct_field(matches, [i])) for i, name in enumerate(names)}


def _as_numbers(texts: Any) -> np.ndarray:
    compute = arrow_module("compute")
    has_commas = compute.any(compute.match_substring(texts, ",")).as_py()
    plain = compute.replace_substring(texts, ",", "") if has_commas else texts
    known = compute.if_else(compute.equal(plain, ""), None, plain)
    return compute.cast(known, "float64").to_numpy(zero_copy_only=False)


def _values_beside(rows: Any, form: LineFormat, named: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of the pairs that stand in the rows themselves."""
    columns, left = {}, rows
    for key in sorted(_keys(rows, form, named), key=len, reverse=True):
        pattern = form.pairs.format(key=re.escape(key))
        columns[key] = _groups(left, pattern)["v"]
        if form.is_general:  # so that "loss" is not found again in "val loss"
            left = arrow_module("compute").replace_substring_regex(left, _unnamed(pattern), " | ")
    return _of_evaluation(rows, columns) if form.is_general else columns


def _of_evaluation(rows: Any, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns, with losses in lines that speak of evaluation as columns ``eval/...`` of their own."""
    spoken = rf"(?i)\b(?:{'|'.join(sorted(EVALUATION))})\b"
    held_out = arrow_module("compute").match_substring_regex(rows, spoken).to_numpy(zero_copy_only=False)
    for key in matching(columns, HELD_OUT):
        held_out &= np.isnan(columns[key])
    keep_apart(columns, matching(columns, LOSSES), held_out)
    return columns


def _values_below(texts: Any, heads: np.ndarray, form: LineFormat, named: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of the pairs that stand in the lines below each row."""
    columns: dict[str, np.ndarray] = {}
    for key in _keys(texts.slice(int(heads[0])), form, named):
        values = _groups(texts, form.pairs.format(key=re.escape(key)))["v"]
        block = np.searchsorted(heads, np.arange(values.size), side="right") - 1
        there = np.isfinite(values) & (block >= 0)
        columns[key] = np.full(heads.size, np.nan)
        columns[key][block[there]] = values[there]
    return columns


def _keys(texts: Any, form: LineFormat, named: Sequence[str]) -> list[str]:
    """Names of the columns in a sample of lines: losses, rates, batches, what was consumed, and what the user names."""
    step = max(len(texts) // _SAMPLE, 1)
    sample = [*texts.slice(0, _SAMPLE).to_pylist(), *texts[::step].to_pylist()[:_SAMPLE]]
    found = dict.fromkeys(key for text in sample for key in _pairs(text, form))
    others = ("epoch", "consumed_samples", "consumed_tokens")
    kinds = (form.loss, form.validation, form.rate, MULTIPLIERS, LOGGED_BATCHES, others)
    known = matching({key: np.zeros(1) for key in found}, *kinds)
    return [key for key in found if key in known or key in named]


def _pairs(text: str, form: LineFormat) -> Iterator[str]:
    """Names in a line; a name may begin where the number before ends."""
    pattern, at = re.compile(form.pairs.format(key=f"(?P<k>{form.keys})")), 0
    while match := pattern.search(text, at, _WIDEST):
        yield match["k"].strip()
        at = match.end("v")


# ---------------------------------------------------------------------------------------------------------------------
# Sources
# ---------------------------------------------------------------------------------------------------------------------


def _source(form: LineFormat) -> Source:
    return Source(
        name=form.name,
        title=form.title,
        accepts=lambda path: format_of(path) is form,
        read=lambda path: rows_printed(path, form),
        read_named=lambda path, named: rows_printed(path, form, named),
        step=("step",),
        loss=form.loss,
        validation=form.validation,
        rate=form.rate,
        first=form.first,
        smoothed=form.smoothed,
    )


PRINTED = {form.name: _source(form) for form in FORMATS}
"""Sources of printed rows by name."""
