"""What tools print on standard output: a made-up log of each format gives its steps, losses, rates and length."""

import gzip
import json
import re

import numpy as np
import pytest
import synthetic

import fmjax
from fmjax.importers import Columns, import_logs
from fmjax.importers.line_formats import FORMATS
from fmjax.importers.printed_lines import format_of

T, EVERY = 600, 20
PLAN = fmjax.WSD(2e-3, T, 0.25, warmup_steps=40)
RATE = synthetic.rates(PLAN)
LOSS = synthetic.losses("lr-annealing", synthetic.TRUTH["lr-annealing"], RATE, warmup_steps=40)
UPDATES = np.arange(EVERY - 1, T, EVERY)


def megatron(n, x, r):
    return (
        f" [2024-05-06 07:08:09] iteration {n:8d}/{T:8d} | consumed samples: {64 * n:9d} | learning rate: {r:.6E} |"
        f" global batch size:    64 | lm loss: {x:.6E} | loss scale: 1.0 | grad norm: 0.412 |"
    )


def neox(n, x, r):
    return (
        f" samples/sec: 88.1 | iteration {n:8d}/{T:8d} | elapsed time per iteration (ms): 731.0 |"
        f" learning rate: {r:.3E} | lm_loss: {x:.6E} | loss scale: 4096.0 | number of nan iterations:   0 |"
    )


def deepspeed(n, x, r):
    return f" iteration {n:8d}/{T:8d} | consumed tokens: {4096 * n} | learning rate: {r:.6E} | lm-loss: {x:.6E} |"


def nanotron(n, x, r):
    return (
        f"05/06/2024 07:08:09 [INFO|DP=0|PP=0|TP=0|node]: iteration: {n} / {T} | consumed_tokens: {n / 500:.3g}B |"
        f" elapsed_time_per_iteration_ms: 1.1K | lm_loss: {x:.4g} | lr: {r:.3g} | grad_norm: 0.3"
    )


def olmo(n, x, r):
    return (
        f"2024-05-06 07:08:09.101\thost:0\tolmo.train:816\tINFO\t[step={n}/{T}]\n"
        f"    train/CrossEntropyLoss={x:.4f}\n    train/Perplexity={np.exp(x):,.3f}\n"
        f"    throughput/total_tokens={n * 4096:,}\n    optim/learning_rate_group0={r:.4e}"
    )


def olmo_core(n, x, r):
    return (
        f"2024-05-06 07:08:09.101\thost:0\tolmo_core.train:81\tINFO\t[step={n}/{T},epoch=1,eta=1:02:03]\n"
        f"    optim/LR (group 0)={r:.4g}\n    optim/LR (group 1)={r:.4g}\n    train/CE loss={x:.4f}\n"
        f"    train/Z loss=0.001\n    train/PPL={np.exp(x):.3f}"
    )


def composer(n, x, r):
    return (
        f"[batch={n}/{T}]:\n\t Train time/batch: {n - 1}\n\t Train loss/train/total: {x:.4f}\n"
        f"\t Train metrics/train/LanguagePerplexity: {np.exp(x):.3f}\n\t Train lr-DecoupledAdamW/group0: {r:.4e}"
    )


def maxtext(n, x, r):
    return (
        f"I0506 07:08:09.101 77 metric_logger.py:1] completed step: {n - 1}, seconds: 0.55, TFLOP/s/device: 200.1,"
        f" Tokens/s/device: 4100.0, total_weights: 65536, loss: {x:.3f}"
    )


def litgpt(n, x, r):
    return f"Epoch 1 | iter {2 * n} step {n} | loss train: {x:.3f}, val: n/a | iter time: 99.1 ms (step)"


def nanogpt(n, x, r):
    return f"iter {n - 1}: loss {x:.4f}, time 120.11ms, mfu 30.02%"


def build_nanogpt(n, x, r):
    return f"{n - 1} train {x:.6f}"


def build_nanogpt_stdout(n, x, r):
    return f"step {n - 1:5d} | loss: {x:.6f} | lr {r:.4e} | norm: 0.9 | dt: 301.10ms | tok/sec: 1,002,003.4"


def llmc(n, x, r):
    return f"s:{n - 1} trl:{x:.4f} lr:{r:.6f} norm:1.21"


def llmc_stdout(n, x, r):
    return f"step {n:4d}/{T} | loss {x:.6f} (+nanz)| norm 0.91 (-1.3z)| lr {r:.2e} | 3056.11 ms | 42.6% bf16 MFU"


