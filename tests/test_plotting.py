"""Pictures: what is drawn on which axes, and the file that is written."""

import sys

import matplotlib as mpl
import numpy as np
import pytest
from synthetic import DECAY, cells, runs

from fmjax import plotting
from fmjax.comparison import compare
from fmjax.design import optimize
from fmjax.fitting import fit
from fmjax.laws import LRAnnealing
from fmjax.recommendation import recommend
from fmjax.transfers import transfer

mpl.use("Agg")
from matplotlib import image, pyplot


@pytest.fixture(scope="module")
def curves():
    return runs(noise=1e-4)


@pytest.fixture(scope="module")
def found(curves):
    ratios = np.linspace(0.05, 0.95, 19)
    return recommend(curves, law=LRAnnealing(decay=DECAY), total_steps=400, peak_lr=[1e-3, 2e-3], anneal_ratio=ratios)


@pytest.fixture
def ax():
    figure, ax = pyplot.subplots()
    yield ax
    pyplot.close(figure)


def test_curves_and_fits(found, curves, ax):
    assert plotting.curves_and_fits(found.best.fit, curves, ax) is ax
    assert len(ax.lines) == 2 * len(curves)
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {run.name for run in curves}
    dots, line = ax.lines[0].get_xydata(), ax.lines[1].get_xydata()
    assert dots.shape == line.shape == (30, 2)
    np.testing.assert_allclose(dots, line, rtol=1e-2)


@pytest.mark.parametrize("most", [1, 2])
def test_at_most_so_many_curves(found, curves, ax, most):
    plotting.curves_and_fits(found.best.fit, curves, ax, most=most)
    assert len(ax.lines) == 2 * most


def test_loss_against_ratio(found, ax):
    assert plotting.loss_against_ratio(found, ax) is ax
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["peak 0.001, linear", "peak 0.002, linear"]
    low, high = ax.get_ylim()
    for choice, line, mark in zip(found.choices, ax.lines[::2], ax.lines[1::2], strict=True):
        np.testing.assert_array_equal(line.get_ydata(), choice.losses)
        assert mark.get_xydata().tolist() == [[choice.cell.best_ratio, choice.cell.loss]]
        assert low < choice.cell.loss
    assert high < max(choice.losses.max() for choice in found.choices)


@pytest.mark.parametrize("name", ["plan.png", "plan.svg"])
def test_save_recommendation(found, curves, tmp_path, name):
    before, style = pyplot.get_fignums(), dict(mpl.rcParams)
    plotting.save_recommendation(found, curves, tmp_path / name)
    data = (tmp_path / name).read_bytes()
    assert data.startswith(b"\x89PNG" if name.endswith("png") else b"<?xml")
    assert len(data) > 20_000
    assert pyplot.get_fignums() == before
    assert dict(mpl.rcParams) == style


def test_a_picture_that_cannot_be_written_leaves_no_figure_open(found, curves, tmp_path):
    with pytest.raises(ValueError, match="not supported"):
        plotting.save_recommendation(found, curves, tmp_path / "plan.xyz")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib(found, curves, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"pip install 'fmjax\[plots\]'"):
        plotting.save_recommendation(found, curves, tmp_path / "plan.png")


@pytest.fixture(scope="module")
def comparison(curves):
    return compare(curves, train=curves[:3], laws=["lr-annealing", "forward-only"]).evaluations


def test_errors_by_run(comparison, curves, ax):
    assert plotting.errors_by_run(comparison, ax) is ax
    best = comparison[0].runs
    assert ax.lines[0].get_xdata().tolist() == [run.mape_percent for run in (*best[:3], best[3])]
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels == [f"{run.name} (fitted)" for run in curves[:3]] + [curves[3].name]
    laws = [evaluation.fit.law.name for evaluation in comparison]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == laws


def test_residuals(comparison, curves, ax):
    assert plotting.residuals(comparison[0], curves, ax) is ax
    unseen = ax.lines[3].get_ydata()
    assert np.mean(np.abs(unseen)) == pytest.approx(comparison[0].runs[3].mape_percent, rel=1e-9)
    assert ax.lines[3].get_color() != ax.lines[0].get_color()


def test_a_comparison_is_drawn_to_a_file(comparison, curves, tmp_path):
    plotting.save_evaluations(comparison, curves, tmp_path / "laws.png")
    height, width, _ = image.imread(tmp_path / "laws.png").shape
    assert width > height > 300


# ------------------------------------------------------------------------------------------------ transfer, designs


@pytest.fixture(scope="module")
def moved():
    return transfer(cells(lengths=(300, 400), ratios=(0.1, 0.3, 0.6, 0.8)), law=LRAnnealing(decay=DECAY), samples=0)


def test_optima_against(moved, ax):
    assert plotting.optima_against(moved, "total_steps", ax) is ax
    shown = np.concatenate([container.lines[0].get_ydata() for container in ax.containers])
    assert sorted(shown) == sorted(cell.measured.ratio for cell in moved.cells)
    assert ax.get_xscale() == ax.get_yscale() == "log"
    crosses = [line.get_ydata() for line in ax.lines if line.get_marker() == "x"]
    assert sorted(np.concatenate(crosses)) == sorted(cell.predicted.cell.best_ratio for cell in moved.cells)


def test_regret_against_ratio(moved, ax):
    assert plotting.regret_against_ratio(moved.cells, ax) is ax
    dots, line = ax.lines[:2]
    assert dots.get_ydata() == pytest.approx(moved.cells[0].tried.means - moved.cells[0].tried.means.min())
    assert line.get_xdata()[np.argmin(line.get_ydata())] == moved.cells[0].predicted.cell.best_ratio


def test_rates_of_a_design(curves, ax):
    designs = optimize(fit(LRAnnealing(decay=DECAY), curves), total_steps=300, peak_lr=1e-3, warmup_steps=20)
    assert plotting.rates_of_design(designs.best, ax) is ax
    assert ax.lines[0].get_ydata() == pytest.approx(designs.best.lrs)
    assert f"{designs.best.loss:.4f}" in ax.get_legend().get_texts()[0].get_text()


@pytest.mark.parametrize("save", ["transfer", pytest.param("designs", marks=pytest.mark.slow)])
def test_pictures_of_transfer_and_designs(save, moved, curves, tmp_path):
    if save == "transfer":
        plotting.save_transfer(moved, tmp_path / "a.png")
    else:
        found = optimize(fit(LRAnnealing(decay=DECAY), curves), total_steps=[200, 300], peak_lr=[1e-3, 2e-3])
        plotting.save_designs(found, tmp_path / "a.png")
    height, width, _ = image.imread(tmp_path / "a.png").shape
    assert width > height > 300
