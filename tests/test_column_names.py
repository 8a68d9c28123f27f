"""Which columns are taken for steps, losses and rates, by their names."""

import csv
import json

import numpy as np
import pytest
import synthetic

import fmjax
from fmjax.importers import Columns, import_logs
from fmjax.importers.column_names import COUNTERS, HELD_OUT, LOSSES, MULTIPLIERS, RATES, plain_name, ranked

KINDS = {"step": COUNTERS, "loss": LOSSES, "held out": HELD_OUT, "rate": RATES, "multiplier": MULTIPLIERS}
NAMES = {
    "step": """
        step, Step, STEP, global_step, trainer/global_step, train/global_step, train_step, iter, iteration, Iteration,
        num_updates, _step, global_iter""",
    "loss": """
        loss, Loss, train_loss, train/loss, Training Loss, trainLoss, train/CE loss, lm_loss, lm-loss, lm loss,
        train/CrossEntropyLoss, loss/train/total, train_loss_batch, train_loss_epoch, loss_ema, train/cross_entropy,
        loss_metrics/global_avg_loss, metrics/train/LanguageCrossEntropy""",
    "held out": """
        val_loss, eval/loss, Validation Loss, valid/loss, eval/c4/CrossEntropyLoss, eval_wiki_loss, test_loss, loss/val,
        metrics/eval/LanguageCrossEntropy""",
    "rate": """
        lr, LR, learning_rate, Learning Rate, learning-rate, train/lr, lr-AdamW, lr/AdamW, lr_AdamW, optim/LR (group 0),
        optim/learning_rate_group0, optimizer/lr, lr-DecoupledAdamW/group0, lr0""",
    "multiplier": "lrm, lr_mult, lr_multiplier, train/lr_scale",
    None: """
        epoch, steps_per_second, train_steps_per_second, time_per_step, step_time, max_steps, step_avg, loss_scale,
        loss scale, z_loss, aux_loss, train/load balancing loss, best_loss, min_lr, max_lr, peak_lr, grad_norm,
        lr-AdamW/pg1-momentum, tokens_per_second, warmup_steps, mtp_loss, loss_weight, _runtime, _timestamp, total_flos,
        lr_decay_steps, eval_steps, logging_steps""",
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in NAMES.items() for name in names.split(",")])
def test_names_are_of_one_kind(kind, name):
    name = name.strip()
    found = [other for other, preference in KINDS.items() if ranked({name: np.zeros(1)}, preference)]
    assert found == ([] if kind is None else [kind])


