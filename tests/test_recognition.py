"""Recognition: schedules by DESIGN's formulas and by those of public trainers, logged in all the ways trainers do."""

import functools
import itertools
import math

import numpy as np
import pytest

from fmjax.schedules.checks import check_schedule
from fmjax.schedules.kinds import WSD, Constant, Step, Tabulated
from fmjax.schedules.recognition import recognise

T, PEAK = 10_000, 3e-4
SHAPES = {
    "linear": lambda x, final: final + (1 - final) * (1 - x),
    "cosine": lambda x, final: final + (1 - final) * (1 + math.cos(math.pi * x)) / 2,
    "1-sqrt": lambda x, final: final + (1 - final) * (1 - math.sqrt(x)),
    "exponential": lambda x, final: final**x,
}


def design(decay, ratio=0.2, warmup=0, final=0.0, init=0.0, total=T):
    """DESIGN's formula, as a multiple of the peak; the last rate is held after the run."""

    def rate(t):
        start = total - ratio * total
        warm = init + (1 - init) * t / warmup if t < warmup else 1.0
        return min(warm, SHAPES[decay](min((t - start) / (total - start), 1.0), final) if t >= start else 1.0)

    return rate


@functools.cache
def table_of(rate, size):
    return np.array([rate(t) for t in range(size)])


def rows_of(rate, steps, offset=0, digits=None, peak=PEAK):
    """Logged rates, rounded to so many digits after the point of their mantissa."""
    rates = peak * table_of(rate, max(T, steps[-1]) + 2)[np.maximum(steps + offset, 0)]
    return rates if digits is None else [float(f"{value:.{digits}e}") for value in rates]


def kind_of(schedule):
    check_schedule(schedule)
    return f"WSD {schedule.decay}" if isinstance(schedule, WSD) else type(schedule).__name__


FAMILIES = {
    "constant": (lambda t: 1.0, "Constant"),
    "constant-warm": (lambda t: min(0.01 + 0.99 * t / 500, 1.0), "Constant"),
    "cosine": (design("cosine", ratio=0.95, warmup=500), "Cosine"),
    "cosine-final": (design("cosine", ratio=0.95, warmup=500, final=0.1), "Cosine"),
    "cosine-cold": (design("cosine", ratio=1.0), "Cosine"),
    "linear-whole": (design("linear", ratio=0.95, warmup=500), "WSD linear"),
    "linear-whole-cold": (design("linear", ratio=1.0), "WSD linear"),
    "wsd-linear": (design("linear", warmup=500), "WSD linear"),
    "wsd-linear-final": (design("linear", warmup=300, final=0.1), "WSD linear"),
    "wsd-cosine": (design("cosine", warmup=500), "WSD cosine"),
    "wsd-cosine-final": (design("cosine", final=0.1), "WSD cosine"),
    "wsd-1-sqrt": (design("1-sqrt", warmup=500, init=0.01), "WSD 1-sqrt"),
    "wsd-1-sqrt-final": (design("1-sqrt", final=0.05), "WSD 1-sqrt"),
    "wsd-exponential": (design("exponential", warmup=500, final=0.1), "WSD exponential"),
    "wsd-exponential-deep": (design("exponential", final=0.01), "WSD exponential"),
}
RATIOS = {"linear-whole": 0.95, "linear-whole-cold": 1.0}
each_family = pytest.mark.parametrize("name", FAMILIES)


@pytest.mark.parametrize("interval", [1, 10, 100])
@each_family
def test_every_family_in_every_log(name, interval):
    rate, kind = FAMILIES[name]
    steps = np.arange(0, T, interval)
    for (offset, digits), total in zip(itertools.product((-1, 0, 1), (None, 2)), (None, T, T, None) * 2, strict=False):
        found = recognise(steps, rows_of(rate, steps, offset, digits), total_steps=total)
        assert kind_of(found.schedule) == kind, (offset, digits, total)
        assert found.error <= (4e-3 if digits else 2e-3)
        assert found.schedule.peak_lr == pytest.approx(PEAK, rel=max(5e-3, interval / T))
        assert abs(found.schedule.total_steps - T) <= (0 if total else interval)
        if isinstance(found.schedule, WSD):
            assert found.schedule.anneal_ratio == pytest.approx(RATIOS.get(name, 0.2), abs=0.01)


