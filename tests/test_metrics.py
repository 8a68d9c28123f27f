"""Metrics against their formulas and against a least-squares line."""

import math

import numpy as np
import pytest

from fmjax.fitting import metrics

LOSS = np.array([4.0, 2.0, 5.0])
PREDICTED = np.array([4.4, 1.9, 5.0])  # off by 10 %, 5 % and nothing
ALL = {name: getattr(metrics, name) for name in ("mape_percent", "worst_percent", "rmse", "r2")}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mape_percent", 5.0),
        ("worst_percent", 10.0),
        ("rmse", math.sqrt((0.16 + 0.01) / 3)),
        ("r2", 1 - 0.17 / (14 / 3)),
    ],
)
def test_values(name, expected):
    assert ALL[name](PREDICTED, LOSS) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("name", "best"), [("mape_percent", 0.0), ("worst_percent", 0.0), ("rmse", 0.0), ("r2", 1.0)])
@pytest.mark.parametrize("kind", [list, tuple, np.array], ids=["list", "tuple", "array"])
def test_perfect_predictions(name, best, kind):
    assert ALL[name](kind(LOSS), kind(LOSS)) == best


def test_r2_of_a_least_squares_line_is_the_squared_correlation():
    random = np.random.default_rng(0)
    x = np.arange(50.0)
    loss = 3.0 - 0.01 * x + random.normal(0, 0.1, 50)
    line = np.polyval(np.polyfit(x, loss, 1), x)
    assert metrics.r2(line, loss) == pytest.approx(np.corrcoef(x, loss)[0, 1] ** 2, rel=1e-9)


def test_r2_of_the_mean_is_zero_and_of_equal_losses_unknown():
    assert metrics.r2(np.full(3, LOSS.mean()), LOSS) == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(metrics.r2(PREDICTED, np.full(3, 2.0)))


@pytest.mark.parametrize("name", ALL)
def test_nan_predictions_show(name):
    assert math.isnan(ALL[name]([math.nan, 2.0, 5.0], LOSS))


def test_round_off_drops_only_noise():
    assert metrics.round_off(10.000000000000002) == 10.0
    assert metrics.round_off(1e-11) == 1e-11
