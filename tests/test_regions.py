"""Choices of rate, batch and size for a budget: by hand on losses made up, and on runs of a known law end to end."""

import dataclasses
import functools
import json

import numpy as np
import pytest
from test_size_and_batch import BATCH, EXPONENTS, PLAIN, SIZE, TERMS, grid, run, truth

import fmjax
from fmjax import FitOptions, fit, report, search
from fmjax.cli.commands import run as cli
from fmjax.cli.regions import print_regions
from fmjax.curves.writing import write_runs
from fmjax.fitting.fitted_runs import FittedRuns
from fmjax.fitting.records import FitResult
from fmjax.planning.batch_growth import Growth, Way
from fmjax.planning.recommendation import Choice, Recommendation
from fmjax.planning.regions import AS_GOOD, region_of
from fmjax.planning.targets import Budget, Targets
from fmjax.plotting.recommendations import save_recommendation
from fmjax.report.regions import region_tables
from fmjax.schedules.kinds import WSD
from fmjax.searching.results import Cell

RATES, BATCHES = tuple(2e-3 * np.geomspace(0.25, 4.0, 9)), (1e5, 2e5, 4e5)


def a_loss(rate, batch, best=2e-3):
    return 3.0 + 0.02 * np.log(rate / best) ** 2 + 0.01 * np.log(batch / 1e5)