@each_family
def test_exact_rows_give_the_exact_schedule(name, x64):
    rate, kind = FAMILIES[name]
    steps = np.arange(0, T, 50)
    found = recognise(steps, rows_of(rate, steps), total_steps=T)
    assert (kind_of(found.schedule), found.offset) == (kind, 0)
    every = np.arange(T)
    np.testing.assert_allclose(found.schedule(every) / PEAK, [rate(t) for t in range(T)], atol=2e-6)


@each_family
def test_error_is_the_distance_of_the_schedule_from_the_rows(name, x64):
    steps = np.arange(0, T, 20)
    logged = np.array(rows_of(FAMILIES[name][0], steps, offset=1, digits=2))
    found = recognise(steps, logged, total_steps=T)
    at = steps + found.offset
    inside = (at >= 0) & (at < T)
    gap = np.abs(np.asarray(found.schedule(at)) * np.ones(at.size) - logged)[inside].max()
    assert found.error == pytest.approx(gap / logged.max(), rel=1e-6, abs=1e-9)


@each_family
def test_rates_of_another_size_change_nothing_else(name):
    steps = np.arange(0, T, 100)
    one, other = (recognise(steps, rows_of(FAMILIES[name][0], steps, peak=peak)).schedule for peak in (1e-3, 0.25))
    assert kind_of(one) == kind_of(other)
    assert other.peak_lr == pytest.approx(250 * one.peak_lr)
    assert other.warmup_steps == one.warmup_steps
    assert getattr(other, "anneal_ratio", 0) == pytest.approx(getattr(one, "anneal_ratio", 0), abs=1e-6)


@pytest.mark.parametrize("offset", [-1, 0, 1])
@pytest.mark.parametrize("decay", ["linear", "cosine", "1-sqrt"])
def test_offset_is_found_where_both_ends_tell_it(decay, offset):
    rate = design(decay, ratio=0.3, warmup=40, total=1000)
    steps = np.arange(1000)
    found = recognise(steps, rows_of(rate, steps, offset), total_steps=1000)
    assert (found.offset, found.schedule.warmup_steps, found.schedule.init_lr) == (offset, 40, 0.0)
    assert found.schedule.anneal_ratio == pytest.approx(0.3, abs=1e-6)
    assert found.error < 1e-6
    assert any("rates are those of the" in note for note in found.notes) == (offset != 0)


def test_final_zero_of_the_next_update_is_no_row_of_its_own():
    rate = design("linear", warmup=40, total=1000)
    steps = np.arange(1000)
    found = recognise(steps, rows_of(rate, steps, offset=1))
    assert (found.offset, found.schedule.total_steps, found.notes) == (1, 1000, ("rates are those of the next update",))
    found = recognise(steps[9::10], rows_of(rate, steps[9::10], offset=1))  # after 10, 20 ... 1000 updates
    assert (found.offset, found.schedule.total_steps) == (1, 1000)
    assert found.schedule.anneal_ratio == pytest.approx(0.2, abs=1e-6)


# ------------------------------------------------------------------------------------------------ trainers


def hugging_face_linear(t, warmup=500):
    """get_linear_schedule_with_warmup"""
    return t / max(1, warmup) if t < warmup else max(0.0, (T - t) / max(1, T - warmup))


def hugging_face_cosine(t, warmup=500):
    """get_cosine_schedule_with_warmup"""
    progress = (t - warmup) / max(1, T - warmup)
    return t / max(1, warmup) if t < warmup else max(0.0, 0.5 * (1 + math.cos(math.pi * 0.5 * 2.0 * progress)))


def hugging_face_wsd(decay, least=0.0, warmup=500, decaying=2000):
    """get_wsd_schedule"""
    stable = T - warmup - decaying

    def rate(t):
        if t < warmup:
            return t / warmup * (1.0 - least) + least
        if t < warmup + stable:
            return 1.0
        progress = (t - warmup - stable) / max(1, decaying)
        factor = {
            "linear": 1.0 - progress,
            "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
            "1-sqrt": 1.0 - math.sqrt(progress),
        }[decay]
        return max(0.0, factor * (1.0 - least) + least) if t < warmup + stable + decaying else least

    return rate


def megatron_wsd(style, least=0.0, warmup=500, decaying=2000):
    """OptimizerParamScheduler.get_lr with lr_decay_style WSD"""

    def rate(t):
        if t <= warmup:
            return t / warmup
        if t > T:
            return least
        ratio = max(t - (T - decaying), 0) / decaying
        factor = {
            "linear": 1.0 - ratio,
            "cosine": 0.5 * (math.cos(math.pi * ratio) + 1.0),
            "minus_sqrt": 1.0 - math.sqrt(ratio),
            "exponential": 2.0 * 0.5**ratio - 1.0,
        }[style]
        return least + factor * (1.0 - least)

    return rate


