"""Recognition by the formulas of trainers: random schedules in random logs, and the shapes real logs have.

A rate is right where it is within 1 % of the peak at every update; where a log cannot tell, a note must say so.
"""

import math

import numpy as np
import pytest

from fmjax.schedules.checks import check_schedule
from fmjax.schedules.kinds import WSD, Constant, Cosine, Tabulated
from fmjax.schedules.recognition import recognise


def warmed(rate, count, warmup, ahead=0):
    """Linear warmup to 1 by count / warmup, or (count + 1) / warmup."""
    return (count + ahead) / warmup if count < warmup else rate(count)


def fall(shape, x):
    x = min(max(x, 0.0), 1.0)
    return {
        "linear": 1 - x,
        "cosine": (1 + math.cos(math.pi * x)) / 2,
        "1-sqrt": 1 - math.sqrt(x),
        "square": (1 - x) ** 2,
    }[shape]


class Truth:
    """A schedule by the formula of a trainer."""

    def __init__(self, family, total, warmup, share, floor, ahead, last):
        self.family, self.total, self.warmup, self.floor, self.ahead = family, total, warmup, floor, ahead
        self.end = total - 1 if last else total
        self.start = {"wsd": self.end - max(round(share * total), 2)}.get(family.split()[0], warmup)

    def __call__(self, count):
        count = min(max(count, 0), self.total)
        return warmed(self.after, count, self.warmup, self.ahead)

    def after(self, count):
        kind = self.family.split()[-1]
        if kind == "constant":
            return 1.0
        if kind == "inverse-sqrt":
            scale = self.warmup or 10_000
            return 1 / math.sqrt((count - self.warmup + scale) / scale)
        if kind == "restarts":
            x = (count - self.warmup) / (self.end - self.warmup)
            return 0.0 if x >= 1 else (1 + math.cos(math.pi * ((3 * x) % 1))) / 2
        share = fall(kind, (count - self.start) / (self.end - self.start))
        return self.floor + (1 - self.floor) * share


FAMILIES = (
    "constant",
    "linear",
    "cosine",
    "square",
    "inverse-sqrt",
    "restarts",
    "wsd linear",
    "wsd cosine",
    "wsd 1-sqrt",
)


