"""Search: exhaustive golden searches, agreement with ``predict``, chunks, bad input."""

import dataclasses
import itertools
import json

import chex
import jax
import numpy as np
import pytest
import synthetic

import fmjax
from fmjax import FitResult, LossCurve, lanes, search, sweep
from fmjax.anneals import DECAYS
from fmjax.laws import make_law

NONE = lanes.Lanes(np.zeros((1, 1)), np.zeros(1), np.zeros(1, int), np.zeros(1, int))


def fitted(law, params, **changes):
    """A fit as if it had converged to the given parameters."""
    record = {"objective": 0.0, "rows": 9, "status": "converged", "undetermined": (), "at_bound": ()}
    record |= {"residual": "log", "delta": 1e-3, "runs": (), "lanes": NONE} | changes
    return FitResult(law=law, params=params, **record)


def synthetic_fit(name="lr-annealing", **options):
    params = synthetic.sized_truth(name) if options.get("sizes") else synthetic.TRUTH[name]
    return fitted(make_law(name, **options), params)


def predicted(fit, candidates, model_size=None, **warmup):
    """Final losses of (cell, ratio) candidates by ``predict``, through loss curves."""
    schedules = [dataclasses.replace(cell.schedule(**warmup), anneal_ratio=ratio) for cell, ratio in candidates]
    curves = [LossCurve("a", [s.total_steps - 1], [1.0], s, model_size=model_size) for s in schedules]
    return [losses[-1] for losses in fmjax.predict(fit, curves)]


def assert_as_predicted(found, fit, places, **options):
    """Compares the losses at some (cell, ratio) indices with ``predict``."""
    candidates = [(found.cells[i], found.anneal_ratio[j]) for i, j in places]
    losses = [found.losses[place] for place in places]
    np.testing.assert_allclose(losses, predicted(fit, candidates, **options), rtol=1e-11)


SMALL = {"total_steps": (60, 90), "peak_lr": (1e-3, 2e-3), "anneal_ratio": (0.1, 0.3, 0.5, 0.7, 0.9)}

# ------------------------------------------------------------------------------------------------ values


@pytest.fixture(scope="module", params=["forward-momentum", "lr-annealing"])
def golden(request, shared):
    """Golden searches of one law, and ours by (total steps, peak rate)."""
    entries = json.loads((shared / "golden/search.json").read_text())
    entries = [entry for entry in entries if entry["fit"]["law"].startswith(request.param)]
    fits = json.loads((shared / "golden/fits.json").read_text())["fits"]
    params = next(f["params"] for f in fits if entries[0]["fit"].items() <= f.items())
    found = search(
        fitted(make_law(request.param), params),
        total_steps=[6000, 24000],
        peak_lr=[1e-4, 3e-4, 1e-3],
        warmup_steps=500,
        keep_losses=True,
    )
    cells = {(cell.total_steps, cell.peak_lr): i for i, cell in enumerate(found.cells)}
    return entries, found, cells


def test_golden_searches(golden):
    entries, found, cells = golden
    assert len(entries) == len(cells) == 6
    for entry in entries:
        i = cells[entry["schedule"]["total_steps"], entry["schedule"]["peak_lr"]]
        cell = found.cells[i]
        assert cell.best_ratio == entry["best_ratio"]
        assert list(cell.interval) == entry["interval_0p001"]
        assert abs(cell.loss - entry["loss"]) <= 1e-9
        assert cell.at_edge == (entry["best_ratio"] in (0.01, 0.99))
        for ratio, loss in entry["loss_at"].items():
            assert abs(found.losses[i, list(found.anneal_ratio).index(float(ratio))] - loss) <= 1e-9


@pytest.mark.parametrize(
    ("name", "warmup"),
    [(name, "as-scheduled") for name in synthetic.TRUTH] + [("lr-annealing", "as-peak")],
    ids=[*synthetic.TRUTH, "lr-annealing-as-peak"],
)
def test_losses_are_those_predicted_for_the_curve(name, warmup):
    fit, ramp = synthetic_fit(name, warmup=warmup), {"warmup_steps": 20, "init_lr": 1e-4}
    found = search(fit, **SMALL, **ramp)
    assert_as_predicted(found, fit, [(0, 0), (1, 4), (3, 2)], **ramp)  # ratio 0.9 overlaps the warmup