def maxtext_wsd(style, final=0.1, warmup=500, decaying=2000):
    """create_learning_rate_schedule with lr_schedule_type wsd"""

    def rate(t):
        if t < warmup:
            return t / (warmup - 1)
        if t < T - decaying:
            return 1.0
        done = t - (T - decaying)
        if style == "linear":
            return 1.0 + (final - 1.0) * min(done / (decaying - 1), 1.0)
        share = 0.5 * (math.cos(math.pi * done / decaying) + 1)
        return share + final * (1 - share)

    return rate


def torchtitan(style, least=0.0, warmup=500, decaying=2000):
    """linear_warmup_stable_decay"""

    def rate(t):
        t = min(t, T)
        if t < warmup:
            return (t + 1) / (warmup + 1)
        if t < T - decaying:
            return 1.0
        progress = min((t + 1 - (T - decaying)) / (decaying + 1), 1.0)
        factor = {
            "linear": 1 - progress,
            "sqrt": 1 - math.sqrt(progress),
            "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
        }[style]
        return least + (1 - least) * factor

    return rate


def nanochat(t, warmup=40, warmdown_ratio=0.65, final=0.05):
    """get_lr_multiplier"""
    warmdown = round(warmdown_ratio * T)
    if t < warmup:
        return (t + 1) / warmup
    if t <= T - warmdown:
        return 1.0
    progress = (T - t) / warmdown
    return progress * 1.0 + (1 - progress) * final


def modded_nanogpt(t, cooldown=0.4):
    """get_lr"""
    x = t / T
    w = min((1 - x) / cooldown, 1.0)
    return w * 1.0 + (1 - w) * 0.1


def last_update_at_final(t, warmup=500, decaying=2000):
    """A trainer whose warmup counts from one and whose last update has the final rate."""
    return min((t + 1) / warmup, 1.0, max(1 - (t - (T - decaying) + 1) / decaying, 0.0))


DONE, AT = 1, 0  # rows count updates done, of the next update's rate; rows of the update they name
TRAINERS = {
    "hugging-face-linear": (hugging_face_linear, DONE, "WSD linear", 0.95),
    "hugging-face-cosine": (hugging_face_cosine, DONE, "Cosine", None),
    "hugging-face-wsd-linear": (hugging_face_wsd("linear"), DONE, "WSD linear", 0.2),
    "hugging-face-wsd-cosine": (hugging_face_wsd("cosine", least=0.1), DONE, "WSD cosine", 0.2),
    "hugging-face-wsd-1-sqrt": (hugging_face_wsd("1-sqrt"), DONE, "WSD 1-sqrt", 0.2),
    "megatron-linear": (megatron_wsd("linear"), DONE, "WSD linear", 0.2),
    "megatron-linear-final": (megatron_wsd("linear", least=0.1), DONE, "WSD linear", 0.2),
    "megatron-cosine": (megatron_wsd("cosine", least=0.1), DONE, "WSD cosine", 0.2),
    "megatron-minus-sqrt": (megatron_wsd("minus_sqrt"), DONE, "WSD 1-sqrt", 0.2),
    "maxtext-linear": (maxtext_wsd("linear"), AT, "WSD linear", 0.2),
    "maxtext-linear-zero": (maxtext_wsd("linear", final=0.0), AT, "WSD linear", 0.2),
    "maxtext-cosine": (maxtext_wsd("cosine"), AT, "WSD cosine", 0.2),
    "torchtitan-linear": (torchtitan("linear"), AT, "WSD linear", 0.2),
    "torchtitan-sqrt": (torchtitan("sqrt"), AT, "WSD 1-sqrt", 0.2),
    "torchtitan-sqrt-final": (torchtitan("sqrt", least=0.1), AT, "WSD 1-sqrt", 0.2),
    "torchtitan-cosine": (torchtitan("cosine"), AT, "WSD cosine", 0.2),
    "nanochat": (nanochat, AT, "WSD linear", 0.65),
    "modded-nanogpt": (modded_nanogpt, AT, "WSD linear", 0.4),
    "last-update-at-final": (last_update_at_final, AT, "WSD linear", 0.2),
}


