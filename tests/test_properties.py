"""Whatever runs hypothesis draws, verbs return finite results within bounds or refuse in one line."""

import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import fmjax
from fmjax import WSD, Constant, Cosine, LossCurve, Step, Tabulated
from fmjax.fitting.objective import bounds
from fmjax.laws import LAWS

T, ROWS = 48, 12
"""Updates of a run, and rows at most; fixed, so that little is compiled."""
TWO_STARTS = fmjax.FitOptions(starts=2)
HOUSE = Path(fmjax.__file__).parent


def examples(count):
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        phases=(Phase.generate,),  # shrinking would run the slowest verbs for minutes
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


# ------------------------------------------------------------------------------------------------ what is drawn


@st.composite
def drawn_schedules(draw, peak, warmup):
    kind = draw(st.sampled_from(["wsd", "wsd", "cosine", "constant", "step", "table"]))
    final = peak * draw(st.sampled_from([0.0, 0.1, 1.0]))
    if kind == "wsd":
        decay = draw(st.sampled_from(["linear", "1-sqrt", "cosine"]))
        return WSD(peak, T, draw(st.sampled_from([0.2, 0.5, 1.0, 0.01])), decay, final, warmup)
    if kind == "cosine":
        return Cosine(peak, T, final, warmup)
    if kind == "step":
        return Step(peak, T, (20, 30), (peak / 3, final), warmup)
    if kind == "table":
        rates = draw(st.lists(st.sampled_from([0.0, peak / 2, peak]), min_size=T, max_size=T))
        return Tabulated(rates, warmup)
    return Constant(peak, T, warmup)