def test_short_runs():
    fit = synthetic_fit("lr-annealing")
    found = search(fit, **(SMALL | {"total_steps": (1, 3, 8, 13)}))
    assert_as_predicted(found, fit, [(i, j) for i in range(8) for j in (1, 4)])


@pytest.mark.parametrize("warmup", ["as-scheduled", "as-peak"])
def test_a_run_that_only_warms_up(warmup):
    fit = synthetic_fit("lr-annealing", warmup=warmup)
    found = search(fit, **(SMALL | {"total_steps": 60}), warmup_steps=60)
    assert_as_predicted(found, fit, [(0, 0)], warmup_steps=60)


def test_model_size_counts():
    fit = synthetic_fit("lr-annealing", sizes=True)
    small, large = (search(fit, **SMALL, model_size=size) for size in (1e6, 2e7))
    assert_as_predicted(large, fit, [(1, 2)], model_size=2e7)
    assert (small.losses > large.losses).all()


def test_cells_are_every_combination():
    steps, peaks, finals = (60, 90), (2e-3, 1e-3), (1e-5, 1e-4)
    grid = {"total_steps": steps, "peak_lr": peaks, "decay": tuple(DECAYS), "final_lr": finals}
    fit = synthetic_fit()
    found = search(fit, **grid, anneal_ratio=(0.3, 0.6, 0.9), chunk=10)
    assert (found.candidates, found.losses.shape) == (96, (32, 3))
    expected = set(itertools.product(steps, peaks, DECAYS, finals))
    assert {(c.total_steps, c.peak_lr, c.decay, c.final_lr) for c in found.cells} == expected
    assert_as_predicted(found, fit, [(0, 0), (2, 1), (13, 0), (22, 1), (31, 0)])


RATIOS = np.linspace(0.01, 1, 100)
FLAT = {"total_steps": 300, "peak_lr": 3e-3, "anneal_ratio": RATIOS, "chunk": 10}


@pytest.fixture(scope="module")
def inner():
    """A search with its best ratio inside the ratios searched."""
    return search(synthetic_fit(decay=0.9), **FLAT)


def test_best_ratio_and_interval_are_read_from_the_losses(inner):
    (cell,), (losses,) = inner.cells, inner.losses
    near = RATIOS[losses <= losses.min() + 1e-3]
    assert (cell.best_ratio, cell.loss) == (RATIOS[np.argmin(losses)], losses.min())
    assert cell.interval == (near.min(), near.max())
    assert near.min() < cell.best_ratio < near.max()
    assert not cell.at_edge


@pytest.mark.parametrize("side", [np.greater, np.less], ids=["lowest", "highest"])
def test_at_edge(side, inner):
    kept = side(RATIOS, inner.cells[0].best_ratio)
    cell = search(synthetic_fit(decay=0.9), **(FLAT | {"anneal_ratio": RATIOS[kept][::-1]})).cells[0]
    assert cell.at_edge
    assert cell.loss == pytest.approx(inner.losses[0, kept].min(), rel=1e-12)


def test_one_ratio_has_no_edge():
    assert not search(synthetic_fit(), total_steps=60, peak_lr=[1e-3] * 10, anneal_ratio=0.3).cells[0].at_edge


def test_json_holds_what_was_searched():
    found = search(synthetic_fit(), **SMALL)
    record = json.loads(found.to_json())
    assert record["candidates"] == 20
    for cell, stored in zip(found.cells, record["cells"], strict=True):
        assert stored == {**cell._asdict(), "interval": list(cell.interval)}


# ------------------------------------------------------------------------------------------------ chunks


def test_chunks_change_nothing():
    whole, *parts = (search(synthetic_fit(), **SMALL, chunk=chunk).losses for chunk in (1000, 7, 1))
    np.testing.assert_allclose(parts, [whole, whole], rtol=1e-12)


