"""Batches that a log has in a column: stages against the batch of every update, written out one by one."""

import json

import numpy as np
import pytest

from fmjax.cli.commands import run as cli
from fmjax.curves.manifest import load_runs
from fmjax.importers import import_logs
from fmjax.schedules.batch_stages import BatchStages

UPDATES = 1000


def ramp(start=32, increment=8, samples=12_000, full=256, updates=UPDATES):
    """The batch of every update, as a trainer raises it: by an increment each time a share of the samples is spent."""
    batches, spent = [], 0
    share = samples / ((full - start) / increment)
    for _ in range(updates):
        batches.append(min(full, start + increment * int(spent / share)))
        spent += batches[-1]
    return np.array(batches)


def doubled(at=505, size=64, updates=UPDATES):
    return np.where(np.arange(updates) < at, size, 2 * size)


def stages_of(batches, factor=1):
    """Stages by a loop over updates."""
    starts, tokens = [], []
    for update, batch in enumerate(batches.tolist()):
        if not starts or factor * batch != tokens[-1]:
            starts.append(update)
            tokens.append(float(factor * batch))
    return BatchStages(tuple(starts), tuple(tokens))


def log_of(path, every=10, **columns):
    """A log with a row every so many updates; columns are given for every update."""
    count = np.arange(every, UPDATES + 1, every)
    told = {"step": count, "loss": 2 + 50 / (count + 50), "lr": np.minimum(count, 100) * 3e-6}
    told |= {name.replace("__", " "): np.asarray(values)[count - 1] for name, values in columns.items()}
    rows = [
        ",".join(f"{value:.12g}" if not np.isnan(value) else "" for value in row)
        for row in zip(*told.values(), strict=True)
    ]
    path.write_text("\n".join([",".join(told), *rows]), encoding="utf-8")
    return path


def imported(path, **told):
    (found,) = import_logs(path, **told)
    return found.curve.tokens_per_step, found.notes


# ------------------------------------------------------------------------------------------------ a column of batches


@pytest.mark.parametrize("name", ["tokens_per_step", "train/tokens_per_update", "batch_tokens", "batch-size (tokens)"])
def test_a_column_of_tokens_an_update_gives_the_stages(tmp_path, name):
    batches = doubled(size=65536)
    path = log_of(tmp_path / "a.csv", every=1, **{name: batches})
    batch, notes = imported(path)
    assert batch == stages_of(batches)
    assert f"{name!r}: the batch changes, 65536@0,131072@505 tokens an update" in notes


@pytest.mark.parametrize("name", ["global__batch__size", "batch_size", "batch-size", "train/global_batch_size", "bsz"])
def test_a_column_of_sequences_asks_for_tokens_or_their_length(tmp_path, name):
    path = log_of(tmp_path / "a.csv", every=1, **{name: doubled()})
    shown = name.replace("__", " ")
    batch, notes = imported(path)
    assert batch is None
    assert any(note.startswith(f"{shown!r}: the batch changes, 64@0,128@505 samples an update; ") for note in notes)
    assert any("tokens_per_step takes tokens in this form" in note for note in notes)
    batch, notes = imported(path, sequence_length=1024)
    assert batch == stages_of(doubled(), 1024)
    assert f"{shown!r}: the batch changes, 65536@0,131072@505 tokens an update" in notes
    with pytest.raises(ValueError, match=r"run 'a': .*64@0,128@505 samples an update; .*, got 65536"):
        import_logs(path, tokens_per_step=65536)


@pytest.mark.parametrize(
    "name", ["micro_batch_size", "per_device_batch_size", "eval_batch_size", "batch-size vs samples", "max_batch_size"]
)
def test_columns_of_other_batches_are_not_taken(tmp_path, name):
    batch, notes = imported(log_of(tmp_path / "a.csv", **{name: doubled()}))
    assert batch is None
    assert not any("batch" in note for note in notes)


def test_the_batch_of_all_devices_comes_before_that_of_some(tmp_path):
    path = log_of(tmp_path / "a.csv", every=1, batch_size=np.full(UPDATES, 4), global_batch_size=doubled())
    assert imported(path, sequence_length=10)[0] == stages_of(doubled(), 10)