@st.composite
def drawn_run(draw, name, peak, warmup, unit):
    schedule = draw(drawn_schedules(peak, warmup))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    step = np.arange(0, T, T // ROWS) + draw(st.integers(0, T // ROWS - 1))
    seen = np.cumsum(np.asarray(fmjax.schedules.kinds.lrs(schedule), float))[step]
    loss = unit * (2 + draw(st.sampled_from([0.5, 0.0, -0.2])) * (seen + 1e-3) ** -0.3)
    loss = loss * np.exp(draw(st.sampled_from([1e-3, 0.0, 0.1])) * rng.standard_normal(step.size))
    loss = np.round(loss, draw(st.sampled_from([9, 2, 1])))
    if draw(st.booleans()):  # a spike
        at = draw(st.integers(0, step.size - 1))
        loss[at : at + draw(st.integers(1, 2))] *= draw(st.sampled_from([1.5, 100.0]))
    if draw(st.booleans()):  # every other row repeats the one before it
        loss[1::2] = loss[::2]
    kept = np.sort(rng.choice(step.size, draw(st.sampled_from([step.size, step.size, 2, 1])), replace=False))
    tokens = draw(st.sampled_from([None, 8192, 65536]))
    return name, step[kept], loss[kept], schedule, None, tokens


@st.composite
def drawn_runs(draw):
    """Fields of one or three runs of a peak rate, a warmup and a unit of loss, or of two of each."""
    peaks = draw(st.sampled_from([(1e-3,), (1e-4,), (0.1,), (1e-3, 4e-3)]))
    warmups = draw(st.sampled_from([(6,), (0, 6), (0,), (T - 1,)]))
    unit = draw(st.sampled_from([1.0, 0.05, 100.0]))
    count = draw(st.sampled_from([3, 3, 1]))
    picks = [(draw(st.sampled_from(peaks)), draw(st.sampled_from(warmups))) for _ in range(count)]
    return [draw(drawn_run(f"run-{i}", *pick, unit)) for i, pick in enumerate(picks)]


# ------------------------------------------------------------------------------------------------ what must hold


def held(verb, runs, law):
    """Runs a verb and its checks; returns the refusal, which must be a line of the package's own, or None."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            verb([LossCurve(*fields) for fields in runs], law)
        except ValueError as error:
            refusal = error
        else:
            return None
    where = Path(traceback.extract_tb(refusal.__traceback__)[-1].filename)
    assert type(refusal) is ValueError, refusal
    assert where.is_relative_to(HOUSE), f"{where}: {refusal}"
    assert len(str(refusal)) > 10, refusal
    assert "\n" not in str(refusal), refusal
    return refusal


def check_fit(found):
    lower, upper = bounds(found.law)
    unusable = set(found.undetermined) if found.status != "non-finite" else set(found.params)
    for name, low, high in zip(found.law.parameter_names, lower, upper, strict=True):
        value = found.params[name]
        assert name in unusable if np.isnan(value) else low <= value <= high, (name, value)
    assert np.isfinite(found.objective) or found.status == "non-finite"
    assert found.to_json()
    assert fmjax.FitResult.from_json(found.to_json()).params.keys() == found.params.keys()


def check_metrics(runs, ok):
    for run in runs:
        known = [run.mape_percent, run.worst_percent, run.rmse, run.final_loss_predicted]
        assert all(value >= 0 for value in known[:3] if not np.isnan(value)), run
        assert not ok or np.isfinite(known).all() or np.isnan(known[:3]).all(), run


def check_interval(ends):
    if ends is not None and not np.isnan(ends).any():
        assert np.isfinite(ends).all()
        assert ends[0] <= ends[1]


def check_cell(cell, limits=(-np.inf, np.inf)):
    check_interval(cell.loss_interval)
    check_interval(cell.ratio_interval)
    if cell.is_offered:
        assert limits[0] <= cell.loss <= limits[1]
        assert np.isfinite(cell.loss)
        assert 0 < cell.interval[0] <= cell.best_ratio <= cell.interval[1] <= 1


def fitting(runs, law):
    check_fit(fmjax.fit(law, runs, starts=2))


def evaluating(runs, law):
    found = fmjax.evaluate(law, runs, train=runs[:2], options=TWO_STARTS)
    check_fit(found.fit)
    check_metrics(found.runs, found.fit.ok)
    assert found.to_json()


def searching(runs, law):
    fit = fmjax.fit(law, runs, starts=2)
    found = fmjax.search(fit, total_steps=(T, 3 * T), peak_lr=(1e-3, 1.0), anneal_ratio=(0.1, 0.5, 1.0))
    for cell in found.cells:
        check_cell(cell, fit.loss_limits(cell.total_steps))
    assert not any(fit.doubts(one.loss, one.total_steps) for one in found.top)
    assert found.to_json()


def recommending(runs, law):
    found = fmjax.recommend(
        runs,
        total_steps=2 * T,
        peak_lr=(1e-3, 0.1),
        law=LAWS[law](),
        samples=4,
        options=TWO_STARTS,
        anneal_ratio=(0.1, 0.5, 1.0),
    )
    for choice in found.choices:
        check_cell(choice.cell)
        assert np.isnan(choice.regret) or choice.regret >= 0
    assert not found.best.fit.doubts(found.best.cell.loss, 2 * T)
    assert found.to_json()


def forecasting(runs, law):
    run, *others = runs
    prior = fmjax.fit(law, others, starts=2) if others else None
    found = fmjax.forecast(run, prior=prior, law=law, **({} if others else {"options": TWO_STARTS}))
    for outlook in (found.planned, *found.alternatives):
        assert not found.ok or (np.isfinite(outlook.loss) and outlook.loss > 0)
        check_interval(outlook.interval)
    assert found.to_json()


def optimising(runs, law):
    fit = fmjax.fit(law, runs, starts=2)
    found = fmjax.optimize(fit, total_steps=T, peak_lr=1e-3, max_iterations=3)
    assert np.isfinite(found.best.loss)
    assert (found.best.lrs >= 0).all()
    assert (found.best.lrs <= 1e-3 * (1 + 1e-9)).all()
    assert found.to_json()


def transferring(runs, law):
    schedules = [WSD(1e-3, T, ratio, warmup_steps=int(runs[0].schedule.warmup_steps)) for ratio in (0.2, 0.5)]
    first = runs[0]
    ended = {"final_loss": first.loss[-1]}
    more = [LossCurve(f"cell-{i}", first.step, first.loss, to, **ended) for i, to in enumerate(schedules)]
    found = fmjax.transfer([*more, *runs], law=LAWS[law](), samples=2, options=TWO_STARTS)
    for cell in found.cells:
        assert cell.predicted is None or np.isfinite(cell.predicted.losses).all()
    assert found.to_json()


def bootstrapping(runs, law):
    found = fmjax.bootstrap(law, runs, samples=4, options=TWO_STARTS)
    check_fit(found.fit)
    assert np.isfinite(found.params).all()
    lower, upper = bounds(found.fit.law)
    inside = ((found.params >= lower) & (found.params <= upper)).all(axis=0)
    # where the runs alone leave the law open, coefficients of samples count together
    assert inside[len(found.fit.law.coefficients) if found.fit.open_without_prior else 0 :].all()
    for name, low, high in zip(found.fit.law.parameter_names, lower, upper, strict=True):
        interval = found.interval(name)
        assert np.isnan(interval).all() if name in found.fit.left_open else low <= interval[0] <= interval[1] <= high
    assert found.to_json()


QUICK = {"fit": fitting, "evaluate": evaluating, "search": searching, "forecast": forecasting}
VERBS = {
    **QUICK,
    "optimize": optimising,
    "bootstrap": bootstrapping,
    "recommend": recommending,
    "transfer": transferring,
}


@pytest.mark.parametrize("verb", QUICK.values(), ids=QUICK.keys())
@examples(3)
@given(runs=drawn_runs())
def test_a_verb_answers_within_bounds_or_refuses_in_a_line(verb, runs):
    held(verb, runs, "lr-annealing")


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS.keys())
@examples(10)  # each compiles much
@given(runs=drawn_runs(), law=st.sampled_from(list(LAWS)))
def test_a_verb_answers_within_bounds_under_every_law(verb, runs, law):
    held(verb, runs, law)


PLAIN = [
    (f"run-{i}", np.arange(0, T, 4), 2 + 0.5 / np.sqrt(1 + np.arange(0, T, 4)), WSD(1e-3, T, ratio, warmup_steps=6))
    for i, ratio in enumerate((0.1, 0.3, 0.6, 0.9))
]


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS.keys())
def test_plain_runs_are_not_refused(verb):
    assert held(verb, PLAIN, "lr-annealing") is None
