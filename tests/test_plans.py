"""Plans take warmup, initial and final rate from the fitted runs, say so, and say where they lie outside those runs."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import synthetic

import fmjax
from fmjax import WSD, Cosine, FitResult, LossCurve, Tabulated
from fmjax.curves.manifest import load_runs
from fmjax.effects.recursions import rising_start
from fmjax.fitting.fitted_runs import FittedRuns, PlanShape
from fmjax.laws.base import WARMUPS

W, T, PEAK = 20, 400, 1e-3
OF_DROPS = ("lr-annealing", "forward-momentum", "multi-power", "functional")
TARGET = {"total_steps": 400, "peak_lr": PEAK, "anneal_ratio": (0.2, 0.4)}


def runs(law="lr-annealing", warmup=W, **fields):
    ratios = (0.1, 0.3, 0.6, 1.0) if law == "functional" else (0.1, 0.3, 0.6)
    shapes = [WSD(PEAK, T, ratio, warmup_steps=warmup) for ratio in ratios]
    shapes.append(WSD(PEAK, T // 2, 0.5, warmup_steps=warmup))
    named = enumerate(shapes)
    return [synthetic.curve(f"{law}-{i}", shape, law, noise=1e-5, rows=60, **fields) for i, shape in named]


@pytest.fixture(scope="module")
def fit():
    return fmjax.fit(fmjax.LRAnnealing(decay=synthetic.DECAY), runs())


# ------------------------------------------------------------------------------------------------ warmup and laws


def held_truth(step, total, ratio):
    """Loss of a run whose warmup counts in the sum of rates and is no anneal; memory of drops 0.99 an update."""
    schedule = WSD(PEAK, total, ratio, warmup_steps=W)
    return synthetic.losses("lr-annealing", synthetic.TRUTH["lr-annealing"], synthetic.rates(schedule), None, W)[step]


SLOW_TO_COMPILE = [pytest.param(law, marks=pytest.mark.slow) for law in OF_DROPS[1:]]


@pytest.mark.parametrize("law", [OF_DROPS[0], *SLOW_TO_COMPILE])
def test_laws_of_drops_predict_alike_with_and_without_warmup(law):
    """A warmup of 20 updates takes 10 peak updates of 400 from S, which moves the loss by less than 0.01."""
    fit = fmjax.fit(law, runs("lr-annealing"))
    with_, without = (fmjax.search(fit, **TARGET, warmup_steps=w, keep_losses=True).losses for w in (W, 0))
    assert (np.abs(with_ - without) < 0.03).all()
    truth = [held_truth(T - 1, T, ratio) for ratio in TARGET["anneal_ratio"]]
    np.testing.assert_allclose(with_[0], truth, rtol=0.03)


def test_runs_with_and_without_warmup_are_comparable():
    mixed = [*runs(), *(dataclasses.replace(run, name=f"cold-{run.name}") for run in runs(warmup=0))]
    errors = {
        mode: fmjax.fit(fmjax.LRAnnealing(decay=synthetic.DECAY, warmup=mode), mixed).objective for mode in WARMUPS
    }
    assert errors["without-rise"] < 0.1 * min(errors["as-scheduled"], errors["as-peak"])


@pytest.mark.slow
def test_shipped_runs_predict_a_plan_without_warmup_near_what_was_measured_with_it():
    curves = fmjax.datasets.demo_runs()
    train = [curve for curve in curves if curve.split == "train"]
    measured = next(curve for curve in curves if getattr(curve.schedule, "anneal_ratio", 0) == 0.4).final_loss_measured
    for law in ("lr-annealing", "intrinsic-momentum"):
        fit = fmjax.fit(law, train)
        peak, total = float(train[0].schedule.peak_lr), int(train[0].schedule.total_steps)
        found = fmjax.search(fit, total_steps=total, peak_lr=peak, anneal_ratio=0.4, warmup_steps=0)
        assert found.cells[0].loss == pytest.approx(measured, abs=0.05)


@pytest.mark.parametrize("warmup", [0, W])
@pytest.mark.parametrize(
    "law",
    ["lr-annealing", *(pytest.param(law, marks=pytest.mark.slow) for law in ("functional", "intrinsic-momentum"))],
)
def test_the_pure_loss_of_rates_sees_their_warmup(law, warmup):
    fit = fmjax.fit(law, runs("lr-annealing"))
    found = fmjax.search(fit, total_steps=T, peak_lr=PEAK, anneal_ratio=0.3, warmup_steps=warmup)
    with jax.enable_x64(True):
        lrs = jnp.asarray(synthetic.rates(WSD(PEAK, T, 0.3, warmup_steps=warmup)))
        for told in ({}, {"warmup_steps": warmup}):
            assert float(fit.law.final_loss(lrs, fit.vector, **told)) == pytest.approx(found.cells[0].loss, rel=1e-6)


# ------------------------------------------------------------------------------------------------ what plans take


def test_a_fit_holds_what_its_runs_were_trained_with(fit):
    held = fit.trained_with
    assert held.warmup_steps == (W,) * 4
    assert held.total_steps == (T, T, T, T // 2)
    assert held.final_lr == (0.0,) * 4
    assert held.init_lr == (0.0,) * 4
    assert held.tokens_per_step == held.model_size == (None,) * 4
    assert FitResult.from_json(fit.to_json()).trained_with == held


def test_final_rates_of_every_kind_of_schedule():
    shapes = {
        "wsd": WSD(PEAK, T, 0.2, final_lr=1e-4),
        "cosine": Cosine(PEAK, T, 1e-5),
        "constant": fmjax.Constant(PEAK, T),
        "step": fmjax.Step(PEAK, T, (300,), (2e-4,)),
        "table": Tabulated(np.linspace(PEAK, 0, T, endpoint=False)),
    }
    found = FittedRuns.of([LossCurve(name, [0, 99], [3.0, 2.0], shape) for name, shape in shapes.items()])
    assert found.final_lr[2] is None
    np.testing.assert_allclose([x for x in found.final_lr if x is not None], [1e-4, 1e-5, 2e-4, 0.0], atol=1e-9)
    assert found.usual_final_share == pytest.approx(0.01)  # the lower of the two in the middle


def test_a_search_takes_warmup_and_rates_from_the_runs():
    shapes = [WSD(PEAK, T, r, final_lr=1e-4, warmup_steps=W, init_lr=2e-4) for r in (0.1, 0.3, 0.6)]
    fit = fmjax.fit("lr-annealing", [synthetic.curve(f"run-{i}", shape, noise=1e-4) for i, shape in enumerate(shapes)])
    found = fmjax.search(fit, total_steps=T, peak_lr=(5e-4, 1e-3), anneal_ratio=0.2)
    assert (found.warmup_steps, found.init_lr) == (W, 2e-4)
    assert [cell.final_lr for cell in found.cells] == pytest.approx([5e-5, 1e-4])  # a tenth of each peak rate
    told = fmjax.search(fit, total_steps=T, peak_lr=1e-3, anneal_ratio=0.2, warmup_steps=W, init_lr=2e-4, final_lr=1e-4)
    assert told.cells[0].loss == found.cells[1].loss
    record = json.loads(found.to_json())
    assert record["taken_from_fitted_runs"] == pytest.approx({"warmup_steps": W, "init_lr": 2e-4, "final_lr": 0.1})
    assert record["notes"][0] == (
        "taken from the fitted runs: 20 updates of warmup, an initial rate of 0.0002, "
        "a final rate of 0.1 times the peak rate"
    )
    assert not told.taken
    assert not told.notes


def test_a_warmup_longer_than_the_plan_is_shortened(fit):
    found = fmjax.search(fit, total_steps=10, peak_lr=PEAK)
    assert found.warmup_steps == 10
    assert any("is longer than the plan; shortened to 10" in note for note in found.notes)


@pytest.mark.parametrize("bad", ["high", [1e-4, "high"], float("nan"), [[1e-4]]])
def test_a_final_rate_that_is_none_is_refused(fit, bad):
    with pytest.raises(ValueError, match="final_lr: expected"):
        fmjax.search(fit, total_steps=T, peak_lr=PEAK, final_lr=bad)


@pytest.mark.slow
def test_designs_take_warmup_from_the_runs(fit):
    found = fmjax.optimize(fit, total_steps=60, peak_lr=PEAK, max_iterations=2)
    assert found.best.warmup_steps == W
    assert found.taken["warmup_steps"] == W
    assert found.best.notes[0].startswith("taken from the fitted runs: 20 updates of warmup")


def test_recommendations_take_the_final_rate_from_the_runs():
    shapes = [WSD(PEAK, T, r, final_lr=1e-4, warmup_steps=W) for r in (0.1, 0.3, 0.6)]
    curves = [synthetic.curve(f"run-{i}", shape, noise=1e-4) for i, shape in enumerate(shapes)]
    law = fmjax.LRAnnealing(decay=synthetic.DECAY)
    found = fmjax.recommend(curves, total_steps=T, peak_lr=2 * PEAK, law=law, samples=0, anneal_ratio=(0.2, 0.4))
    assert found.best.schedule.final_lr == pytest.approx(2e-4)
    assert json.loads(found.to_json())["taken_from_fitted_runs"]["final_lr"] == pytest.approx(0.1)


def test_a_plan_outside_of_the_runs_is_told(fit):
    notes = fmjax.search(fit, total_steps=2 * T, peak_lr=(PEAK, 2 * PEAK), warmup_steps=0, final_lr=5e-4).notes
    assert "the plan has 0 updates of warmup; the fitted runs had 20" in notes
    assert any(
        note.startswith("a final rate of 0.5 times the peak rate; the fitted runs had 0 times") for note in notes
    )
    assert f"extrapolates to 2 x the longest fitted run ({T} updates)" in notes
    assert "peak rate 0.002 lies outside those fitted, 0.001 ... 0.001" in notes


def test_old_fits_plan_as_before_and_say_so(fit):
    record = json.loads(fit.to_json())
    for name in ("trained_with", "left_out", "notes"):
        del record[name]
    old = FitResult.from_json(json.dumps(record))
    found = fmjax.search(old, **TARGET)
    assert (found.warmup_steps, found.init_lr, found.cells[0].final_lr) == (0, 0.0, 0.0)
    assert found.notes[0].startswith("the fit does not hold what its runs were trained with; planned with 0 updates")


def test_the_usual_is_what_a_run_had():
    shapes = [WSD(PEAK, T, 0.2, warmup_steps=w) for w in (0, 10, 40, 50)]
    found = FittedRuns.of([LossCurve(f"run-{i}", [0, 99], [3.0, 2.0], shape) for i, shape in enumerate(shapes)])
    told = {"warmup_steps": None, "init_lr": None, "final_lr": None}
    shape = PlanShape.of(found, longest_warmup=T, peak_lr=PEAK, **told)
    assert shape.warmup_steps == 10
    assert "the fitted runs had 0 ... 50 updates of warmup" in shape.notes


def test_a_rise_at_the_start_of_logged_rates_is_warmup(tmp_path):
    rates = synthetic.rates(WSD(PEAK, T, 0.3, warmup_steps=W)).tolist()
    rows = "".join(f"{t},{3 - t / T},{rates[t]!r}\n" for t in range(0, T, 5))
    (tmp_path / "a.csv").write_text("step,loss,lr\n" + rows)
    (tmp_path / "runs.toml").write_text("[[runs]]\nname = 'a'\nfile = 'a.csv'\n")
    assert load_runs(tmp_path)[0].schedule.warmup_steps == W
    (tmp_path / "runs.toml").write_text("[[runs]]\nname = 'a'\nfile = 'a.csv'\nwarmup_steps = 0\n")
    assert load_runs(tmp_path)[0].schedule.warmup_steps == 0


@pytest.mark.parametrize(
    ("rates", "expected"), [([1, 1, 1, 0.5], 0), ([0, 1, 0.5, 1, 1, 1], 1), ([0, 0.2, 0.4, 0.6, 0.8, 1], 0), ([1], 0)]
)
def test_where_a_rise_ends(rates, expected):
    assert rising_start(np.array(rates, float)) == expected


# ------------------------------------------------------------------------------------------------ far from the runs


def test_losses_that_cannot_be_right_are_not_offered(fit):
    found = fmjax.search(fit, total_steps=T, peak_lr=(PEAK, 1.0), anneal_ratio=(0.1, 0.3, 0.5), keep_losses=True)
    inside, far = found.cells
    assert inside.is_offered
    assert (inside.outside, far.outside) == ((), ("peak_lr", "loss"))
    assert found.losses[1].min() < fit.params["L0"]
    assert np.isnan([far.best_ratio, far.loss]).all()
    assert {one.peak_lr for one in found.top} == {PEAK}
    assert any("1 of 2 cells has no best ratio" in note for note in found.notes)
    assert json.loads(found.to_json())["cells"][1]["loss"] is None


def test_losses_above_the_first_rows_are_not_offered():
    fit = fmjax.fit("lr-annealing", runs())
    assert fit.doubts(99.0, T)
    assert not fit.doubts(99.0, 1)  # the runs' first rows come later
    assert not fit.doubts(2.7, T)


def test_a_search_with_nothing_to_offer_says_so(fit):
    found = fmjax.search(fit, total_steps=T, peak_lr=1.0, anneal_ratio=(0.3, 0.5))
    assert found.top == ()
    assert any("has no best ratio" in note for note in found.notes)
    with pytest.raises(ValueError, match="no schedule can be offered: a predicted loss of"):
        fmjax.optimize(fit, total_steps=T, peak_lr=1.0, max_iterations=2)


def test_l0_is_no_limit_where_runs_got_below_it(fit):
    least = min(fit.trained_with.least_loss)
    above = dataclasses.replace(fit, params={**fit.params, "L0": least + 0.1})
    assert above.loss_limits(T)[0] == 0.0
    assert fit.loss_limits(T)[0] == pytest.approx(fit.params["L0"])


def test_the_table_marks_what_lies_outside(fit, tmp_path, command_line):
    (tmp_path / "fit.json").write_text(fit.to_json())
    grid = ("--total-steps", f"{T},{2 * T}", "--peak-lr", f"{PEAK},1.0", "--anneal-ratio", "0.2,0.4")
    code, out, err = command_line("search", tmp_path / "fit.json", *grid)
    assert (code, err) == (0, "")
    assert f"{2 * T}*" in out
    assert "1*" in out
    assert "* outside the fitted runs" in out
    assert "note: taken from the fitted runs: 20 updates of warmup" in out


def test_a_search_file_without_a_best_is_not_exported(fit, tmp_path, command_line):
    found = fmjax.search(fit, total_steps=T, peak_lr=1.0, anneal_ratio=(0.3, 0.5))
    (tmp_path / "search.json").write_text(found.to_json())
    code, _, err = command_line("export", tmp_path / "search.json", "--to", "optax")
    assert code == 2
    assert "no cell of the search has a best ratio" in err


# ------------------------------------------------------------------------------------------------ batch sizes


def mixed_batches():
    return [
        dataclasses.replace(run, tokens_per_step=tokens)
        for run, tokens in zip(runs(), (8192, 8192, 65536, 65536), strict=True)
    ]


NOTE = "batch sizes of the fitted runs differ, 8192 and 65536 tokens a step; the law does not have the batch size in it"


@pytest.mark.slow
def test_every_verb_notes_mixed_batch_sizes():
    curves, law = mixed_batches(), fmjax.LRAnnealing(decay=synthetic.DECAY)
    fit = fmjax.fit(law, curves)
    assert NOTE in fit.notes
    assert NOTE in json.loads(fit.to_json())["notes"]
    assert NOTE in json.loads(fmjax.evaluate(law, curves, train=curves).to_json())["notes"]
    assert NOTE in fmjax.search(fit, **TARGET).notes
    assert NOTE in fmjax.optimize(fit, total_steps=60, peak_lr=PEAK, max_iterations=2).best.notes
    assert NOTE in fmjax.recommend(curves, law=law, samples=0, **TARGET).best.notes
    assert NOTE in fmjax.transfer(curves, law=law, samples=0).notes
    assert NOTE in json.loads(fmjax.bootstrap(law, curves, samples=2).to_json())["notes"]
    assert NOTE in fmjax.forecast(curves[0].until(200), prior=fit).notes
    assert NOTE in fmjax.select("lr-annealing", curves, refine=False).fit.notes


def test_one_batch_size_is_not_noted():
    curves = [dataclasses.replace(run, tokens_per_step=8192) for run in runs()]
    assert fmjax.fit("lr-annealing", curves).notes == ()


def test_a_run_of_another_batch_size_than_its_prior_is_told():
    prior = fmjax.fit("lr-annealing", [dataclasses.replace(run, tokens_per_step=8192) for run in runs()])
    run = dataclasses.replace(runs()[0].until(200), tokens_per_step=65536)
    notes = fmjax.forecast(run, prior=prior).notes
    assert any(note.startswith("the run has 65536 tokens a step, the fitted runs 8192") for note in notes)


# ------------------------------------------------------------------------------------------------ runs of no use


@pytest.mark.slow
def test_a_run_in_its_warmup_is_left_out_and_named():
    young = dataclasses.replace(runs()[0], name="young", step=[0, 10], loss=[5.0, 4.0])
    law = fmjax.LRAnnealing(decay=synthetic.DECAY)
    with_, without = (fmjax.recommend(curves, law=law, samples=4, **TARGET) for curves in ([*runs(), young], runs()))
    assert with_.best.cell == without.best.cell
    assert with_.notes[0].startswith("run 'young' is left out: every row was logged before the end of warmup")
    assert fmjax.fit(law, [*runs(), young]).notes == with_.notes[:1]
    assert fmjax.bootstrap(law, [*runs(), young], samples=2).fit.notes == with_.notes[:1]
    with pytest.raises(ValueError, match=r"no row is left to fit of \['young'\]"):
        fmjax.recommend([young], law=law, **TARGET)