def speedrun(n, x, r):
    return f"s:{n - 1} trl:{x:.6f}"


def modded(n, x, r):
    return f"step:{n - 1}/{T} val_loss:{x:.4f} train_time:{100 * n}ms step_avg:100.00ms"


def torchtitan(n, x, r):
    return (
        f"[rank0]:[titan] 2024-05-06 07:08:09,101 - root - INFO - \x1b[31mstep: {n:2d}  \x1b[32mloss: {x:7.4f}  "
        f"\x1b[38;2;180;60;0mgrad_norm:  1.0001  \x1b[33mmemory: 20.10GiB(25.10%)  \x1b[34mtps: 7,001\x1b[39m"
    )


def fairseq(n, x, r):
    row = {"epoch": 1, "update": 0.1, "loss": f"{x:.3f}", "nll_loss": f"{x - 0.1:.3f}", "num_updates": f"{n}"}
    return f"2024-05-06 07:08:09 | INFO | train_inner | {json.dumps({**row, 'lr': f'{r:.6g}', 'gnorm': '0.9'})}"


def huggingface(n, x, r):
    return f"{{'loss': {x:.4f}, 'grad_norm': 1.5, 'learning_rate': {r}, 'epoch': {2 * n / T:.2f}}}"


def equals(n, x, r):
    return f"INFO step={n} loss={x:.5f} lr={r:.4e} tok_s=1e5"


def colons(n, x, r):
    return f"[train] Step: {n} of {T}, Train Loss: {x:.5f}, Learning Rate: {r:.4e}, Time: 1.1s"


def json_after_a_prefix(n, x, r):
    return f"07:08:09 metrics {json.dumps({'global_step': n, 'train_loss': round(x, 5), 'lr': float(f'{r:.5g}')})}"


def batches(n, x, r):
    return f"| epoch   1 | {n:5d}/{T:5d} batches | lr {r:.3e} | ms/batch 12.1 | loss {x:6.3f} | ppl {np.exp(x):8.2f}"


def clu(n, x, r):
    return f"I0506 07:08:09.1 140 logging_writer.py:48] [{n}] learning_rate={r:.5e}, loss={x:.5f}, steps_per_sec=8.1"


def tqdm(n, x, r):
    return f"  9%|9         | {n}/{T} [00:05<00:45, 19.9it/s, loss={x:.4f}, lr={r:.2e}]"


def bare(n, x, r):
    return f"{n}\t{x:.6f}"


BAR = "  0%|          | 0/600 [00:00<?, ?it/s]\n"
END = "{'train_runtime': 12.5, 'train_steps_per_second': 8.1, 'train_loss': 3.1, 'epoch': 2.0}"
PRINTERS = {
    megatron: ("megatron", True),
    neox: ("megatron", True),
    deepspeed: ("megatron", True),
    nanotron: ("nanotron", True),
    olmo: ("olmo", True),
    olmo_core: ("olmo", True),
    composer: ("composer", True),
    maxtext: ("maxtext-stdout", False),
    litgpt: ("litgpt", False),
    nanogpt: ("nanogpt", False),
    build_nanogpt: ("build-nanogpt", False),
    build_nanogpt_stdout: ("lines", True),
    llmc: ("llmc", True),
    llmc_stdout: ("lines", True),
    speedrun: ("llmc", False),
    modded: ("modded-nanogpt", False),
    torchtitan: ("torchtitan-stdout", False),
    fairseq: ("fairseq", True),
    huggingface: ("huggingface-stdout", True),
    equals: ("lines", True),
    colons: ("lines", True),
    json_after_a_prefix: ("lines", True),
    batches: ("lines", True),
    clu: ("clu", True),
    tqdm: ("progress-bar", True),
    bare: ("two-columns", False),
}
"""What prints a row of the n-th update: the format, and whether the rate is printed."""


def printed(path, printer, *, before="", after=""):
    rows = (printer(int(u) + 1, float(LOSS[u]), float(RATE[u])) for u in UPDATES)
    path.write_text(before + "\n".join(rows) + "\n" + after)
    return path


def around(printer):
    """What stands before and after the rows."""
    if printer is huggingface:
        return {"before": BAR, "after": END}
    return {} if printer is bare else {"before": "# a banner: 12 layers\nstarting the run\n", "after": "done\n"}


