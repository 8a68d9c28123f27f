"""Families of models in one fit: a level and a noise factor each, on runs simulated by the plain loops of the law."""

import dataclasses
import json

import numpy as np
import pytest
from synthetic import rates

import fmjax
from fmjax import FitResult, LossCurve, fit, predict, search
from fmjax.cli.commands import run as cli
from fmjax.curves.divergence import cells_of
from fmjax.curves.manifest import load_runs
from fmjax.curves.writing import write_runs
from fmjax.fitting.priors import KnownExponents, LawPrior
from fmjax.importers import load_sweep
from fmjax.laws import IntrinsicMomentum, make_law
from fmjax.planning.correction import FAMILIES_ALIKE, CorrectionPrior, Points, Settings
from fmjax.report.formulas import description
from fmjax.schedules.kinds import WSD, Constant, Cosine

LEVEL, NOISE = {"dense": 0.0, "moe": -0.15}, {"dense": 1.0, "moe": 1.6}
SIZES = {"dense": (1e7, 4e7), "moe": (2e7,)}
PLAIN = IntrinsicMomentum(rho=1.0)
SHAPES = (
    lambda lr: Cosine(lr, 800, warmup_steps=30),
    lambda lr: WSD(lr, 800, 0.2, warmup_steps=30),
    lambda lr: Constant(lr, 800, warmup_steps=30),
)


def losses(schedule, size, family):
    """Loss after every update, by the definition: two memories, N0 = 2e7, alpha 0.5, gamma 0.05, xi 0.6."""
    n, memory, total, out = size / 2e7, np.zeros(2), 0.0, []
    for lr in rates(schedule):
        total += lr
        memory += (1 - np.exp(-np.array([3.0, 30.0]) * lr)) * (lr**0.6 - memory)
        forward = total**-0.5 if total else 0.0
        noise = NOISE[family] * n**0.4 * (np.array([3.0, 4.0]) @ memory)
        out.append(2.0 + LEVEL[family] + 0.8 * n**-0.3 + 0.3 * n**-0.05 * forward + noise)
    return np.array(out)


def runs(families=("dense", "moe"), sizes=None, peaks=(1e-3, 3e-3), noise=1e-6):
    step = np.unique(np.geomspace(40, 800, 40).astype(int) - 1)
    rng, found = np.random.default_rng(0), []
    for family in families:
        for size in (sizes or SIZES)[family]:
            for peak in peaks:
                for shape in SHAPES:
                    schedule = shape(peak)
                    loss = losses(schedule, size, family)[step] * np.exp(noise * rng.standard_normal(step.size))
                    name = f"{family}-{size:g}-{peak:g}-{type(schedule).__name__}"
                    found.append(LossCurve(name, step, loss, schedule, size, 1e5, family=family))
    return found


@pytest.fixture(scope="module")
def fitted():
    return fit(PLAIN, runs(), starts=2)


@pytest.fixture(scope="module")
def one_size_each():
    return fit(PLAIN, runs(sizes={"dense": (1e7,), "moe": (2e7,)}), starts=2)


def test_levels_and_noise_factors_are_recovered(fitted):
    assert fitted.status == "converged"
    assert fitted.law.families == ("dense", "moe")  # the one with most runs first
    assert fitted.params["level_moe"] == pytest.approx(LEVEL["moe"], abs=5e-3)
    assert fitted.params["noise_moe"] == pytest.approx(np.log(NOISE["moe"]), abs=0.03)
    factor = next(one for one in fitted.prior if one.name == "noise_moe")
    assert (factor.mean, factor.sd) == (0.0, 0.4)


def test_predictions_follow_each_run_of_its_family(fitted):
    curves = runs()
    for curve, found in zip(curves, predict(fitted, curves), strict=True):
        np.testing.assert_allclose(found, curve.loss, rtol=2e-3)


def test_one_family_or_none_changes_nothing():
    curves = runs(families=("dense",))
    bare = [dataclasses.replace(curve, family=None) for curve in curves]
    named, plain = fit(PLAIN, curves, starts=1), fit(PLAIN, bare, starts=1)
    assert named.params == plain.params
    assert named.notes == plain.notes
    assert not named.law.families


def test_a_level_holds_the_size_of_families_of_one_size(one_size_each):
    assert one_size_each.status == "converged"
    assert one_size_each.law.size_in_level
    assert not {"C", "beta"} & one_size_each.params.keys()
    within = LEVEL["moe"] + 0.8 - 0.8 * 0.5**-0.3
    assert one_size_each.params["level_moe"] == pytest.approx(within, abs=0.03)