def test_a_batch_that_grows_and_falls_in_long_stages_is_read(tmp_path):
    batches = np.repeat([100, 400, 200, 800], 250)
    assert imported(log_of(tmp_path / "a.csv", every=1, tokens_per_step=batches))[0] == stages_of(batches)


def test_a_batch_that_does_not_change_is_taken_with_the_length_of_a_sequence_alone(tmp_path):
    path = log_of(tmp_path / "a.csv", batch_size=np.full(UPDATES, 64))
    assert imported(path) == imported(log_of(tmp_path / "b.csv"))
    batch, notes = imported(path, sequence_length=1024)
    assert batch == 65536.0
    assert "'batch_size' is the same throughout, 65536 tokens an update" in notes
    assert imported(path, sequence_length=1024, tokens_per_step=5e4)[0] == 5e4
    assert "no column has the batch" in str(imported(tmp_path / "b.csv", sequence_length=1024)[1])


@pytest.mark.parametrize(
    "batches",
    [
        64 + 10 * np.sin(np.arange(UPDATES)),
        np.where(np.arange(UPDATES) % 100 == 99, 17, 64),
        np.where(np.arange(UPDATES) == UPDATES - 1, 17, 64),
    ],
)
def test_batches_that_go_up_and_down_are_no_stages(tmp_path, batches):
    path = log_of(tmp_path / "a.csv", every=1, batch_size=batches)
    batch, notes = imported(path)
    assert batch is None
    assert any("'batch_size' goes up and down, " in note and "it gives the run no batch" in note for note in notes)
    assert imported(path, tokens_per_step=65536)[0] == 65536


def test_a_batch_that_changes_beside_a_counter_that_grows_evenly_is_that_of_a_device(tmp_path):
    told = {"batch_size": doubled(size=4), "tokens": 65536 * np.arange(1, UPDATES + 1)}
    batch, notes = imported(log_of(tmp_path / "a.csv", **told), sequence_length=1024)
    assert batch is None
    assert "'batch_size' changes, but 'tokens' grows evenly, 4 ... 8: it gives the run no batch" in notes
    assert imported(tmp_path / "a.csv", tokens_per_step=65536)[0] == 65536


def test_a_column_that_is_another_in_every_row_counts_something(tmp_path):
    assert imported(log_of(tmp_path / "a.csv", tokens_per_step=np.arange(1, UPDATES + 1)))[0] is None


@pytest.mark.parametrize(("value", "found"), [(0, "0"), (-64, "-64"), (np.inf, "inf")])
def test_a_malformed_batch_is_refused_in_one_line(tmp_path, value, found):
    batches = doubled().astype(float)
    batches[3] = value
    path = log_of(tmp_path / "a.csv", every=1, tokens_per_step=batches)
    expected = f"run 'a': row 4: 'tokens_per_step': expected a batch above zero, found {found}"
    with pytest.raises(ValueError, match=expected):
        import_logs(path)


def test_text_in_a_column_of_batches_is_left_out_with_a_note(tmp_path):
    path = log_of(tmp_path / "a.csv", every=1, tokens_per_step=doubled())
    lines = path.read_text(encoding="utf-8").split()
    lines[3] = lines[3].rsplit(",", 1)[0] + ",many"
    path.write_text("\n".join(lines), encoding="utf-8")
    batch, notes = imported(path)
    assert batch == stages_of(doubled())
    assert "row 3: 'tokens_per_step' is 'many', no number: left out" in notes


# ------------------------------------------------------------------------------------------------ rows that lie apart


@pytest.mark.parametrize("at", [501, 505, 510])
def test_rows_apart_place_a_change_within_what_the_note_has(tmp_path, at):
    batches = doubled(at=at, size=65536)
    batch, notes = imported(log_of(tmp_path / "a.csv", tokens_per_step=batches))
    assert batch.tokens == (65536.0, 131072.0)
    (note,) = [note for note in notes if "the batch changes" in note]
    assert "rows lie apart, so that changes may be up to 5 updates off" in note
    assert abs(batch.starts[1] - at) <= 5


