"""Laws compared: order, criterion, and what is said of laws that fail."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from synthetic import constant_runs, five_runs, runs

from fmjax.fitting.comparison import compare
from fmjax.laws import LAWS, LRAnnealing

NOISE = np.random.default_rng(0).normal(0, 1e-3, (5, 30))
LAWS_COMPARED = ("forward-only", LRAnnealing(decay=0.99), "chinchilla")


@pytest.fixture(scope="module")
def found():
    curves = [replace(run, loss=run.loss * np.exp(noise)) for run, noise in zip(five_runs(), NOISE, strict=True)]
    return compare(curves, train=curves[:4], laws=LAWS_COMPARED)


def names(comparison):
    return [evaluation.fit.law.name for evaluation in comparison.evaluations]


def test_error_on_unseen_runs_ranks(found):
    errors = [entry.evaluation.test_mape_percent for entry in found.entries]
    assert errors == sorted(errors)
    assert names(found)[0] == "lr-annealing"
    assert found.evaluations[0].fit.law == LRAnnealing(decay=0.99)


def test_without_unseen_runs_the_criterion_ranks():
    curves = runs(noise=1e-4)
    found = compare(curves, train=curves, laws=LAWS_COMPARED)
    information = [entry.information for entry in found.entries]
    assert information == sorted(information)
    assert names(found)[0] == "lr-annealing"
    assert math.isnan(found.evaluations[0].test_mape_percent)


def test_the_criterion_is_bic_where_residuals_are_independent(found):
    entry = next(entry for entry in found.entries if entry.evaluation.fit.law.name == "lr-annealing")
    rows = entry.evaluation.fit.rows
    spread = 2 * entry.evaluation.fit.objective / rows
    assert entry.parameters == 4
    assert entry.information == pytest.approx(rows * np.log(spread) + 4 * np.log(rows), rel=0.2)


def test_correlated_rows_count_for_less():
    def gap(curves):
        entries = {e.evaluation.fit.law.name: e for e in compare(curves, train=curves, laws=LAWS_COMPARED).entries}
        return entries["forward-only"].information - entries["lr-annealing"].information

    fine = runs(noise=1e-4)
    drifting = []
    for k, run in enumerate(fine):
        wander = np.cumsum(np.random.default_rng(k).normal(0, 1e-4, run.loss.size))
        drifting.append(type(run)(run.name, run.step, run.loss * np.exp(wander), run.schedule))
    assert 0 < gap(drifting) < 0.5 * gap(fine)


def test_worst_and_final_loss_are_of_unseen_runs(found):
    entry, run = found.entries[0], found.evaluations[0].runs[-1]
    assert entry.worst_percent == run.worst_percent
    assert entry.final_loss_percent == pytest.approx(100 * abs(run.final_loss_predicted / run.final_loss - 1))


@pytest.mark.slow
def test_a_law_that_cannot_be_determined_comes_last():
    curves = (*constant_runs()[:2], *runs()[1:])
    found = compare(curves, train=curves[:2], laws=["lr-annealing", "forward-only"])
    assert names(found) == ["forward-only", "lr-annealing"]
    assert found.entries[1].evaluation.fit.status == "undetermined"


def test_json(found):
    record = json.loads(found.to_json())["laws"]
    assert [law["law"] for law in record] == names(found)
    assert record[0]["parameters"] == found.entries[0].parameters
    assert len(record[0]["runs"]) == 5


def test_all_laws_by_default(monkeypatch):
    every = {name: LAWS[name] for name in ("forward-only", "chinchilla")}
    monkeypatch.setattr("fmjax.fitting.comparison.LAWS", every)
    done, curves = [], runs(noise=1e-4)
    found = compare(curves, train=curves, progress=lambda *counts: done.append(counts))
    assert sorted(names(found)) == sorted(every)
    assert done == [(1, 2), (2, 2)]


def test_no_law():
    with pytest.raises(ValueError, match="at least one law"):
        compare(runs(), train=runs(), laws=[])