PLAN = {"total_steps": 800, "peak_lr": 2e-3, "warmup_steps": 30}


def test_a_search_is_for_its_family(fitted, one_size_each):
    schedule = WSD(2e-3, 800, 0.2, "linear", warmup_steps=30)
    for family in ("dense", "moe"):
        found = search(fitted, **PLAN, anneal_ratio=0.2, family=family, model_size=2e7, final_lr=0.0, init_lr=0.0)
        assert found.cells[0].loss == pytest.approx(losses(schedule, 2e7, family)[-1], rel=3e-3)
    own = search(one_size_each, **PLAN, anneal_ratio=0.2, family="moe", final_lr=0.0, init_lr=0.0)
    assert own.cells[0].loss == pytest.approx(losses(schedule, 2e7, "moe")[-1], rel=3e-3)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({}, "the fitted runs are of several families, so family is needed: one of dense, moe"),
        ({"family": "mo"}, r"unknown family 'mo'; did you mean 'moe'\? \(known: dense, moe\)"),
        ({"family": "moe", "model_size": 4e7}, "model_size: family 'moe' was fitted at one size, .*expected 2e.07"),
    ],
)
def test_plans_name_a_fitted_family(one_size_each, told, said):
    for plan in (search, fmjax.optimize):
        with pytest.raises(ValueError, match=said):
            plan(one_size_each, **PLAN, **told)


def test_a_family_without_runs_is_refused_by_name():
    alone = fit("lr-annealing", runs(families=("dense",), sizes={"dense": (1e7,)}), starts=1)
    with pytest.raises(ValueError, match=r"unknown family 'moe' \(known: dense"):
        search(alone, **PLAN, family="moe", model_size=2e7)
    curves = runs(peaks=(1e-3,))
    with pytest.raises(ValueError, match=r"'moe-2e\+07-0\.001-Cosine': expected a family that was fitted, dense"):
        fmjax.evaluate("lr-annealing", curves, train=[curve for curve in curves if curve.family == "dense"])
    bare = dataclasses.replace(curves[0], name="bare", family=None)
    with pytest.raises(ValueError, match="run 'bare': families differ, so family is needed"):
        fit(PLAIN, [*curves, bare])


def test_what_rests_on_other_families_is_labelled(fitted):
    known = fitted.trained_with
    few = fit(PLAIN, [c for c in runs() if c.family == "dense" or c.peak_lr < 2e-3], starts=1)
    told = {"anneal_ratio": 0.2, "model_size": 2e7, "family": "moe"}
    at_high_rates = {**PLAN, "peak_lr": 3e-3}
    said = "family 'moe' has 3 runs, and none with such peak rates: there the answer rests on runs of other families"
    assert said in search(few, **at_high_rates, **told).notes
    assert not any("other families" in note for note in search(fitted, **at_high_rates, **told).notes)
    assert not any("other families" in note for note in search(few, **{**PLAN, "peak_lr": 1e-3}, **told).notes)
    assert known.family_notes("moe", 10**6, [1.0], [], []) == ()  # no family reaches it


def test_laws_without_families_note_that_they_mix_them():
    found = fit("lr-annealing", runs(peaks=(1e-3,)), starts=1)
    assert [note for note in found.notes if "families" in note] == [
        "the fitted runs are of several families, dense, moe; the law takes them for one"
    ]
    with pytest.raises(ValueError, match="expected runs of one family, found dense, moe"):
        fmjax.transfer(runs())


def test_fits_in_files_keep_their_families(fitted):
    read = FitResult.from_json(fitted.to_json())
    assert read.law == fitted.law
    assert read.trained_with == fitted.trained_with
    older = json.loads(fit("lr-annealing", runs(families=("dense",)), starts=1).to_json())
    del older["trained_with"]["family"]
    assert FitResult.from_json(json.dumps(older)).trained_with.families == ()


def test_a_learned_prior_leaves_families_their_own():
    law = PLAIN.spanning((1.0, 2.0), (None, None), ("a", "b"))
    assert LawPrior.of(law, KnownExponents(law.name, {"alpha": (0.4, 0.02)})).known[-2] == (0.0, 0.4)


def test_the_lowest_loss_is_that_of_the_family(fitted):
    floors = [fitted.for_family(name).loss_limits(800)[0] for name in ("dense", "moe")]
    assert floors[1] - floors[0] == pytest.approx(fitted.params["level_moe"])
    assert fitted.loss_limits(800)[0] == pytest.approx(min(floors))