def drawn(seed):
    """A random truth, and rows of it."""
    rng = np.random.default_rng(seed)
    total = int(np.exp(rng.uniform(np.log(60), np.log(60_000))))
    warmup = int(rng.choice([0, 0, round(0.03 * total), math.ceil(0.1 * total), int(rng.integers(1, total // 4))]))
    floor = float(rng.choice([0, 0, 0.1, 0.01]))
    ahead = int(rng.integers(0, 2)) if warmup else 0
    truth = Truth(rng.choice(FAMILIES), total, warmup, rng.uniform(0.1, 0.6), floor, ahead, rng.random() < 0.2)
    interval = max(1, int(total / rng.choice([10, 20, 50, 200, 1000])))
    offset = int(rng.choice([0, 0, 1]))
    begin = int(rng.choice([0, interval - 1]))
    step = np.arange(begin, total, interval)
    if rng.random() < 0.25:  # the run was cut
        step = step[: max(4, int(step.size * rng.uniform(0.5, 0.9)))]
    peak = float(rng.choice([2e-5, 3e-4, 1e-3, 6.7e-4, 0.02, rng.uniform(1e-5, 1e-2)]))
    digits = int(rng.choice([3, 5, 17]))
    rate = np.array([float(f"{peak * truth(int(s) + offset):.{digits - 1}e}") for s in step])
    return truth, peak, step, rate, total


def rates(schedule, total):
    check_schedule(schedule)
    if isinstance(schedule, Tabulated):
        return np.asarray(schedule.lrs)
    return np.array(np.broadcast_to(schedule(np.arange(total, dtype=np.float32)), (total,)))


def worst(schedule, truth, peak, last):
    """Greatest distance up to the last row, as a share of the peak; an update early or late is not told apart."""
    total = min(schedule.total_steps, last + 1)
    found = rates(schedule, schedule.total_steps)[:total]
    shifts = [peak * np.array([truth(max(count + k, 0)) for count in range(total)]) for k in (0, 1, -1)]
    return min(np.abs(found - want)[1:].max() for want in shifts) / peak


TOLD = (
    "no schedule fits",
    "extrapolated",
    "another schedule",
    "not known",
    "if there is one",
    "guess",
    "about an update",
)


@pytest.mark.parametrize("logs", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_random_schedules_in_random_logs(logs):
    """Nearly all are right at every update, or say what is open."""
    silent = []
    for seed in range(logs):
        truth, peak, step, rate, total = drawn(seed)
        if not rate.any():
            continue
        found = recognise(step, rate, total_steps=total)
        told = any(text in note for note in found.notes for text in TOLD)
        off = worst(found.schedule, truth, peak, int(step[-1]))
        if off > 0.01 and not told:
            silent.append((seed, off))
    assert len(silent) <= max(1, logs // 50), silent


# ------------------------------------------------------------------------------------------------ Hugging Face


def hf_log(shape, total, warmup, peak, interval, late=True, least=0.0, done=None):
    """Rows of a Trainer: after every interval, the rate of the next update (older) or of the last."""
    step = np.arange(interval, (done or total) + 1, interval)
    truth = Truth(shape, total, warmup, 0.2, least, 0, False)
    return step - 1, [peak * truth(int(s) - 1 + late) for s in step], truth


HF = [
    *[(shape, warmup) for shape in ("linear", "cosine", "square", "inverse-sqrt") for warmup in (0, 100)],
    ("constant", 600),
    ("wsd linear", 100),
    ("wsd cosine", 600),
]


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize(("shape", "warmup"), HF)
def test_ten_rows_of_a_trainer(shape, warmup, late):
    total = 5490
    interval = 500 if warmup in (0, 600) or shape in ("linear", "cosine") else 50
    step, rate, truth = hf_log(shape, total, warmup, 2e-5, interval, late)
    found = recognise(step, rate, total_steps=total)
    assert found.schedule.total_steps == total
    assert worst(found.schedule, truth, 2e-5, total - 1) < 0.01, found


def test_four_rows_and_the_number_of_updates():
    for shape, peak in (("linear", 2e-4), ("cosine", 1e-4)):
        step, rate, truth = hf_log(shape, 45, 0, peak, 10, late=False)
        found = recognise(step, rate, total_steps=45)
        assert len(step) == 4
        assert (found.offset, found.schedule.warmup_steps) == (0, 0)
        assert float(found.schedule.peak_lr) == pytest.approx(peak)
        assert worst(found.schedule, truth, peak, 44) < 1e-6


def test_a_peak_that_no_row_shows_is_the_roundest_and_noted():
    step, rate, _ = hf_log("linear", 5490, 100, 2e-5, 500)
    found = recognise(step, rate, total_steps=5490)
    assert (found.schedule.warmup_steps, float(found.schedule.peak_lr)) == (100, pytest.approx(2e-5))
    assert any("extrapolated" in note for note in found.notes)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_a_cut_run_has_the_schedule_it_was_planned_with(shape):
    step, rate, truth = hf_log(shape, 1000, 100, 2e-5, 10, done=600)
    found = recognise(step, rate, total_steps=1000)
    assert (found.schedule.total_steps, found.schedule.warmup_steps, found.notes[1:]) == (1000, 100, ())
    assert worst(found.schedule, truth, 2e-5, 999) < 1e-6


# ------------------------------------------------------------------------------------------------ single traps


def test_an_anneal_seen_in_its_last_row_only_is_no_constant():
    step = np.array([*range(99, 1199, 100), 1199])
    rate = np.where(step < 1199, 2e-3, 5.15e-4)
    found = recognise(step, rate)
    at = rates(found.schedule, found.schedule.total_steps)
    assert at[1199] == pytest.approx(5.15e-4, abs=2e-5)
    assert found.error < 0.01


def test_a_cosine_that_ends_with_the_last_update_gains_no_warmup():
    step = np.arange(80)
    truth = 1e-4 + 9e-4 * (1 + np.cos(np.pi * step / 79)) / 2
    found = recognise(step, truth)
    np.testing.assert_allclose(rates(found.schedule, 80), truth, atol=1e-8)
    assert (found.schedule.warmup_steps, found.offset) == (0, 0)
    assert any("formula: cosine" in note for note in found.notes)


def test_the_error_covers_every_row():
    step = np.arange(0, 1000, 10)
    rate = 1e-3 * np.minimum(1.0, (1000 - step) / 200)
    rate[50] *= 0.9
    found = recognise(step, rate, total_steps=1000)
    at = rates(found.schedule, 1000)[np.clip(step + found.offset, 0, 999)]
    assert np.abs(at - rate).max() / rate.max() <= found.error + 1e-6


def test_a_decay_of_its_own_length_is_tabulated_by_its_formula():
    step = np.arange(0, 600, 10)
    rate = [1e-3 * min(s / 50, (1 + math.cos(math.pi * max(s - 50, 0) / 950)) / 2) for s in step]
    found = recognise(step, rate)  # 600 of 1000 updates, and nothing says so
    assert isinstance(found.schedule, Tabulated)
    assert any("to 1000" in note for note in found.notes)


def test_kinds():
    step = np.arange(0, 1000, 100)
    kinds = {"constant": Constant, "cosine": Cosine, "linear": WSD, "wsd cosine": WSD}
    for shape, kind in kinds.items():
        truth = Truth(shape, 1000, 0, 0.4, 0.0, 0, False)
        assert type(recognise(step, [1e-3 * truth(s) for s in step], total_steps=1000).schedule) is kind


def test_a_tabulated_formula_is_written_and_read_with_every_rate(tmp_path):
    from fmjax.curves.loss_curve import LossCurve
    from fmjax.curves.manifest import load_runs
    from fmjax.curves.writing import write_runs

    step, rate, _ = hf_log("square", 5490, 0, 2e-5, 500)
    schedule = recognise(step, rate, total_steps=5490).schedule
    assert isinstance(schedule, Tabulated)
    write_runs([LossCurve("run", step, np.linspace(3, 2, step.size), schedule)], tmp_path / "runs")
    (run,) = load_runs(tmp_path / "runs")
    assert run.schedule.total_steps == 5490
    np.testing.assert_allclose(run.schedule.lrs, schedule.lrs, atol=2e-6 * 2e-5)
