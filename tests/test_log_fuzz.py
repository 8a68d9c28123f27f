"""Logs that were cut, shuffled, repeated or re-encoded: the right runs or a refusal, never another run."""

import codecs
import json
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import fmjax
from fmjax.importers import import_logs

T = 400
RATES = fmjax.WSD(2e-3, T, 0.25, warmup_steps=40)
STEPS = np.arange(9, T, 10)
LOSS = 2 + 40 / (STEPS + 20.0) + 0.001 * np.sin(STEPS)
LR = [float(RATES(step)) for step in STEPS]
SAMPLES = Path(__file__).parent / "samples"


def rows_as(form):
    """The lines of a log with 40 rows, those before them, and the ending of its file."""
    rows = [(int(s), round(x, 6), r) for s, x, r in zip(STEPS, LOSS, LR, strict=True)]
    if form == "csv":
        return ["step,loss,lr"], [f"{s},{x},{r}" for s, x, r in rows], ".csv"
    if form == "tsv":
        return ["step\tloss\tlr"], [f"{s}\t{x}\t{r}" for s, x, r in rows], ".tsv"
    if form == "jsonl":
        return [], [json.dumps({"_step": s, "train/loss": x, "train/lr": r}) for s, x, r in rows], ".jsonl"
    if form == "lines":
        return ["starting"], [f"INFO step={s + 1} loss={x:.6f} lr={r:.9e}" for s, x, r in rows], ".log"
    if form == "megatron":
        lines = [
            f" iteration {s + 1:8d}/{T:8d} | learning rate: {r:.9E} | lm loss: {x:.6E} | loss scale: 1.0 |"
            for s, x, r in rows
        ]
        return ["> building ..."], lines, ".log"
    raise AssertionError(form)


FORMS = ("csv", "tsv", "jsonl", "lines", "megatron")
EXAMPLES = settings(
    max_examples=12,
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=[HealthCheck.too_slow],
)


def read(head, rows, ending, encoding="utf-8"):
    """The runs read from lines; none where they are refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"log{ending}")
        path.write_bytes("\n".join([*head, *rows, ""]).encode(encoding))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return import_logs(path)
            except ValueError:
                return ()


def assert_right(found, steps, *, runs=1):
    """Each run has the steps, with their own losses and rates."""
    assert len(found) in (0, runs)
    at = dict(zip(STEPS.tolist(), zip(LOSS, LR, strict=True), strict=True))
    for one in found:
        assert one.curve.step.tolist() == list(steps)
        np.testing.assert_allclose(one.curve.loss, [at[step][0] for step in steps], rtol=1e-5)
        assert_rates(one, steps)


def assert_rates(one, steps):
    """The rates of the schedule at the curve's rows are those logged at the steps."""
    at = dict(zip(STEPS.tolist(), LR, strict=True))
    rates = np.asarray(fmjax.schedules.kinds.lrs(one.curve.schedule), float)
    known = [(here, at[step]) for here, step in zip(one.curve.step, steps, strict=False) if here < rates.size]
    here, logged = zip(*known, strict=True) if known else ((), ())
    np.testing.assert_allclose(rates[list(here)] if known else [], logged, atol=1.1e-2 * max(LR))


@pytest.mark.parametrize("form", FORMS)
def test_the_whole_log(form):
    found = read(*rows_as(form))
    assert len(found) == 1
    assert_right(found, STEPS)


def test_most_of_them_are_read_and_not_refused():
    rng, count = np.random.default_rng(0), 0
    for form in FORMS:
        head, rows, ending = rows_as(form)
        orders = (rng.permutation(40), np.r_[0:40, rng.integers(0, 40, 10)], np.r_[0:20, 21, 20, 22:40])
        count += sum(bool(read(head, [rows[i] for i in order], ending)) for order in orders)
    assert count == 3 * len(FORMS)


@pytest.mark.parametrize("form", FORMS)
@EXAMPLES
@given(data=st.data())
def test_shuffled_rows(form, data):
    head, rows, ending = rows_as(form)
    order = data.draw(st.permutations(range(len(rows))))
    assert_right(read(head, [rows[i] for i in order], ending), STEPS)


@pytest.mark.parametrize("form", FORMS)
@EXAMPLES
@given(moves=st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), min_size=1, max_size=3))
def test_a_few_rows_out_of_place(form, moves):
    head, rows, ending = rows_as(form)
    for here, there in moves:
        rows.insert(there, rows.pop(here))
    assert_right(read(head, rows, ending), STEPS)


@pytest.mark.parametrize("form", FORMS)
@EXAMPLES
@given(repeats=st.lists(st.integers(0, 39), min_size=1, max_size=60), sort=st.booleans())
def test_repeated_rows(form, repeats, sort):
    """Each row again beside itself, or some of them at the end."""
    head, rows, ending = rows_as(form)
    order = sorted([*range(len(rows)), *repeats]) if sort else [*range(len(rows)), *repeats]
    assert_right(read(head, [rows[i] for i in order], ending), STEPS)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("times", [2, 3])