@pytest.mark.parametrize("printer", PRINTERS, ids=lambda printer: printer.__name__)
def test_every_format(printer, tmp_path):
    form, has_rate = PRINTERS[printer]
    path = printed(tmp_path / "a.log", printer, **around(printer))
    assert format_of(path).name == form
    (one,) = import_logs(path, schedule=None if has_rate else PLAN)
    np.testing.assert_array_equal(one.curve.step, UPDATES)
    np.testing.assert_allclose(one.curve.loss, LOSS[UPDATES], rtol=2e-3)
    assert (one.rate is not None) == has_rate
    assert not any("smoothed" in note for note in one.notes)
    assert one.curve.schedule.total_steps == T
    if has_rate:
        assert float(np.max(one.curve.schedule(np.arange(T)))) == pytest.approx(2e-3, rel=2e-3)
    else:
        with pytest.raises(ValueError, match=r"no learning rate is logged .*give the schedule"):
            import_logs(path)


def test_every_format_of_the_table_has_a_log_here():
    assert {form for form, _ in PRINTERS.values()} | {"nanochat"} == {form.name for form in FORMATS}


@pytest.mark.parametrize("printer", [megatron, olmo, composer, llmc_stdout, nanotron], ids=lambda f: f.__name__)
def test_a_run_that_was_cut_off_has_the_length_that_its_rows_name(printer, tmp_path):
    path = printed(tmp_path / "a.log", printer)
    text = path.read_text()
    path.write_text(text[: text.index(printer(19 * EVERY, LOSS[19 * EVERY - 1], RATE[19 * EVERY - 1]))])
    (one,) = import_logs(path)
    assert one.curve.step[-1] == 18 * EVERY - 1
    assert one.curve.schedule.total_steps == T


HELD_OUT = {
    megatron: " validation loss at iteration 200 | lm loss value: 3.500000E+00 | lm loss PPL: 3.3E+01 | \n",
    neox: " validation results at iteration 200 | lm_loss value: 3.500000E+00 | lm_loss_ppl value: 3.3E+01 | \n",
    maxtext: "I0506 07:08:09 77 metric_logger.py:1] eval metrics after step: 199, loss=3.500, total_weights=4096\n",
    nanogpt: "step 199: train loss 3.4000, val loss 3.5000\n",
    build_nanogpt: "199 val 3.5000\n199 hella 0.2511\n",
    llmc: "s:199 tel:3.5000\n",
    litgpt: "Epoch 1 | iter 400 step 200 | loss train: 3.400, val: 3.500 | iter time: 99.1 ms (step)\n",
    olmo: "2024-05-06\thost\tINFO\t[step=200/600]\n    eval/c4_en-validation/CrossEntropyLoss=3.500\n",
    composer: "[batch=200/600]:\n\t Eval metrics/eval/LanguageCrossEntropy: 3.5000\n",
    equals: "INFO evaluation at step=200 loss=3.50000\n",
    colons: "[val] Step: 200 of 600, Val Loss: 3.50000\n",
    fairseq: '07:08:09 | INFO | valid | {"epoch": 1, "valid_loss": "3.5", "valid_num_updates": "200"}\n',
}


@pytest.mark.parametrize("printer", HELD_OUT, ids=lambda printer: printer.__name__)
def test_validation_stays_apart(printer, tmp_path):
    path = printed(tmp_path / "a.log", printer, after="" if printer is litgpt else HELD_OUT[printer])
    if printer is litgpt:  # which prints both in one row
        path.write_text(re.sub(r".* step 200 .*\n", HELD_OUT[printer], path.read_text()))
    schedule = None if PRINTERS[printer][1] else PLAN
    (train,) = import_logs(path, schedule=schedule)
    (held_out,) = import_logs(path, schedule=schedule, columns=Columns(validation=True))
    assert held_out.curve.step.tolist() == [199]
    assert held_out.curve.loss.tolist() == [3.5]
    known = train.curve.step != 199 if printer is litgpt else slice(None)
    np.testing.assert_allclose(train.curve.loss[known], LOSS[UPDATES][known], rtol=2e-3)


def test_the_multiplier_of_nanochat(tmp_path):
    def row(n, x, r):
        return f"step {n - 1:05d}/{T:05d} (1.00%) | loss: {x:.6f} | grad norm: 0.9 | lrm: {r / 2e-3:.4f} | dt: 1.00ms"

    path = printed(tmp_path / "a.log", row)
    assert format_of(path).name == "nanochat"
    (one,) = import_logs(path, peak_lr=2e-3)
    assert (one.rate, one.curve.schedule.total_steps) == ("lrm", T)
    assert any("smoothed" in note for note in one.notes)


