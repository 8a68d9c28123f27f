"""``fmjax export``: what other verbs wrote, as a trainer's text."""

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from synthetic import write_manifest

import fmjax
from fmjax.exporters import EXPORTERS
from fmjax.planning.forecasts import Forecast, Outlook, alternatives_to
from fmjax.planning.recommendation import Choice, Recommendation
from fmjax.schedules.kinds import WSD, Constant, lrs
from fmjax.schedules.tables import schedule_from
from fmjax.searching.designs import Design, Designs
from fmjax.searching.results import Cell, SearchResult

FIT = SimpleNamespace(law=fmjax.LRAnnealing(), params={}, status="converged", message="converged", runs=(), ok=True)
TARGET = ("--total-steps", "600", "--peak-lr", "1e-3")


def cell(peak_lr, loss, decay="linear", total_steps=600, ratio=0.2):
    return Cell(total_steps, peak_lr, decay, 0.0, ratio, loss, (0.1, 0.3), False)


def choice(peak_lr, loss, *, decay="linear", known_rate=True):
    one = cell(peak_lr, loss, decay)
    made = one.schedule(40, 1e-5)
    return Choice(one, np.zeros(1), 0.2, float("nan"), made, FIT, False, known_rate, (), 0, ())


CHOICES = (
    choice(1e-3, 3.2),
    choice(1e-3, 3.1, decay="1-sqrt"),
    choice(2e-3, 3.15, decay="cosine"),
    choice(4e-3, 3.0, known_rate=False),
)
PLAN = Recommendation(600, np.array([0.2]), CHOICES)
CELLS = [
    cell(peak, loss, total_steps=total) for total in (600, 900) for peak, loss in ((1e-3, 3.0), (0.00215443469, 2.9))
]
FOUND = SearchResult(CELLS, np.array([0.2]), ())
RATES = np.array([0.0, 1e-3, 1e-3, 1e-5])
DESIGN = Design(
    600, 1e-3, 3.0, np.array([0, 40, 300, 599]), RATES, 40, cell(1e-3, 3.1), 3.1, 3.1, 3.1, "settled", 9, ()
)


