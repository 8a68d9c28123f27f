"""Search: exhaustive golden searches, agreement with ``predict``, the best candidates, parts, devices, bad input."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tracemalloc

import chex
import jax
import numpy as np
import pytest
import synthetic

import fmjax
from fmjax import FitResult, LossCurve, search
from fmjax.fitting import lanes
from fmjax.laws import make_law
from fmjax.laws.base import WARMUPS
from fmjax.searching import kernels
from fmjax.searching.kernels import Layout

NONE = lanes.Lanes(np.zeros((1, 1)), np.zeros(1), np.zeros(1, int), np.zeros(1, int))


def fitted(law, params, **changes):
    """A fit as if it had converged to the given parameters."""
    record = {"objective": 0.0, "rows": 9, "status": "converged", "undetermined": (), "at_bound": ()}
    record |= {"residual": "log", "delta": 1e-3, "runs": (), "lanes": NONE} | changes
    return FitResult(law=law, params=params, **record)


def synthetic_fit(name="lr-annealing", **options):
    params = synthetic.sized_truth(name) if options.get("sizes") else synthetic.TRUTH[name]
    return fitted(make_law(name, **options), params)


def predicted(fit, found, model_size=None, **warmup):
    """Final losses ``[cells, ratios]`` of a search by ``predict``, through loss curves and every update."""
    each = itertools.product(found.cells, found.anneal_ratio)
    schedules = [dataclasses.replace(cell.schedule(**warmup), anneal_ratio=ratio) for cell, ratio in each]
    return np.reshape(final_losses(fit, schedules, model_size), found.losses.shape)


def final_losses(fit, schedules, model_size=None):
    curves = [LossCurve("a", [s.total_steps - 1], [1.0], s, model_size=model_size) for s in schedules]
    return [losses[-1] for losses in fmjax.predict(fit, curves)]


# every search of this shape under a law and a decay runs the same compiled program
SMALL = {
    "total_steps": (60, 90),
    "peak_lr": (1e-3, 2e-3),
    "final_lr": (1e-5, 1e-4),
    "anneal_ratio": (0.1, 0.3, 0.5, 0.7, 0.9),
    "keep_losses": True,
}
WARM = {"warmup_steps": 20, "init_lr": 1e-4}

# ------------------------------------------------------------------------------------------------ values


@pytest.fixture(scope="module", params=["forward-momentum", "lr-annealing"])
def golden(request, shared):
    """Golden searches of one law, its fit, our search, and its cells by (total steps, peak rate)."""
    entries = json.loads((shared / "golden/search.json").read_text())
    entries = [entry for entry in entries if entry["fit"]["law"].startswith(request.param)]
    fits = json.loads((shared / "golden/fits.json").read_text())["fits"]
    params = next(f["params"] for f in fits if entries[0]["fit"].items() <= f.items())
    fit = fitted(make_law(request.param, warmup="as-scheduled"), params)
    grid = {"total_steps": [6000, 24000], "peak_lr": [1e-4, 3e-4, 1e-3]}
    found = search(fit, **grid, warmup_steps=500, keep_losses=True)
    cells = {(cell.total_steps, cell.peak_lr): i for i, cell in enumerate(found.cells)}
    return entries, fit, found, cells


def test_golden_searches(golden):
    entries, _, found, cells = golden
    assert len(entries) == len(cells) == 6
    for entry in entries:
        i = cells[entry["schedule"]["total_steps"], entry["schedule"]["peak_lr"]]
        cell = found.cells[i]
        assert cell.best_ratio == entry["best_ratio"]
        assert list(cell.interval) == entry["interval_0p001"]
        assert abs(cell.loss - entry["loss"]) <= 1e-8
        assert cell.at_edge == (entry["best_ratio"] in (0.01, 0.99))
        for ratio, loss in entry["loss_at"].items():
            assert abs(found.losses[i, list(found.anneal_ratio).index(float(ratio))] - loss) <= 1e-8


@pytest.mark.parametrize("cell", [0, 5])
def test_long_anneals_that_overlap_the_warmup_are_as_predicted(golden, cell):
    _, fit, found, _ = golden
    ratios = np.flatnonzero(found.anneal_ratio * found.cells[cell].total_steps > found.cells[cell].total_steps - 600)
    assert ratios.size >= 2
    best = found.cells[cell].schedule(warmup_steps=500)
    schedules = [dataclasses.replace(best, anneal_ratio=found.anneal_ratio[ratio]) for ratio in ratios]
    np.testing.assert_allclose(found.losses[cell, ratios], final_losses(fit, schedules), rtol=0, atol=1e-7)


OPEN = pytest.param("intrinsic-momentum", 1e-6)  # levels of open exponents against the exponents themselves
SLOW = pytest.param("multi-power", 1e-10, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "rtol"), [("lr-annealing", 1e-11), ("forward-only", 1e-11), ("chinchilla", 1e-11), OPEN, SLOW]
)
def test_losses_are_those_predicted_for_the_curve(name, rtol):
    fit = synthetic_fit(name)
    found = search(fit, **SMALL, **WARM)  # a ratio of 0.9 overlaps the warmup, and 0.7 in the shorter runs
    np.testing.assert_allclose(found.losses, predicted(fit, found, **WARM), rtol=rtol)


CASES = {
    "as-scheduled": ({}, WARM),
    "less-than-an-update": ({"anneal_ratio": (0.001, 0.012, 0.333, 0.6667, 1.0)}, WARM),
    "warmup-meets-anneal": ({"total_steps": 60}, {"warmup_steps": 30}),
    "long-warmup": ({}, {"warmup_steps": 59}),
    "only-warms-up": ({}, {"warmup_steps": 60, "init_lr": 1e-4}),
    "warms-up-flat": ({}, {"warmup_steps": 20, "init_lr": 1e-3}),
    "very-short": ({"total_steps": (1, 2, 3, 8, 13)}, {}),
    "short-warmup": ({"total_steps": (1, 2, 3)}, {"warmup_steps": 1}),
}


@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize(("grid", "ramp"), CASES.values(), ids=CASES.keys())
def test_short_runs_are_exact(grid, ramp, warmup):
    fit = synthetic_fit(warmup=warmup)
    found = search(fit, **(SMALL | grid), **ramp)
    np.testing.assert_allclose(found.losses, predicted(fit, found, **ramp), rtol=1e-9)


@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("steps", [700, 8000], ids=["short", "overlap"])
def test_longer_runs_are_within_the_contract(steps, warmup):
    fit, ramp = synthetic_fit(warmup=warmup, decay=0.999), {"warmup_steps": steps // 2, "init_lr": 1e-5}
    found = search(fit, **(SMALL | {"total_steps": (steps, 20_000)}), **ramp)
    np.testing.assert_allclose(found.losses, predicted(fit, found, **ramp), rtol=0, atol=1e-6)


def test_ways_to_count_warmup_differ():
    scheduled, flat, held = (search(synthetic_fit(warmup=mode), **SMALL, **WARM).losses for mode in WARMUPS)
    assert (np.abs(scheduled - held) > 1e-2).all()
    assert (np.abs(scheduled - flat) > 1e-2).all()
    assert (np.abs(flat - held) > 1e-5).all()


@pytest.mark.parametrize(
    ("law", "decay"), [("lr-annealing", "1-sqrt"), ("forward-only", "cosine"), ("forward-only", "exponential")]
)
def test_decays(law, decay):
    fit = synthetic_fit(law)
    found = search(fit, **SMALL, **WARM, decay=decay)
    np.testing.assert_allclose(found.losses, predicted(fit, found, **WARM), rtol=1e-9)


def test_model_size_counts():
    fit = synthetic_fit("chinchilla", sizes=True)
    small, large = (search(fit, **SMALL, model_size=size) for size in (1e6, 2e7))
    np.testing.assert_allclose(large.losses, predicted(fit, large, model_size=2e7), rtol=1e-9)
    assert (small.losses > large.losses).all()


def test_cells_are_every_combination():
    axes = (60, 90), (2e-3, 1e-3), ("linear", "1-sqrt"), (1e-5, 1e-4)
    grid = dict(zip(("total_steps", "peak_lr", "decay", "final_lr"), axes, strict=True))
    fit = synthetic_fit("forward-only")
    found = search(fit, **(SMALL | grid))
    assert (found.candidates, found.losses.shape) == (80, (16, 5))
    expected = list(itertools.product(*axes))
    assert [(c.total_steps, c.peak_lr, c.decay, c.final_lr) for c in found.cells] == expected
    np.testing.assert_allclose(found.losses, predicted(fit, found), rtol=1e-9)


def test_cells_are_a_sequence():
    found = search(synthetic_fit(), **SMALL)
    assert len(found.cells) == 8
    assert found.cells[-1] == found.cells[7] == list(found.cells)[7]
    assert found.cells[1:7:2] == [found.cells[i] for i in (1, 3, 5)]
    with pytest.raises(IndexError):
        found.cells[8]


def test_losses_are_kept_only_if_wanted():
    kept, gone = (search(synthetic_fit(), **(SMALL | {"keep_losses": keep})) for keep in (True, False))
    assert gone.losses is None
    assert list(gone.cells) == list(kept.cells)
    assert gone.top == kept.top


BEST = SMALL | {"total_steps": 300, "peak_lr": (3e-3, 1e-3), "final_lr": (0.0, 1e-5)}


@pytest.mark.parametrize(
    ("ratios", "edges"),
    [((0.19, 0.21, 0.2, 0.3, 0.05), (False, True)), ((0.5, 0.4, 0.3, 0.35, 0.45), (True, True))],
    ids=["inner", "lowest"],
)
def test_best_ratio_and_interval_are_read_from_the_losses(ratios, edges):
    found = search(synthetic_fit(decay=0.9), **(BEST | {"anneal_ratio": ratios}))
    for cell, losses in zip(found.cells, found.losses, strict=True):
        near = np.array(ratios)[losses <= losses.min() + 1e-3]
        assert (cell.best_ratio, cell.loss) == (ratios[np.argmin(losses)], losses.min())
        assert cell.interval == (near.min(), near.max())
        assert cell.at_edge == (cell.best_ratio in (min(ratios), max(ratios)))
    assert (found.cells[0].at_edge, found.cells[2].at_edge) == edges
    assert edges[0] or found.cells[0].interval == (0.19, 0.21)


def test_the_highest_ratio_is_an_edge():
    found = search(synthetic_fit(decay=0.9), **(BEST | {"anneal_ratio": (0.01, 0.02, 0.04, 0.08, 0.1)}))
    assert found.cells[0].best_ratio == 0.1
    assert found.cells[0].at_edge


def test_one_ratio_has_no_edge():
    found = search(synthetic_fit("chinchilla"), total_steps=60, peak_lr=1e-3, anneal_ratio=0.3)
    assert not found.cells[0].at_edge
    assert found.cells[0].interval == (0.3, 0.3)


def test_json_holds_what_was_searched():
    found = search(synthetic_fit(), **SMALL, top=2)
    record = json.loads(found.to_json())
    assert record["candidates"] == 40
    for cell, stored in zip(found.cells, record["cells"], strict=True):
        lists = {"interval": list(cell.interval), "outside": list(cell.outside)}
        assert stored == {**cell._asdict(), **lists, "anneal_steps": round(cell.best_ratio * cell.total_steps)}
    assert record["top"] == [candidate._asdict() for candidate in found.top]


# ------------------------------------------------------------------------------------------------ the best candidates


def sorted_candidates(found):
    """All candidates by loss, ties by index."""
    losses = found.losses.ravel()
    for k in np.lexsort((np.arange(losses.size), losses)):
        cell, ratio = divmod(int(k), found.anneal_ratio.size)
        yield (*found.cells[cell][:4], found.anneal_ratio[ratio], losses[k])


@pytest.mark.parametrize("top", [0, 1, 7, 40, 99])
def test_top_is_the_head_of_all_losses(top):
    found = search(synthetic_fit(), **SMALL, top=top)
    assert [one[:6] for one in found.top] == list(itertools.islice(sorted_candidates(found), top))


@pytest.mark.parametrize("top", [1, 3, 5, 9])
def test_ties_of_the_top_go_by_index(top):
    twice = {"total_steps": (90, 90), "peak_lr": (2e-3, 2e-3), "anneal_ratio": (0.3, 0.5, 0.3, 0.5, 0.3)}
    found = search(synthetic_fit(), **(SMALL | twice), top=top)
    assert np.unique(found.losses).size == 4
    assert [one[:6] for one in found.top] == list(itertools.islice(sorted_candidates(found), top))


def test_of_many_equals_the_first_are_the_top():
    ratios = np.linspace(0.001, 1, 1000)
    found = search(synthetic_fit("chinchilla"), total_steps=60, peak_lr=(1e-3, 2e-3), anneal_ratio=ratios, top=3)
    assert [(c.peak_lr, c.anneal_ratio) for c in found.top] == [(1e-3, ratio) for ratio in ratios[:3]]


# ------------------------------------------------------------------------------------------------ parts and arithmetic


@pytest.fixture(scope="module")
def whole():
    return search(synthetic_fit(), **SMALL, **WARM)


def test_ratios_in_any_order(whole):
    order = [3, 0, 4, 2, 1]
    found = search(synthetic_fit(), **(SMALL | {"anneal_ratio": np.array(SMALL["anneal_ratio"])[order]}), **WARM)
    np.testing.assert_allclose(found.losses, whole.losses[:, order], rtol=1e-10)
    assert list(found.cells) == list(whole.cells)
    assert found.top == whole.top


LONG = {"total_steps": (60, 9000), "warmup_steps": 20}
SCALING = {"final_lr": 0.0, "peak_lr": np.linspace(1e-3, 2e-3, 4)}
"""Schedules of all peak rates are then multiples of each other."""


@pytest.mark.parametrize(
    "layout", [Layout(1, 3, 2), Layout(3, 2, 1), Layout(3, 3, 2, 2)], ids=["pairs", "one-by-one", "lanes"]
)
@pytest.mark.parametrize("rates", [{}, SCALING], ids=["", "scaling"])
def test_parts_and_calls_change_nothing(layout, rates, monkeypatch):
    grid = SMALL | LONG | rates
    whole = search(synthetic_fit(), **grid)
    seen = []
    monkeypatch.setattr(kernels.Layout, "of", lambda *_, **__: layout)
    found = search(synthetic_fit(), **grid, progress=lambda done, total: seen.append((done, total)))
    np.testing.assert_allclose(found.losses, whole.losses, rtol=1e-12)
    assert [cell[4:5] + cell[6:] for cell in found.cells] == [cell[4:5] + cell[6:] for cell in whole.cells]
    assert [candidate[:5] for candidate in found.top] == [candidate[:5] for candidate in whole.top]
    done = {1: [5, 10, 15, 20, 25, 30, 35, 40], 3: [15, 20, 35, 40]}[layout.rows]
    assert seen == [(count, 40) for count in done]


@pytest.mark.parametrize(("vectors", "platform"), [(1, "cpu"), (1, "gpu"), (1001, "cpu"), (1001, "gpu")])
@pytest.mark.parametrize(("peaks", "ratios"), [(1, 1), (3, 99), (4000, 64), (10**5, 10**3), (7, 10**6)])
@pytest.mark.parametrize("law", ["lr-annealing", "intrinsic-momentum", "forward-momentum"])
def test_layouts_bound_calls_and_parts(peaks, ratios, vectors, platform, law):
    axes = {"peak_lr": np.full(peaks, 1e-3), "anneal_ratio": np.full(ratios, 0.5), "final_lr": 0.0}
    grid = kernels.Grid.of(total_steps=60, decay="linear", warmup_steps=0, init_lr=0.0, **axes)
    layout = Layout.of(grid, vectors, platform, make_law(law))
    assert 1 <= layout.lanes <= layout.rows <= peaks
    assert 1 <= layout.branches <= layout.ratios <= ratios
    assert layout.rows * layout.ratios * vectors <= kernels.CALL
    assert layout.rows * ratios * vectors <= max(kernels.PART, ratios * vectors)


@pytest.mark.parametrize("steps", [(60, 90), (8_000, 1_000_000)], ids=["short", "long"])
def test_float32_is_close(steps):
    grid = SMALL | {"total_steps": steps} | WARM
    narrow, wide = (search(synthetic_fit(decay=0.999), **grid, dtype=dtype) for dtype in ("float32", "float64"))
    np.testing.assert_allclose(narrow.losses, wide.losses, rtol=0, atol=1e-5)
    assert (narrow.losses != wide.losses).any()


@pytest.mark.parametrize("name", ["chinchilla", "forward-momentum"])
def test_programs_are_compiled_once_a_decay(name, monkeypatch):
    """And once for runs of like length: the second grid has longer ones."""
    chex.clear_trace_counter()
    traced = chex.assert_max_traces(kernels.end_losses.__wrapped__, n=4)
    monkeypatch.setattr(kernels, "end_losses", jax.jit(traced, static_argnames=("decay", "together", "mesh")))
    monkeypatch.setattr("fmjax._devices._compiled", set())
    monkeypatch.setattr(kernels.Layout, "of", lambda *_, **__: Layout(2, 2, 2))
    for grid in (SMALL, SMALL | {"total_steps": (33, 77, 5000), "peak_lr": (3e-3, 4e-3, 5e-3)}):
        found = search(synthetic_fit(name), **grid, decay=("linear", "1-sqrt"))
        np.testing.assert_allclose(found.losses, predicted(synthetic_fit(name), found), rtol=1e-6)
    with pytest.raises(AssertionError, match="traced > 4 times"):
        search(synthetic_fit(name), **SMALL, decay="cosine")


def test_progress_counts_candidates():
    seen = []
    search(synthetic_fit(), **SMALL, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(20, 40), (40, 40)]


ONE_OR_EIGHT = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
import jax, test_sweep
from test_sweep import SCALING, SMALL, WARM, search, synthetic_fit
test_sweep.kernels.Layout.of = lambda *_, **__: test_sweep.Layout(2, 5, 5)  # four calls
grid, ramp = SMALL | {"total_steps": (90, 9000)}, WARM
if sys.argv[3]:
    grid, ramp = grid | SCALING, WARM | {"init_lr": 0.0}
found = search(synthetic_fit(sys.argv[2]), **grid, **ramp)
print(len(jax.local_devices()), hashlib.sha256(found.losses.tobytes()).hexdigest(), sep=",")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("law", "scaling"), [("forward-only", ""), ("forward-momentum", ""), ("lr-annealing", "scaling")]
)
def test_any_number_of_devices_gives_the_same_bytes(law, scaling):
    command = [sys.executable, "-c", ONE_OR_EIGHT, os.path.dirname(__file__), law, scaling]
    flag = "--xla_force_host_platform_device_count="
    runs = [
        subprocess.Popen(command, env={**os.environ, "XLA_FLAGS": flag + n}, stdout=subprocess.PIPE) for n in ("1", "8")
    ]
    (one, bytes_), (eight, same) = (run.communicate()[0].decode().strip().split(",") for run in runs)
    assert (one, eight, same) == ("1", "8", bytes_)


# ------------------------------------------------------------------------------------------------ bad input

BAD = {
    "ratio-zero": ({"anneal_ratio": (0.0, 0.5)}, r"anneal_ratio must lie in \(0, 1\], got 0"),
    "ratio-large": ({"anneal_ratio": 1.5}, r"anneal_ratio must lie in \(0, 1\], got 1.5"),
    "ratio-nan": ({"anneal_ratio": np.nan}, "anneal_ratio: expected a finite number, got nan"),
    "no-ratio": ({"anneal_ratio": ()}, "at least one value on every axis"),
    "no-steps-axis": ({"total_steps": []}, "at least one value on every axis"),
    "no-decay": ({"decay": ()}, "at least one value on every axis"),
    "peak-negative": ({"peak_lr": (1e-3, -1e-3)}, "peak_lr: expected a number above zero, got -0.001"),
    "peak-text": ({"peak_lr": "high"}, "peak_lr: expected a number, got 'high'"),
    "peak-texts": ({"peak_lr": (1e-3, "high")}, "peak_lr: expected a number, got 'high'"),
    "peak-infinite": ({"peak_lr": (1e-3, np.inf)}, "peak_lr: expected a finite number, got inf"),
    "peak-square": (
        {"peak_lr": np.ones((2, 2))},
        r"peak_lr: expected one number or a list of them, got shape \(2, 2\)",
    ),
    "half-step": ({"total_steps": 60.5}, "total_steps: expected a whole number >= 1, got 60.5"),
    "no-steps": ({"total_steps": 0}, "total_steps: expected a whole number >= 1, got 0"),
    "endless": ({"total_steps": 2**31}, r"total_steps: expected fewer than 2\^31 updates, got 2147483648"),
    "long-in-float32": ({"total_steps": 2**24 + 1, "dtype": "float32"}, r"more than 2\^24 updates need float64"),
    "decay-unknown": ({"decay": ("linear", "cosin")}, "unknown decay 'cosin'; did you mean 'cosine'"),
    "exponential-to-zero": (
        {"decay": "exponential", "final_lr": (1e-5, 0)},
        "exponential decay needs a final_lr above zero, got 0",
    ),
    "final-high": ({"final_lr": 2e-3}, r"final_lr: expected a rate in \[0, 0.001\], got 0.002"),
    "final-negative": ({"final_lr": -1e-5}, "final_lr: expected a rate in .*, got -1e-05"),
    "init-high": ({"init_lr": 2e-3, "warmup_steps": 9}, r"init_lr: expected a rate in \[0, 0.001\], got 0.002"),
    "init-negative": ({"init_lr": -1e-9}, r"init_lr: expected a rate in \[0, 0.001\], got -1e-09"),
    "warmup-long": ({"warmup_steps": 70}, "warmup of 70 steps is longer than the run of 60"),
    "warmup-negative": ({"warmup_steps": -1}, "warmup_steps: expected a whole number >= 0, got -1"),
    "warmup-half": ({"warmup_steps": 2.5}, "warmup_steps: expected a whole number >= 0, got 2.5"),
    "size-negative": ({"model_size": -1.0}, "model_size: expected a number above zero, got -1.0"),
    "top-negative": ({"top": -1}, "top: expected a whole number >= 0, got -1"),
    "top-half": ({"top": 1.5}, "top: expected a whole number >= 0, got 1.5"),
    "dtype-unknown": ({"dtype": "float46"}, "unknown dtype 'float46'; did you mean 'float64'"),
    "table-nowhere": ({"table": True}, "a table of every candidate needs a folder to write it to"),
    "losses-and-folder": ({"folder": "somewhere"}, "a search with a folder does not keep losses"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD.keys())
def test_bad_grids_are_named(changes, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        search(synthetic_fit(), **(SMALL | changes))
    assert list(tmp_path.iterdir()) == []


MANY = {
    "cells": (
        {"peak_lr": np.broadcast_to(1e-3, 2**14), "final_lr": np.broadcast_to(1e-5, 2**14)},
        "a grid of 536870912 cells is too large to index: at most 134217728; search parts of it",
    ),
    "ratios": ({"anneal_ratio": np.broadcast_to(0.5, 2**24 + 1)}, "16777217 annealing ratios are too many for a cell"),
}


@pytest.mark.parametrize(("changes", "message"), MANY.values(), ids=MANY.keys())
def test_grids_too_large_to_index_are_refused_at_once(changes, message):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            search(synthetic_fit(), **(SMALL | changes))
        assert tracemalloc.get_traced_memory()[1] < 2**27  # a mask of the longest axis, not a value for each candidate
    finally:
        tracemalloc.stop()


def test_several_sizes_need_a_size():
    with pytest.raises(ValueError, match="model_size is needed"):
        search(synthetic_fit(sizes=True), **SMALL)


@pytest.mark.parametrize("status", ["undetermined", "non-finite", "iteration-limit"])
def test_a_fit_that_cannot_predict_is_refused(status):
    fit = dataclasses.replace(synthetic_fit(), status=status, undetermined=("C",))
    with pytest.raises(ValueError, match=f"the fit cannot predict: {lanes.FIT_STATUS[status]}"):
        search(fit, **SMALL)


def test_losses_that_are_not_finite_are_refused():
    fit = fitted(make_law("lr-annealing"), synthetic.TRUTH["lr-annealing"] | {"A": np.inf})
    with pytest.raises(ValueError, match=r"not finite for peak_lr 0\.001"):
        search(fit, **SMALL)
