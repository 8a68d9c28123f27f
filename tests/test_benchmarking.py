"""The benchmark of a machine: what it counts, and the schema of its JSON."""

import json

import numpy as np
import pytest

from fmjax import benchmarking
from fmjax.benchmarking import Benchmark, FitRate, LawRate, SearchRate
from fmjax.laws import LRAnnealing


def found():
    """A benchmark as if it had been measured."""
    search = (
        SearchRate("float32", False, 1024, 2000, 1.0, 0.5, 4e6, 8e6, 0.25, 0.7),
        SearchRate("float64", False, 1024, 2000, 1.0, 1.0, 2e6, 8e6, 0.5, 1.5),
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
    return Benchmark(
        environment, 1e9, peaks, search, (FitRate(8, 20, 1.0, 0.5, 16.0),), (LawRate("kaplan", search[1], 5e5),)
    )


def test_capacities_follow_from_the_best_rate():
    capacities = found().capacities
    assert [c.candidate_updates for c in capacities] == [1e9, 1e12, 1e15]
    np.testing.assert_allclose([c.seconds for c in capacities], [250, 250e3, 250e6])
    np.testing.assert_allclose([c.seconds_on_hosts for c in capacities], np.array([250, 250e3, 250e6]) / 64)


def test_json_holds_every_field():
    record = json.loads(found().to_json())
    assert set(record) == {
        *("format", "environment", "memory_bytes_per_s", "multiply_adds_per_s"),
        *("search", "fits", "laws", "capacities", "hosts"),
    }
    assert tuple(record["search"][0]) == SearchRate._fields
    assert tuple(record["fits"][0]) == FitRate._fields
    assert record["search"][1]["fraction_of_peak"] == 0.5
    assert record["search"][1]["processor_seconds"] == 1.5
    assert record["laws"] == [{"law": "kaplan", **record["search"][1], "scan_updates_per_s": 5e5}]


def test_arithmetic_is_that_of_all_candidates():
    """Of a law whose schedules are multiples of one, that of one peak rate."""
    ratios = np.array([0.1, 0.3])
    few, many = (benchmarking._flops(benchmarking.ratio_sweep(peaks, ratios, 300, "float64")) for peaks in (64, 128))
    assert many == 2 * few > 0
    law = (LRAnnealing(), np.array([2.0, 0.3, 0.05, 0.5]))
    few, many = (benchmarking._flops(benchmarking.ratio_sweep(peaks, ratios, 300, "float64", *law)) for peaks in (2, 4))
    assert many == few > 0


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(benchmarking.jax.config, "update", lambda *_: None)

    def none():
        raise RuntimeError("no such backend\nand more")

    monkeypatch.setattr(benchmarking.jax, "local_devices", none)
    with pytest.raises(ValueError, match=r"--device tpu: JAX finds none here \(no such backend\)$"):
        benchmarking.use_device("tpu")


@pytest.mark.slow
def test_rates_are_measured():
    rate = benchmarking.search_rate(benchmarking.ratio_sweep(4, np.linspace(0.1, 0.5, 4), 300, "float64"), 1e9)
    assert (rate.candidates, rate.total_steps) == (16, 300)
    assert rate.candidate_updates_per_s == pytest.approx(16 * 300 / rate.seconds)
    assert rate.fraction_of_peak == pytest.approx(rate.flops_per_s / 1e9)
    (law,) = benchmarking.law_rates("chinchilla", (300,), 1e9)
    assert law.to_dict()["candidates"] == 64 * benchmarking.MEASURED_RATIOS.size
    assert law.scan_updates_per_s > 0
    assert benchmarking.memory_bandwidth(2**16) > 0
    assert benchmarking.multiply_add_rate("float64", 64) > 0
