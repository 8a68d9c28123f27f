"""Power laws against exact ones, NumPy's least squares and repeated simulation."""

import numpy as np
import pytest

from fmjax.scaling.power_laws import power_law

PEAKS, STEPS = np.array([1e-4, 5e-4, 1e-3, 2e-3]), np.array([1000.0, 4000.0])
GRID = [{"peak_lr": peak, "total_steps": steps} for peak in PEAKS for steps in STEPS]


def points(values, width=0.02):
    """Values with 90 % intervals of a relative width."""
    return [(y, (y * np.exp(-width), y * np.exp(width))) for y in values]


def power(variables, factor=2.0, peak_lr=0.4, total_steps=-0.1):
    return np.array([factor * v["peak_lr"] ** peak_lr * v["total_steps"] ** total_steps for v in variables])


def test_an_exact_law_is_met():
    law = power_law(GRID, points(power(GRID)))
    assert law.exponents["peak_lr"].value == pytest.approx(0.4, rel=1e-9)
    assert law.exponents["total_steps"].value == pytest.approx(-0.1, rel=1e-9)
    assert law.log_factor == pytest.approx(np.log(2.0), rel=1e-9)
    assert (law.points, law.scatter) == (8, 0.0)
    assert law.at(peak_lr=3e-3, total_steps=9000) == pytest.approx(2.0 * 3e-3**0.4 * 9000**-0.1)
    assert law.exponents["peak_lr"].p_value < 0.001


def test_points_weigh_by_their_intervals():
    rng = np.random.default_rng(0)
    noisy, widths = power(GRID) * np.exp(0.01 * rng.normal(size=8)), rng.uniform(0.05, 0.5, 8)
    found = power_law(GRID, [(y, (y * np.exp(-w), y * np.exp(w))) for y, w in zip(noisy, widths, strict=True)])
    x = np.stack([np.ones(8), *(np.log([v[name] for v in GRID]) for name in ("peak_lr", "total_steps"))], axis=1)
    expected = np.linalg.lstsq(x / widths[:, None], np.log(noisy) / widths, rcond=None)[0]
    assert [found.log_factor, *(one.value for one in found.exponents.values())] == pytest.approx(expected, rel=1e-6)
    assert found.scatter == 0


def test_scatter_beyond_the_intervals_is_found():
    rng = np.random.default_rng(1)
    many = [{"x": x} for x in np.geomspace(1, 100, 400)]
    values = np.array([v["x"] ** 0.5 for v in many]) * np.exp(rng.normal(0, 0.2, 400))
    assert power_law(many, points(values, width=0.02)).scatter == pytest.approx(0.2, rel=0.1)


def test_intervals_cover_the_exponent():
    rng, held = np.random.default_rng(2), []
    for _ in range(300):
        values = power(GRID) * np.exp(rng.normal(0, 0.1, 8))
        low, high = power_law(GRID, points(values, width=0.01)).exponents["peak_lr"].interval
        held.append(low <= 0.4 <= high)
    assert 0.85 <= np.mean(held) <= 0.95


def test_an_exponent_of_zero_is_compatible_with_zero():
    rng, p_values = np.random.default_rng(3), []
    for _ in range(300):
        values = power(GRID, total_steps=0.0) * np.exp(rng.normal(0, 0.1, 8))
        p_values.append(power_law(GRID, points(values, width=0.01)).exponents["total_steps"].p_value)
    assert np.mean(np.array(p_values) < 0.1) == pytest.approx(0.1, abs=0.05)


def test_variables_that_do_not_differ_or_are_unknown_are_left_out():
    some = [{**v, "model_size": None, "batch": 1.0} for v in GRID]
    assert list(power_law(some, points(power(GRID))).exponents) == ["peak_lr", "total_steps"]


def test_two_points_have_an_interval_by_their_own():
    law = power_law([{"x": 1.0}, {"x": 10.0}], points([1.0, 10.0], width=0.1))
    half = np.sqrt(2) * 0.1 / np.log(10)
    assert law.exponents["x"].interval == pytest.approx((1 - half, 1 + half), rel=0.03)


def test_without_any_interval_points_weigh_alike():
    nowhere = (np.nan, np.nan)
    law = power_law([{"x": x} for x in (1.0, 2.0, 4.0)], [(1.0, nowhere), (2.2, nowhere), (4.0, nowhere)])
    assert law.exponents["x"].value == pytest.approx(1.0, rel=1e-6)
    assert np.isfinite(law.exponents["x"].interval).all()
    two = power_law([{"x": 1.0}, {"x": 2.0}], [(1.0, nowhere), (2.0, nowhere)])
    assert np.isnan(two.exponents["x"].interval).all()


def test_an_open_end_leaves_the_width_to_the_other():
    law = power_law([{"x": 1.0}, {"x": 10.0}], [(0.1, (0.0, 0.1 * np.exp(0.1))), *points([1.0], width=0.1)])
    half = np.sqrt(2) * 0.1 / np.log(10)
    assert law.exponents["x"].interval[1] - 1 == pytest.approx(half, rel=0.03)


@pytest.mark.parametrize(
    "variables",
    [[], [{"x": 1.0}], [{"x": 2.0}] * 3, [{"x": x, "y": x**2} for x in (1.0, 2.0, 4.0, 8.0)]],
    ids=["none", "one", "same", "not-to-be-told-apart"],
)
def test_no_law(variables):
    assert power_law(variables, points(np.ones(len(variables)))) is None