def test_rows_too_far_apart_give_no_batch(tmp_path):
    batch, notes = imported(log_of(tmp_path / "a.csv", every=200, tokens_per_step=doubled(at=250)))
    assert batch is None
    (note,) = [note for note in notes if "the batch changes" in note]
    assert "may be up to 100 updates off, 5.9 % of all tokens: too much to take them" in note
    assert "tokens_per_step takes tokens in this form" in note
    told = "64@0,128@250"
    assert imported(tmp_path / "a.csv", tokens_per_step=told)[0] == BatchStages.from_text(told)


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize(("counter", "factor"), [("consumed_samples", 1), ("tokens", 1024)])
def test_a_counter_beside_the_batch_tells_the_very_update(tmp_path, counter, factor, lag):
    batches = ramp(increment=56, samples=20_000)
    spent = factor * (np.cumsum(batches) - lag * batches)
    path = log_of(tmp_path / "a.csv", global_batch_size=batches, **{counter: spent})
    batch, notes = imported(path, **({} if factor > 1 else {"sequence_length": 1024}))
    assert batch == stages_of(batches, 1024)
    assert not any("rows lie apart" in note for note in notes)


# ------------------------------------------------------------------------------------------------ ramps in small steps


def test_a_ramp_in_small_steps_has_a_stage_for_each_value(tmp_path):
    batches = ramp()
    expected = stages_of(batches, 1024)
    assert len(expected.starts) == 29
    for name, columns in {
        "column": {"tokens_per_step": 1024 * batches},
        "counter": {"tokens": 1024 * np.cumsum(batches)},
        "lagging counter": {"tokens": 1024 * (np.cumsum(batches) - batches)},
        "both": {"global_batch_size": batches, "tokens": 1024 * np.cumsum(batches)},
    }.items():
        batch, notes = imported(log_of(tmp_path / f"{name}.csv", every=1, **columns))
        assert batch == expected, name
        assert any("262144@" in note and "(29 stages) tokens an update" in note for note in notes), name


@pytest.mark.parametrize("columns", ["column", "counter", "both"])
def test_a_ramp_whose_rows_lie_apart_consumes_what_it_did(tmp_path, columns):
    batches = ramp()
    every = {"tokens_per_step": 1024 * batches, "tokens": 1024 * np.cumsum(batches)}
    taken = {"column": every.keys() - {"tokens"}, "counter": every.keys() - {"tokens_per_step"}}.get(columns, every)
    batch, notes = imported(log_of(tmp_path / "a.csv", **{name: every[name] for name in taken}))
    count = np.arange(10, UPDATES + 1, 10)
    spent = 1024 * np.cumsum(batches)[count - 1]
    np.testing.assert_allclose(batch.until(count), spent, rtol=1e-9 if columns == "counter" else 0.03)
    assert np.all(np.diff(batch.tokens) > 0)
    assert any("rows lie apart, so that changes may be up to" in note for note in notes)


def test_the_lines_of_megatron_have_the_batch(tmp_path):
    batches = ramp()
    rows = [
        f" iteration {i + 1:>8}/    {UPDATES} | consumed samples: {spent:>12} | elapsed time (ms): 12.3 | "
        f"learning rate: {min(i + 1, 100) * 3e-6:.6E} | global batch size: {batch:>5} | "
        f"lm loss: {2 + 50 / (i + 51):.6E} | loss scale: 1.0 | grad norm: 0.5 |"
        for i, (batch, spent) in enumerate(zip(batches, np.cumsum(batches), strict=True))
    ]
    path = tmp_path / "out.log"
    path.write_text("\n".join(rows), encoding="utf-8")
    assert imported(path, sequence_length=2048)[0] == stages_of(batches, 2048)
    path.write_text("\n".join(row.replace("consumed", "other") for row in rows), encoding="utf-8")
    batch, notes = imported(path, sequence_length=2048)
    assert batch == stages_of(batches, 2048)
    assert any("'global batch size': the batch changes, 65536@0,81920@" in note for note in notes)


def test_a_stage_that_no_row_has_leaves_the_changes_unsure(tmp_path):
    """A counter cannot tell 4 updates of 96 from 2 of 64 and 2 of 128."""
    batches = np.select([np.arange(UPDATES) < limit for limit in (30, 34, 650)], [64, 96, 128], 160)
    path = log_of(tmp_path / "a.csv", every=20, tokens_per_step=batches, tokens=np.cumsum(batches))
    batch, notes = imported(path)
    assert batch == BatchStages((0, 32, 650), (64.0, 128.0, 160.0))
    count = np.arange(20, UPDATES + 1, 20)
    np.testing.assert_allclose(batch.until(count), np.cumsum(batches)[count - 1])
    (note,) = [note for note in notes if "the batch changes" in note]
    assert "changes may be up to 12 updates off" in note