@pytest.mark.parametrize("interval", [1, 10, 100])
@pytest.mark.parametrize(("rate", "counts", "kind", "ratio"), TRAINERS.values(), ids=TRAINERS.keys())
def test_trainers(rate, counts, kind, ratio, interval):
    steps = np.arange(interval if counts == DONE else 0, T + counts, interval)
    for digits, total in ((None, None), (3, None), (None, T)):
        found = recognise(steps, rows_of(rate, steps, digits=digits), total_steps=total)
        assert kind_of(found.schedule) == kind, (digits, total)
        assert found.error < 2e-3
        assert abs(found.schedule.total_steps - T) <= interval
        if ratio:
            assert found.schedule.anneal_ratio == pytest.approx(ratio, abs=0.01)


def test_a_shape_of_no_family_is_tabulated():
    steps = np.arange(1, T + 1)
    found = recognise(steps, rows_of(megatron_wsd("exponential"), steps))  # 2 (1/2)^x - 1
    assert kind_of(found.schedule) == "Tabulated"


# ------------------------------------------------------------------------------------------------ rows


@pytest.mark.parametrize("ratio", [0.1, 0.2, 0.4])
@pytest.mark.parametrize("decay", ["linear", "cosine", "1-sqrt"])
def test_a_row_every_thousand_updates(decay, ratio):
    rate, steps = design(decay, ratio, warmup=2000, total=40_000), np.arange(0, 40_000, 1000)
    schedule = recognise(steps, rows_of(rate, steps), total_steps=40_000).schedule
    assert (kind_of(schedule), schedule.warmup_steps) == (f"WSD {decay}", 2000)
    assert schedule.anneal_ratio == pytest.approx(ratio, abs=1e-3)


@pytest.mark.parametrize("decay", ["linear", "cosine", "1-sqrt"])
def test_the_end_of_an_anneal_to_zero_is_found_after_the_last_row(decay):
    steps = np.arange(0, 9_763, 250)
    found = recognise(steps, rows_of(design(decay, 0.3, warmup=600, total=9_763), steps))
    assert abs(found.schedule.total_steps - 9_763) <= 2
    assert found.schedule.anneal_ratio == pytest.approx(0.3, abs=1e-3)
    assert f"the run ends after its last row, at {found.schedule.total_steps} updates" in found.notes


def test_rows_up_to_the_last_update_end_the_run():
    rate = design("linear", 0.3, final=0.01)
    for steps in (np.arange(99, T, 100), np.append(np.arange(0, T, 100), T - 1)):
        schedule = recognise(steps, rows_of(rate, steps)).schedule
        assert schedule.total_steps == T
        assert schedule.final_lr == pytest.approx(0.01 * PEAK, rel=1e-6)


@pytest.mark.parametrize("text", ["{:.2e}", "{:.3E}", "{:.4f}"])
@pytest.mark.parametrize("decay", ["linear", "cosine", "1-sqrt"])
def test_printed_rates(decay, text):
    steps = np.arange(0, T, 10)
    printed = [float(text.format(0.02 * design(decay, 0.4, warmup=200)(t))) for t in steps]
    found = recognise(steps, printed)
    assert kind_of(found.schedule) == f"WSD {decay}"
    assert found.schedule.anneal_ratio == pytest.approx(0.4, abs=0.01)
    assert (found.schedule.peak_lr, found.offset) == (0.02, 0)


def test_rows_in_float32():
    steps = np.arange(T)
    logged = np.array(rows_of(design("1-sqrt", 0.35, warmup=100), steps), np.float32)
    found = recognise(steps, logged)
    assert kind_of(found.schedule) == "WSD 1-sqrt"
    assert found.schedule.anneal_ratio == pytest.approx(0.35, abs=1e-4)


@pytest.mark.parametrize("decay", ["linear", "cosine", "1-sqrt", "exponential"])
@pytest.mark.parametrize("first", [8000, 8001, 8050], ids=["at-the-branch", "an-update-later", "an-interval-later"])
def test_a_branch_logged_from_its_anneal_on(decay, first):
    rate, steps = design(decay, final=0.1 if decay == "exponential" else 0.0), np.arange(first, T, 50)
    found = recognise(steps, rows_of(rate, steps), total_steps=T)
    assert kind_of(found.schedule) == f"WSD {decay}"
    assert found.schedule.anneal_ratio == pytest.approx(0.2, abs=0.01)
    assert found.notes == (f"rows start at step {first}: the rates before are not known",)


