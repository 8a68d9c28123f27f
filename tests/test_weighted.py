"""Weighted updates against every update: sums, memories, effects of laws at rows; few of them however long a run."""

import dataclasses

import jax
import numpy as np
import pytest
import synthetic

from fmjax.curves.loss_curve import LossCurve, pad
from fmjax.effects.weighted import gauss, rate_span, weighted_updates
from fmjax.fitting.row_effects import batch_effects
from fmjax.laws import LAWS, Law, LRAnnealing
from fmjax.schedules.anneals import DECAYS
from fmjax.schedules.host_rates import host_rates
from fmjax.schedules.kinds import WSD, Constant, Cosine, Step, Tabulated, lrs

TOTAL = 6000
PEAK = 2e-3


def families(total, warmup, ratio=0.3):
    """A schedule of every kind and decay, one that falls to zero, two whose anneal begins in the warmup."""
    base = {"peak_lr": PEAK, "total_steps": total, "warmup_steps": warmup}
    final = {decay: PEAK / 100 * (decay != "linear") for decay in DECAYS}
    return {
        "constant": Constant(**base, init_lr=1e-5),
        "cosine": Cosine(**base),
        "step": Step(**base, boundaries=(total // 3, total // 2 + 7), lrs=(PEAK / 20, 0.7 * PEAK)),
        "overlap": WSD(**{**base, "warmup_steps": total // 2}, anneal_ratio=0.9),
        "whole": WSD(**base, anneal_ratio=1.0, decay="1-sqrt"),
    } | {decay: WSD(**base, anneal_ratio=ratio, decay=decay, final_lr=final[decay]) for decay in DECAYS}


SLOW_TO_COMPILE = ("multi-power", "functional", "forward-momentum")

each_kind = pytest.mark.parametrize("kind", families(TOTAL, 0))


def rates(schedule):
    return host_rates(schedule, np.arange(schedule.total_steps))


# ------------------------------------------------------------------------------------------------ rates and panels


@each_kind
def test_host_rates_are_those_of_the_schedule(kind, x64):
    schedule = families(600, 50, ratio=0.2503)[kind]
    np.testing.assert_allclose(rates(schedule), np.asarray(lrs(schedule)), rtol=1e-13, atol=1e-18)


@pytest.mark.parametrize("size", [16, 64, 1024])
@pytest.mark.parametrize("power", [0, 3, 9])
def test_sums_over_a_panel_are_exact_for_powers(size, power):
    at, weights, until = gauss(size)
    every = np.cumsum((np.arange(size) / size) ** power)
    np.testing.assert_allclose(weights @ (at / size) ** power, every[-1], rtol=1e-12)
    # a sum up to a place between two updates lies on the polynomial through those up to whole numbers
    x = np.linspace(-1, 1, size)
    through = np.polynomial.Polynomial.fit(x, every, power + 1)
    here = 2 * at / (size - 1) - 1
    np.testing.assert_allclose(until @ (at / size) ** power, through(here), rtol=1e-9, atol=1e-10 * size)


@each_kind
def test_rows_have_updates_of_their_own_and_weights_add_up(kind):
    rows = np.array([0, 17, 900, 901, 2500, TOTAL - 1])
    found = weighted_updates(families(TOTAL, 250)[kind], rows)
    place = np.searchsorted(found.update, rows)
    np.testing.assert_array_equal(found.update[place], rows)
    np.testing.assert_allclose(np.cumsum(found.weight)[place], rows + 1, rtol=1e-12)
    np.testing.assert_allclose(found.forward[place], np.cumsum(rates(families(TOTAL, 250)[kind]))[rows], rtol=1e-11)


def test_few_updates_stand_for_a_long_run():
    sizes = [weighted_updates(Cosine(1e-3, total, warmup_steps=100), [total - 1]).lr.size for total in (10**4, 10**6)]
    assert sizes[0] < sizes[1] < 700


def test_every_update_of_a_table_counts():
    table = Tabulated(np.linspace(1e-3, 0, 50))
    np.testing.assert_array_equal(weighted_updates(table, [9, 30]).update, np.arange(31))


class Sawtooth(WSD):
    """A kind of a user's, whose rate is that of another formula."""

    def __call__(self, count):
        return super().__call__(count) * (0.5 + (count % 7) / 14)


def test_every_update_of_a_kind_without_a_known_formula_counts():
    schedule = Sawtooth(peak_lr=1e-3, total_steps=500)
    found = weighted_updates(schedule, [499])
    np.testing.assert_array_equal(found.update, np.arange(500))
    np.testing.assert_allclose(found.lr, lrs(schedule, 500), rtol=1e-5)
    assert rate_span(schedule, 0, 499)[0] > 3e-4


@each_kind
def test_memories_of_powers_of_the_rate_are_those_of_every_update(kind):
    schedule, row = families(60_000, 700)[kind], 59_999
    found, every = weighted_updates(schedule, [row]), rates(schedule)
    forward = np.cumsum(every)
    for pace in (0.3, 10.0, 300.0):
        for power in (0.3, 0.7):

            def average(lr, since, weight, pace=pace, power=power):
                return np.sum(weight * -np.expm1(-pace * lr) * np.exp(-pace * since) * lr**power)

            exact = average(every, forward[-1] - forward, 1.0)
            few = average(found.lr, found.forward[-1] - found.forward, found.weight)
            assert abs(few - exact) < 1e-9 * PEAK**power


def test_rate_span_finds_the_steepest_drop_and_the_lowest_rate():
    for schedule in families(50_000, 500).values():
        every = rates(schedule)[500:]
        steepest, lowest = rate_span(schedule, 500, 49_999)
        np.testing.assert_allclose(steepest, np.max(-np.diff(every, prepend=every[0])), rtol=1e-5)
        assert lowest == every.min()


# ------------------------------------------------------------------------------------------------ laws


STEPS = np.array([3, 260, 261, 1000, 2222, 4300, 5900])


def runs(schedules):
    return [LossCurve(name, STEPS, np.full(STEPS.size, 3.0), schedule) for name, schedule in schedules.items()]


@pytest.mark.parametrize("warmup", ["as-scheduled", "without-rise", "as-peak"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW_TO_COMPILE)) for name in LAWS]
)
def test_losses_at_rows_are_those_of_the_recursion(name, warmup, x64):
    law = dataclasses.replace(LAWS[name](), warmup=warmup)
    params = np.array([synthetic.TRUTH[name][parameter] for parameter in law.parameter_names])
    batch = pad(runs(families(TOTAL, 250)))
    found = law.predict(jax.tree.map(np.concatenate, batch_effects(law, batch)), params)
    follow = jax.jit(lambda lrs, at, warmup_steps: Law.effects(law, lrs, at, warmup_steps))
    exact = [follow(rates(s), at, s.warmup_steps) for s, at in zip(batch.schedules, batch.at, strict=True)]
    exact = [law.predict({**row, "log_N": np.zeros(at.size)}, params) for row, at in zip(exact, batch.at, strict=True)]
    np.testing.assert_allclose(found, np.concatenate(exact), rtol=1e-9)


def test_runs_of_unlike_lengths_keep_their_rows(x64):
    short, long = families(90, 5), families(200_000, 500)
    mixed = [
        LossCurve("long", [5, 199_999], [3.0, 2.0], long["linear"]),
        LossCurve("short", np.arange(80), np.full(80, 3.0), Tabulated(rates(short["cosine"]))),
        LossCurve("longer", np.arange(0, 200_000, 2000), np.full(100, 3.0), long["cosine"]),
    ]
    law = LRAnnealing()
    together = batch_effects(law, pad(mixed))
    for i, curve in enumerate(mixed):
        alone = batch_effects(law, pad([curve]))
        for key, values in alone.items():
            size = curve.step.size
            np.testing.assert_allclose(together[key][i, :size], values[0, :size], rtol=1e-8, atol=1e-14)
            np.testing.assert_allclose(together[key][i, -1], values[0, -1], rtol=1e-8, atol=1e-14)