def made(budget=None, samples=0, seed=0, sizes=(1e8,)):
    """A region of a loss that is least at rate 2e-3 and the least batch, under samples that move the best rate."""
    budget = budget or Budget(total_tokens=1e9)
    places, count = [(rate, batch) for _ in sizes for batch in BATCHES for rate in RATES], 27 * len(sizes)
    cells = [
        Cell(
            int(1e9 / b),
            lr,
            "linear",
            0.0,
            0.25,
            a_loss(lr, b),
            (0.1, 0.4),
            False,
            tokens_per_step=b,
            model_size=sizes[i // 27],
        )
        for i, (lr, b) in enumerate(places)
    ]
    moved = np.exp(0.3 * np.random.default_rng(seed).standard_normal(samples))
    losses = np.array([[a_loss(lr, b, 2e-3 * m) for lr, b in places] for m in moved]).reshape(samples, count)
    return region_of(budget, list(range(count)), cells, losses, np.full((samples, count), 0.999)), losses


# ------------------------------------------------------------------------------------------------ regions


def test_the_best_and_what_is_as_good():
    region, losses = made(samples=500)
    best = region.points[region.best].cell
    assert (best.peak_lr, best.tokens_per_step) == pytest.approx((2e-3, 1e5))
    over = losses / losses[:, [region.best]] - 1
    for i, point in enumerate(region.points):
        assert point.excess == pytest.approx(point.cell.loss / 3.0 - 1)
        assert point.error == pytest.approx(np.std(over[:, i]))
        assert point.is_near == (point.excess <= max(AS_GOOD, point.error))
    assert 1 < len(region.near) < 27
    assert region.near[0].cell == best
    assert region.span("tokens_per_step")[0] == 1e5


def test_choices_outside_the_fitted_runs_are_counted():
    region, _ = made()
    said = "3 of 30 choices are not compared: rate or batch outside the fitted runs"
    assert not any("not compared" in note for note in region.notes)
    assert region._replace(not_compared=3).notes[-1] == f"{region.budget.named}: {said}"


def test_the_regret_is_against_the_best_of_each_sample():
    region, losses = made(samples=300)
    expected = np.mean([row[region.best] / (0.999 * row.min()) - 1 for row in losses])
    assert region.regret == pytest.approx(expected)
    low, high = region.intervals["peak_lr"]
    assert 2e-3 * np.exp(-0.3 * 1.645) == pytest.approx(low, rel=0.1)
    assert 2e-3 * np.exp(0.3 * 1.645) == pytest.approx(high, rel=0.1)
    assert "model_size" not in region.intervals


def test_without_samples_nothing_is_said_of_errors():
    region, _ = made()
    assert np.isnan(region.regret)
    assert region.intervals == {}
    near = sorted(point.cell.peak_lr for point in region.near)
    assert near == pytest.approx([2e-3 * 2**-0.5, 2e-3, 2e-3 * 2**0.5])
    assert json.loads(json.dumps(region.to_dict()))["regret"] is None


def test_a_larger_batch_costs_loss_and_saves_updates():
    region, _ = made(samples=50)
    assert [step.cell.tokens_per_step for step in region.batches] == list(BATCHES)
    assert [step.cell.peak_lr for step in region.batches] == pytest.approx([2e-3] * 3)
    assert [step.updates_saved for step in region.batches] == [0, 5000, 7500]
    assert [step.excess for step in region.batches] == pytest.approx([0.0, 0.01 / 3 * np.log(2), 0.01 / 3 * np.log(4)])
    assert region.sizes == ()
    assert made(Budget(total_steps=100))[0].batches == ()


def test_what_lies_at_the_edge_is_noted():
    assert made()[0].notes == ("1e+09 tokens: the best batch lies at the edge of those tried",)


# ------------------------------------------------------------------------------------------------ size for compute

COMPUTE, SIZES = 6e18, tuple(np.geomspace(2.5e7, 4e8, 9))


def loss_of_size(size, rate, best_size, best_rate=2e-3):
    return 3.0 + 0.05 * np.log(size / best_size) ** 2 + 0.02 * np.log(rate / best_rate) ** 2


def for_compute(best_size=1e8, spread=0.3, samples=400, sizes=SIZES):
    """A region over sizes and rates at equal compute, under samples that move the best size and rate; the losses."""
    budget, batch = Budget(flops=COMPUTE), 1e5
    places = [(size, rate) for size in sizes for rate in RATES]
    cells = [
        Cell(
            *(budget.updates(size, batch), rate, "linear", 0.0, 0.25, loss_of_size(size, rate, best_size)),
            *((0.1, 0.4), False),
            tokens_per_step=batch,
            model_size=size,
        )
        for size, rate in places
    ]
    moved = np.exp(spread * np.random.default_rng(3).standard_normal((samples, 2)))
    losses = np.array([[loss_of_size(*at, best_size * m, 2e-3 * k) for at in places] for m, k in moved])
    losses = losses.reshape(samples, len(places))
    return region_of(budget, list(range(len(places))), cells, losses, np.ones_like(losses)), losses


def best_size_of_each(losses, sizes=SIZES):
    """By a loop over samples and sizes: the least loss of each size, and the vertex of a parabola about the best."""
    found = []
    for sample in losses.reshape(len(losses), len(sizes), len(RATES)):
        least = [min(own) for own in sample]
        i = least.index(min(least))
        if i in (0, len(sizes) - 1):
            found.append(sizes[i])
        else:
            a, b, _ = np.polyfit(np.log(sizes[i - 1 : i + 2]) - np.log(sizes[i]), least[i - 1 : i + 2], 2)
            found.append(sizes[i] * np.exp(-b / (2 * a)))
    return np.array(found)


def test_size_and_tokens_for_compute_have_the_interval_of_a_loop_over_samples():
    region, losses = for_compute()
    sizes = best_size_of_each(losses)
    assert region.intervals["model_size"] == pytest.approx(np.quantile(sizes, [0.05, 0.95]), rel=1e-6)
    tokens = np.quantile(COMPUTE / 6 / sizes, [0.05, 0.95])
    assert region.intervals["total_tokens"] == pytest.approx(tokens, rel=5e-3)
    assert 1.5 < tokens[1] / tokens[0] < 4
    assert region.tokens == pytest.approx(1e10, rel=1e-4)  # C = 6 N D at N = 1e8
    record = json.loads(json.dumps(region.to_dict()))
    assert record["intervals"]["total_tokens"] == pytest.approx(tokens, rel=5e-3)
    assert (record["best_model_size"], record["best_tokens"]) == pytest.approx((1e8, 1e10), rel=1e-4)
    assert not any("model size" in note for note in region.notes)


def test_tokens_have_no_interval_where_no_size_is_chosen():
    assert "total_tokens" not in made(samples=50)[0].intervals
    assert "total_tokens" not in for_compute(samples=0)[0].intervals
    assert "total_tokens" not in for_compute(sizes=(1e8,))[0].intervals


@pytest.mark.parametrize(
    ("best_size", "said"),
    [
        (2e8, ["largest compared, 4e+08: larger ones may be as good"]),
        (5e7, ["smallest compared, 2.5e+07: smaller ones may be as good"]),
        (1e8, ["smallest compared", "largest compared"]),
    ],
)
def test_an_interval_that_reaches_the_end_of_the_sizes_is_noted(best_size, said):
    region, losses = for_compute(best_size, spread=0.6 if best_size != 1e8 else 1.5)
    notes = [note for note in region.notes if "interval" in note]
    assert len(notes) == len(said)
    for note, end in zip(notes, said, strict=True):
        assert note.startswith("6e+18 operations: the interval of the best model size reaches the")
        assert end in note
    sizes = best_size_of_each(losses)
    assert np.mean(sizes == SIZES[0]) > 0.05 or np.mean(sizes == SIZES[-1]) > 0.05


def test_a_best_size_at_the_edge_is_noted_once():
    region, _ = for_compute(best_size=4e8)
    (note,) = [note for note in region.notes if "model size" in note]
    assert note == "6e+18 operations: the best model size lies at the edge of those tried"


# ------------------------------------------------------------------------------------------------ targets


def runs_of(sizes=(1e7, 4e7), batches=(5e4, 2e5)):
    return FittedRuns.of(grid(sizes=sizes, batches=batches, peaks=(1e-3,)))


def targets(runs=None, **told):
    asked = {"total_steps": None, "total_tokens": None, "flops": None, "model_size": None, "tokens_per_step": None}
    return Targets.of(runs or runs_of(), **{**asked, **told})


def test_updates_follow_from_tokens_and_batch():
    found = targets(total_tokens=[1e8, 2e8], tokens_per_step=[5e4, 3e5], model_size=[1e7, 2e7])
    assert len(found.budgets) == 4
    assert [one.total_steps for one in found.each] == [2000, 333, 4000, 667] * 2
    assert [one.model_size for one in found.each] == [1e7] * 4 + [2e7] * 4
    assert found.joint
    assert not targets(total_steps=100, model_size=1e7, tokens_per_step=1e5).joint


def test_tokens_follow_from_compute_and_size():
    found = targets(flops=6e16, tokens_per_step=1e5, model_size=[1e7, 4e7])
    assert len(found.budgets) == 1
    assert [one.total_steps for one in found.each] == [10_000, 2500]  # 6 N D = C
    sizes = [one.model_size for one in targets(flops=6e16, tokens_per_step=1e5).each]
    assert (sizes[0], sizes[-1]) == pytest.approx((0.5e7, 16e7))


def test_the_only_batch_of_the_runs_is_taken():
    assert targets(runs_of(batches=(1e5,)), total_tokens=1e8, model_size=1e7).each[0].total_steps == 1000


@pytest.mark.parametrize(
    ("runs", "told", "said"),
    [
        (None, {}, "expected one of total_steps, total_tokens and flops, found none"),
        (None, {"total_steps": 9, "flops": 1e16}, "found total_steps and flops"),
        (None, {"total_tokens": 1e8}, "tokens_per_step is needed"),
        (None, {"total_tokens": -1e8, "tokens_per_step": 1e5}, "total_tokens: expected a number above zero"),
        (None, {"total_steps": 9.5}, "total_steps: expected a whole number >= 1, got 9.5"),
        ((None,), {"total_steps": 9, "tokens_per_step": [1e5, 2e5]}, r"every run needs one; 4 of 4 have none"),
        (
            (1e5,),
            {"total_steps": 9, "tokens_per_step": [1e5, 2e5]},
            "the runs need several; all fitted runs have one, 100",
        ),
    ],
)
def test_what_the_runs_say_nothing_about_is_refused(runs, told, said):
    fitted = None
    if runs is not None:
        fitted = FittedRuns.of([dataclasses.replace(one, tokens_per_step=runs[0]) for one in grid(peaks=(1e-3,))][:4])
    with pytest.raises(ValueError, match=said):
        targets(fitted, **told)


@pytest.mark.parametrize("told", [{"total_steps": 9, "model_size": [1e7, 2e7]}, {"flops": 1e16}])
def test_one_size_is_not_chosen_among(told):
    with pytest.raises(ValueError, match="the fitted runs have one size, so the law has no size in it"):
        targets(runs_of(sizes=(1e7,)), tokens_per_step=1e5, **told)


# ------------------------------------------------------------------------------------------------ searches


@functools.cache
def known_fit():
    """A fit that has the parameters of the simulation, without fitting."""
    law = dataclasses.replace(PLAIN, xi=EXPONENTS["xi"], sizes=True, batches=True, size_unit=SIZE, batch_unit=BATCH)
    params = {name: {**TERMS, **EXPONENTS}.get(name, 0.0) for name in law.parameter_names}
    record = json.loads(fit("chinchilla", grid()[:4], starts=1).to_json())
    nothing = {"undetermined": [], "at_bound": [], "reach": None, "trained_with": None, "prior": []}
    record |= {**nothing, "law": law.name, "options": law.options(), "params": params, "status": "converged"}
    return FitResult.from_json(json.dumps(record))


def test_a_search_has_sizes_batches_and_tokens_as_axes():
    axes = {"model_size": [1e7, 4e7], "tokens_per_step": [5e4, 2e5], "total_tokens": [4e7, 8e7]}
    found = search(known_fit(), **axes, peak_lr=[1e-3, 3e-3], anneal_ratio=[0.2, 0.5], warmup_steps=30, final_lr=0.0)
    assert len(found.cells) == 16
    for cell in found.cells:
        assert cell.total_steps * cell.tokens_per_step in (4e7, 8e7)
        schedule = WSD(cell.peak_lr, cell.total_steps, cell.best_ratio, warmup_steps=30)
        expected = truth(schedule, cell.model_size / SIZE, cell.tokens_per_step / BATCH)[-1]
        assert cell.loss == pytest.approx(expected, rel=1e-6)
    assert found.top[0].loss == min(cell.loss for cell in found.cells)
    assert found.top[0].model_size == min(found.cells, key=lambda cell: cell.loss).model_size


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({}, "either total_steps or total_tokens, found neither"),
        ({"total_steps": 9, "total_tokens": 1e6}, "either total_steps or total_tokens, found both"),
        ({"total_tokens": 1e6}, "total_tokens needs tokens_per_step"),
        ({"total_steps": 9, "tokens_per_step": [1e5, 0.0]}, "tokens_per_step: expected a number above zero, got 0.0"),
    ],
)
def test_axes_are_checked(told, said):
    with pytest.raises(ValueError, match=said):
        search(known_fit(), peak_lr=1e-3, model_size=1e7, **told)


