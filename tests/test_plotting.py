"""Pictures: what is drawn on which axes, and the file that is written."""

import dataclasses
import itertools
import sys
from dataclasses import replace
from functools import cached_property

import matplotlib as mpl
import numpy as np
import pytest
import synthetic
from synthetic import DECAY, cells, rates, runs, schedules
from test_regions import made

from fmjax import plotting
from fmjax.effects.recursions import annealing_momentum
from fmjax.fitting.fits import fit, predict
from fmjax.fitting.records import Evaluation
from fmjax.fitting.resampling import Bootstrap
from fmjax.laws import LRAnnealing
from fmjax.planning.forecasts import Forecast, Outlook
from fmjax.planning.predictor import Prediction
from fmjax.planning.recommendation import Choice, Recommendation
from fmjax.planning.targets import Budget
from fmjax.scaling.optima import optima, tried
from fmjax.scaling.power_laws import power_law
from fmjax.scaling.transfers import CellTransfer, Transfer
from fmjax.schedules.kinds import WSD
from fmjax.searching import sweeps as sweep
from fmjax.searching.designs import Design, Designs
from fmjax.searching.results import NEAR, Cell, SearchResult

mpl.use("Agg")
from matplotlib import colors, image, pyplot

RATIOS = np.linspace(0.05, 0.95, 19)
PEAKS = (5e-4, 1e-3, 2e-3)


def final_losses(total_steps, peak_lr, decay, ratios=RATIOS):
    """Losses that fall with updates and have their least at a ratio that grows with the peak rate."""
    best = 0.3 + 0.15 * np.log2(peak_lr / 1e-3) + 0.1 * (decay == "1-sqrt")
    return 3.0 - 0.1 * np.log(total_steps / 400) + 0.02 * np.log(peak_lr / 1e-3) ** 2 + 0.2 * (ratios - best) ** 2


def cell(total_steps, peak_lr, decay, losses, ratios=RATIOS, *, bars):
    """What a search makes of losses."""
    best, near = int(np.argmin(losses)), ratios[losses <= losses.min() + NEAR]
    ratio, loss = float(ratios[best]), float(losses[best])
    intervals = ((ratio - 0.02, ratio + 0.03), (loss - 0.01, loss + 0.02)) if bars else (None, None)
    edge = best in (0, ratios.size - 1)
    return Cell(total_steps, peak_lr, decay, 0.0, ratio, loss, (near[0], near[-1]), edge, *intervals)


def searched(*, total_steps=(400,), peak_lr=PEAKS, decay=("linear",), ratios=RATIOS, bars=False):
    grid = list(itertools.product(total_steps, peak_lr, decay))
    losses = np.array([final_losses(*fixed, ratios) for fixed in grid])
    found = [cell(*fixed, row, ratios, bars=bars) for fixed, row in zip(grid, losses, strict=True)]
    return SearchResult(found, ratios, (), losses)


