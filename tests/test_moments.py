"""Moving averages from few updates against the recursion over every update."""

import numpy as np
import pytest

from fmjax.effects.moments import moving_average
from fmjax.effects.weighted import panelled_updates
from fmjax.schedules.host_rates import host_rates
from fmjax.schedules.kinds import WSD, Cosine, Tabulated

ROWS = [40, 41, 777, 2400, 2999]


def every_average(values, rate):
    average, found = 0.0, []
    for value in values:
        average += rate * (value - average)
        found.append(average)
    return np.array(found)


@pytest.mark.parametrize("rate", [1e-5, 1e-3, 0.1, 0.9, 1.0])
def test_averages_at_rows_and_sums_of_their_roots(rate, x64):
    schedules = Cosine(2e-3, 3000, warmup_steps=50), WSD(2e-3, 3000, 0.5, "1-sqrt", warmup_steps=50, final_lr=1e-4)
    for schedule in schedules:
        rates = host_rates(schedule, np.arange(3000))
        updates = panelled_updates(schedule, ROWS)
        found = np.asarray(moving_average(updates, updates.lr, rate))
        place, expected = np.searchsorted(updates.update, ROWS), every_average(rates, rate)
        np.testing.assert_allclose(found[place], expected[ROWS], rtol=1e-10)
        sums = np.cumsum(updates.weight * np.sqrt(found))[place]
        np.testing.assert_allclose(sums, np.cumsum(np.sqrt(expected))[ROWS], rtol=1e-9)


def test_averages_of_a_table_take_every_update(x64):
    rates = np.random.default_rng(0).uniform(size=173)
    updates = panelled_updates(Tabulated(rates), [5, 172])
    found = np.asarray(moving_average(updates, updates.lr, 0.03))
    np.testing.assert_allclose(found[:173], every_average(rates, 0.03), rtol=1e-12)


def test_few_updates_stand_for_a_long_run_however_long():
    sizes = [panelled_updates(Cosine(1e-3, total, warmup_steps=100), [total - 1]).lr.size for total in (10**4, 10**6)]
    assert sizes[0] < sizes[1] < 1500
