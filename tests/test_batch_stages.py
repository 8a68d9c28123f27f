"""Batches that change during a run: the record, the law by its definition, fits, plans."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from synthetic import rates
from test_size_and_batch import BATCH, EXPONENTS, PLAIN, SIZE, TERMS, run

import fmjax
from fmjax import FitOptions, LossCurve, fit, load_runs, predict, search
from fmjax.cli.commands import run as cli
from fmjax.curves.loss_curve import pad
from fmjax.curves.writing import write_runs
from fmjax.fitting.row_effects import batch_effects
from fmjax.importers import import_logs
from fmjax.laws.base import Law
from fmjax.laws.intrinsic_momentum import FORGETTING_RATES
from fmjax.planning.batch_growth import compare_growth, grown
from fmjax.schedules.batch_stages import BatchStages, batch_of
from fmjax.schedules.kinds import WSD, Constant, Cosine
from fmjax.searching.panels import Counts, most_panels, panel_sizes

RAMP = BatchStages((0, 150, 400), (5e4, 1e5, 2e5))


def truth(schedule, stages, terms=TERMS, exponents=EXPONENTS):
    """Loss after every update, each with its own batch, by the definition; a model of N0 parameters."""
    e, memory, tau, out = exponents, np.zeros(len(FORGETTING_RATES)), 0.0, []
    forgetting = np.array(FORGETTING_RATES)
    c, d = ([terms.get(f"{kind}{rate:g}", 0.0) for rate in FORGETTING_RATES] for kind in "cd")
    for count, lr in enumerate(rates(schedule)):
        b = [size for start, size in zip(stages.starts, stages.tokens, strict=True) if start <= count][-1] / BATCH
        tau += b ** e["phi"] * lr
        memory += (1 - np.exp(-forgetting * lr)) * (lr ** e["xi"] * b ** -e["kappa"] - memory)
        forward = tau ** -e["alpha"] if tau else 0.0
        noise = np.add(c, np.multiply(d, forward)) @ memory
        out.append(terms["L0"] + terms.get("C", 0.0) + terms["A"] * forward + noise)
    return np.array(out)


def ramped(schedule, stages, name, noise=0.0, seed=0):
    """A run of N0 parameters whose batch changes, logged at 40 steps."""
    step = np.unique(np.geomspace(40, schedule.total_steps, 40).astype(int) - 1)
    loss = truth(schedule, stages)[step] * np.exp(noise * np.random.default_rng(seed).standard_normal(step.size))
    return LossCurve(name, step, loss, schedule, model_size=SIZE, tokens_per_step=stages)


def constant(schedule, batch, noise=0.0, seed=0):
    return run(schedule, SIZE, batch, noise, seed)


SHAPES = (Cosine(1e-3, 800, warmup_steps=30), WSD(3e-3, 800, 0.2, warmup_steps=30))


def law_over(*batches, **options):
    law = dataclasses.replace(PLAIN, **options).spanning([SIZE] * len(batches), list(batches))
    return dataclasses.replace(law, batch_unit=BATCH)


def vector_of(law):
    known = {**TERMS, **EXPONENTS, "L0": TERMS["L0"] + TERMS["C"]}
    return np.array([known.get(name, 0.0) for name in law.parameter_names])


# ------------------------------------------------------------------------------------------------ the record


def test_tokens_are_those_of_the_updates():
    each = [5e4] * 150 + [1e5] * 250 + [2e5] * 400
    counts = np.array([0, 1, 149, 150, 151, 399, 400, 401, 800])
    np.testing.assert_allclose(RAMP.until(counts), [sum(each[:count]) for count in counts])
    np.testing.assert_allclose(RAMP.updates(RAMP.until(counts)), counts)
    assert ramped(SHAPES[0], RAMP, "a").mean_batch == pytest.approx(sum(each) / 800)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("5e4@0,1e5", "expected TOKENS@UPDATE,TOKENS@UPDATE,... from update 0 on"),
        ("5e4@10,1e5@20", "expected stages that start at update 0 and rise, got [10, 20]"),
        ("5e4@0,1e5@20,2e5@20", "expected stages that start at update 0 and rise"),
        ("5e4@0,-1e5@20", "expected a number above zero, got -100000.0"),
        ("5e4@0,1e5@800", "a stage begins at update 800, but the run has 800 updates"),
        ([5e4, 1e5], "expected a number or TOKENS@UPDATE"),
        (BatchStages((0, 10), (1e5,)), "expected as many starts as batches, got 2, 1"),
    ],
)
def test_stages_are_checked(value, said):
    with pytest.raises(ValueError, match="run 'a': tokens_per_step: ") as caught:
        LossCurve("a", [0], [3.0], SHAPES[0], tokens_per_step=value)
    assert said in str(caught.value)


def test_stages_of_one_batch_are_a_number():
    assert batch_of("4e5@0,4e5@100", "tokens_per_step") == 4e5
    assert batch_of("4e5@0,4e5@100,8e5@200", "tokens_per_step") == BatchStages((0, 200), (4e5, 8e5))


def test_manifests_hold_stages(tmp_path):
    uneven = dataclasses.replace(RAMP, tokens=(5e4, 0.1 + 0.2, 123456789.0))
    write_runs([dataclasses.replace(ramped(SHAPES[0], RAMP, "a"), tokens_per_step=uneven)], tmp_path / "runs")
    text = (tmp_path / "runs" / "runs.toml").read_text(encoding="utf-8")
    assert 'tokens_per_step = "50000@0,0.30000000000000004@150,123456789@400"' in text
    assert load_runs(tmp_path / "runs")[0].tokens_per_step == uneven


# ------------------------------------------------------------------------------------------------ the law


@pytest.mark.parametrize("options", [{}, {"xi": 0.6}, {"rho": None, "xi": None}])
@pytest.mark.parametrize("schedule", [*SHAPES, Constant(2e-3, 5000, warmup_steps=30)])
def test_few_updates_stand_for_all_of_each_stage(options, schedule):
    curve = ramped(schedule, RAMP, "a")
    law = law_over(RAMP, **options)
    with jax.enable_x64(True):
        found = batch_effects(law, pad([curve]))
        rows = curve.step
        expected = Law.effects(law.for_batch(RAMP), rates(schedule), rows, 30)
        assert expected["S"].shape[:2] == (rows.size, 3)
        each = [{key: value[0, : rows.size] for key, value in found.items()}]
        each.append({**each[0], **expected})
        losses = [law.predict(of, vector_of(law)) for of in each]
    np.testing.assert_allclose(*losses, rtol=1e-8)
    if options == {"xi": 0.6}:  # without levels each effect is one sum
        for key, value in expected.items():
            np.testing.assert_allclose(each[0][key], value, rtol=1e-8, atol=1e-8 * np.abs(value).max())


@pytest.mark.parametrize("xi", [None, 0.6])
def test_predictions_follow_the_definition(xi):
    law = law_over(RAMP, xi=xi)
    with jax.enable_x64(True):
        for schedule in SHAPES:
            found = law.for_batch(RAMP).final_loss(rates(schedule), vector_of(law), warmup_steps=30)
            assert float(found) == pytest.approx(truth(schedule, RAMP)[-1], rel=1e-6)


def test_a_constant_batch_beside_one_that_changes_is_as_alone():
    law = law_over(5e4, 2e5)
    curve, params = constant(SHAPES[0], 5e4), vector_of(law_over(5e4, 2e5))
    with jax.enable_x64(True):
        alone, beside = (batch_effects(law, pad(runs)) for runs in ([curve], [curve, ramped(SHAPES[1], RAMP, "b")]))
        first = [jax.tree.map(lambda x: x[0], of) for of in (alone, beside)]
        rows = curve.step.size
        losses = [np.asarray(law.predict(of, params))[:rows] for of in first]
    assert alone["S"].ndim == 2
    assert beside["S"].shape[2] == 3
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-12)
    np.testing.assert_allclose(losses[0], curve.loss, rtol=1e-6)


# ------------------------------------------------------------------------------------------------ fits


def test_one_run_that_changes_beside_one_that_does_not_determines_the_batch_terms():
    curves = [constant(SHAPES[0], 1e5, 1e-6, 1), constant(SHAPES[1], 1e5, 1e-6, 2)]
    curves += [ramped(shape, RAMP, f"ramp-{i}", 1e-6, 3 + i) for i, shape in enumerate(SHAPES)]
    found = fit(PLAIN, curves, prior=None)
    assert found.ok
    wanted = {name: EXPONENTS[name] for name in ("alpha", "kappa", "phi", "xi")}
    assert {name: found.params[name] for name in wanted} == pytest.approx(wanted, abs=0.02)
    unseen = ramped(Cosine(2e-3, 1200, warmup_steps=30), BatchStages((0, 600), (2e5, 5e4)), "unseen")
    np.testing.assert_allclose(predict(found, [unseen])[0], unseen.loss, rtol=1e-3)


def test_few_noisy_runs_leave_the_batch_terms_to_the_prior():
    found = fit(PLAIN, [constant(SHAPES[1], 1e5, 1e-3, 1), ramped(SHAPES[0], RAMP, "ramp", 1e-3, 2)])
    assert found.ok
    (note,) = (note for note in found.notes if note.startswith("the prior decides more than the data on"))
    assert {"kappa", "phi"} <= set(note.partition(": ")[2].split(", "))


def test_a_law_without_the_batch_notes_that_it_changes():
    curves = [ramped(shape, RAMP, f"ramp-{i}") for i, shape in enumerate(SHAPES)]
    notes = fit("lr-annealing", curves).notes
    said = "batch sizes of the fitted runs change during runs, 50000 and 200000 tokens a step; the law does not have"
    assert any(note.startswith(said) for note in notes)


def test_fits_in_files_keep_the_stages():
    found = fit(PLAIN, [ramped(shape, RAMP, f"ramp-{i}") for i, shape in enumerate(SHAPES)])
    again = fmjax.FitResult.from_json(found.to_json())
    assert again.trained_with.tokens_per_step == (RAMP, RAMP)
    assert again.reach.tokens_per_step == (5e4, 2e5)


# ------------------------------------------------------------------------------------------------ plans


@pytest.fixture(scope="module")
def known():
    """A fit with the parameters of the truth."""
    curves = [constant(SHAPES[0], batch) for batch in (5e4, 2e5)]
    law = law_over(5e4, 2e5)
    result = fit("chinchilla", curves)
    params = dict(zip(law.parameter_names, vector_of(law).tolist(), strict=True))
    reach = result.reach._replace(peak_lr=(1e-3, 3e-3))
    return dataclasses.replace(result, law=law, params=params, reach=reach)


PLAN = {"peak_lr": [1e-3, 3e-3], "warmup_steps": 30, "final_lr": 0.0, "anneal_ratio": [0.002, 0.3, 0.99]}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_search_predicts_for_a_batch_that_changes(known, dtype):
    """Beside one that does not, and in one grid with it."""
    found = search(known, total_steps=[700, 800], tokens_per_step=[RAMP, 1e5], keep_losses=True, dtype=dtype, **PLAN)
    tolerance = {"float64": 1e-6, "float32": 3e-6}[dtype]
    for cell, losses in zip(found.cells, found.losses, strict=True):
        stages = cell.tokens_per_step if isinstance(cell.tokens_per_step, BatchStages) else BatchStages((0,), (1e5,))
        shapes = [WSD(cell.peak_lr, cell.total_steps, ratio, warmup_steps=30) for ratio in PLAN["anneal_ratio"]]
        np.testing.assert_allclose(losses, [truth(shape, stages)[-1] for shape in shapes], rtol=tolerance)


def test_a_search_in_tokens_takes_the_updates_of_the_stages(known):
    tokens = float(RAMP.until(800))
    found = search(known, total_tokens=tokens, tokens_per_step="5e4@0,1e5@150,2e5@400", **PLAN)
    assert {cell.total_steps for cell in found.cells} == {800}
    assert '"tokens_per_step": "50000@0,100000@150,200000@400"' in found.to_json()


def test_plans_that_do_not_reach_a_stage_are_refused(known):
    said = "tokens_per_step: a stage begins at update 400, but the run has 300 updates"
    with pytest.raises(ValueError, match=said):
        search(known, total_steps=300, tokens_per_step=RAMP, **PLAN)
    with pytest.raises(ValueError, match=said):
        fmjax.optimize(known, total_steps=300, peak_lr=1e-3, tokens_per_step=RAMP)


def test_stages_outside_the_fitted_batches_are_marked(known):
    (cell,) = search(known, total_steps=800, tokens_per_step="1e5@0,4e5@10", **{**PLAN, "peak_lr": 1e-3}).cells
    assert cell.outside == ("tokens_per_step",)
    assert cell.shown("tokens_per_step", ".4g") == "1e+05@0,4e+05@10*"


def test_tables_of_a_search_name_stages_as_text(known, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    plan = {**PLAN, "total_steps": 800, "tokens_per_step": [RAMP, 1e5], "folder": tmp_path / "parts"}
    found = [search(known, **plan, table=True).cells[0].loss for _ in range(2)]  # the second reads what the first kept
    assert found[0] == found[1]
    tables = [
        parquet.read_table(file)["tokens_per_step"].to_pylist() for file in (tmp_path / "parts").rglob("*.parquet")
    ]
    assert {name for column in tables for name in column} == {str(RAMP), "100000.0"}


def test_a_batch_that_falls_is_noted(known):
    plan = {**PLAN, "total_steps": 800, "peak_lr": 1e-3}
    notes = {stages: search(known, tokens_per_step=stages, **plan).notes for stages in (RAMP, "2e5@0,5e4@300")}
    assert [any("the batch falls during the run" in note for note in of) for of in notes.values()] == [False, True]


def test_the_command_line_takes_stages(known, tmp_path, capsys):
    (tmp_path / "fit.json").write_text(known.to_json(), encoding="utf-8")
    words = ["search", str(tmp_path / "fit.json"), "--total-steps", "800", "--peak-lr", "1e-3", "--anneal-ratio", "0.3"]
    words += ["--warmup-steps", "30", "--json", "--tokens-per-step"]
    assert cli([*words, "5e4@0,1e5@150,2e5@400"]) == 0
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    assert cell["tokens_per_step"] == str(RAMP)
    assert cell["loss"] == pytest.approx(truth(WSD(1e-3, 800, 0.3, warmup_steps=30), RAMP)[-1], rel=1e-6)
    assert (
        cli([*words, "5e4@0,1e5@150", "--plot", str(tmp_path / "found.png"), "-o", str(tmp_path / "found.json")]) == 0
    )
    capsys.readouterr()
    assert cli([*words, "5e4@0,1e5"]) == 2
    assert "tokens_per_step: expected TOKENS@UPDATE,TOKENS@UPDATE,..." in capsys.readouterr().err
    optimize = ["optimize", *words[1:4], "--peak-lr", "1e-3", "--tokens-per-step", "5e4,1e5"]
    assert cli(optimize) == 2
    assert "expected one number, or stages such as 65536@0,131072@2000" in capsys.readouterr().err


def test_an_optimised_schedule_is_for_the_batch_that_changes(known):
    plan = {"total_steps": 500, "peak_lr": 3e-3, "warmup_steps": 10, "final_lr": 0.0, "max_iterations": 2}
    found = fmjax.optimize(known, **plan, tokens_per_step=RAMP).best
    assert found.cosine_loss == pytest.approx(truth(Cosine(3e-3, 500, warmup_steps=10), RAMP)[-1], rel=1e-6)


@pytest.fixture(scope="module")
def growth(known):
    plan = {"peak_lr": 3e-3, "warmup_steps": 30, "final_lr": 0.0, "anneal_ratio": np.linspace(0.1, 0.9, 9)}
    samples = np.stack([known.vector, known.vector * 1.001])
    return compare_growth(known, total_tokens=2e8, tokens_per_step=5e4, samples=samples, **plan)


def loss_of(way):
    """Its final loss by the definition."""
    ratio, stages = way.anneal_ratio, way.tokens_per_step
    stages = stages if isinstance(stages, BatchStages) else BatchStages((0,), (stages,))
    shape = WSD(3e-3, way.total_steps, ratio, warmup_steps=30) if ratio else Constant(3e-3, way.total_steps, 30)
    return truth(shape, stages)[-1]


def test_ways_to_end_a_run_spend_the_same_tokens(growth):
    assert [way.name for way in growth.ways] == ["falling rate", "growing batch", "both", "as good, fewest updates"]
    falling, growing, both, good = growth.ways
    assert (falling.tokens_per_step, falling.total_steps, falling.updates_saved) == (5e4, 4000, 0)
    assert growing.anneal_ratio == 0.0
    assert min(falling.anneal_ratio, both.anneal_ratio) > 0.0
    for way in growth.ways[1:]:
        largest = way.tokens_per_step.tokens[-1]
        assert 1e5 <= largest <= 2e5, "within the batches of the fitted runs"
        assert way.tokens_per_step.until(way.total_steps) == pytest.approx(2e8, abs=largest)
        assert way.updates_saved == 4000 - way.total_steps > 0
    assert good.updates_saved >= both.updates_saved
    assert good.excess <= 1e-3
    assert both.loss <= growing.loss


def test_ways_to_end_a_run_have_the_losses_of_the_truth(growth):
    expected = [loss_of(way) for way in growth.ways]
    assert [way.loss for way in growth.ways] == pytest.approx(expected, rel=1e-6)
    assert [way.excess for way in growth.ways] == pytest.approx([loss / expected[0] - 1 for loss in expected], abs=1e-6)
    for share in (0.1, 0.3, 0.6):  # no other growth at a constant rate is better
        for doublings in (1, 2):
            stages = grown(5e4, 2e8, share, doublings)
            total = round(float(stages.updates(2e8)))
            assert truth(Constant(3e-3, total, 30), stages)[-1] >= expected[1] - 1e-9


def test_a_plan_states_what_the_growing_batches_rest_on(growth):
    assert any(note.startswith("no fitted run changes its batch") for note in growth.notes)
    assert "batches beyond the largest of the fitted runs, 200000 tokens an update, are not compared" in growth.notes
    assert growth.moved(3.0).ways[0].loss == pytest.approx(3.0)
    assert growth.moved(3.0).ways[2].loss == pytest.approx(3.0 * (1 + growth.ways[2].excess))
    assert np.isfinite(growth.ways[1].excess_interval).all()


def test_a_plan_states_that_no_growing_batch_is_as_good(known):
    plan = {"peak_lr": 3e-3, "warmup_steps": 30, "final_lr": 0.0, "anneal_ratio": [0.3]}
    found = compare_growth(known, total_tokens=2e7, tokens_per_step=5e4, **plan)
    assert len(found.ways) == 3
    assert found.notes[0] == "no growing batch is as good as the falling rate (within 0.1 %)"


def test_growing_batches_need_fits_that_tell_batches_apart(known):
    plan = {"total_tokens": 4e7, "peak_lr": 3e-3, "warmup_steps": 30}
    with pytest.raises(ValueError, match="no batch that 200000 doubles to lies within the largest of the fitted runs"):
        compare_growth(known, tokens_per_step=2e5, **plan)
    one = fit("chinchilla", [constant(SHAPES[0], 1e5)])
    with pytest.raises(ValueError, match="chinchilla as fitted has no batch size in it: the runs need several, or one"):
        compare_growth(one, tokens_per_step=1e5, **plan)


@pytest.mark.slow
def test_a_recommendation_is_for_a_batch_that_changes():
    curves = [constant(shape, 1e5, 1e-5, i) for i, shape in enumerate(SHAPES)]
    curves += [ramped(shape, RAMP, f"ramp-{i}", 1e-5, 3 + i) for i, shape in enumerate(SHAPES)]
    plan = {"total_steps": 800, "peak_lr": 3e-3, "samples": 0, "options": FitOptions(starts=1)}
    found = fmjax.recommend(curves, tokens_per_step="5e4@0,2e5@400", **plan)
    stages = BatchStages((0, 400), (5e4, 2e5))
    assert (found.law.name, found.best.cell.tokens_per_step) == ("intrinsic-momentum", stages)
    expected = truth(WSD(3e-3, 800, found.best.cell.best_ratio, warmup_steps=30), stages)[-1]
    assert found.best.cell.loss == pytest.approx(expected, rel=3e-3)
    with pytest.raises(ValueError, match="expected one target, or numbers to choose among, found 50000@0,200000@400"):
        fmjax.recommend(curves, tokens_per_step=["5e4@0,2e5@400", 1e5], **plan)
    with pytest.raises(ValueError, match="to plan for a batch that changes the runs need several, or one that changes"):
        fmjax.recommend(curves[:2], tokens_per_step="5e4@0,2e5@400", **plan)


def test_panels_of_runs_whose_batch_changes_fit():
    """No panel of more than ten updates lies on both sides of a change; panels are no more than there is room for."""
    rng = np.random.default_rng(0)
    for _ in range(500):
        total = int(np.exp(rng.uniform(np.log(20), np.log(300_000))))
        changes = tuple(sorted(set(rng.integers(1, total, rng.integers(1, 6)).tolist())))
        warmup, falls = int(total * rng.choice([0.0, 0.01, 0.4])), int(rng.choice([0, 7]))
        start = float(rng.uniform(warmup, total))
        sizes = panel_sizes(Counts(total, warmup, start, bool(rng.integers(2)), falls, changes=changes))
        assert sizes.sum() == total
        assert sizes.size <= most_panels(total, falls, changes=len(changes))
        each = list(zip(sizes, np.cumsum(sizes), strict=True))
        assert all(size <= 10 or not any(end - size < at < end for at in changes) for size, end in each)


# ------------------------------------------------------------------------------------------------ what has one batch


def test_the_critical_batch_size_needs_runs_of_one_batch_each():
    curves = [constant(SHAPES[0], 1e5), ramped(SHAPES[0], RAMP, "ramp")]
    with pytest.raises(ValueError, match="run 'ramp': expected one batch size, found 50000@0,100000@150,200000@400"):
        fmjax.critical_batch_size(curves)


# ------------------------------------------------------------------------------------------------ logs


def logged(path, header, columns):
    """A log of 100 rows, every ten updates, of a batch of 64 that is 128 from update 505 on."""
    count = 10 * np.arange(1, 101)
    samples = 64.0 * count + 64.0 * np.maximum(count - 505, 0)
    losses, lrs = 2 + 50 / (count + 50), np.minimum(count, 100) * 3e-6
    rows = zip(*columns(count, samples), losses, lrs, strict=True)
    lines = [",".join(f"{value:.12g}" for value in row) for row in rows]
    path.write_text("\n".join([header, *lines]), encoding="utf-8")
    return path


CHANGED = "64@0,128@505"


def test_a_log_that_counts_tokens_shows_its_stages(tmp_path):
    path = logged(tmp_path / "a.csv", "step,tokens,loss,lr", lambda count, samples: (count, samples * 1024))
    (found,) = import_logs(path)
    assert found.curve.tokens_per_step == BatchStages((0, 505), (65536.0, 131072.0))
    assert "'tokens': the batch changes, 65536@0,131072@505 tokens an update" in found.notes
    with pytest.raises(ValueError, match="run 'a': 'tokens': the batch changes, 65536@0,131072@505 tokens an update; "):
        import_logs(path, tokens_per_step=65536)


def test_counters_may_lag_by_one_update(tmp_path):
    columns = lambda count, samples: (count - 10, samples - samples[0])  # noqa: E731
    path = logged(tmp_path / "a.csv", "step,tokens,loss,lr", columns)
    assert import_logs(path)[0].curve.tokens_per_step == BatchStages((0, 495), (64.0, 128.0))


def test_a_log_that_counts_samples_asks_for_tokens(tmp_path):
    path = tmp_path / "a.log"
    lines = logged(tmp_path / "a.csv", "step,consumed,loss,lr", lambda *of: of).read_text(encoding="utf-8").split()[1:]
    form = " iteration {:>8}/    1000 | consumed samples: {:>9} | lm loss: {} | learning rate: {} | loss scale: 1.0 |"
    path.write_text("\n".join(form.format(*line.split(",")) for line in lines), encoding="utf-8")
    (found,) = import_logs(path)
    assert found.curve.tokens_per_step is None
    assert f"'consumed samples': the batch changes, {CHANGED} samples an update; tokens_per_step takes" in str(
        found.notes
    )
    with pytest.raises(ValueError, match="tokens_per_step takes tokens in this form, got 65536"):
        import_logs(path, tokens_per_step=65536)
    (told,) = import_logs(path, tokens_per_step="65536@0,131072@505")
    assert told.curve.tokens_per_step == BatchStages((0, 505), (65536.0, 131072.0))


def test_steps_in_tokens_are_divided_by_the_batch_of_their_stage(tmp_path):
    path = logged(tmp_path / "a.csv", "tokens,loss,lr", lambda count, samples: (samples,))
    (found,) = import_logs(path, tokens_per_step=CHANGED)
    np.testing.assert_array_equal(found.curve.step, 10 * np.arange(1, 101) - 1)


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_counters_of_one_batch_or_of_few_digits_show_no_stages(tmp_path, digits):
    tokens = lambda count, samples: (count, [float(f"{64.0 * at:.{digits}g}") for at in count])  # noqa: E731
    path = logged(tmp_path / "a.csv", "step,tokens,loss,lr", tokens)
    assert import_logs(path)[0].curve.tokens_per_step is None