class Data:
    """What is drawn, each made when first asked for."""

    schedules = schedules()
    peaks = searched(decay=("linear", "1-sqrt"))
    lengths = searched(peak_lr=(1e-3,), total_steps=(200, 400), bars=True)

    @cached_property
    def curves(self):
        rng = np.random.default_rng(0)
        return tuple(replace(run, loss=run.loss * np.exp(1e-3 * rng.normal(size=run.loss.size))) for run in runs())

    @cached_property
    def run(self):
        return self.curves[2]

    @cached_property
    def fit(self):
        return fit(LRAnnealing(decay=DECAY), self.curves, starts=2)

    @cached_property
    def boot(self):
        draws = np.random.default_rng(0).normal(self.fit.vector, 0.02, (40, 4))
        return Bootstrap(self.fit, draws, 0, "noise")

    @cached_property
    def evaluations(self):
        runs, trained = self.fit.runs, tuple(curve.name for curve in self.curves[:3])
        doubled = [run._replace(mape_percent=2 * run.mape_percent) for run in runs]
        return [Evaluation(self.fit, runs, trained), Evaluation(self.fit, tuple(doubled), trained)]

    def recommended(self, peaks):
        found = searched(peak_lr=peaks, bars=True)
        nothing = {"law_ratio": 0.5, "regret": 0.0, "per_rate": False, "held_out": (), "samples": 20, "notes": ()}
        made = {"fit": self.fit, "known_rate": True, **nothing}
        pairs = zip(found.cells, found.losses, strict=True)
        choices = [Choice(cell=cell, losses=losses, schedule=cell.schedule(20), **made) for cell, losses in pairs]
        return Recommendation(400, found.anneal_ratio, tuple(choices))

    @cached_property
    def two(self):
        return self.recommended(PEAKS[1:])

    @cached_property
    def three(self):
        return self.recommended(PEAKS)

    @cached_property
    def moved(self):
        groups = tried(cells(peak_lrs=(1e-3,), lengths=(300, 400), ratios=(0.1, 0.3, 0.6, 0.8)))
        rows, ratios = [], np.array(sweep.SEARCHED_RATIOS)
        for group, measured in zip(groups, optima(groups), strict=True):
            losses = final_losses(group.total_steps, 1e-3, "linear", ratios)
            guess = cell(group.total_steps, 1e-3, "linear", losses, ratios, bars=False)
            rows.append(
                CellTransfer(group, measured, Prediction(guess, losses, 0.3, 0.0, None, None), None, None, None)
            )
        points = [(row.measured.ratio, row.measured.interval) for row in rows]
        law = power_law([{"total_steps": group.total_steps} for group in groups], points)
        return Transfer(tuple(rows), law, None, (), None, ())

    @cached_property
    def designs(self):
        loss = {"loss": 2.9, "cosine_loss": 3.1, "cosine_tenth_loss": 3.2, "constant_loss": 3.3}
        knots = {"steps": np.array([0, 20, 200, 299]), "rates": np.array([0.0, 1e-3, 9e-4, 0.0]), "warmup_steps": 20}
        wsd = searched(total_steps=(300,), peak_lr=(1e-3,)).cells[0]
        rest = {"wsd": wsd, "status": "converged", "iterations": 1, "notes": ()}
        design = Design(total_steps=300, peak_lr=1e-3, **loss, **knots, **rest)
        return Designs(self.fit.law, (design, design._replace(loss=2.8)))

    @cached_property
    def forecast(self):
        planned = Outlook("planned", self.run.schedule, 3.2, (3.15, 3.3), 0.0, (0.0, 0.0))
        longer = Outlook("longer", WSD(1e-3, 440, 0.5, warmup_steps=20), 3.1, (3.0, 3.2), -0.03, (-0.05, -0.02))
        sooner = Outlook("sooner", WSD(1e-3, 400, 0.5, warmup_steps=20), 3.25, (3.2, 3.4), 0.02, (-0.01, 0.03))
        return Forecast(self.run.name, 200, self.fit, planned, (longer, sooner), 0.9, ())


DATA = Data()
REGION = made(samples=20)[0]
SIZED = made(Budget(flops=1e18), samples=20, sizes=(1e8, 2e8))[0]

