"""The observations on the optimal ratio, measured on runs whose optima are known."""

import numpy as np
import pytest

pytest.importorskip("benchmarks.observations", reason="benchmarks are not installed")

import fmjax
from benchmarks import observations
from benchmarks.observations import Observation, cells_of, difference, exponents
from benchmarks.proxy_runs.__main__ import publish
from benchmarks.proxy_runs.config import ModelConfig, RunConfig, Setup
from benchmarks.proxy_runs.grids import annealed
from fmjax.schedules.kinds import Constant

RATIOS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
PEAKS, LENGTHS, BATCHES = (0.001, 0.002, 0.004, 0.008), (500, 1000, 2000), (4, 16, 64)


def best(peak, total):
    return 0.2 * (peak / 0.002) ** 0.5 * (total / 1000) ** -0.25


def made_up(peak, total, batch, shift, rng):
    """Runs at all ratios: their final losses are quadratics in the root of the ratio, with a little noise."""
    for ratio, schedule in zip(RATIOS, annealed(peak, total, RATIOS, 10).values(), strict=True):
        setup = Setup(ModelConfig(16, 1, 1), batch=batch, context=16, probe_sequences=8)
        run = RunConfig(f"p{peak:g}-T{total}-b{batch}-{ratio:g}", schedule, setup)
        others = np.exp([0.0, shift, 2 * shift]) * best(peak, total)
        losses = 2 + 0.5 * (np.sqrt(ratio) - np.sqrt(others)) ** 2 + 2e-4 * rng.standard_normal()
        yield run, [(total // 2 - 1, 3.0, 3.0, 3.0), (total - 1, *losses.tolist())]


@pytest.fixture
def sets(tmp_path, monkeypatch):
    """Replaces the shipped sets by made-up runs; the training loss has a slightly longer anneal as its best."""
    rng = np.random.default_rng(0)
    runs = [one for peak in PEAKS for total in LENGTHS for one in made_up(peak, total, 16, 0.02, rng)]
    publish([run for run, _ in runs], {run.name: rows for run, rows in runs}, tmp_path)
    kinds = dict.fromkeys(("dense", "moe", "batches"), tmp_path / "runs.toml")
    monkeypatch.setattr(fmjax.datasets, "SETS", kinds)
    monkeypatch.setattr(observations, "SETS", kinds)


def test_exponents_are_found_and_judged(sets):
    found = {one.name: one for one in exponents(cells_of(fmjax.datasets.proxy_runs("moe")))}
    rate, steps = found["best R ~ peak_lr^e"], found["best R ~ total_steps^e"]
    assert rate.value == pytest.approx(0.5, abs=0.05)
    assert steps.value == pytest.approx(-0.25, abs=0.05)
    assert rate.interval[0] < 0.5 < rate.interval[1]
    assert [rate.verdict, steps.verdict] == ["holds", "holds"]
    assert set(found) == {rate.name, steps.name}  # nothing else differs


def test_losses_are_compared_cell_by_cell(sets):
    cells = cells_of(fmjax.datasets.proxy_runs("moe"))
    for column, shift in (("train_loss", 0.02), ("headers_loss", 0.04)):
        [one] = difference(cells, cells_of(observations.under(column, "moe")), "training")
        assert one.value == pytest.approx(shift, abs=0.02)
        assert one.interval[0] < shift < one.interval[1]
        assert one.verdict == "holds"
    assert list(difference(cells[:2], cells[:2], "training")) == []


def test_the_page_is_printed_from_these(sets, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["observations", "--plot", str(tmp_path / "optima.png")])
    observations.main()
    assert (tmp_path / "optima.png").stat().st_size > 10_000
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("experts  best R ~")]) == 2
    assert len([line for line in lines if "over validation" in line]) == 4


@pytest.mark.parametrize(
    ("value", "interval", "p_value", "sign", "said"),
    [
        (0.5, (0.4, 0.6), 0.01, 1, "holds"),
        (0.5, (-0.1, 1.1), 0.4, 1, "open"),
        (0.5, (0.4, 0.6), 0.01, -1, "does not hold"),
        (0.01, (-0.05, 0.07), 0.8, 0, "holds"),
        (0.01, (-0.2, 0.3), 0.9, 0, "open"),
        (0.3, (0.2, 0.4), 0.01, 0, "does not hold"),
        (0.3, (0.2, 0.4), 0.25, 0, "open"),  # three cells on one side of zero may be chance
        (0.5, (np.nan, np.nan), np.nan, 1, "open"),
        (0.05, (np.nan, np.nan), np.nan, 0, "open"),
    ],
)
def test_an_observation_holds_only_where_the_runs_say_so(value, interval, p_value, sign, said):
    assert Observation("", value, interval, p_value, 5, "a claim", sign).verdict == said


def test_loss_that_follows_updates_is_told_from_loss_that_follows_bytes(tmp_path, monkeypatch):
    def rows(batch):
        step = range(49, 4000, 50)
        return [(s, *[2 + 5 * ((s + 1) / (1 + 500 / (batch * 16))) ** -0.3] * 3) for s in step]

    setups = [Setup(ModelConfig(16, 1, 1), context=16, batch=batch) for batch in BATCHES]
    runs = [RunConfig(f"b{setup.batch}", Constant(0.002, 4000, 10), setup) for setup in setups]
    publish(runs, {run.name: rows(run.setup.batch) for run in runs}, tmp_path)
    monkeypatch.setitem(fmjax.datasets.SETS, "batches", tmp_path / "runs.toml")
    small, large = observations.batch_lines(observations.stems_of(0.002))
    for line in (small, large):
        assert float(line[6]) == pytest.approx(500, rel=0.15)
        assert line[8] == "determined"
    assert float(small[5]) < float(small[4])  # below the critical size curves lie closer by bytes
    assert [small[0], large[0]] == ["64, 256", "256, 1024"]
    assert observations.stems_of(0.004) == []
