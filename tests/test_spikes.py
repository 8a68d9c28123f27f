"""Everything that looks at rows, with spikes in them: 2 % of the rows anywhere, a burst of 5 %, and the last row."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic import DECAY, curve

from fmjax.curves.loss_curve import LossCurve
from fmjax.curves.row_noise import ends_in_spike
from fmjax.fitting.option_choice import choose_options
from fmjax.fitting.options import MANY_FITS, precision
from fmjax.fitting.problem import prepare
from fmjax.fitting.resampling import bootstrap
from fmjax.laws import LRAnnealing
from fmjax.planning.recommendation import recommend
from fmjax.scaling.batch_size import critical_batch_size
from fmjax.scaling.optima import optima, tried
from fmjax.scaling.smoothing import smooth
from fmjax.schedules.kinds import WSD, Constant

LAW = LRAnnealing(decay=DECAY)
ROWS = 100


def scattered(rows):
    """2 % of the rows."""
    return np.random.default_rng(rows).choice(rows - 1, size=rows // 50, replace=False)


def burst(begin):
    """5 % of the rows, one after the other, from a share of the run on."""
    return lambda rows: np.arange(int(begin * rows), int(begin * rows) + rows // 20)


SPIKES = {
    "scattered": scattered,
    "early-burst": burst(0.2),
    "burst": burst(0.6),
    "burst-at-the-end": burst(0.95),
    "last-row": lambda rows: np.array([rows - 1]),
}


@pytest.fixture(params=SPIKES, name="where")
def _where(request):
    return SPIKES[request.param]


def spiked(run, where):
    """The run with a loss four higher in some rows."""
    loss = run.loss.copy()
    loss[where(loss.size)] += 4
    return replace(run, loss=loss)


@pytest.fixture(scope="module")
def annealed():
    """Runs that differ in their annealing ratio, with a noise of 0.2 % a row."""
    rng = np.random.default_rng(0)
    made = [
        curve(f"r{ratio}", WSD(1e-3, 400, ratio, warmup_steps=20), rows=ROWS) for ratio in (0.1, 0.2, 0.4, 0.6, 0.8)
    ]
    return [replace(run, loss=run.loss * np.exp(2e-3 * rng.normal(size=ROWS))) for run in made]


@pytest.fixture(scope="module")
def batches():
    """Runs at three batch sizes, whose critical one is 2e5 tokens."""
    rng, step = np.random.default_rng(1), np.arange(20, 2000, 10)
    found = []
    for batch in (5e4, 2e5, 8e5):
        loss = 2 + 5 * ((step + 1) / (1 + 2e5 / batch)) ** -0.3
        noise = np.exp(1e-3 * rng.normal(size=step.size))
        found.append(LossCurve(f"{batch:g}", step, loss * noise, Constant(1e-3, 2000), tokens_per_step=batch))
    return found


@pytest.fixture(scope="module")
def clean(annealed, batches):
    return {
        "bootstrap": bootstrap(LAW, annealed, samples=48),
        "recommend": recommend(annealed, law=LAW, total_steps=400, peak_lr=1e-3, samples=48).best,
        "optima": optima(tried(annealed))[0],
        "batch": critical_batch_size(batches),
        "choice": choose(annealed),
    }


def choose(curves):
    with precision(MANY_FITS):
        problem = prepare("lr-annealing", curves, fitted=[True] * len(curves), options=MANY_FITS)
        return choose_options(problem, MANY_FITS, np.ones((1, len(curves)), bool))


def one_spiked(curves, where):
    """The curves, the third of them with spikes."""
    return [spiked(run, where) if i == 2 else run for i, run in enumerate(curves)]


def agree(value, interval, expected, ends, within=0.7):
    """The value lies within the clean interval's width of the clean one; the intervals are about as wide."""
    width = ends[1] - ends[0]
    assert abs(value - expected) < within * width
    assert 0.5 < (interval[1] - interval[0]) / width < 2


@pytest.mark.slow
def test_the_bootstrap(clean, annealed, where):
    found, before = bootstrap(LAW, one_spiked(annealed, where), samples=48), clean["bootstrap"]
    for name in LAW.parameter_names:
        agree(found.fit.params[name], found.interval(name), before.fit.params[name], before.interval(name))


@pytest.mark.slow
def test_a_recommendation_and_its_correction(clean, annealed, where):
    found = recommend(one_spiked(annealed, where), law=LAW, total_steps=400, peak_lr=1e-3, samples=48).best
    before = clean["recommend"]
    agree(found.cell.loss, found.cell.loss_interval, before.cell.loss, before.cell.loss_interval)
    agree(found.cell.best_ratio, found.cell.ratio_interval, before.cell.best_ratio, before.cell.ratio_interval, 1.0)


@pytest.mark.slow
def test_options_chosen(clean, annealed, where):
    found, before = choose(one_spiked(annealed, where)), clean["choice"]
    rng = np.random.default_rng(0)
    memory, was = (np.log([1 - one.options[k]["decay"] for k in one.draw(40, rng)]) for one in (found, before))
    assert abs(memory.mean() - was.mean()) < 2 * was.std()
    assert 0.5 < memory.std() / was.std() < 2


@pytest.mark.slow
def test_measured_optima(clean, annealed, where):
    """A run that ends in a spike has no final loss; the optimum is then that of the other ratios."""
    curves, before = one_spiked(annealed, where), clean["optima"]
    found = optima(tried(curves))[0]
    assert found.interval[0] <= before.ratio <= found.interval[1]
    assert curves[2].is_finished == (curves[2].loss[-1] < 4)
    if curves[2].is_finished:
        agree(found.ratio, found.interval, before.ratio, before.interval)


def test_a_run_that_ends_in_a_spike_is_named(annealed):
    curves = one_spiked(annealed, SPIKES["last-row"])
    notes = recommend(curves, law=LAW, total_steps=400, peak_lr=1e-3, samples=0).best.notes
    assert "the last row of 'r0.4' is a spike and tells no final loss" in notes


def test_the_critical_batch_size(clean, batches, where):
    found, before = critical_batch_size([spiked(run, where) for run in batches]), clean["batch"]
    assert found.status == before.status == "determined"
    for level, was in zip(found.levels, before.levels, strict=True):
        agree(level.critical, level.critical_interval, was.critical, was.critical_interval)


def test_smoothing(batches, where):
    run, rates = batches[1], np.full(2000, 1e-3)
    found, before = smooth(spiked(run, where), rates), smooth(run, rates)
    at = np.linspace(found.at[0], min(found.at[-1], before.at[-1]), 50)
    loss, was = (np.interp(at, one.at, one.loss) for one in (found, before))
    assert np.abs(loss - was).max() < 2e-3
    size, before_size = (np.sqrt(np.mean(np.sum(one.noise**2, axis=1))) for one in (found, before))
    assert size == pytest.approx(before_size, rel=0.5)


def test_a_steep_end_of_an_anneal_is_no_spike():
    step, loss = np.arange(100), np.linspace(2.2, 2.1, 100)
    assert not ends_in_spike(step, loss)
    assert not ends_in_spike(step, np.append(loss[:-1], 1.9))
    assert ends_in_spike(step, np.append(loss[:-1], 6.0))