def test_the_whole_log_again(form, times):
    head, rows, ending = rows_as(form)
    assert_right(read(head, rows * times, ending), STEPS)
    assert_right(read([], (head + rows) * times, ending), STEPS)


@pytest.mark.parametrize("form", FORMS)
@EXAMPLES
@given(share=st.floats(0.05, 1))
def test_cut_logs(form, share):
    """The last row may lose digits of its last number, and no other."""
    head, rows, ending = rows_as(form)
    text = "\n".join(rows)
    cut = text[: int(share * len(text))].splitlines()
    whole = sum(line == row for line, row in zip(cut, rows, strict=False))
    (found, *more) = read(head, cut, ending) or (None,)
    assert not more
    if found is None:
        return
    steps = STEPS.tolist()[:whole]
    assert found.curve.step.tolist()[:whole] == steps
    assert len(found.curve.step) <= len(cut)
    np.testing.assert_allclose(found.curve.loss[:whole], LOSS[:whole], rtol=1e-5)
    assert_rates(found, steps)


@pytest.mark.parametrize("form", FORMS)
@EXAMPLES
@given(start=st.integers(1, 38))
def test_logs_that_lack_their_beginning(form, start):
    head, rows, ending = rows_as(form)
    found = read(head, rows[start:], ending)
    assert len(found) <= 1
    for one in found:
        off = one.curve.step - STEPS[start:]  # rows at 20, 30, ... may count from 0 or from 1
        assert set(off.tolist()) == {0} or (form == "lines" and set(off.tolist()) == {1})
        np.testing.assert_allclose(one.curve.loss, LOSS[start:], rtol=1e-5)
        assert_rates(one, STEPS[start:].tolist())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1", "utf-16-le", "utf-32"])
def test_other_encodings(form, encoding):
    assert_right(read(*rows_as(form), encoding), STEPS)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("end", ["\r\n", "\n\n", " \n"])
def test_other_ends_of_lines(form, end):
    head, rows, ending = rows_as(form)
    assert_right(read([], [end.join([*head, *rows])], ending), STEPS)


@pytest.mark.parametrize("form", FORMS)
@EXAMPLES
@given(fall=st.integers(5, 30), seed=st.integers(0, 9))
def test_a_resumed_run(form, fall, seed):
    """Rows from ``fall`` on were logged with other losses first."""
    head, rows, ending = rows_as(form)
    stale = [row.replace("2.", "3.", 1) for row in rows[fall : fall + 5 + seed]]
    assert stale[0] != rows[fall] or fall < 5
    assert_right(read(head, [*rows[:fall], *stale, *rows[fall:]], ending), STEPS)


# ---------------------------------------------------------------------------------------------------------------------
# The state of a real trainer
# ---------------------------------------------------------------------------------------------------------------------

(SAMPLE,) = SAMPLES.glob("*.json")
STATE = json.loads(SAMPLE.read_text())
TRUTH = import_logs(SAMPLE)[0]


def state(history, **changed):
    return read([], [json.dumps(STATE | {"log_history": history} | changed)], ".json")


def assert_truth(found):
    assert len(found) <= 1
    for one in found:
        np.testing.assert_array_equal(one.curve.step, TRUTH.curve.step)
        np.testing.assert_array_equal(one.curve.loss, TRUTH.curve.loss)
        assert repr(one.curve.schedule) == repr(TRUTH.curve.schedule)


@EXAMPLES
@given(data=st.data())
def test_a_state_shuffled_and_repeated(data):
    history = STATE["log_history"]
    assert_truth(state(data.draw(st.permutations(history))))
    assert_truth(state([row for row in history for _ in range(data.draw(st.integers(1, 2)))]))
    assert_truth(state(history + history))


@EXAMPLES
@given(share=st.floats(0.0, 0.999))
def test_a_state_that_is_cut_is_refused(share):
    text = SAMPLE.read_text().rstrip()
    assert read([], [text[: int(share * len(text))]], ".json") == ()


@EXAMPLES
@given(rows=st.integers(1, 40))
def test_a_state_saved_early(rows):
    """The planned length stands in the state, so that the schedule is that of the whole run or a refusal."""
    for one in state(STATE["log_history"][:rows]):
        assert int(one.curve.schedule.total_steps) in (400, int(one.curve.step[-1]) + 1)
        count = one.curve.step.size
        np.testing.assert_array_equal(one.curve.loss, TRUTH.curve.loss[:count])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_a_state_in_another_encoding(encoding):
    assert codecs.lookup(encoding)
    assert_truth(read([], [SAMPLE.read_text()], ".json", encoding))