def test_rows_of_a_stem_bring_its_batch(tmp_path):
    batches = np.where(np.arange(UPDATES) < 300, 64, np.where(np.arange(UPDATES) < 700, 128, 256))
    (tmp_path / "runs").mkdir()
    stem = log_of(tmp_path / "runs/stem.csv", batch_size=np.minimum(batches, 128), every=1)
    rows = log_of(tmp_path / "branch.csv", batch_size=batches, every=1).read_text(encoding="utf-8").split()
    (tmp_path / "runs/branch.csv").write_text("\n".join([rows[0], *rows[601:]]), encoding="utf-8")
    assert stem.exists()
    found = {one.curve.name: one for one in import_logs(tmp_path / "runs", sequence_length=10, join=True)}
    assert found["branch"].curve.tokens_per_step == stages_of(batches, 10)
    late = {one.curve.name: one for one in import_logs(tmp_path / "runs", sequence_length=10)}["branch"]
    early = "before that the batch is taken to be the first that is logged"
    assert early in late.notes
    assert early not in found["branch"].notes


def events_of(folder, batches, every):
    """The events of Megatron-LM, of which some have consumed samples for steps."""
    pytest.importorskip("tensorboard")
    from test_event_files import event, written

    spent, each = np.cumsum(batches), []
    for i in range(every - 1, UPDATES, every):
        values = {
            "lm loss": 2 + 50 / (i + 51),
            "learning-rate": min(i + 1, 100) * 3e-6,
            "batch-size": float(batches[i]),
        }
        each += [event(i + 1, **values), event(int(spent[i]), **{"batch-size vs samples": float(batches[i])})]
    written(folder / "run", each)
    return folder


def test_the_events_of_megatron_have_the_batch(tmp_path):
    batch, _ = imported(events_of(tmp_path / "dense", ramp(), 1), sequence_length=2048)
    assert batch == stages_of(ramp(), 2048)
    batch, notes = imported(events_of(tmp_path / "apart", doubled(at=250), 200), sequence_length=2048)
    assert batch is None
    assert any("5.9 % of all tokens: too much to take them" in note for note in notes)


def test_lines_of_no_tool_may_have_the_batch(tmp_path):
    rows = [
        f"step {i}: loss {2 + 50 / (i + 51):.5f}, batch_size: {batch}, lr {min(i + 1, 100) * 3e-6:.3e}"
        for i, batch in enumerate(doubled())
    ]
    path = tmp_path / "out.log"
    path.write_text("\n".join(rows), encoding="utf-8")
    assert imported(path, sequence_length=1024)[0] == stages_of(doubled(), 1024)


@pytest.mark.parametrize("digits", [1, 2, 3, 4])
def test_counters_of_few_digits_show_no_ramp(tmp_path, digits):
    spent = [float(f"{64.0 * at:.{digits}g}") for at in np.arange(1, UPDATES + 1)]
    for every in (1, 7, 10):
        path = log_of(tmp_path / f"{every}.csv", every=every, tokens=spent)
        assert imported(path)[0] is None, every


def test_the_command_line_takes_the_length_of_a_sequence(tmp_path, capsys):
    path = log_of(tmp_path / "a.csv", every=1, batch_size=ramp())
    assert cli(["import", str(path), "-o", str(tmp_path / "runs"), "--sequence-length", "1024"]) == 0
    capsys.readouterr()
    (curve,) = load_runs(tmp_path / "runs")
    assert curve.tokens_per_step == stages_of(ramp(), 1024)
    assert cli(["import", str(path), "--check", "--sequence-length", "1024", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["tokens_per_step"] == str(stages_of(ramp(), 1024))
    assert cli(["import", str(path), "--check", "--sequence-length", "-3"]) == 2
    assert "sequence_length: expected a number above zero, got -3" in capsys.readouterr().err