DRAWN = {
    "annealing_momenta": lambda: (DATA.schedules,),
    "best_against_size": lambda: ((REGION, SIZED), "peak_lr"),
    "best_losses": lambda: (DATA.peaks,),
    "best_ratios": lambda: (DATA.peaks,),
    "bootstrap_cloud": lambda: (DATA.boot, "L0", "A"),
    "bootstrap_histogram": lambda: (DATA.boot, "C"),
    "changes_from_planned": lambda: (DATA.forecast,),
    "curves_and_fits": lambda: (DATA.fit, DATA.curves),
    "errors_by_run": lambda: (DATA.evaluations,),
    "excess_against_ratio": lambda: (DATA.two,),
    "forecast_of": lambda: (DATA.forecast, DATA.run),
    "forward_effects": lambda: (DATA.schedules,),
    "heat_map": lambda: (PEAKS, RATIOS, DATA.peaks.losses[::2]),
    "loss_against_batch": lambda: (REGION,),
    "loss_against_ratio": lambda: (DATA.two,),
    "loss_against_size": lambda: ((SIZED,),),
    "loss_over_rate_and_batch": lambda: (REGION,),
    "losses_by_rate_and_ratio": lambda: (DATA.peaks,),
    "optima_against": lambda: (DATA.moved, "total_steps"),
    "rates": lambda: (DATA.schedules,),
    "rates_of_design": lambda: (DATA.designs.best,),
    "regret_against_ratio": lambda: (DATA.moved.cells,),
    "residuals": lambda: (DATA.evaluations[0], DATA.curves),
    "residuals_of_fit": lambda: (DATA.fit, DATA.curves),
}
SAVED = {
    "save_bootstrap": lambda: (DATA.boot,),
    "save_designs": lambda: (DATA.designs,),
    "save_evaluations": lambda: (DATA.evaluations, DATA.curves),
    "save_fit": lambda: (DATA.fit, DATA.curves),
    "save_forecast": lambda: (DATA.forecast, DATA.run),
    "save_recommendation": lambda: (DATA.three, DATA.curves),
    "save_schedules": lambda: (DATA.schedules,),
    "save_search": lambda: (DATA.peaks,),
    "save_transfer": lambda: (DATA.moved,),
}