# ------------------------------------------------------------------------------------------------ what is shown


def shown(region=None):
    """A recommendation around a region made up."""
    region = made(samples=50)[0] if region is None else region
    result = known_fit()
    ratios = np.array([0.1, 0.25, 0.4])
    choices = tuple(
        Choice(
            point.cell._replace(loss_interval=(2.9, 3.1), outside=("total_steps",)),
            *(np.full(3, point.cell.loss), 0.25, 1e-3, point.cell.schedule(), result, False, True, (), 50, ("a note",)),
        )
        for point in region.points
    )
    return Recommendation(10_000, ratios, choices, regions=(region,))


def test_the_answer_is_printed_with_its_anneal_in_updates(capsys):
    ways = [Way(name, 10_000, 1e5, 0.25, 3.0, 0.0, (0.0, 0.001), 0) for name in ("falling rate", "both")]
    print_regions(dataclasses.replace(shown(), growths=(Growth(1e9, 2e-3, tuple(ways), ("a caveat",)),)), trade=True)
    out = capsys.readouterr().out
    assert "1e+05 tokens an update, peak rate 0.002, 10000 updates, the last 2500 (25 %) annealing" in out
    assert "what a batch costs at equal tokens" in out
    assert "+5000" in out
    assert "1e+09 tokens at peak rate 0.002: a falling rate, a growing batch, or both" in out
    assert "note: a caveat" in out
    assert "optax" in out


