"""The benchmark of a machine: what it counts, and the schema of its JSON."""

import json

import numpy as np
import pytest

from fmjax import benchmarking
from fmjax.benchmarking import Benchmark, FitRate, SearchRate
from fmjax.laws import ForwardMomentum
from fmjax.searching.grid import Grid
from fmjax.searching.rollout import BLOCK_SIZES


def found():
    """A benchmark as if it had been measured."""
    search = (
        SearchRate("float32", True, 1024, 2000, 1.0, 0.5, 4e6, 8e6, 0.25),
        SearchRate("float64", False, 1024, 2000, 1.0, 1.0, 2e6, 8e6, 0.5),
    )
    environment = {
        "fmjax": "0",
        "jax": "0",
        "python": "3",
        "platform": "cpu",
        "device": "cpu",
        "devices": 1,
        "cores": 2,
    }
    peaks = {"float32": 1.6e7, "float64": 8e6}
    return Benchmark(environment, 1e9, peaks, search, (FitRate(8, 20, 1.0, 0.5, 16.0),))


def test_capacities_follow_from_the_best_rate():
    capacities = found().capacities
    assert [c.candidate_updates for c in capacities] == [1e9, 1e12, 1e15]
    np.testing.assert_allclose([c.seconds for c in capacities], [250, 250e3, 250e6])
    np.testing.assert_allclose([c.seconds_on_hosts for c in capacities], np.array([250, 250e3, 250e6]) / 64)


def test_json_holds_every_field():
    record = json.loads(found().to_json())
    assert set(record) == {
        *("format", "environment", "memory_bytes_per_s", "multiply_adds_per_s"),
        *("search", "fits", "capacities", "hosts"),
    }
    assert tuple(record["search"][0]) == SearchRate._fields
    assert tuple(record["fits"][0]) == FitRate._fields
    assert record["search"][1]["fraction_of_peak"] == 0.5


@pytest.mark.parametrize(("length", "expected"), [(500, (500, 0, 0)), (2000, (128 + 16, 58, 0)), (0, (0, 0, 0))])
def test_updates_and_blocks_taken(length, expected):
    taken = benchmarking._taken(100, length)
    assert taken @ np.array(BLOCK_SIZES) == length
    assert tuple(taken) == expected


def test_work_of_a_shared_stem_counts_once():
    axes = {"peak_lr": 1e-3, "decay": "linear", "final_lr": 0.0, "warmup_steps": 0, "init_lr": 0.0}
    grid = Grid.of(total_steps=600, anneal_ratio=[0.1, 0.3, 0.5], **axes)
    one = benchmarking._cost(ForwardMomentum(), "float64", 1)
    shared, own = (benchmarking._flops(ForwardMomentum(), "float64", grid, share) for share in (True, False))
    assert shared == pytest.approx(one * (60 + 180 + 300 + 540))
    assert own == pytest.approx(one * 3 * 600)


@pytest.mark.slow
def test_rates_are_measured(monkeypatch):
    monkeypatch.setattr(benchmarking, "MEASURED_RATIOS", np.linspace(0.1, 0.5, 4))
    rate = benchmarking.search_rate("float64", True, 4, 300, 1e9)
    assert (rate.candidates, rate.total_steps) == (16, 300)
    assert rate.candidate_updates_per_s == pytest.approx(16 * 300 / rate.seconds)
    assert rate.fraction_of_peak == pytest.approx(rate.flops_per_s / 1e9)
    assert benchmarking.memory_bandwidth(2**16) > 0
    assert benchmarking.multiply_add_rate("float64", 64) > 0