# ------------------------------------------------------------------------------------------------ correction


def test_residuals_of_another_family_count_less():
    places = [Points(np.array([[0.5, 7.0, -7.0, 17.0, 11.0]]), ("linear",), (name,)) for name in ("a", "b")]
    prior = CorrectionPrior(0.0, (1e-6,), 0.9)
    settings = Settings.of(Points.joined([places[0]] * 2), np.array([3e-3, 3e-3]), prior)
    own, other = (float(settings.at(place).mean(np.array([3e-3, 3e-3]))[0]) for place in places)
    assert own == pytest.approx(3e-3, rel=1e-2)
    assert other == pytest.approx(FAMILIES_ALIKE * own, rel=1e-2)


def test_families_of_one_size_are_cells_apart():
    curves = runs(sizes={"dense": (2e7,), "moe": (2e7,)}, peaks=(1e-3,))
    assert len(set(cells_of(curves))) == 2 * len(SHAPES)


# ------------------------------------------------------------------------------------------------ files, command line


def test_manifests_keep_the_family(tmp_path):
    pytest.importorskip("pyarrow")
    write_runs(runs(peaks=(1e-3,))[-4:], tmp_path / "runs")
    assert [run.family for run in load_runs(tmp_path / "runs")] == ["dense", "moe", "moe", "moe"]
    with pytest.raises(ValueError, match="run 'a': family: expected a name, got 3"):
        LossCurve("a", [0], [3.0], Constant(1e-3, 10), family=3)


def test_sweep_tables_have_families_and_active_sizes(tmp_path, capsys):
    path, header = tmp_path / "a.csv", "family,model_size,active_size,peak_lr,total_steps,final_loss\n"
    path.write_text(header + "moe,8e6,1e6,1e-3,1000,3.1\ndense,2e6,2e6,1e-3,1000,3.0\n,2e6,2e6,1e-3,1000,3.0\n")
    schedule = "kind = 'cosine', warmup_steps = 100"
    read = load_sweep(path, schedule=schedule)
    assert [(run.family, run.model_size) for run in read] == [("moe", 1e6), ("dense", 2e6), (None, 2e6)]
    assert cli(["import", str(path), "--schedule", schedule, "--check"]) == 0
    assert "model sizes from the column 'active_size'" in capsys.readouterr().out


def test_the_command_line_plans_for_a_family(one_size_each, tmp_path, capsys):
    (tmp_path / "fit.json").write_text(one_size_each.to_json())
    words = ["search", str(tmp_path / "fit.json"), "--total-steps", "800", "--peak-lr", "2e-3", "--json"]
    assert cli(words) == 2
    assert "family is needed: one of dense, moe" in capsys.readouterr().err
    assert cli([*words, "--family", "moe"]) == 0
    assert json.loads(capsys.readouterr().out)["cells"][0]["model_size"] == 2e7


def test_the_report_shows_the_formula_of_families(one_size_each):
    assert "Runs of several families" in str(description(one_size_each.law))
    assert "Runs of several families" not in str(description(make_law("intrinsic-momentum")))


def test_a_forecast_is_for_the_family_of_its_run(fitted):
    runs_so_far = [next(c for c in runs() if c.family == name and "WSD" in c.name).until(600) for name in NOISE]
    for run in runs_so_far:
        end = losses(run.schedule, run.model_size, run.family)[-1]
        assert fmjax.forecast(run, prior=fitted).planned.loss == pytest.approx(end, rel=5e-3)


@pytest.mark.slow
def test_a_recommendation_is_for_its_family():
    curves, told = runs(), {"total_steps": 800, "samples": 4, "model_size": 2e7}
    with pytest.raises(ValueError, match="family is needed: one of dense, moe"):
        fmjax.recommend(curves, peak_lr=3e-3, **told)
    found = {name: fmjax.recommend(curves, peak_lr=3e-3, family=name, **told) for name in ("dense", "moe")}
    for name, plan in found.items():
        assert plan.law.name == "intrinsic-momentum"  # the one that tells families apart
        best = WSD(3e-3, 800, float(plan.best.cell.best_ratio), "linear", warmup_steps=30)
        assert plan.best.cell.loss == pytest.approx(losses(best, 2e7, name)[-1], rel=5e-3)
    assert found["moe"].best.cell.best_ratio >= found["dense"].best.cell.best_ratio  # more noise to anneal away
