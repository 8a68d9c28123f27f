"""Search: the predicted final loss of every schedule in a grid, part by part, on any number of devices and machines."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fmjax._checks import choose, require, whole
from fmjax._dask import OnDask
from fmjax._json import plain
from fmjax._names import DTYPES
from fmjax._types import HostNumbers
from fmjax._version import __version__
from fmjax._workers import Alone, Workers
from fmjax.fitting.fitted_runs import PlanShape
from fmjax.fitting.records import ONE_SIZE, FitResult, FittedRange
from fmjax.laws import Law
from fmjax.schedules.batch_stages import Batches, BatchStages
from fmjax.searching.grid import Grid, Part, axis_of, batch_axis, lengths_of, told_axis
from fmjax.searching.kernels import Kernel, Layout
from fmjax.searching.parts import Computed, Gathered, Sweep
from fmjax.searching.parts_folder import Folder, Stored
from fmjax.searching.results import Candidate, Cells, SearchResult

if TYPE_CHECKING:
    from distributed import Client

FALLING_BATCH = (
    "the batch falls during the run: what a loss does then was tested on one run, and predicted 2.6 % too high"
)
"""Note on plans whose batch falls."""

SEARCHED_RATIOS = tuple(np.linspace(0.01, 0.99, 99).round(2).tolist())
"""Annealing ratios searched by default."""


def search(
    result: FitResult,
    *,
    total_steps: HostNumbers | None = None,
    peak_lr: HostNumbers,
    anneal_ratio: HostNumbers = SEARCHED_RATIOS,
    decay: str | Sequence[str] = "linear",
    final_lr: HostNumbers | None = None,
    warmup_steps: int | None = None,
    init_lr: float | None = None,
    model_size: HostNumbers | None = None,
    tokens_per_step: Batches | None = None,
    total_tokens: HostNumbers | None = None,
    family: str | None = None,
    samples: np.ndarray | None = None,
    top: int = 10,
    keep_losses: bool = False,
    dtype: str = "float64",
    folder: str | Path | None = None,
    table: bool = False,
    progress: Callable[[int, int], None] | None = None,
    notice: Callable[[str], None] | None = None,
    client: "Client | None" = None,
) -> SearchResult:
    """Predicts the final loss of every WSD schedule in a grid, and picks the best annealing ratio of each cell.

    The grid is model_size x tokens_per_step x total_steps x peak_lr x decay x final_lr (the cells) x anneal_ratio. Its
    parts run on all local devices (all cores of a CPU) and are reduced as they come, so that memory does not grow with
    the number of candidates: 21 bytes a cell stay. The answer is the same to the bit whatever the number of devices
    and, on processors of one kind, of machines: with ``client``, the workers of a Dask cluster compute the parts.
    ``searching.shares`` cuts a search into the jobs of an array, which need no cluster.

    Args:
      result: a fit that converged.
      total_steps: numbers of updates, one or many; or None where ``total_tokens`` are given.
      peak_lr: peak rates, one or many.
      anneal_ratio: ratios R in (0, 1] to search.
      decay: shapes of the anneal, one or many of ``DECAYS``.
      final_lr: rates the anneal ends at, one or many; by default the fitted runs' share of the peak rate.
      warmup_steps: updates of linear warmup; by default as many as the fitted runs had.
      init_lr: rate of update 0; by default the fitted runs'.
      model_size: numbers of parameters, one or many, for laws fitted over several sizes.
      tokens_per_step: tokens an update, one or many, for laws fitted over several batch sizes. Of a batch that changes
        ``BatchStages``, or text such as "65536@0,131072@2000"; lengths in tokens then follow from its stages.
      total_tokens: tokens of the run, one or many, in place of ``total_steps``: at each batch the updates are the whole
        number nearest to total_tokens / tokens_per_step. Without ``tokens_per_step`` that of the fitted runs is taken.
      family: family of models to plan for, of runs that name several; its only size is then the model size by default.
      samples: ``[samples, parameters]`` bootstrap samples (``Bootstrap.params``), for intervals.
      top: how many of the best candidates to return.
      keep_losses: whether to return the loss of every candidate, also under each sample; takes 8 bytes each.
      dtype: "float64", or "float32", whose losses are right to about 1e-6.
      folder: folder that keeps finished parts; a search that was interrupted goes on from there.
      table: whether to write every candidate and its loss to Parquet files in the folder.
      progress: called with (candidates done, candidates in all) after each part.
      notice: called with a line that is worth seeing at once, such as which parts are missing in the folder.
      client: a ``distributed.Client``; the parts are computed by the workers of its cluster, which must have this
        version of fmjax and of JAX, and kept here.

    Returns:
      The cells with best ratio, loss and near-optimal interval, and the best candidates. ``notes`` have what was taken
      from the fitted runs and where the grid lies outside them. A cell whose predicted loss is below the fitted L0, or
      above the first rows of the fitted runs, has no best ratio.

    Raises:
      ValueError: a fit that cannot predict, a grid value out of range or a grid too large to index, an unknown decay, a
        folder of another search or one that cannot be written, a cluster without workers, with other versions, or gone.

    >>> import fmjax
    >>> result = fmjax.fit("lr-annealing", fmjax.datasets.demo_runs())
    >>> found = search(result, total_steps=4000, peak_lr=[1e-3, 2e-3], warmup_steps=100)
    >>> len(found.cells), found.candidates
    (2, 198)
    """
    planned = planned_search(
        result,
        total_steps=total_steps,
        peak_lr=peak_lr,
        anneal_ratio=anneal_ratio,
        decay=decay,
        final_lr=final_lr,
        warmup_steps=warmup_steps,
        init_lr=init_lr,
        model_size=model_size,
        tokens_per_step=tokens_per_step,
        total_tokens=total_tokens,
        family=family,
        samples=samples,
        top=top,
        keep_losses=keep_losses,
        dtype=dtype,
        folder=folder,
        table=table,
        notice=notice,
        client=client,
    )
    found = Gathered(planned.sweep, losses=keep_losses)
    for part, computed in planned.results(range(planned.sweep.parts), progress):
        found.add(part, computed)
    return planned.result(found)


class PlannedSearch(NamedTuple):
    """A search whose input is checked, and those who compute it."""

    fit: FitResult
    """The fit, for the family that is planned for."""
    sweep: Sweep
    shape: PlanShape
    workers: Workers[Sweep, Computed]

    def results(
        self, numbers: Sequence[int], progress: Callable[[int, int], None] | None
    ) -> Iterator[tuple[Part, Computed]]:
        """These parts, each as it comes."""
        ratios, done = self.sweep.kernel.grid.anneal_ratio.size, 0
        total = sum(map(self.sweep.count_rows, numbers)) * ratios
        for number, computed in self.workers.results(self.sweep, numbers):
            part = self.sweep.part(number)
            done += part.cells.size * ratios
            if progress is not None:
                progress(done, total)
            yield part, computed

    def result(self, gathered: Gathered) -> SearchResult:
        """What was found, with notes."""
        result, grid = self.fit, self.sweep.kernel.grid
        found = _result(self.sweep, gathered, result.reach)
        notes = (*self.shape.notes, *result.notes, *_outside(result, grid), *_not_offered(result, found))
        return dataclasses.replace(found, taken=self.shape.taken, notes=notes)


def planned_search(
    result: FitResult,
    *,
    total_steps: HostNumbers | None = None,
    peak_lr: HostNumbers,
    anneal_ratio: HostNumbers = SEARCHED_RATIOS,
    decay: str | Sequence[str] = "linear",
    final_lr: HostNumbers | None = None,
    warmup_steps: int | None = None,
    init_lr: float | None = None,
    model_size: HostNumbers | None = None,
    tokens_per_step: Batches | None = None,
    total_tokens: HostNumbers | None = None,
    family: str | None = None,
    samples: np.ndarray | None = None,
    top: int = 10,
    keep_losses: bool = False,
    dtype: str = "float64",
    folder: str | Path | None = None,
    table: bool = False,
    notice: Callable[[str], None] | None = None,
    client: "Client | None" = None,
) -> PlannedSearch:
    """Checks the options of ``search``, which has their meaning, and opens the folder."""
    require(result.ok, f"the fit cannot predict: {result.message}")
    result = result.for_family(family)
    model_size = result.family_size if model_size is None else model_size
    if total_tokens is not None and tokens_per_step is None and result.trained_with is not None:
        tokens_per_step = result.trained_with.only_batch
    axes: dict[str, Any] = {
        "total_steps": total_steps,
        "peak_lr": peak_lr,
        "decay": decay,
        "anneal_ratio": anneal_ratio,
    }
    axes |= {"model_size": model_size, "tokens_per_step": tokens_per_step, "total_tokens": total_tokens}
    grid, shape = planned_grid(result, axes, final_lr=final_lr, warmup_steps=warmup_steps, init_lr=init_lr)
    choose(dtype, DTYPES, "dtype")
    require(dtype == "float64" or grid.total_steps.max() <= 2**24, "runs of more than 2^24 updates need float64")
    require(folder is not None or not table, "a table of every candidate needs a folder to write it to")
    require(folder is None or not keep_losses, "a search with a folder does not keep losses; its table has them")
    law = _checked_law(result, grid)
    if samples is None:
        law, vector = law.settled(result.vector)
        vectors = vector[None]
    else:
        vectors = np.concatenate([result.vector[None], samples])
    workers: Workers[Sweep, Computed] = Alone() if client is None else OnDask(client)
    layout = Layout.of(grid, len(vectors), workers.platform, law)
    kernel = Kernel(law, vectors, grid, dtype, layout)
    limits = {int(steps): result.loss_limits(int(steps)) for steps in grid.total_steps}
    sweep = Sweep(kernel, limits, whole(top, "top"), len(vectors) if keep_losses else int(table))
    if folder is not None:
        store = Folder.open(folder, {**_described(sweep), "table": table}, table=table)
        workers = Stored(store, workers, notice)
    return PlannedSearch(result, sweep, shape, workers)


def planned_grid(
    result: FitResult,
    axes: Mapping[str, Any],
    *,
    final_lr: HostNumbers | None,
    warmup_steps: int | None,
    init_lr: float | None,
) -> tuple[Grid, PlanShape]:
    """The grid of these axes, with the warmup and the rates of the fitted runs where none are told."""
    batches, tokens = batch_axis(axes["tokens_per_step"]), told_axis(axes["total_tokens"], "total_tokens")
    steps, peaks = lengths_of(axes["total_steps"], tokens, batches), axis_of(axes["peak_lr"], "peak_lr")
    finals = None if final_lr is None else axis_of(final_lr, "final_lr")
    told: dict[str, Any] = {"warmup_steps": warmup_steps, "init_lr": init_lr, "final_lr": finals}
    shape = PlanShape.of(result.trained_with, longest_warmup=int(steps.min()), peak_lr=peaks, **told)
    final: dict[str, Any] = {"final_lr": shape.final_lr, "final_is_share": shape.final_is_share}
    return Grid.of(**axes, **final, warmup_steps=shape.warmup_steps, init_lr=shape.init_lr), shape


def _checked_law(result: FitResult, grid: Grid) -> Law:
    """The law that predicts every model size and batch of a grid; for the first of the batches, where it has them."""
    several = grid.model_size is not None and grid.model_size.size > 1
    require(result.law.sizes or not several, f"model_size: {ONE_SIZE}, found {grid.shape[0]} sizes to plan for")
    for size in (None,) if grid.model_size is None else grid.model_size.tolist():
        result.log_size(size)
    batches = (None,) if grid.tokens_per_step is None else grid.tokens_per_step.tolist()
    first, *_ = map(result.law_for, batches)
    return first


def _outside(result: FitResult, grid: Grid) -> Iterator[str]:
    """Where a grid lies outside the fitted runs, one note an axis, or outside what the law was tested on."""
    batches = () if grid.tokens_per_step is None else grid.tokens_per_step
    if any(isinstance(batch, BatchStages) and batch.falls for batch in batches):
        yield FALLING_BATCH
    if result.reach is None:
        return
    yield from result.reach.longer(int(grid.total_steps.max()))
    low, high = result.reach.peak_lr
    others = [lr for lr in grid.peak_lr.tolist() if not result.reach.has_peak(lr)]
    if others:
        first, last, count = others[0], others[-1], len(others)
        named = f"{first:.4g}" if count == 1 else f"{first:.4g} ... {last:.4g} ({count} of {grid.peak_lr.size})"
        yield f"peak rate {named} lies outside those fitted, {low:.4g} ... {high:.4g}"
    yield from result.reach.other_models(grid.model_size, grid.tokens_per_step)
    models = [() if axis is None else axis.tolist() for axis in (grid.model_size, grid.tokens_per_step)]
    if result.trained_with is not None:
        family, steps = result.law.family, int(grid.total_steps.max())
        yield from result.trained_with.family_notes(family, steps, grid.peak_lr.tolist(), *models)


def _not_offered(result: FitResult, found: SearchResult) -> tuple[str, ...]:
    missing = found.without_best
    if not missing:
        return ()
    low, high = result.loss_limits(int(found.cells[0].total_steps))
    bounds = f"below what the law can reach ({low:.4g})" + (
        f" or above the first rows ({high:.4g})" if np.isfinite(high) else ""
    )
    have = "has" if missing == 1 else "have"
    return (f"{missing} of {len(found.cells)} cells {have} no best ratio: the loss predicted there lies {bounds}",)


def _described(sweep: Sweep) -> dict[str, object]:
    """What tells one search from another; another version of fmjax may compute other bytes."""
    kernel = sweep.kernel
    law, longest = kernel.law, max(sweep.limits)
    params = hashlib.sha256(np.ascontiguousarray(kernel.vectors).tobytes()).hexdigest()
    return plain(
        {
            "fmjax": __version__,
            "law": law.name,
            "options": law.options(),
            "params": dict(zip(law.parameter_names, kernel.vectors[0], strict=True)),
            "vectors": {"count": len(kernel.vectors), "sha256": params},
            "grid": kernel.grid.to_dict(),
            "dtype": kernel.dtype,
            "layout": kernel.layout._asdict(),
            "top": sweep.top,
            "loss_limits": [str(limit) for limit in sweep.limits[longest]],
        }
    )


def _result(sweep: Sweep, found: Gathered, reach: FittedRange | None) -> SearchResult:
    """What was found, in the order of the grid."""
    grid = sweep.kernel.grid
    best = tuple(_candidate(grid, one) for one in found.top)
    cells = Cells(grid, found.columns, found.intervals, reach)
    result = SearchResult(cells, grid.anneal_ratio, best, warmup_steps=grid.warmup_steps, init_lr=grid.init_lr)
    if found.losses is None:
        return result
    return dataclasses.replace(result, losses=found.losses[0], sample_losses=found.losses[1:])


def _candidate(grid: Grid, top: np.ndarray) -> Candidate:
    cell, ratio = divmod(int(top["candidate"]), grid.anneal_ratio.size)
    return Candidate(*grid.cell(cell), float(grid.anneal_ratio[ratio]), float(top["loss"]), *grid.model(cell))
