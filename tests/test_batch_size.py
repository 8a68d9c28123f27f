"""Critical batch sizes of curves simulated from a known trade between updates and tokens."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import nnls

from fmjax import WSD, Constant, Cosine
from fmjax.curves.loss_curve import LossCurve
from fmjax.scaling.batch_size import critical_batch_size
from fmjax.scaling.smoothing import first_reach, smooth
from fmjax.scaling.trades import fit_trades
from fmjax.schedules.kinds import Step, Tabulated

SIZES = tuple(32768 * 2**k for k in range(5))
ALPHA, AT_THREE = 4.0, 2e5
LOSSES = np.exp(np.linspace(np.log(9.0), np.log(2.05), 20001))


def critical_at(loss, at_three=AT_THREE):
    return at_three * (loss / 3) ** -ALPHA


def least_updates(loss):
    return 12.5 * ((loss - 2.0) / 5) ** (-1 / 0.45)


def run(batch, *, at_three=AT_THREE, tokens=1e9, noise=0.0, shift=0.0, seed=0, rows=300, steps=None, **fields):
    """A run that follows S = S_min(L) + E_min(L)/B, inverted on a fine grid of losses."""
    steps = steps or int(tokens / batch)
    updates = least_updates(LOSSES) * (1 + critical_at(LOSSES, at_three) / batch)
    step = np.unique(np.linspace(40, steps - 1, rows).astype(int))
    loss = np.exp(np.interp(np.log(step + 1), np.log(updates), np.log(LOSSES)))
    rng = np.random.default_rng([seed, int(batch)])
    loss = loss * np.exp(noise * rng.standard_normal(step.size) + shift * rng.standard_normal())
    schedule = Constant(peak_lr=1e-3, total_steps=steps, warmup_steps=20)
    return LossCurve(f"b{batch}-{seed}", step, loss, schedule, tokens_per_step=batch, **fields)


def runs(sizes=SIZES, seeds=(0,), **options):
    return [run(batch, seed=seed, **options) for batch in sizes for seed in seeds]


@pytest.fixture(scope="module")
def exact():
    return critical_batch_size(runs(rows=2000), samples=50)


@pytest.fixture(scope="module")
def noisy():
    return critical_batch_size(runs(noise=2e-3))


# ---------------------------------------------------------------------------------------------------------------------
# Levels and their power law
# ---------------------------------------------------------------------------------------------------------------------


def test_without_noise_the_trade_is_exact(exact):
    assert len(exact.levels) == 5
    for level in exact.levels:
        assert level.status == exact.status == "determined"
        assert level.critical == pytest.approx(critical_at(level.loss), rel=1e-3)
        assert level.min_updates == pytest.approx(least_updates(level.loss), rel=1e-3)
        assert level.min_tokens == pytest.approx(least_updates(level.loss) * critical_at(level.loss), rel=1e-3)
        assert level.error_percent < 0.05
    assert exact.power.exponent == pytest.approx(ALPHA, rel=1e-3)
    assert exact.power.at(3.0).tokens_per_step == pytest.approx(AT_THREE, rel=1e-3)


def test_updates_and_tokens_of_each_run(exact):
    for level in exact.levels:
        for reach, batch in zip(level.runs, SIZES, strict=True):
            expected = least_updates(level.loss) * (1 + critical_at(level.loss) / batch)
            assert reach.updates == pytest.approx(expected, rel=5e-4)
            assert reach.tokens == pytest.approx(reach.updates * batch)


def test_noise_lies_within_the_intervals(noisy):
    assert noisy.method == "rows"
    for level in noisy.levels:
        low, high = level.critical_interval
        assert low < level.critical < high < 1.5 * low
        assert level.critical == pytest.approx(critical_at(level.loss), rel=0.1)
    low, high = noisy.power.exponent_interval
    assert low < ALPHA < high < low + 3


@pytest.mark.parametrize(
    ("options", "method"),
    [
        pytest.param({"noise": 3e-3}, "rows", id="rows"),
        pytest.param({"noise": 1e-3, "shift": 2e-3}, "rows", id="runs that differ", marks=pytest.mark.slow),
        pytest.param(
            {"noise": 1e-3, "shift": 2e-3, "seeds": (0, 1)}, "runs", id="repeated runs", marks=pytest.mark.slow
        ),
    ],
)
def test_intervals_cover(options, method):
    inside, seeds = [], options.pop("seeds", (0,))
    for draw in range(20):
        found = critical_batch_size(
            runs(seeds=[10 * draw + seed for seed in seeds], **options), losses=[2.8], seed=draw
        )
        low, high = found.levels[0].critical_interval
        inside.append(low <= critical_at(2.8) <= high)
    assert found.method == method
    assert sum(inside) >= 14


def test_larger_noise_gives_wider_intervals(noisy):
    wide = critical_batch_size(runs(noise=8e-3), losses=[level.loss for level in noisy.levels])
    for a, b in zip(noisy.levels, wide.levels, strict=True):
        assert np.diff(b.critical_interval) > 2 * np.diff(a.critical_interval)


def test_repeated_runs_at_some_batch_sizes():
    curves = [*runs(noise=1e-3), run(SIZES[0], noise=1e-3, seed=1)]
    found = critical_batch_size(curves, losses=[2.8], samples=20)
    assert found.method == "runs and rows"
    assert len(found.levels[0].runs) == 6


def test_the_same_seed_draws_the_same():
    curves = runs(noise=2e-3)
    first, second = (critical_batch_size(curves, samples=20, seed=3).to_json() for _ in range(2))
    assert first == second
    assert critical_batch_size(curves, samples=20, seed=4).to_json() != first


def test_fit_is_nonnegative_least_squares_of_relative_error():
    tracks = [smooth(c, np.full(10**5, 1e-3)) for c in runs(noise=2e-2, at_three=5e4)]
    levels = np.log([3.2, 2.9, 2.6])
    found = fit_trades(tracks, levels, samples=5, rng=np.random.default_rng(0))
    for i in range(3):
        updates = np.exp(found.reached[:, i])
        basis = np.stack([1 / updates, 1 / (updates * np.array(SIZES) / SIZES[0])], axis=1)
        expected = nnls(basis, np.ones(updates.size))[0] * [1, SIZES[0]]
        np.testing.assert_allclose(found.fitted[i], expected, rtol=1e-8)


@pytest.mark.parametrize("rising", [True, False], ids=["more updates for larger batches", "fewer tokens"])
def test_the_fit_stays_above_zero_as_scipy_does(rising):
    times = np.array([1.0, 1.3, 1.7]) if rising else np.array([1.0, 0.3, 0.08])
    schedule = Constant(1e-3, 4000)
    step = np.arange(4000)
    curves = [
        LossCurve(f"b{k}", step, 2 + 5 * ((step + 1) / t) ** -0.3, schedule, tokens_per_step=2**k * 1e5)
        for k, t in enumerate(times)
    ]
    found = critical_batch_size(curves, losses=[3.0], samples=5).levels[0]
    updates = (1 / 5) ** (-1 / 0.3) * times
    expected = nnls(np.stack([1 / updates, 1 / (updates * [1, 2, 4])], axis=1), np.ones(3))[0]
    assert found.status != "determined"
    assert math.isnan(found.critical)
    assert math.isnan(found.min_tokens if rising else found.min_updates)
    if found.status == ("above-critical" if rising else "below-critical"):
        assert (found.min_updates if rising else found.min_tokens / 1e5) == pytest.approx(expected.max(), rel=1e-3)


# ---------------------------------------------------------------------------------------------------------------------
# What stays open
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at_three", "status"), [(200.0, "above-critical"), (1e9, "below-critical")], ids=["large", "small"]
)
def test_batches_to_one_side_leave_the_critical_size_open(at_three, status):
    found = critical_batch_size(runs(at_three=at_three, noise=1e-3))
    assert found.status == status
    assert {level.status for level in found.levels} == {status}
    for level in found.levels:
        assert math.isnan(level.critical)
        assert np.isnan(level.critical_interval).all()
        assert math.isnan(level.min_tokens) == (status == "above-critical")
        assert math.isnan(level.min_updates) == (status == "below-critical")
    assert math.isnan(found.power.exponent)
    assert math.isnan(found.power.at(3.0).tokens_per_step)
    assert level.message in found.notes[0]
    assert len(found.below) == (len(SIZES) if status == "below-critical" else 0)


def test_batch_sizes_too_close_for_the_noise():
    found = critical_batch_size(runs((100_000, 104_000, 108_000), noise=2e-2, seeds=(0,)))
    assert found.status == "undetermined"
    assert any("too close for the noise" in note for note in found.notes)


def test_two_batch_sizes_give_no_intervals():
    found = critical_batch_size(runs(SIZES[::4], rows=2000))
    assert found.power.exponent == pytest.approx(ALPHA, rel=2e-3)
    assert np.isnan(found.power.exponent_interval).all()
    assert all(np.isnan(level.critical_interval).all() for level in found.levels)
    assert any("two batch sizes give no intervals" in note for note in found.notes)


def test_a_run_that_never_reaches_a_level_is_left_out_of_it():
    curves = runs()
    high, low = critical_batch_size(curves, losses=[curves[-1].loss[-1] - 0.03, 3.0], samples=10).levels
    assert [reach.tokens_per_step for reach in high.runs] == list(SIZES)
    assert [reach.tokens_per_step for reach in low.runs] == list(SIZES[:-1])
    assert low.critical == pytest.approx(critical_at(low.loss), rel=0.01)


def test_a_misfit_is_said():
    curves = runs()
    slow = replace(curves[2], step=curves[2].step * 2, schedule=Constant(1e-3, 2 * curves[2].schedule.total_steps))
    found = critical_batch_size([*curves[:2], slow, *curves[3:]], losses=[3.0])
    assert found.levels[0].error_percent > 10
    assert any("the law misses the updates by" in note for note in found.notes)


# ---------------------------------------------------------------------------------------------------------------------
# Runs and abscissas
# ---------------------------------------------------------------------------------------------------------------------


def test_runs_below_the_critical_batch_size(noisy):
    for judged, curve in zip(noisy.runs, runs(), strict=True):
        assert judged.loss == pytest.approx(curve.loss[-1], rel=5e-3)
        assert judged.critical.tokens_per_step == pytest.approx(critical_at(judged.loss), rel=0.15)
        assert judged.below == (judged.tokens_per_step < critical_at(judged.loss))
    assert 0 < len(noisy.below) < len(SIZES)
    notes = [note for note in noisy.notes if "lie below the critical batch size" in note]
    assert len(notes) == len(noisy.below)
    assert notes[0].startswith("run 'b32768-0': 32 768 tokens an update lie below the critical batch size ")
    assert " ... " in notes[0]
    assert "its loss follows tokens rather than updates" in notes[0]


def test_extrapolation_is_said(noisy):
    low, high = noisy.power.losses
    assert not noisy.power.at((low + high) / 2).extrapolated
    assert noisy.power.at(low - 0.1).extrapolated
    assert "(extrapolated from losses" in next(note for note in noisy.notes if "b32768" in note)


def test_curves_that_follow_updates_do_not_spread_by_updates():
    curves = [replace(run(SIZES[0], steps=5000), name=f"b{b}", tokens_per_step=b) for b in SIZES]
    found = critical_batch_size(curves, samples=10)
    assert found.spread_by_updates_percent == pytest.approx(0, abs=1e-9)
    assert found.spread_by_tokens_percent > 3
    assert found.status == "above-critical"


def test_curves_that_follow_tokens_do_not_spread_by_tokens():
    schedule, tokens = Constant(1e-3, 20000), np.arange(200, 20000) * 1e5
    curves = [
        LossCurve(f"b{k}", tokens[:: 2**k] / 1e5 / 2**k // 1 - 1, 2 + 40 * tokens[:: 2**k] ** -0.2, schedule)
        for k in range(3)
    ]
    found = critical_batch_size(
        [replace(c, tokens_per_step=1e5 * 2**k) for k, c in enumerate(curves)], losses=[2.6], samples=10
    )
    assert found.spread_by_tokens_percent < 0.01
    assert found.spread_by_updates_percent > 1
    assert found.status == "below-critical"


def test_spread_against_a_mean_over_pairs():
    step, schedule = np.arange(50, 3000), Constant(1e-3, 3000)
    factor = {1e5: 1.0, 2e5: 0.97, 4e5: 0.9}
    curves = [
        LossCurve(f"b{b:g}", step, f * 9 * (step + 1.0) ** -0.1, schedule, tokens_per_step=b) for b, f in factor.items()
    ]
    found = critical_batch_size(curves, samples=10)
    logs = np.log(list(factor.values()))
    expected = 100 * np.mean([abs(logs[0] - logs[1]), abs(logs[0] - logs[2]), abs(logs[1] - logs[2])])
    assert found.spread_by_updates_percent == pytest.approx(expected, rel=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Rows that count
# ---------------------------------------------------------------------------------------------------------------------


def reached(curve, rates, loss=2.8):
    return float(np.exp(first_reach(smooth(curve, rates), np.log(loss))))


def test_rows_of_an_anneal_do_not_count():
    curves = runs((SIZES[0], SIZES[2], SIZES[4]))
    annealed = []
    for curve in curves:
        total = int(curve.schedule.total_steps)
        loss = curve.loss * np.where(curve.step >= 0.8 * total, 0.9, 1.0)
        annealed.append(replace(curve, loss=loss, schedule=WSD(1e-3, total, 0.2, warmup_steps=20)))
    found, known = (critical_batch_size(c, losses=[3.0], samples=10) for c in (annealed, curves))
    assert found.levels[0].critical == pytest.approx(known.levels[0].critical, rel=0.01)
    assert not any("anneals from the start" in note for note in found.notes)


@pytest.mark.parametrize("kind", ["step", "tabulated"])
def test_only_the_first_stretch_at_the_peak_rate_counts(kind):
    curve = run(SIZES[2])
    total = int(curve.schedule.total_steps)
    half = total // 2
    rates = np.where(np.arange(total) < half, 1e-3, 1e-4)
    schedule = Step(1e-3, total, (half,), (1e-4,)) if kind == "step" else Tabulated(rates)
    track = smooth(replace(curve, schedule=schedule), rates)
    assert not track.anneals
    assert half * 0.98 < np.exp(track.at[-1]) <= half


def test_a_cosine_counts_whole_with_a_note():
    curves = [replace(c, schedule=Cosine(1e-3, int(c.schedule.total_steps), warmup_steps=20)) for c in runs()]
    found = critical_batch_size(curves, losses=[3.0], samples=10)
    assert sum("anneals from the start" in note for note in found.notes) == len(SIZES)
    assert found.levels[0].critical == pytest.approx(critical_at(3.0), rel=0.01)


def test_warmup_does_not_count():
    curve = run(SIZES[2])
    total = int(curve.schedule.total_steps)
    rates = np.minimum(np.arange(total) / 1000, 1.0) * 1e-3
    track = smooth(replace(curve, schedule=Constant(1e-3, total, warmup_steps=1000)), rates)
    assert np.exp(track.at[0]) > 1000


def test_noise_is_averaged_before_a_level_counts_as_reached():
    clean = run(SIZES[2], rows=3000)
    noisy_run = run(SIZES[2], rows=3000, noise=1e-2)
    rates = np.full(10**5, 1e-3)
    assert reached(noisy_run, rates) == pytest.approx(reached(clean, rates), rel=0.05)
    assert noisy_run.step[np.argmax(noisy_run.loss <= 2.8)] < 0.9 * reached(clean, rates)


def test_redrawn_noise_is_as_large_as_the_noise_of_the_smoothed_curve():
    clean = smooth(run(SIZES[2]), np.full(10**5, 1e-3))
    tracks = [smooth(run(SIZES[2], noise=5e-3, seed=seed), np.full(10**5, 1e-3)) for seed in range(40)]
    seen = np.std([track.loss - clean.loss for track in tracks])
    drawn = np.mean([np.std(track.draw(50, np.random.default_rng(0)) - track.loss[:, None]) for track in tracks])
    assert drawn == pytest.approx(seen, rel=0.15)


def test_correlated_noise_counts_for_more():
    base = run(SIZES[2], rows=3000)
    white = np.random.default_rng(1).standard_normal(base.step.size)
    drifting = np.convolve(white, np.ones(5) / np.sqrt(5), "same")
    white_track, drift_track = (
        smooth(replace(base, loss=base.loss * np.exp(2e-3 * noise)), np.full(10**5, 1e-3))
        for noise in (white, drifting)
    )
    assert np.std(drift_track.noise) > 2 * np.std(white_track.noise)


# ---------------------------------------------------------------------------------------------------------------------
# Records and bad input
# ---------------------------------------------------------------------------------------------------------------------


def test_json(noisy):
    record = json.loads(noisy.to_json())
    assert record["status"] == "determined"
    assert record["power"]["exponent"] == noisy.power.exponent
    assert record["levels"][0]["runs"][0]["name"] == "b32768-0"
    assert record["runs"][0]["critical"]["extrapolated"] is True
    assert "samples" not in record["power"]
    assert record["spread_by_updates_percent"] == noisy.spread_by_updates_percent


def test_json_of_what_is_open_holds_none():
    record = json.loads(critical_batch_size(runs(at_three=200.0), losses=[2.6], samples=10).to_json())
    assert record["levels"][0]["critical"] is None
    assert record["power"]["exponent"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: [], "found no run"),
        (lambda c: [replace(c[0], tokens_per_step=None), *c[1:]], "run 'b32768-0': expected tokens_per_step"),
        (lambda c: c[:1], "two batch sizes or more, but every run has 32 768 tokens an update"),
        (lambda c: [*c[:-1], replace(c[-1], model_size=1e6)], "run 'b524288-0': expected model_size None as of run"),
        (lambda c: [*c[:-1], run(SIZES[-1], rows=3)], "run 'b524288-0': expected at least 4 rows after warmup"),
        (lambda c: [*c[:-1], replace(c[-1], loss=c[-1].loss * 3)], "run 'b524288-0' ends at .* starts at"),
    ],
    ids=["no run", "no batch size", "one batch size", "two model sizes", "few rows", "no common loss"],
)
def test_runs_that_cannot_be_compared(change, message):
    with pytest.raises(ValueError, match=message):
        critical_batch_size(change(runs()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"losses": []}, "expected at least one loss"),
        ({"losses": [3.0, -1.0]}, "losses: expected a number above zero, got -1"),
        ({"losses": [1.5]}, "loss 1.5: expected at least two batch sizes to reach it, found none"),
        ({"samples": 1}, "samples: expected a whole number >= 2"),
    ],
    ids=["no loss", "negative", "never reached", "one sample"],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        critical_batch_size(runs(), **options)