def test_a_plateau_before_the_branch_gives_the_peak_and_no_warmup():
    steps = np.arange(7000, T, 50)
    schedule = recognise(steps, rows_of(design("linear"), steps), total_steps=T).schedule
    assert schedule == WSD(PEAK, T, 0.2, "linear", 0.0, 0, 0.0)


def test_a_long_wsd_cosine_is_no_cosine_of_the_whole_run():
    steps = np.arange(0, T, 20)
    for ratio, kind in ((0.95, "Cosine"), (0.9, "WSD cosine"), (0.2, "WSD cosine")):
        schedule = recognise(steps, rows_of(design("cosine", ratio, warmup=500), steps)).schedule
        assert kind_of(schedule) == kind


def test_unordered_and_repeated_rows():
    steps = np.arange(0, T, 10)
    logged = np.array(rows_of(design("linear"), steps))
    plain = recognise(steps, logged)
    order = np.random.default_rng(0).permutation(steps.size)
    again = recognise(np.concatenate([steps[:200], steps[order]]), np.concatenate([logged[:200] / 2, logged[order]]))
    assert again.schedule == plain.schedule
    assert "repeated steps: the last row of each was kept" in again.notes


def test_a_zero_after_the_last_update_is_left_out():
    steps = np.arange(0, T + 1, 50)
    for rate, kind in ((lambda t: float(t < T), "Constant"), (design("linear"), "WSD linear")):
        found = recognise(steps, rows_of(rate, steps))
        assert (kind_of(found.schedule), found.schedule.total_steps) == (kind, T)
        assert found.notes == ("rows from step 10000 on, after the last update, were left out",)


def test_rows_after_the_known_end_are_left_out():
    steps = np.arange(0, 2 * T, 50)
    found = recognise(steps, rows_of(design("linear"), steps), total_steps=T)
    assert found.schedule == WSD(PEAK, T, 0.2, "linear", 0.0, 0, 0.0)


def test_a_run_not_yet_annealing_is_constant():
    steps = np.arange(0, 5000, 10)
    found = recognise(steps, rows_of(design("linear", warmup=100), steps), total_steps=T)
    assert found.schedule == Constant(PEAK, T, 100, 0.0)


def test_one_row_is_constant():
    assert recognise([7], [1e-3]).schedule == Constant(1e-3, 8, 0, 0.0)


def test_short_runs():
    steps = np.arange(100)
    for decay, ratio in itertools.product(("linear", "cosine", "1-sqrt"), (0.1, 0.333)):
        schedule = recognise(steps, rows_of(design(decay, ratio, warmup=5, total=100), steps)).schedule
        assert (kind_of(schedule), schedule.warmup_steps) == (f"WSD {decay}", 5)
        assert schedule.anneal_ratio == pytest.approx(ratio, abs=1e-4)


def test_multipliers_are_noted():
    found = recognise(np.arange(T), [modded_nanogpt(t) for t in range(T)])
    assert found.notes == ("rates peak at 1: they may be multipliers of the peak rate",)


# ------------------------------------------------------------------------------------------------ steps and tables


def staircase(boundaries, levels, warmup=0):
    def rate(t):
        return min(t / warmup if t < warmup else 1.0, 1.0) * levels[sum(t >= boundary for boundary in boundaries)]

    return rate


STAIRS = {
    "one": ((6000,), (1.0, 0.3), 0),
    "to-zero": ((6000,), (1.0, 0.0), 0),
    "warm": ((4000, 8000), (1.0, 0.3, 0.1), 400),
    "re-warmed": ((2000, 5000), (0.4, 1.0, 0.2), 400),
    "eight": (tuple(range(1000, 9000, 1000)), tuple(0.7**k for k in range(9)), 0),
}


@pytest.mark.parametrize("interval", [1, 40])
@pytest.mark.parametrize(("boundaries", "levels", "warmup"), STAIRS.values(), ids=STAIRS.keys())
def test_steps(boundaries, levels, warmup, interval):
    steps = np.arange(0, T, interval)
    found = recognise(steps, rows_of(staircase(boundaries, levels, warmup), steps), total_steps=T)
    assert isinstance(found.schedule, Step)
    check_schedule(found.schedule)
    assert (found.schedule.boundaries, found.schedule.warmup_steps) == (boundaries, warmup)
    np.testing.assert_allclose([found.schedule.peak_lr, *found.schedule.lrs], PEAK * np.array(levels))
    assert found.error < 1e-12