def test_steps_that_begin_anew_in_each_epoch_go_on(tmp_path):
    def row(n, x, r):
        return f"Epoch {(n - 1) // 200 + 1}/3, Step {(n - 1) % 200 + 1}/200, loss: {x:.5f}, lr: {r:.4e}"

    (one,) = import_logs(printed(tmp_path / "a.log", row))
    np.testing.assert_array_equal(one.curve.step, UPDATES)
    assert one.curve.schedule.total_steps == T


def test_steps_of_an_unknown_epoch_are_refused(tmp_path):
    def row(n, x, r):
        return f"Epoch {(n - 1) // 200 + 1}, step {(n - 1) % 200 + 1}, loss: {x:.5f}, lr: {r:.4e}"

    with pytest.raises(ValueError, match="steps begin anew in each epoch, and the rows do not have"):
        import_logs(printed(tmp_path / "a.log", row))


def test_the_bar_of_lightning(tmp_path):
    def row(n, x, r):
        return f"Epoch {(n - 1) // 200}:  10%|#  | {(n - 1) % 200 + 1}/200 [00:01<00:09, 9.1it/s, train_loss={x:.5f}]"

    path = printed(tmp_path / "a.log", row)
    assert format_of(path).name == "progress-bar"
    (one,) = import_logs(path, schedule=PLAN)
    np.testing.assert_array_equal(one.curve.step, UPDATES)


@pytest.mark.parametrize("strings", [False, True])
def test_a_cut_trainer_counts_by_its_bars(strings, tmp_path):
    def row(n, x, r):
        bar = f"  {n // 6}%|#  | {n}/600 [00:01<00:09,  9.10it/s]\r"
        text = huggingface(n, x, r)
        return bar + (text.replace(": ", ": '").replace(",", "',").replace("}", "'}") if strings else text)

    path = printed(tmp_path / "a.log", row, before=BAR)
    (one,) = import_logs(path)
    np.testing.assert_array_equal(one.curve.step, UPDATES)
    assert one.curve.schedule.total_steps == T


def test_epochs_without_a_bar_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no progress bar counts the updates; take trainer_state\.json"):
        import_logs(printed(tmp_path / "a.log", huggingface))


def test_epochs_that_are_too_coarse_are_refused(tmp_path):
    rows = [f"{{'loss': 3.0, 'learning_rate': 1e-3, 'epoch': {epoch:.2f}}}" for epoch in (0.01, 0.03, 0.1, 0.3, 1.0)]
    (tmp_path / "a.log").write_text("\n".join(["  0%|  | 0/90000 [00:00<?, ?it/s]", *rows, END]))
    with pytest.raises(ValueError, match="too few digits"):
        import_logs(tmp_path / "a.log")


def test_text_without_rows_is_no_log(tmp_path):
    (tmp_path / "a.txt").write_text("step 3 of the recipe: stir\nloss of water: 20\n")
    assert format_of(tmp_path / "a.txt") is None
    with pytest.raises(ValueError, match="found none"):
        import_logs(tmp_path / "a.txt")


def test_a_packed_log_is_read_and_named_without_its_endings(tmp_path):
    path = printed(tmp_path / "a.log", megatron)
    packed = tmp_path / "b.log.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    (one,) = import_logs(packed)
    assert one.curve.name == "b"
    np.testing.assert_array_equal(one.curve.step, UPDATES)
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"b\.log\.gz: expected a file packed by gzip"):
        import_logs(packed, source="megatron")


def test_a_column_that_the_user_names_is_read(tmp_path):
    (one,) = import_logs(printed(tmp_path / "b.log", megatron), columns=Columns(loss="grad norm"))
    assert one.curve.loss.tolist() == [0.412] * UPDATES.size


@pytest.mark.parametrize("text", ["\n", "1,", "{'loss': ", "completed step: 1, ", "epoch 1 ", "loss/", "| 1/1 ["])
def test_no_text_makes_the_search_for_a_format_slow(text, tmp_path):
    """A search that begins anew at each repetition would take hours."""
    (tmp_path / "a.log").write_text(text * (2**20 // len(text)))
    assert format_of(tmp_path / "a.log") is None