@pytest.fixture
def fmjax_(command_line, monkeypatch, tmp_path):
    """Runs a command line in a folder with ``plan.json``: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.json").write_text(PLAN.to_json())
    return command_line


@pytest.fixture
def exported(fmjax_):
    """The schedule of the Optax code that an export prints."""

    def call(*arguments):
        code, out, err = fmjax_("-q", "export", *arguments, "--to", "optax")
        assert (code, err) == (0, "")
        names = {}
        exec(out, names)
        return names["schedule"]

    return call


def assert_same(schedule, code):
    with jax.enable_x64(True):
        expected = np.asarray(lrs(schedule))
        np.testing.assert_allclose(lrs(code, expected.size), expected, rtol=1e-6, atol=1e-12)


# ------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("i", range(len(CHOICES)))
def test_a_recommendation_round_trip(exported, i):
    chosen = CHOICES[i].cell
    rates = exported("plan.json", "--peak-lr", chosen.peak_lr, "--decay", chosen.decay)
    assert_same(CHOICES[i].schedule, rates)


def test_the_best_of_a_recommendation_is_that_of_python(exported, fmjax_):
    assert_same(PLAN.best.schedule, exported("plan.json"))
    _, _, err = fmjax_("export", "plan.json", "--to", "optax")
    assert err == "fmjax: note: the best of 4 schedules: --peak-lr 0.001, --decay 1-sqrt\n"


def test_the_only_one_is_not_remarked_on(fmjax_):
    assert fmjax_("export", "plan.json", "--to", "optax", "--peak-lr", "2e-3")[2] == ""


def test_a_search_knows_its_warmup(exported, tmp_path):
    (tmp_path / "s.json").write_text(replace(FOUND, warmup_steps=40, init_lr=1e-5).to_json())
    rates = exported("s.json", "--total-steps", 900, "--peak-lr", "2.15e-3")
    assert_same(CELLS[3].schedule(40, 1e-5), rates)


def test_of_several_lengths_one_must_be_chosen(fmjax_, tmp_path):
    (tmp_path / "s.json").write_text(FOUND.to_json())
    wrong = "fmjax: s.json: found schedules of 600, 900 updates: choose by --total-steps\n"
    assert fmjax_("export", "s.json", "--to", "optax") == (2, "", wrong)


def test_a_design(exported, tmp_path):
    (tmp_path / "d.json").write_text(Designs(fmjax.LRAnnealing(), (DESIGN,)).to_json())
    assert_same(DESIGN.schedule, exported("d.json"))


@pytest.fixture
def forecast(fmjax_, monkeypatch, tmp_path):
    """A file ``f.json`` as ``fmjax forecast -o`` writes it, and its alternatives."""
    planned = Constant(1e-3, 400, 20)
    write_manifest(tmp_path, [fmjax.LossCurve("run", [10, 200], [4.0, 3.0], planned)])
    others = alternatives_to(planned, 201)
    losses = dict(zip(others, (3.0, 2.9, 2.8, 2.85), strict=False))
    outlooks = [Outlook(name, others[name], loss, (2.0, 4.0), 0.0, (0.0, 0.0)) for name, loss in losses.items()]
    now = Outlook("planned", planned, 3.1, (2.0, 4.0), 0.0, (0.0, 0.0))
    found = Forecast("run", 201, FIT, now, tuple(outlooks), 0.9, ())
    monkeypatch.setattr(fmjax, "forecast", lambda *_, **__: found)
    monkeypatch.setattr("fmjax.cli.planning.read_fit", lambda path: FIT)
    assert fmjax_("forecast", tmp_path, "--run", "run", "--prior", "fit.json", "-o", "f.json")[0] == 0
    return found


def test_a_forecast(exported, forecast):
    assert_same(forecast.best.schedule, exported("f.json"))
    assert_same(forecast.planned.schedule, exported("f.json", "--alternative", "planned"))
    other = forecast.alternatives[1]
    assert_same(other.schedule, exported("f.json", "--alternative", other.name))


def test_standard_input(exported, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(PLAN.to_json()))
    assert_same(PLAN.best.schedule, exported("-"))


# ------------------------------------------------------------------------------------------------ output

TEXT = "kind = 'wsd', total_steps = 1000, peak_lr = 1e-3, anneal_ratio = 0.2"


@pytest.mark.parametrize("to", EXPORTERS)
def test_a_schedule_given_as_text(fmjax_, to):
    expected = fmjax_("export", "--schedule", TEXT, "--to", to)
    assert expected == (0, EXPORTERS[to](WSD(1e-3, 1000, 0.2)) + "\n", "")


def test_the_file_is_the_text(fmjax_, tmp_path):
    _, text, _ = fmjax_("export", "--schedule", TEXT, "--to", "levanter")
    assert fmjax_("export", "--schedule", TEXT, "--to", "levanter", "-o", "l.yaml") == (0, "", "")
    assert (tmp_path / "l.yaml").read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["l.yaml", "plan.json"]


def test_json(fmjax_):
    code, out, err = fmjax_("export", "--schedule", TEXT, "--to", "levanter", "--json")
    found = json.loads(out)
    assert (code, err, found["to"]) == (0, "", "levanter")
    assert found["text"] == EXPORTERS["levanter"](WSD(1e-3, 1000, 0.2))
    assert schedule_from(found["schedule"]) == WSD(1e-3, 1000, 0.2)


# ------------------------------------------------------------------------------------------------ bad input


def changed(**changes):
    record = PLAN.to_dict()
    record["choices"] = [{**record["choices"][0], **changes}]
    return record


BAD_FILES = {
    "text": ("step,lr\n", "expected JSON of fmjax recommend, search, optimize or forecast, but "),
    "number": ("3", "found 3"),
    "nothing": ("{}", "found nothing"),
    "other": ({"cells": [], "published": 1}, "found keys cells, published"),
    "fit": ({"law": "x", "params": {}, "lanes": {}}, "found a fit; fmjax search or optimize finds schedules with it"),
    "empty": ({"best": 0, "choices": []}, "expected at least one schedule, found none"),
    "damaged": ({"best": 0, "choices": [{}]}, "found a damaged one (KeyError 'known_rate')"),
    "no-list": ({"best": 0, "choices": 3}, "found a damaged one (TypeError"),
    "text-for-a-rate": (changed(peak_lr="high"), "peak_lr: expected a number, got 'high'"),
    "true-for-a-rate": (changed(peak_lr=True), "peak_lr: expected a number, got True"),
    "ratio": (changed(best_ratio=2), "anneal_ratio must lie in (0, 1], got 2"),
    "decay": (changed(decay="liner"), "unknown decay 'liner'; did you mean 'linear'"),
    "no-loss": (changed(loss=None), "loss: expected a number, found None"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files(fmjax_, tmp_path, content, message):
    (tmp_path / "bad.json").write_text(content if isinstance(content, str) else json.dumps(content))
    code, out, err = fmjax_("export", "bad.json", "--to", "optax", "-o", "out.py")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("fmjax: bad.json: ")
    assert message in err
    assert not (tmp_path / "out.py").exists()


OPTAX = ("plan.json", "--to", "optax")
BAD = {
    "no-trainer": (("plan.json",), "Missing option '--to'. Choose from: optax, pytorch"),
    "unknown-trainer": (("none.json", "--to", "maxtex"), "unknown trainer 'maxtex'; did you mean 'maxtext'"),
    "neither": (("--to", "optax"), "expected a file or --schedule, found neither"),
    "both": (("plan.json", "--schedule", TEXT, "--to", "optax"), "expected a file or --schedule, found both"),
    "missing": (("none.json", "--to", "optax"), "none.json: cannot be read: No such file"),
    "folder": ((".", "--to", "optax"), ".: cannot be read: Is a directory"),
    "other-rate": ((*OPTAX, "--peak-lr", "3e-3"), "--peak-lr: expected one of 0.001, 0.002, 0.004, got 0.003"),
    "other-length": ((*OPTAX, "--total-steps", "700"), "plan.json: --total-steps: expected one of 600, got 700"),
    "other-decay": ((*OPTAX, "--decay", "exponential"), "--decay: unknown decay 'exponential'"),
    "no-forecast": ((*OPTAX, "--alternative", "planned"), "are told by --total-steps, --peak-lr"),
    "cannot": (("plan.json", "--to", "maxtext"), "maxtext: expected decay linear or cosine, got 1-sqrt"),
    "bad-text": (("--schedule", "kind = 'wd'", "--to", "optax"), "unknown schedule kind 'wd'; did you mean 'wsd'"),
    "choice-of-text": (("--schedule", TEXT, "--to", "optax", "--peak-lr", "1"), "other options choose one of a file"),
    "output": ((*OPTAX, "-o", "none/out.py"), "none/out.py: cannot be written"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_input(fmjax_, arguments, message):
    code, out, err = fmjax_("-q", "export", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
