"""What the verb does that writes a page to pass on: report."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

import fmjax
from fmjax import report
from fmjax._checks import require
from fmjax._json import Record
from fmjax.cli import output, plans, regions
from fmjax.cli.answers import Answer
from fmjax.cli.fits import print_search
from fmjax.cli.inputs import can_trade, candidates, planning_law, read_fit, with_fits
from fmjax.cli.parameters import Assigned
from fmjax.curves.manifest import load_runs, select_runs
from fmjax.fitting.options import MANY_FITS
from fmjax.planning.recommendation import Recommendation
from fmjax.searching.results import SearchResult

MOST_CANDIDATES = 2**22
"""Schedules of a search whose losses are kept for the charts."""

OF_FITS = ("law_name", "law_options", "train", "residual", "drop_before", "end_weight", "over_weight", "prior")
"""Options that a fit read from a file leaves nothing to say for."""

Shown = Recommendation | SearchResult
"""What a page shows."""


@dataclass(frozen=True)
class WrittenPage(Record):
    """A page, and what it shows."""

    file: Path
    found: Shown

    def to_dict(self) -> dict[str, object]:
        """The record as plain values."""
        return {"file": str(self.file), **self.found.to_dict()}


def report_(runs: Path, target: Path, **options: Any) -> Answer:
    """A recommendation or a search as an HTML page."""
    report.chart_script()  # before any work, for where plotly is not there
    make = _of_search if runs.is_file() and runs.suffix.lower() == ".json" else _of_recommendation
    page, found = make(click.get_current_context(), runs, **options)
    report.write_report(page, target)
    return Answer(WrittenPage(target, found), lambda: _print(found, target))


def _print(found: Shown, target: Path) -> None:
    if isinstance(found, Recommendation) and found.regions:
        regions.print_regions(found, trade=True)
    elif isinstance(found, Recommendation):
        plans.print_recommendation(found)
    else:
        print_search(found)
    output.console().out(f"\n{target}: {target.stat().st_size / 1e6:.1f} MB; any browser opens it, without a network")


def _of_recommendation(
    ctx: click.Context,
    runs: Path,
    *,
    law_name: str | None,
    law_options: Sequence[Assigned],
    train: str,
    final_lr: Sequence[float] | None,
    **options: Any,
) -> tuple[str, Shown]:
    final = None if final_lr is None else _one(final_lr, "--final-lr")
    law, curves = planning_law(law_name, law_options), select_runs(load_runs(runs), train)
    trade = can_trade(options)
    with output.stages("reading") as stage:
        fits = with_fits(options, MANY_FITS)
        found = fmjax.recommend(curves, law=law, progress=stage, final_lr=final, trade=trade, **fits)
    page = report.recommendation_page(found, curves, command=ctx.meta["given"], inputs=_files(runs))
    return page, found


def _of_search(ctx: click.Context, runs: Path, *, flops: object = None, **options: Any) -> tuple[str, Shown]:
    require(flops is None, f"--flops: needs runs to choose by, found the fit {runs}")
    for name in OF_FITS:
        flag = "--" + name.replace("law_name", "law").replace("law_options", "law-option").replace("_", "-")
        require(ctx.get_parameter_source(name) is ParameterSource.DEFAULT, f"{flag}: {runs} is fitted already")
    grid = {name: value for name, value in options.items() if name not in OF_FITS}
    count = candidates(grid)
    require(count <= MOST_CANDIDATES, f"expected at most {MOST_CANDIDATES} schedules for a report, found {count}")
    fit = read_fit(runs)
    with output.progress("searching") as step:
        found = fmjax.search(fit, keep_losses=True, progress=step, **grid)
    page = report.search_page(found, fit, command=ctx.meta["given"], inputs=[runs])
    return page, found


def _one(values: Sequence[float], flag: str) -> float:
    require(len(values) == 1, f"{flag}: expected one value to plan for, found {len(values)}")
    return values[0]


def _files(runs: Path) -> list[Path]:
    """The manifest, which has been read without complaint, and the files it names."""
    manifest = runs / "runs.toml" if runs.is_dir() else runs
    named = tomllib.loads(manifest.read_text(encoding="utf-8-sig"))["runs"]
    return [manifest, *dict.fromkeys(manifest.parent / run["file"] for run in named)]