@pytest.mark.parametrize(
    ("preference", "best_first"),
    [
        (COUNTERS, ["train/global_step", "step", "_step"]),
        (COUNTERS, ["iter", "_step"]),
        (COUNTERS, ["trainer/global_step", "_step"]),
        (LOSSES, ["train_loss_step", "train_loss", "loss", "train_loss_epoch"]),
        (LOSSES, ["train_loss_batch", "epoch_loss"]),
        (LOSSES, ["train/CE loss", "train/loss", "loss_ema"]),
        (LOSSES, ["lm loss", "loss"]),
        (HELD_OUT, ["val_loss", "eval/c4/CrossEntropyLoss"]),
        (RATES, ["lr", "lr-AdamW", "optim/LR (group 1)"]),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_the_order_of_columns_does_not_matter(preference, best_first, turned):
    columns = {name: np.zeros(3) for name in (best_first[::-1] if turned else best_first)}
    assert ranked(columns, preference) == best_first


def test_a_summary_comes_after_the_rows():
    columns = {"train_loss": np.r_[np.full(99, np.nan), 3.0], "loss": np.ones(100)}
    assert ranked(columns, LOSSES) == ["loss", "train_loss"]


def test_plain_names_are_plain():
    assert plain_name(plain_name("optim/LR (group 0)")) == "optim_lr_group_0"
    assert {plain_name(name) for name in ("train/CE loss", "Train CE-Loss", "train_ce_loss")} == {"train_ce_loss"}


T = 500
PLAN = fmjax.Cosine(1e-3, T, warmup_steps=50)
STEP = np.arange(9, T, 10)
RATE = synthetic.rates(PLAN)
LOSS = synthetic.losses("lr-annealing", synthetic.TRUTH["lr-annealing"], RATE, warmup_steps=50)


def table(path, **columns):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([list(columns), *zip(*columns.values(), strict=True)])
    return path


def every(n, values, blank=""):
    """Each n-th value, the others blank."""
    return [value if i % n == n - 1 else blank for i, value in enumerate(values)]


def test_a_history_that_was_plotted_against_its_own_counter(tmp_path):
    path = table(
        tmp_path / "a.csv",
        **{"_step": np.arange(STEP.size), "_runtime": STEP, "iter": STEP, "train/loss": LOSS[STEP], "lr": RATE[STEP]},
    )
    (one,) = import_logs(path)
    np.testing.assert_array_equal(one.curve.step, STEP)


def test_a_counter_that_the_losses_do_not_have_is_passed_over(tmp_path):
    """A history in which only the evaluation logs ``global_step``."""
    path = table(
        tmp_path / "a.csv",
        **{"_step": STEP, "global_step": every(10, STEP), "loss": LOSS[STEP], "val/loss": every(10, LOSS[STEP])},
        lr=RATE[STEP],
    )
    (one,) = import_logs(path)
    np.testing.assert_array_equal(one.curve.step, STEP)


@pytest.mark.parametrize("mean_first", [False, True])
def test_batch_losses_before_means(mean_first, tmp_path):
    columns = {"train_loss_epoch": every(10, LOSS[STEP] + 1), "train_loss_step": LOSS[STEP]}
    columns = columns if mean_first else dict(reversed(columns.items()))
    (one,) = import_logs(table(tmp_path / "a.csv", step=STEP, **columns, **{"lr-AdamW": RATE[STEP]}))
    assert (one.loss, one.rate) == ("train_loss_step", "lr-AdamW")
    np.testing.assert_allclose(one.curve.loss, LOSS[STEP])


@pytest.mark.parametrize("axis", ["train/global_step", "trainer/global_step", "Step"])
def test_charts_over_a_counter(axis, tmp_path):
    for key, column in (("train/loss", LOSS), ("train/learning_rate", RATE)):
        own = {f"fast-1 - _step{end}": np.arange(STEP.size) for end in ("", "__MIN", "__MAX")}
        lines = {f"fast-1 - {key}{end}": column[STEP] for end in ("", "__MIN", "__MAX")}
        table(tmp_path / f"{key.replace('/', '-')}.csv", **{axis: STEP + 1}, **(own if axis != "Step" else {}), **lines)
    (one,) = import_logs(tmp_path)
    assert (one.curve.name, one.curve.step.tolist()) == ("fast-1", STEP.tolist())


@pytest.mark.parametrize("counter", ["global_step", "train_step", "step"])
def test_plain_tables_are_no_histories(counter, tmp_path):
    rows = zip(STEP.tolist(), LOSS[STEP].tolist(), RATE[STEP].tolist(), strict=True)
    lines = [json.dumps({counter: s, "train_loss": x, "lr": r, "train_steps_per_second": 2.1}) for s, x, r in rows]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (one,) = import_logs(tmp_path / "a.jsonl")
    np.testing.assert_array_equal(one.curve.step, STEP)


def test_what_is_not_found_lists_the_columns_and_the_options(tmp_path):
    path = table(tmp_path / "a.csv", when=STEP, badness=LOSS[STEP], lr=RATE[STEP], note=["x"] * STEP.size)
    with pytest.raises(ValueError, match="columns of numbers are 'lr', 'when', 'badness': name them with"):
        import_logs(path)
    (one,) = import_logs(path, columns=Columns(step="when", loss="badness"))
    np.testing.assert_array_equal(one.curve.step, STEP)