@pytest.fixture
def ax():
    figure, ax = pyplot.subplots()
    yield ax
    pyplot.close(figure)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that would be written."""
    figures = []
    monkeypatch.setattr(mpl.figure.Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    return figures


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def lines_like(ax, marker):
    return [line for line in ax.lines if line.get_marker() == marker]


# ---------------------------------------------------------------------------------------------------------- all of them


def test_every_picture_is_tested():
    functions = {name for name in plotting.__all__ if callable(getattr(plotting, name))}
    assert functions - {"bootstrap_clouds"} == {*DRAWN, *SAVED}


@pytest.mark.parametrize("name", DRAWN)
def test_draws_on_given_axes(name, ax):
    before = pyplot.get_fignums()
    assert getattr(plotting, name)(*DRAWN[name](), ax) is ax
    assert ax.has_data()
    assert ax.get_xlabel()
    assert ax.get_ylabel() or name in ("changes_from_planned", "errors_by_run")
    assert pyplot.get_fignums() == before


@pytest.mark.parametrize("name", DRAWN)
def test_makes_axes_in_the_house_style(name):
    before, style = pyplot.get_fignums(), dict(mpl.rcParams)
    ax = getattr(plotting, name)(*DRAWN[name]())
    assert ax.has_data()
    assert not ax.spines["top"].get_visible()
    assert dict(mpl.rcParams) == style
    pyplot.close(ax.figure)
    assert pyplot.get_fignums() == before


@pytest.mark.parametrize("name", SAVED)
def test_a_whole_picture_is_written(name, tmp_path):
    before, style = pyplot.get_fignums(), dict(mpl.rcParams)
    getattr(plotting, name)(*SAVED[name](), tmp_path / "a.png")
    height, width, _ = image.imread(tmp_path / "a.png").shape
    assert min(width, height) > 300
    assert pyplot.get_fignums() == before
    assert dict(mpl.rcParams) == style


def test_other_kinds_of_files(tmp_path):
    plotting.save_schedules(DATA.schedules, tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_bytes().startswith(b"<?xml")


def test_a_picture_that_cannot_be_written_leaves_no_figure_open(tmp_path):
    before, style = pyplot.get_fignums(), dict(mpl.rcParams)
    with pytest.raises(ValueError, match="not supported"):
        plotting.save_schedules(DATA.schedules, tmp_path / "a.xyz")
    assert not list(tmp_path.iterdir())
    assert pyplot.get_fignums() == before
    assert dict(mpl.rcParams) == style


@pytest.mark.parametrize("name", [*DRAWN, *SAVED])
def test_without_matplotlib(name, tmp_path, monkeypatch):
    arguments = DRAWN[name]() if name in DRAWN else (*SAVED[name](), tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"pip install 'fmjax\[plots\]'"):
        getattr(plotting, name)(*arguments)


# ----------------------------------------------------------------------------------------------------------------- fits


def test_curves_and_fits(ax):
    plotting.curves_and_fits(DATA.fit, DATA.curves, ax)
    ranked = sorted(DATA.curves, key=lambda curve: curve.final_loss_measured)
    assert labels(ax) == [curve.name for curve in ranked]
    for curve, dots, line in zip(ranked, ax.lines[::2], ax.lines[1::2], strict=True):
        np.testing.assert_array_equal(dots.get_xydata().T, [curve.step, curve.loss])
        np.testing.assert_allclose(line.get_ydata(), predict(DATA.fit, [curve])[0], rtol=1e-10)
        assert dots.get_color() == line.get_color()
    late = np.concatenate([curve.loss[curve.step >= 0.08 * curve.step[-1]] for curve in DATA.curves])
    low, high = ax.get_ylim()
    assert low < late.min() < late.max() < high


@pytest.mark.parametrize("most", [1, 2])
def test_at_most_so_many_curves(ax, most):
    plotting.curves_and_fits(DATA.fit, DATA.curves, ax, most=most)
    assert len(ax.lines) == 2 * most


def test_residuals_below_the_curves(drawn, tmp_path):
    plotting.save_fit(DATA.fit, DATA.curves, tmp_path / "a.png")
    upper, lower = drawn[0].axes
    assert upper.get_xlim() == lower.get_xlim()
    low, high = lower.get_ylim()
    for dots, line, error in zip(upper.lines[::2], upper.lines[1::2], lower.lines, strict=False):
        percent = 100 * (line.get_ydata() / dots.get_ydata() - 1)
        np.testing.assert_allclose(error.get_ydata(), percent, rtol=1e-9)
        assert error.get_color() == line.get_color()
        assert low < percent[5:].min() < percent[5:].max() < high == -low


def test_errors_by_run(ax):
    plotting.errors_by_run(DATA.evaluations, ax)
    for evaluation, dots in zip(DATA.evaluations, ax.lines, strict=False):
        assert dots.get_xdata().tolist() == [run.mape_percent for run in evaluation.runs]
    ticks = [text.get_text() for text in ax.get_yticklabels()]
    assert ticks == [f"{run.name} (fitted)" for run in DATA.curves[:3]] + [DATA.curves[3].name]
    assert labels(ax) == [evaluation.fit.law.name for evaluation in DATA.evaluations]


def test_residuals(ax):
    plotting.residuals(DATA.evaluations[0], DATA.curves, ax)
    unseen = ax.lines[3].get_ydata()
    assert np.mean(np.abs(unseen)) == pytest.approx(DATA.evaluations[0].runs[3].mape_percent, rel=1e-9)
    assert ax.lines[3].get_color() != ax.lines[0].get_color()


def test_noise_that_runs_share_is_a_line_of_its_own(ax):
    step, rng = np.arange(20, 400, 2), np.random.default_rng(0)
    shared = 0.01 * rng.standard_normal(step.size)
    clean = [
        synthetic.curve(f"run-{i}", WSD(1e-3, 400, 0.1 + 0.2 * i, warmup_steps=20), rows=step.size) for i in range(4)
    ]
    noisy = [replace(run, loss=run.loss * np.exp(shared)) for run in clean]
    found = fit(LRAnnealing(decay=DECAY), noisy, starts=2)
    plotting.residuals(Evaluation(found, found.runs, tuple(run.name for run in noisy[:3])), noisy, ax)
    *errors, line = ax.lines[:5]
    assert line.get_label() == "shared noise"
    assert np.corrcoef(line.get_ydata(), -shared[: len(line.get_ydata())])[0, 1] > 0.95
    assert all(np.std(error.get_ydata()) < 0.5 * 100 * np.std(shared) for error in errors)


@pytest.mark.parametrize("count", [2, 4])
def test_unseen_runs_are_named_once(drawn, tmp_path, count):
    plotting.save_evaluations(2 * DATA.evaluations[: count // 2], DATA.curves, tmp_path / "a.png")
    (figure,), unseen = drawn, DATA.curves[3].name
    shown = [*figure.legends, *(ax.get_legend() for ax in figure.axes if not ax.axison)]
    assert [text.get_text() for one in shown if one is not None for text in one.get_texts()] == [unseen]


# ----------------------------------------------------------------------------------------------- recommendation, search


def test_loss_against_ratio(ax):
    plotting.loss_against_ratio(DATA.two, ax)
    assert labels(ax) == ["peak 0.001, linear", "peak 0.002, linear"]
    low, high = ax.get_ylim()
    drawn = zip(DATA.two.choices, ax.lines[::3], ax.lines[1::3], ax.lines[2::3], strict=True)
    for choice, line, mark, bar in drawn:
        np.testing.assert_array_equal(line.get_ydata(), choice.losses)
        assert mark.get_xydata().tolist() == [[choice.cell.best_ratio, choice.cell.loss]]
        assert bar.get_xydata().tolist() == [[end, choice.cell.loss] for end in choice.cell.ratio_interval]
        assert bar.get_marker() == "|"
        assert low < choice.cell.loss
    assert high < max(choice.losses.max() for choice in DATA.two.choices)


def test_excess_against_ratio(ax):
    plotting.excess_against_ratio(DATA.two, ax)
    curves = [line for line in ax.lines if line.get_xdata() is not None and len(line.get_xdata()) == RATIOS.size]
    for choice, line, bar in zip(DATA.two.choices, curves, lines_like(ax, "|"), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), choice.losses - choice.losses.min())
        assert tuple(bar.get_xdata()) == choice.cell.ratio_interval
        assert max(bar.get_ydata()) < 0
    assert ax.lines[-1].get_ydata() == [NEAR, NEAR]
    assert [text.get_text() for text in ax.get_yticklabels()][:3] == ["0", "0.001", "0.01"]


def test_without_samples_there_are_no_bars(ax):
    bare = [choice._replace(cell=choice.cell._replace(ratio_interval=None)) for choice in DATA.two.choices]
    plotting.loss_against_ratio(dataclasses.replace(DATA.two, choices=tuple(bare)), ax)
    assert not lines_like(ax, "|")


@pytest.mark.parametrize("peaks", [2, 3])
def test_a_recommendation_for_several_peak_rates_has_a_map(drawn, tmp_path, peaks):
    plotting.save_recommendation(DATA.two if peaks == 2 else DATA.three, DATA.curves, tmp_path / "a.png")
    assert [ax.get_xlabel() for ax in drawn[0].axes].count("peak learning rate") == peaks - 2
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()][-1] == "peak 0.002, linear"


@pytest.mark.filterwarnings("error")
def test_one_ratio_has_no_map(drawn, tmp_path):
    choices = [choice._replace(losses=choice.losses[:1]) for choice in DATA.three.choices]
    one = dataclasses.replace(DATA.three, anneal_ratio=RATIOS[:1], choices=tuple(choices))
    plotting.save_recommendation(one, DATA.curves, tmp_path / "a.png")
    assert len(drawn[0].axes) == 3


def test_heat_map(ax):
    losses = 3 + np.add.outer([0.2, 0.0, 0.1], (RATIOS - 0.4) ** 2)
    losses[2] = 3.1 + (RATIOS - 0.7) ** 2
    plotting.heat_map(PEAKS, RATIOS, losses, ax)
    np.testing.assert_allclose(ax.collections[0].get_array().reshape(19, 3), losses.T - losses.min())
    corners = ax.collections[0].get_coordinates()
    np.testing.assert_allclose(corners[0, :, 0], [2.5e-4 * 2**0.5 * 2**k for k in range(4)])
    np.testing.assert_allclose(corners[:, 0, 1], np.linspace(0.025, 0.975, 20))
    ridge, (star,) = ax.lines[1], lines_like(ax, "*")
    np.testing.assert_allclose(ridge.get_xydata(), [(5e-4, 0.4), (1e-3, 0.4), (2e-3, 0.7)])
    np.testing.assert_allclose(star.get_xydata(), [(1e-3, 0.4)])
    assert ax.get_xscale() == "log"
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0.0005", "0.001", "0.002"]
    assert ax.figure.axes[1].get_ylabel() == "loss above the best"


@pytest.mark.parametrize("what", ["search", "recommendation"])
def test_map_of_a_search_or_recommendation(ax, what):
    found = DATA.peaks if what == "search" else DATA.three
    plotting.losses_by_rate_and_ratio(found, ax)
    everything = [choice.cell for choice in found.choices] if what == "recommendation" else found.cells
    best = min(everything, key=lambda cell: cell.loss)
    alike = [cell for cell in everything if cell.decay == best.decay]
    assert ax.lines[1].get_xydata().tolist() == [[cell.peak_lr, cell.best_ratio] for cell in alike]
    assert lines_like(ax, "*")[0].get_xydata().tolist() == [[best.peak_lr, best.best_ratio]]
    assert best.decay in ax.get_title(loc="left")


def test_what_cannot_be_mapped():
    with pytest.raises(ValueError, match="keep_losses=True"):
        plotting.losses_by_rate_and_ratio(dataclasses.replace(DATA.peaks, losses=None))
    with pytest.raises(ValueError, match=r"two peak rates and two ratios, got losses of shape \(1, 19\)"):
        plotting.heat_map([1e-3], RATIOS, np.ones((1, 19)))


@pytest.mark.parametrize("field", ["best_ratio", "loss"])
def test_best_against_peak_rate(ax, field):
    draw = plotting.best_ratios if field == "best_ratio" else plotting.best_losses
    draw(DATA.peaks, ax)
    assert labels(ax) == ["linear", "1-sqrt"]
    assert ax.get_xlabel() == "peak learning rate"
    for decay, line in zip(labels(ax), ax.lines[::2], strict=True):
        cells = [cell for cell in DATA.peaks.cells if cell.decay == decay]
        assert line.get_xydata().tolist() == [[cell.peak_lr, getattr(cell, field)] for cell in cells]


def test_near_optimal_ratios_are_shaded(ax):
    plotting.best_ratios(DATA.peaks, ax)
    cells = [cell for cell in DATA.peaks.cells if cell.decay == "linear"]
    corners = ax.collections[0].get_paths()[0].vertices
    for cell in cells:
        assert {(cell.peak_lr, end) for end in cell.interval} <= {tuple(corner) for corner in corners}


def test_ratios_at_the_edge_are_open_circles(ax):
    found = searched(ratios=np.array([0.9, 0.95]))
    plotting.best_ratios(found, ax)
    assert [cell.at_edge for cell in found.cells] == [True] * 3
    assert ax.lines[1].get_xydata().tolist() == [[cell.peak_lr, cell.best_ratio] for cell in found.cells]
    assert colors.same_color(ax.lines[1].get_markerfacecolor(), "white")


@pytest.mark.parametrize("field", ["ratio", "loss"])
def test_one_peak_rate_is_drawn_against_updates_with_bars(ax, field):
    draw = plotting.best_ratios if field == "ratio" else plotting.best_losses
    draw(DATA.lengths, ax)
    assert ax.get_xlabel() == "updates"
    assert ax.lines[0].get_xdata().tolist() == [200, 400]
    ends = [[tuple(end) for end in bar] for bar in ax.collections[-1].get_segments()]
    intervals = [(cell.total_steps, getattr(cell, f"{field}_interval")) for cell in DATA.lengths.cells]
    assert ends == [[(at, interval[0]), (at, interval[1])] for at, interval in intervals]


def test_one_schedule_and_at_most_so_many_lines(ax):
    plotting.best_ratios(searched(peak_lr=(1e-3,)), ax)
    assert ax.get_legend() is None
    low, high = ax.get_xlim()
    assert low < 400 < high
    ax.clear()
    plotting.best_ratios(searched(total_steps=(200, 250, 300, 350, 400)), ax, most=3)
    assert labels(ax) == ["200 updates", "300 updates", "400 updates"]


def test_a_search_that_kept_its_losses_has_a_map(drawn, tmp_path):
    for found in (DATA.peaks, dataclasses.replace(DATA.peaks, losses=None), DATA.lengths):
        plotting.save_search(found, tmp_path / "a.png")
    assert [len(figure.axes) for figure in drawn] == [4, 2, 2]


# --------------------------------------------------------------------------------------------------- transfer, designs


def test_optima_against(ax):
    plotting.optima_against(DATA.moved, "total_steps", ax)
    shown = np.concatenate([container.lines[0].get_ydata() for container in ax.containers])
    assert sorted(shown) == sorted(cell.measured.ratio for cell in DATA.moved.cells)
    assert ax.get_xscale() == ax.get_yscale() == "log"
    crosses = [line.get_ydata() for line in lines_like(ax, "x")]
    assert sorted(np.concatenate(crosses)) == sorted(cell.predicted.cell.best_ratio for cell in DATA.moved.cells)


def test_regret_against_ratio(ax):
    plotting.regret_against_ratio(DATA.moved.cells, ax)
    (dots, line), cell = ax.lines[:2], DATA.moved.cells[0]
    assert dots.get_ydata() == pytest.approx(cell.tried.means - cell.tried.means.min())
    assert line.get_xdata()[np.argmin(line.get_ydata())] == cell.predicted.cell.best_ratio


def test_a_long_legend_stands_beside_the_axes(ax):
    plotting.regret_against_ratio(DATA.moved.cells * 5, ax)
    ax.figure.draw_without_rendering()
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1


def test_rates_of_a_design(ax):
    design = DATA.designs.best
    plotting.rates_of_design(design, ax)
    assert ax.lines[0].get_ydata() == pytest.approx(design.lrs)
    assert labels(ax)[0] == "designed: 2.8000"
    assert labels(ax)[2] == "cosine: 3.1000"


# --------------------------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    ("draw", "effect"),
    [
        (plotting.rates, lambda rates: rates),
        (plotting.forward_effects, np.cumsum),
        (plotting.annealing_momenta, annealing_momentum),
    ],
)
def test_schedules_and_their_effects(ax, draw, effect):
    draw(DATA.schedules, ax)
    assert labels(ax) == list(DATA.schedules)
    for schedule, line in zip(DATA.schedules.values(), ax.lines, strict=True):
        np.testing.assert_allclose(line.get_ydata(), effect(rates(schedule)), rtol=1e-4, atol=1e-6)
        assert line.get_ydata().dtype == np.float64
        assert line.get_xdata().tolist() == list(range(400))


def test_effects_are_those_of_float64(ax):
    plotting.forward_effects(DATA.schedules, ax)
    exact = np.cumsum(rates(DATA.schedules["cosine"]))
    np.testing.assert_allclose(ax.lines[1].get_ydata(), exact, rtol=1e-11)


def test_schedules_without_names(ax):
    plotting.rates([*DATA.schedules.values(), WSD(1e-3, 300, 0.25)], ax)
    assert labels(ax)[:2] == ["Constant, T = 400", "Cosine, T = 400"]
    assert labels(ax)[2:] == [
        "WSD linear, R = 0.2, T = 400",
        "WSD 1-sqrt, R = 0.5, T = 400",
        "WSD linear, R = 0.25, T = 300",
    ]


# --------------------------------------------------------------------------------------------------------- bootstraps


def test_bootstrap_cloud(ax):
    plotting.bootstrap_cloud(DATA.boot, "L0", "alpha", ax)
    dots, vertical, horizontal = ax.lines
    names = DATA.fit.law.parameter_names
    np.testing.assert_array_equal(dots.get_xydata(), DATA.boot.params[:, [names.index("L0"), names.index("alpha")]])
    assert vertical.get_xdata()[0] == DATA.fit.params["L0"]
    assert horizontal.get_ydata()[0] == DATA.fit.params["alpha"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("L0", "alpha")


def test_bootstrap_histogram(ax):
    plotting.bootstrap_histogram(DATA.boot, "alpha", ax)
    *bars, span = ax.patches
    assert sum(bar.get_height() for bar in bars) == len(DATA.boot.params)
    low, high = DATA.boot.interval("alpha")
    assert (span.get_x(), span.get_x() + span.get_width()) == pytest.approx((low, high))
    assert ax.lines[0].get_xdata()[0] == DATA.fit.params["alpha"]
    assert f"[{low:.4g}, {high:.4g}]" in ax.get_title(loc="left")


def test_bootstrap_clouds():
    axes = plotting.bootstrap_clouds(DATA.boot)
    names = DATA.fit.law.parameter_names
    assert axes.shape == (4, 4)
    assert [ax.get_xlabel() for ax in axes[-1]] == list(names)
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["", *names[1:]]
    for i, j in np.ndindex(4, 4):
        assert axes[i, j].axison == (j <= i)
        if j < i:
            np.testing.assert_array_equal(axes[i, j].lines[0].get_xydata(), DATA.boot.params[:, [j, i]])
    pyplot.close(axes[0, 0].figure)


def test_parameters_that_do_not_vary_are_left_out():
    params = DATA.boot.params.copy()
    params[:, 1] = 0.4
    fixed = dataclasses.replace(DATA.boot, params=params)
    _, axes = pyplot.subplots(3, 3)
    assert plotting.bootstrap_clouds(fixed, axes) is axes
    assert [ax.get_xlabel() for ax in axes[-1]] == ["L0", "C", "alpha"]
    pyplot.close(axes[0, 0].figure)
    with pytest.raises(ValueError, match="no parameter varies"):
        plotting.bootstrap_clouds(dataclasses.replace(fixed, params=np.ones_like(params)))


def test_chosen_parameters(drawn, tmp_path):
    plotting.save_bootstrap(DATA.boot, tmp_path / "a.png", names=["alpha", "L0"])
    assert [ax.get_xlabel() for ax in drawn[0].axes] == ["", "", "alpha", "L0"]
    with pytest.raises(ValueError, match="unknown parameter 'alfa'"):
        plotting.bootstrap_histogram(DATA.boot, "alfa")


# ---------------------------------------------------------------------------------------------------------- forecasts


def test_forecast_of(ax):
    plotting.forecast_of(DATA.forecast, DATA.run, ax)
    made, later = ax.lines[:2]
    assert made.get_xdata().tolist() == [step for step in DATA.run.step if step < DATA.forecast.count]
    assert [*made.get_ydata(), *later.get_ydata()] == DATA.run.loss.tolist()
    outlooks = (DATA.forecast.planned, *DATA.forecast.alternatives)
    assert labels(ax) == [outlook.name for outlook in outlooks]
    for outlook, bar, dot in zip(outlooks, lines_like(ax, "_"), lines_like(ax, "o"), strict=True):
        assert tuple(bar.get_ydata()) == outlook.interval
        assert dot.get_ydata().tolist() == [outlook.loss]
        end = outlook.schedule.total_steps
        assert end < bar.get_xdata()[0] == dot.get_xdata()[0] < end + 40


def test_changes_from_planned(ax):
    plotting.changes_from_planned(DATA.forecast, ax)
    assert [text.get_text() for text in ax.get_yticklabels()] == [one.name for one in DATA.forecast.alternatives]
    drawn = zip(DATA.forecast.alternatives, lines_like(ax, "|"), lines_like(ax, "o"), strict=True)
    for row, (outlook, bar, dot) in enumerate(drawn):
        np.testing.assert_allclose(bar.get_xydata(), [(100 * end, row) for end in outlook.excess_interval])
        np.testing.assert_allclose(dot.get_xydata(), [(100 * outlook.excess, row)])
    assert ax.get_ylim() == (len(DATA.forecast.alternatives) - 0.5, -0.5)


def test_nothing_to_forecast(ax, drawn, tmp_path):
    undetermined = dataclasses.replace(DATA.fit, status="undetermined")
    nothing = dataclasses.replace(DATA.forecast, fit=undetermined)
    plotting.save_forecast(nothing, DATA.run, tmp_path / "a.png")
    (only,) = drawn[0].axes
    assert only.get_title(loc="left").endswith("no forecast, the fit is undetermined")
    assert only.get_legend() is None
    with pytest.raises(ValueError, match="expected forecasts of alternatives, found none"):
        plotting.changes_from_planned(nothing, ax)
