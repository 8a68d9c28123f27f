"""Laws weighed by how they predict runs left out."""

from types import SimpleNamespace

import numpy as np
import pytest

from fmjax.planning.law_fits import LawFit, weigh

NAN = float("nan")


def law(name, errors, *, ok=True):
    """A law with these errors on the runs left out."""
    result = SimpleNamespace(
        ok=ok, law=SimpleNamespace(name=name, spans_batches=False, families=()), message="the data do not determine it"
    )
    left_out = tuple(SimpleNamespace(mape_percent=error) for error in errors)
    return LawFit(None, None, 0, None, None, result, left_out, 0.0, ())


def weighed(*fits):
    found = weigh(fits, np.random.default_rng(0))
    return {fit.result.law.name: share for fit, share in zip(found.fits, found.shares, strict=True)}, found.notes


def test_a_law_that_predicts_every_run_better_is_alone():
    assert weighed(law("a", [0.3, 0.4, 0.5]), law("b", [0.1, 0.2, 0.3])) == ({"b": 1.0}, ())


def test_laws_that_take_turns_share():
    shares, notes = weighed(law("a", [0.1, 0.5, 0.1, 0.5, 0.2]), law("b", [0.5, 0.1, 0.5, 0.1, 0.21]))
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["a"] == pytest.approx(0.5, abs=0.06)
    assert next(iter(shares)) == "a"
    assert notes == ()


def test_the_surer_the_difference_the_greater_the_share():
    often = weighed(law("a", [0.1, 0.1, 0.1, 0.1, 0.3]), law("b", [0.2, 0.2, 0.2, 0.2, 0.2]))[0]
    seldom = weighed(law("a", [0.1, 0.1, 0.1, 0.3, 0.3]), law("b", [0.2, 0.2, 0.2, 0.2, 0.2]))[0]
    assert 0.5 < seldom["a"] < often["a"] < 1


def test_a_law_that_cannot_predict_some_runs_is_compared_on_the_others():
    """On the three runs that both predict, a is better; its two failures do not drop it, and are told."""
    shares, notes = weighed(law("a", [0.1, NAN, 0.1, NAN, 0.1]), law("b", [0.2, 9.0, 0.2, 9.0, 0.2]))
    assert shares == {"a": 1.0}
    assert notes == ("without 2 of 5 runs a is not determined; laws were compared on the rest",)


def test_a_law_that_could_predict_no_run_comes_last():
    assert weighed(law("a", [NAN, NAN]), law("b", [5.0, 4.0]))[0] == {"b": 1.0}
    assert weighed(law("a", [NAN, NAN]))[0] == {"a": 1.0}


def test_laws_that_no_run_compares():
    shares, notes = weighed(law("a", [0.1, NAN, NAN]), law("b", [NAN, 0.4, 0.4]))
    assert shares == {"b": 1.0}
    assert "no run could be left out of the fits of all laws" in notes[0]


def test_a_law_that_cannot_be_used_is_named():
    shares, notes = weighed(law("a", [0.1, 0.1], ok=False), law("b", [0.2, 0.2]))
    assert shares == {"b": 1.0}
    assert notes == ("a was not used: the data do not determine it",)
    assert weighed(law("a", [0.1, 0.1], ok=False)) == ({}, ())