def test_a_boundary_between_two_rows_is_at_the_later():
    steps = np.arange(0, T, 64)
    found = recognise(steps, rows_of(staircase((6000,), (1.0, 0.3)), steps))
    assert found.schedule.boundaries == (6016,)
    assert found.notes == ("boundaries lie between two rows: the later was taken",)


def cyclic(t):
    return 0.1 + 0.9 * abs(1 - (t % 2000) / 1000)


def warms_along_a_cosine(t):
    return 0.5 - 0.5 * math.cos(math.pi * t / 1000) if t < 1000 else design("linear")(t)


NO_FAMILY = {
    "cyclic": cyclic,
    "nine-steps": staircase(tuple(range(1000, 10000, 1000)), (1.0, 0.2) * 5),
    "curved-warmup": warms_along_a_cosine,
    "zero-long-before-the-end": lambda t: max(min(1.0, (8000 - t) / 2000), 0.0),
}


@pytest.mark.parametrize("rate", NO_FAMILY.values(), ids=NO_FAMILY.keys())
def test_other_rates_are_tabulated(rate):
    steps = np.arange(0, T, 25)
    logged = rows_of(rate, steps)
    found = recognise(steps, logged)
    assert isinstance(found.schedule, Tabulated)
    check_schedule(found.schedule)
    assert (found.error, found.offset, found.schedule.total_steps) == (0.0, 0, steps[-1] + 1)
    np.testing.assert_allclose(found.schedule.lrs, np.interp(np.arange(steps[-1] + 1), steps, logged))
    assert found.notes[0].startswith("no schedule fits: the nearest, ")


def test_a_table_is_as_long_as_the_run():
    steps = np.arange(0, T, 25)
    found = recognise(steps, rows_of(cyclic, steps), total_steps=T)
    assert found.schedule.total_steps == T
    assert found.schedule.lrs[-1] == pytest.approx(PEAK * cyclic(9975))


def test_tolerance_is_the_largest_error_taken():
    steps = np.arange(0, T, 10)
    logged = rows_of(design("linear"), steps, digits=1)
    assert isinstance(recognise(steps, logged, tolerance=1e-3).schedule, Tabulated)
    found = recognise(steps, logged, tolerance=0.03)
    assert kind_of(found.schedule) == "WSD linear"
    assert 1e-3 < found.error <= 0.03


# ------------------------------------------------------------------------------------------------ errors

BAD = {
    "lengths": (([0, 1, 2], [1e-3, 1e-3]), {}, r"expected a rate for each of 3 steps, got shape \(2,\)"),
    "table": (([[0, 1]], [[1e-3, 1e-3]]), {}, r"step: expected one dimension, got shape \(1, 2\)"),
    "no-rows": (([], []), {}, "expected at least one row, found none"),
    "nan": (([0, 1], [1e-3, math.nan]), {}, "row 2: lr must be a number of at least 0, got nan"),
    "infinite": (([0, 1], [math.inf, 1e-3]), {}, "row 1: lr must be a number of at least 0, got inf"),
    "negative": (([0, 1, 2], [1e-3, -1e-3, -1]), {}, "row 2: lr must be a number of at least 0, got -0.001"),
    "negative-step": (([-1, 0], [1e-3, 1e-3]), {}, "row 1: step must be a whole number of at least 0, got -1"),
    "half-step": (([0, 0.5], [1e-3, 1e-3]), {}, "row 2: step must be a whole number of at least 0, got 0.5"),
    "zeros": (([0, 1], [0.0, 0.0]), {}, "expected a rate above zero before update 2, found none"),
    "late": (([10, 11], [1e-3, 1e-3]), {"total_steps": 5}, "expected a rate above zero before update 5, found none"),
    "no-steps": (([0, 1], [1e-3, 1e-3]), {"total_steps": 0}, "total_steps: expected a whole number >= 1, got 0"),
    "tolerance": (([0, 1], [1e-3, 1e-3]), {"tolerance": 0}, "tolerance: expected a number above zero, got 0"),
    "endless": (
        ([0, 1, 2, 3, 10**9], [1e-3, 0, 1e-3, 0, 1e-3]),
        {},
        "at most 100000000 updates to tabulate, got 1000000001",
    ),
}


@pytest.mark.parametrize(("rows", "options", "message"), BAD.values(), ids=BAD.keys())
def test_bad_rows_are_named(rows, options, message):
    with pytest.raises(ValueError, match=message):
        recognise(*rows, **options)