def test_size_and_tokens_for_compute_are_shown_with_their_intervals(capsys):
    region = for_compute(2e8, spread=0.6)[0]
    print_regions(shown(region), trade=False)
    out = " ".join(capsys.readouterr().out.split())
    (low, high), (few, many) = region.intervals["model_size"], region.intervals["total_tokens"]
    said = f"of 2e+08 parameters ({low:.2g} ... {high:.2g}) on 5e+09 tokens ({few:.2g} ... {many:.2g})"
    assert said in out
    assert "larger ones may be as good" in out
    page = report.recommendation_page(shown(region), ())
    assert f"{few:.3g} … {many:.3g}" in page
    assert "larger ones may be as good" in page


def test_a_page_has_a_growing_batch_beside_the_falling_rate():
    ways = [
        Way("falling rate", 10_000, 1e5, 0.25, 3.0, 0.0, (0.0, 0.0), 0),
        Way("growing batch", 7500, 2e5, 0.0, 3.03, 0.01, (0.008, 0.012), 2500),
    ]
    found = dataclasses.replace(shown(), growths=(Growth(1e9, 2e-3, tuple(ways), ("a caveat",)),))
    page = "".join(region_tables(found))
    for told in ("a falling rate, a growing batch, or both", "+2500", "constant", "+0.80 ... +1.20", "a caveat."):
        assert told in page
    assert "a growing batch" not in "".join(region_tables(shown()))


