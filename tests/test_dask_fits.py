"""Fits on a Dask cluster: every verb that fits gives the bytes of one process, and has the workers compute."""

import json
from pathlib import Path

import pytest
from test_dask import client  # noqa: F401 a fixture

import fmjax
from fmjax import FitOptions
from fmjax._dask import OnDask
from fmjax.fitting import lanes

LAW = fmjax.LRAnnealing(decay=0.99)
RUNS = fmjax.datasets.demo_runs()


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    """A few lanes a block, so that small fits have several blocks, and go to the cluster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, "BLOCK_ELEMENTS", 1024)
        yield


@pytest.fixture
def sent(monkeypatch):
    """Number of parts of each work that goes to a cluster."""
    counts, results = [], OnDask.results

    def counted(cluster, work, numbers):
        counts.append(len(numbers))
        return results(cluster, work, numbers)

    monkeypatch.setattr(OnDask, "results", counted)
    return counts


def bootstrap(options):
    return fmjax.bootstrap(LAW, RUNS[:4], samples=20, method="blocks", options=options)


def leave_one_out(options):
    return fmjax.select(LAW, RUNS[:4], grid={"decay": [0.98, 0.99]}, by="leave-one-out", refine=False, options=options)


def select(options):
    return fmjax.select(LAW, RUNS[:4], grid={"decay": [0.98, 0.99, 0.995]}, refine=False, options=options)


def compare(options):
    return fmjax.compare(RUNS, train=RUNS[:4], laws=[LAW, "forward-only"], options=options)


def transfer(options):
    return fmjax.transfer(RUNS, law=LAW, samples=20, options=options)


def recommend(options):
    return fmjax.recommend(RUNS, law=LAW, total_steps=4000, peak_lr=RUNS[0].peak_lr, samples=20, options=options)


MORE = (leave_one_out, select, compare)
"""Twins of the others, which go to the cluster by the same way."""


def without_times(record):
    """A record as plain values, without the seconds that it took."""
    if isinstance(record, dict):
        return {name: without_times(value) for name, value in record.items() if name != "seconds"}
    return [without_times(value) for value in record] if isinstance(record, list) else record


@pytest.mark.parametrize(
    "verb", [bootstrap, *(pytest.param(verb, marks=pytest.mark.slow) for verb in (transfer, *MORE)), recommend]
)
def test_fits_on_a_cluster_are_those_here(verb, client, sent):  # noqa: F811
    here = verb(FitOptions())
    assert sent == []
    there = verb(FitOptions(client=client))
    assert max(sent) > 1  # it is no test of a cluster where nothing goes there
    assert without_times(json.loads(there.to_json())) == without_times(json.loads(here.to_json()))


RUNS_FILE = Path(fmjax.datasets.__file__).parent / "proxy_runs" / "demo.toml"
OF_LAW = ("--law", "lr-annealing", "--law-option", "decay=0.99")
VERBS = {
    "transfer": ("--samples", "20"),
    "recommend": ("--total-steps", "4000", "--peak-lr", "1e-3"),
    "bootstrap": ("--samples", "20"),
    "select": ("--grid", "decay=0.99,0.995", "--no-refine"),
    "evaluate": ("--train", "split:train"),
}
SLOW = [pytest.param(verb, marks=pytest.mark.slow) for verb in ("recommend", "bootstrap", "select", "evaluate")]


@pytest.mark.parametrize("verb", ["transfer", *SLOW])
def test_verbs_that_fit_on_a_cluster(verb, client, sent, command_line):  # noqa: F811
    line = (verb, RUNS_FILE, *OF_LAW, *VERBS[verb], "--json")
    code, expected, error = command_line(*line)
    assert (code, sent) == (0, []), error
    assert command_line(*line, "--scheduler", client.scheduler.address) == (0, expected, error)
    assert max(sent) > 1