@pytest.mark.parametrize(("chunk", "expected"), [(1000, [10, 20]), (7, [7, 10, 17, 20])])
def test_progress_counts_candidates(chunk, expected):
    seen = []
    search(synthetic_fit(), **SMALL, chunk=chunk, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 20) for done in expected]


def test_a_chunk_bounds_the_arrays_and_compiles_once(monkeypatch):
    traced = chex.assert_max_traces(sweep.final_effects.__wrapped__, n=1)
    compiled, sizes = jax.jit(traced, static_argnames=("decay", "as_peak")), []

    def spy(law, total_steps, candidates, *shared, **static):
        sizes.extend(value.size for value in candidates.values())
        return compiled(law, total_steps, candidates, *shared, **static)

    monkeypatch.setattr(sweep, "final_effects", spy)
    search(synthetic_fit(), **SMALL, chunk=7)
    search(synthetic_fit(), total_steps=(33, 77, 120), peak_lr=3e-3, warmup_steps=5, chunk=7)
    assert set(sizes) == {7}


# ------------------------------------------------------------------------------------------------ bad input

BAD = {
    "ratio-zero": ({"anneal_ratio": (0.0, 0.5)}, r"anneal_ratio must lie in \(0, 1\], got 0"),
    "ratio-large": ({"anneal_ratio": 1.5}, r"anneal_ratio must lie in \(0, 1\], got 1.5"),
    "ratio-nan": ({"anneal_ratio": np.nan}, "anneal_ratio: expected a finite number, got nan"),
    "no-ratio": ({"anneal_ratio": ()}, "at least one value on every axis"),
    "peak-negative": ({"peak_lr": (1e-3, -1e-3)}, "peak_lr: expected a number above zero, got -0.001"),
    "peak-text": ({"peak_lr": "high"}, "peak_lr: expected a number, got 'high'"),
    "half-step": ({"total_steps": 60.5}, "total_steps: expected a whole number >= 1, got 60.5"),
    "no-steps": ({"total_steps": 0}, "total_steps: expected a whole number >= 1, got 0"),
    "decay-unknown": ({"decay": ("linear", "cosin")}, "unknown decay 'cosin'; did you mean 'cosine'"),
    "exponential-to-zero": ({"decay": "exponential"}, "exponential decay needs a final_lr above zero, got 0"),
    "final-high": ({"final_lr": 2e-3}, r"final_lr: expected a rate in \[0, 0.001\], got 0.002"),
    "final-negative": ({"final_lr": -1e-5}, "final_lr: expected a rate in .*, got -1e-05"),
    "init-high": ({"init_lr": 2e-3, "warmup_steps": 9}, r"init_lr: expected a rate in \[0, 0.001\], got 0.002"),
    "warmup-long": ({"warmup_steps": 70}, "warmup of 70 steps is longer than the run of 60"),
    "warmup-negative": ({"warmup_steps": -1}, "warmup_steps: expected a whole number >= 0, got -1"),
    "chunk-zero": ({"chunk": 0}, "chunk: expected a whole number >= 1, got 0"),
    "size-negative": ({"model_size": -1.0}, "model_size: expected a number above zero, got -1.0"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD.keys())
def test_bad_grids_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        search(synthetic_fit(), **(SMALL | changes))


def test_several_sizes_need_a_size():
    with pytest.raises(ValueError, match="model_size is needed"):
        search(synthetic_fit(sizes=True), **SMALL)


@pytest.mark.parametrize("status", ["undetermined", "non-finite", "iteration-limit"])
def test_a_fit_that_cannot_predict_is_refused(status):
    fit = dataclasses.replace(synthetic_fit(), status=status, undetermined=("C",))
    with pytest.raises(ValueError, match=f"the fit cannot predict: {lanes.STATUS[status]}"):
        search(fit, **SMALL)


def test_losses_that_are_not_finite_are_refused():
    fit = fitted(make_law("lr-annealing"), synthetic.TRUTH["lr-annealing"] | {"A": np.inf})
    with pytest.raises(ValueError, match=r"not finite for peak_lr 0\.001"):
        search(fit, **SMALL)