def test_json_has_regions_and_one_fit():
    record = json.loads(shown().to_json())
    (region,) = record["regions"]
    best = record["choices"][region["best"]]
    assert record["best"] == region["best"]
    assert (best["tokens_per_step"], best["anneal_steps"]) == (1e5, 2500)
    assert "fitted" in best
    assert "fitted" not in record["choices"][region["best"] + 1]
    assert [step["updates_saved"] for step in region["batches"]] == [0, 5000, 7500]


def test_pictures_and_pages_show_regions(tmp_path):
    save_recommendation(shown(), (), tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 10_000
    page = report.recommendation_page(shown(), ())
    assert "Predicted loss over peak rate and batch" in page
    assert "what a batch costs at equal tokens" in page


def test_trade_needs_equal_tokens_and_several_batches(tmp_path, capsys):
    assert cli(["recommend", str(tmp_path), "--total-steps", "9", "--peak-lr", "1e-3", "--trade"]) == 2
    assert "--trade: needs --total-tokens, and several --tokens-per-step" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ end to end

PEAKS = (1e-3, 4e-3, 1.6e-2)
RATIOS = np.linspace(0.1, 1.0, 10)


@pytest.fixture(scope="module")
def swept():
    """Runs of a known law over size, batch, rate, length and ratio."""
    places = [(n, b, lr) for n in (1e7, 4e7) for b in (5e4, 2e5) for lr in PEAKS]
    curves = [
        run(WSD(lr, steps, ratio, warmup_steps=30), n, b, 1e-4, seed)
        for seed, (n, b, lr) in enumerate(places)
        for steps, ratio in ((400, 0.2), (800, 0.5))
    ]
    return [dataclasses.replace(curve, name=f"run-{i}") for i, curve in enumerate(curves)]


def true_best(cell):
    """Least loss over the ratios, by the definition."""
    shapes = (WSD(cell.peak_lr, cell.total_steps, ratio, warmup_steps=30) for ratio in RATIOS)
    return min(truth(shape, cell.model_size / SIZE, cell.tokens_per_step / BATCH)[-1] for shape in shapes)


PLAN = {
    "peak_lr": np.geomspace(1e-3, 1.6e-2, 5),
    "anneal_ratio": RATIOS,
    "samples": 20,
    "options": FitOptions(starts=1),
}


@pytest.mark.slow
def test_rate_batch_and_ratio_are_the_true_ones(swept):
    plan = {"model_size": 2e7, "total_tokens": 4e7, "tokens_per_step": np.geomspace(5e4, 2e5, 5)}
    found = fmjax.recommend(swept, law=PLAIN, **plan, **PLAN)
    (region,) = found.regions
    real = {point.choice: true_best(point.cell) for point in region.points}
    assert real[region.points[region.best].choice] / min(real.values()) - 1 < 5e-4
    for point in region.points:
        assert point.cell.loss == pytest.approx(real[point.choice], rel=5e-3)
    assert min(real, key=real.get) in [point.choice for point in region.near]
    for step in region.batches:
        cost = real[step.choice] / real[region.points[region.best].choice] - 1
        assert step.excess == pytest.approx(cost, abs=2e-3)


@pytest.mark.slow
def test_size_and_tokens_for_compute_are_the_true_ones(swept):
    sizes = np.geomspace(5e6, 8e7, 9)
    plan = {"flops": 6 * 2e7 * 6e7, "tokens_per_step": 1e5, "model_size": sizes}
    found = fmjax.recommend(swept, law=PLAIN, **plan, **{**PLAN, "peak_lr": [4e-3, 8e-3, 1.6e-2]})
    (region,) = found.regions
    real = {step.cell.model_size: true_best(step.cell) for step in region.sizes}
    best = region.points[region.best].cell
    assert real[best.model_size] / min(real.values()) - 1 < 1e-3
    assert best.total_steps == round(6e7 * 2e7 / best.model_size / 1e5)
    low, high = region.intervals["model_size"]
    assert low < 2 * best.model_size
    assert high > best.model_size / 2
    assert region.intervals["total_tokens"] == pytest.approx((2e7 * 6e7 / high, 2e7 * 6e7 / low))


@pytest.mark.slow
def test_the_command_line_plans_all_together(swept, tmp_path, capsys):
    write_runs(swept, tmp_path / "runs")
    words = ["recommend", str(tmp_path / "runs"), "--law", "intrinsic-momentum", "--law-option", "rho=1"]
    words += [
        "--model-size",
        "2e7",
        "--total-tokens",
        "4e7",
        "--peak-lr",
        "2e-3:1.6e-2:4",
        "--anneal-ratio",
        "0.1:1:10",
    ]
    batches = ["--tokens-per-step", "5e4:2e5:3", "--trade"]
    assert cli([*words, *batches, "--json", "--plot", str(tmp_path / "map.png")]) == 0
    record = json.loads(capsys.readouterr().out)
    assert {"peak_lr", "tokens_per_step", "anneal_steps", "loss_interval"} <= set(record["choices"][record["best"]])
    assert len(record["regions"][0]["batches"]) == 3
    assert len(record["growths"]) == 1 or any("no growing batch is compared" in note for note in record["notes"])
    assert (tmp_path / "map.png").stat().st_size > 10_000
