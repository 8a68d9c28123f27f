"""Exported code and configs against the schedules they stand for, update by update.

Optax, PyTorch and Hugging Face run as they are, where installed. Of the other trainers the text is read back and their
formula, written again here from their sources, evaluated.
"""

import argparse
import ast
import math
import pkgutil
import re
import shlex
import sys
from types import ModuleType, SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from fmjax import exporters
from fmjax.exporters import EXPORTERS, export
from fmjax.exporters.layout import yaml
from fmjax.exporters.phases import fraction, phases
from fmjax.schedules.kinds import WSD, Constant, Cosine, Step, Tabulated, lrs
from fmjax.searching.results import Cell

pytestmark = pytest.mark.usefixtures("x64")

T = 400
TABLE = np.concatenate([np.linspace(0, 1e-3, 50), 1e-3 * np.exp(-np.arange(100) / 40), np.zeros(3), [1e-4, 1e-4]])
SCHEDULES = {
    "constant": Constant(1e-3, T),
    "constant-warm": Constant(1e-3, T, 50),
    "constant-warm-to-the-end": Constant(1e-3, T, T),
    "cosine": Cosine(1e-3, T),
    "cosine-warm": Cosine(1e-3, T, 0.0, 50),
    "cosine-final-warm": Cosine(1e-3, T, 1e-4, 50),
    "linear": WSD(1e-3, T, 0.25),
    "1-sqrt": WSD(1e-3, T, 0.25, "1-sqrt"),
    "cosine-anneal": WSD(1e-3, T, 0.25, "cosine", 1e-5),
    "exponential": WSD(1e-3, T, 0.25, "exponential", 1e-5),
    "linear-warm": WSD(1e-3, T, 0.25, "linear", 0.0, 50),
    "linear-final-warm": WSD(1e-3, T, 0.25, "linear", 1e-4, 50),
    "1-sqrt-final-warm": WSD(1e-3, T, 0.25, "1-sqrt", 1e-4, 50),
    "no-stable": WSD(1e-3, T, 0.875, "linear", 1e-4, 50),
    "small-rates": WSD(3e-5, T, 0.25, "linear", 1e-6),
    "odd-steps": WSD(1e-3, 397, 97 / 397, "linear", 0.0, 49),
    "warmup-of-one": WSD(1e-3, T, 0.25, "linear", 0.0, 1),
    "anneal-of-one": WSD(1e-3, T, 1 / T, "linear", 0.0, 50),
    "flat-anneal": WSD(1e-3, T, 0.25, "linear", 1e-3, 50),
    "flat-warmup": WSD(1e-3, T, 0.25, "linear", 0.0, 50, 1e-3),
    "from-final": WSD(1e-3, T, 0.25, "linear", 1e-4, 50, 1e-4),
    "from-between": WSD(1e-3, T, 0.25, "linear", 0.0, 50, 1e-5),
    "rounded": WSD(1e-3, T, 0.2513, "linear"),
    "overlap": WSD(1e-3, T, 0.95, "linear", 1e-5, 50),
    "overlap-exponential": WSD(1e-3, T, 1.0, "exponential", 1e-5, 50),
    "step": Step(1e-3, T, (100, 200.5, 300), (5e-4, 0.0, 7e-4)),
    "step-warm": Step(1e-3, T, (100,), (5e-4,), 50, 1e-4),
    "step-within-warmup": Step(1e-3, T, (20, 100), (5e-4, 1e-4), 50),
    "step-at-once": Step(1e-3, T, (0,), (5e-4,), 50),
    "step-none": Step(1e-3, T, (), (), 50),
    "tabulated": Tabulated(TABLE),
    "tabulated-one": Tabulated(np.array([1e-3])),
}
OTHERS = {name for name, schedule in SCHEDULES.items() if isinstance(schedule, Step | Tabulated)}
OTHERS |= {"exponential", "overlap", "overlap-exponential"}
ROOTS = {"1-sqrt", "1-sqrt-final-warm"}
STARTS = {"from-final", "from-between"}
CANNOT = {
    "huggingface": OTHERS | {"from-between"},
    "maxtext": OTHERS | ROOTS | STARTS,
    "levanter": OTHERS | ROOTS | STARTS,
    "torchtitan": OTHERS | STARTS,
    "axolotl": OTHERS | {"from-between"},
    "megatron-bridge": OTHERS | {"constant-warm-to-the-end"},
    "nanochat": OTHERS | ROOTS | STARTS | {"cosine", "cosine-warm", "cosine-final-warm", "cosine-anneal"},
    "megatron": OTHERS | {"constant-warm-to-the-end"},
    "nanotron": OTHERS | STARTS,
    "olmo-core": OTHERS | ROOTS,
}
PAIRS = [(trainer, name) for trainer, cannot in CANNOT.items() for name in SCHEDULES if name not in cannot]


def agree(theirs, text, schedule):
    """Rates are the schedule's, except for what the remarks in the text own up to."""
    ours = np.asarray(lrs(schedule))
    shares = [float(share) for share in re.findall(r"^# .*: rates off by at most (\S+) of the peak$", text, re.M)]
    if not shares:
        np.testing.assert_allclose(theirs, ours, rtol=1e-6, atol=1e-16)
        return
    worst = np.max(np.abs(theirs - ours)) / schedule.peak_lr
    assert worst <= 1.01 * sum(shares)
    assert len(shares) > 1 or worst == pytest.approx(shares[0], rel=0.01)
    if "rounded" not in text:
        warmup = int(schedule.warmup_steps)
        np.testing.assert_allclose(theirs[warmup:], ours[warmup:], rtol=1e-6)


# Code that runs


def run_optax(text, schedule):
    names = {}
    exec(text, names)
    agree(np.asarray(names["schedule"](np.arange(schedule.total_steps))), text, schedule)


@pytest.mark.parametrize("name", SCHEDULES)
def test_optax(name):
    run_optax(export(SCHEDULES[name], "optax"), SCHEDULES[name])


def torch_rates(text, names, total):
    exec(text, names)
    rates = []
    for _ in range(total):
        rates.append(names["optimizer"].param_groups[0]["lr"])
        names["optimizer"].step()
        names["scheduler"].step()
    return np.array(rates)


def run_pytorch(text, schedule):
    torch = pytest.importorskip("torch")
    agree(torch_rates(text, {"model": torch.nn.Linear(1, 1)}, schedule.total_steps), text, schedule)


@pytest.mark.parametrize("name", SCHEDULES)
def test_pytorch(name):
    run_pytorch(export(SCHEDULES[name], "pytorch"), SCHEDULES[name])


@pytest.mark.parametrize("name", SCHEDULES)
def test_pytorch_by_its_formula(name, monkeypatch):
    class Optimizer:
        def __init__(self, _, lr):
            self.lr, self.param_groups = lr, [{}]

        def step(self):
            pass

    class Scheduler:
        def __init__(self, optimizer, factor):
            self.optimizer, self.factor, self.count = optimizer, factor, -1
            self.step()

        def step(self):
            self.count += 1
            self.optimizer.param_groups[0]["lr"] = self.optimizer.lr * self.factor(self.count)

    optim = ModuleType("torch.optim")
    optim.AdamW, optim.lr_scheduler = Optimizer, ModuleType("torch.optim.lr_scheduler")
    optim.lr_scheduler.LambdaLR = Scheduler
    for module in (ModuleType("torch"), optim, optim.lr_scheduler):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    schedule, text = SCHEDULES[name], export(SCHEDULES[name], "pytorch")
    model = SimpleNamespace(parameters=list)
    agree(torch_rates(text, {"model": model}, schedule.total_steps), text, schedule)


def test_pytorch_needs_a_rate_above_zero():
    with pytest.raises(ValueError, match="expected a rate above zero, found only zeros"):
        export(Tabulated(np.zeros(3)), "pytorch")


def run_huggingface(text, schedule):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    given = call_in(text, "TrainingArguments")
    optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=given["learning_rate"])
    steps = {"num_warmup_steps": given["warmup_steps"], "num_training_steps": given["max_steps"]}
    options = {"scheduler_specific_kwargs": given.get("lr_scheduler_kwargs")}
    scheduler = transformers.get_scheduler(given["lr_scheduler_type"], optimizer, **steps, **options)
    rates = torch_rates("", {"optimizer": optimizer, "scheduler": scheduler}, schedule.total_steps)
    agree(rates, text, schedule)


@pytest.mark.parametrize("name", [name for trainer, name in PAIRS if trainer == "huggingface"])
def test_huggingface(name):
    run_huggingface(export(SCHEDULES[name], "huggingface"), SCHEDULES[name])


@pytest.mark.parametrize("run", [run_optax, run_pytorch, run_huggingface], ids=["optax", "pytorch", "huggingface"])
@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_recommended_schedules_are_exported_exactly(run, decay):
    """A ratio of no whole number of updates is rounded when it is recommended, so that no trainer needs to."""
    schedule = Cell(8123, 2.5e-3, decay, 0.0, 0.37, 1.4, (0.3, 0.4), False).schedule(100)
    text = export(schedule, run.__name__.removeprefix("run_"))
    assert "rates off by" not in text
    run(text, schedule)


# Reading back


def call_in(text, name):
    """Keyword arguments of the call of ``name`` in Python code."""
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    (found,) = [node for node in calls if ast.unparse(node.func) == name]
    return {keyword.arg: ast.literal_eval(keyword.value) for keyword in found.keywords}


def yaml_in(text):
    """Values by the last part of their key. A float without a point is a string, as YAML 1.1 has it."""
    pairs = [line.split(":") for line in text.splitlines() if not line.startswith("#")]
    return {key.strip(): yaml_value(value.strip()) for key, value in pairs if value}


def yaml_value(value):
    if re.fullmatch(r"[0-9]+", value):
        return int(value)
    return float(value) if re.fullmatch(r"[0-9]+\.[0-9]*([eE][-+][0-9]+)?", value) else value


def test_yaml_is_read_as_written():
    loader = pytest.importorskip("yaml")
    table = {"a": {"b": 1e-05, "c": 3, "d": {"e": 0.1}}, "f": 1.5e-07, "g": "linear"}
    assert loader.safe_load(yaml(table)) == table
    assert yaml_in(yaml(table)) == {"b": 1e-05, "c": 3, "e": 0.1, "f": 1.5e-07, "g": "linear"}


# Formulas of the trainers, each (text) -> count -> rate


def falling(shape, x):
    return {"linear": 1 - x, "cosine": (1 + math.cos(math.pi * x)) / 2, "root": 1 - math.sqrt(x)}[shape]


def huggingface(text):
    return huggingface_rates(call_in(text, "TrainingArguments"))


def huggingface_rates(given):
    peak, warmup, total = (given[key] for key in ("learning_rate", "warmup_steps", "max_steps"))
    options = given.get("lr_scheduler_kwargs", {})

    def wsd(count):
        low, decay, shape = (options[key] for key in ("min_lr_ratio", "num_decay_steps", "decay_type"))
        assert options["warmup_type"] == "linear"
        if count < warmup:
            return low + (1 - low) * count / warmup
        x = max(0, count - (total - decay)) / decay
        return low + (1 - low) * falling(shape.replace("1-sqrt", "root"), x)

    def other(count):
        if count < warmup:
            return count / warmup
        x = (count - warmup) / max(1, total - warmup)
        if given["lr_scheduler_type"] == "polynomial":
            return ((peak - options["lr_end"]) * (1 - x) ** options["power"] + options["lr_end"]) / peak
        low = options.get("min_lr", 0) / peak
        shapes = {"constant_with_warmup": 1, "cosine": falling("cosine", x)}
        return low + (1 - low) * shapes[given["lr_scheduler_type"].removesuffix("_with_min_lr")]

    factor = wsd if given["lr_scheduler_type"] == "warmup_stable_decay" else other
    return lambda count: peak * factor(count)


def maxtext(text):
    given = yaml_in(text)
    length, peak = given["learning_rate_schedule_steps"], given["learning_rate"]
    warmup, kind = int(length * given["warmup_steps_fraction"]), given["lr_schedule_type"]
    assert kind == "cosine" or given["warmup_steps_fraction"] + given["wsd_decay_steps_fraction"] <= 1
    decay = length - warmup if kind == "cosine" else int(length * given["wsd_decay_steps_fraction"])
    low = peak * given["learning_rate_final_fraction"]

    def rate(count):
        if count < warmup:
            return peak * count / warmup
        if count < length - decay:
            return peak
        x = (count - (length - decay)) / (decay - 1)
        return low + (peak - low) * falling("cosine" if kind == "cosine" else given["wsd_decay_style"], x)

    return rate


def levanter(text):
    given = yaml_in(text)
    total, peak, shape = (given[key] for key in ("num_train_steps", "learning_rate", "lr_schedule"))
    warmup, decay = (int(part * total) if part <= 1 else part for part in (given["warmup"], given.get("decay", 0)))
    low = peak * given.get("min_lr_ratio", 1.0)

    def rate(count):
        if count < warmup:
            return peak * count / warmup
        x = max(0, count - (total - decay)) / decay if decay else 0
        return peak if shape == "constant" else low + (peak - low) * falling(shape, x)

    return rate


def torchtitan(text):
    scheduler = call_in(text, "LRSchedulersContainer.Config")
    total, peak = call_in(text, "TrainingConfig")["steps"], call_in(text, "default_adamw")["lr"]
    warmup, low, decay = scheduler["warmup_steps"], scheduler["min_lr_factor"], round(total * scheduler["decay_ratio"])
    assert warmup + decay <= total
    shape = scheduler["decay_type"].replace("sqrt", "root")

    def rate(count):
        if count < warmup:
            return peak * (count + 1) / warmup
        if count < total + 1 - decay:
            return peak
        return peak * (low + (1 - low) * falling(shape, (count + 1 - (total + 1 - decay)) / decay))

    return rate


def nanochat(text):
    parser = argparse.ArgumentParser()
    for flag in ("--num-iterations", "--warmup-steps"):
        parser.add_argument(flag, type=int)
    for flag in ("--matrix-lr", "--warmdown-ratio", "--final-lr-frac"):
        parser.add_argument(flag, type=float)
    given = parser.parse_args(shlex.split(text.replace("\\\n", " "), comments=True))
    total, warmup = given.num_iterations, given.warmup_steps
    warmdown = round(given.warmdown_ratio * total)

    def rate(count):
        if count < warmup:
            return given.matrix_lr * (count + 1) / warmup
        if count <= total - warmdown:
            return given.matrix_lr
        left = (total - count) / warmdown
        return given.matrix_lr * (left + (1 - left) * given.final_lr_frac)

    return rate


def megatron(text):
    parser = argparse.ArgumentParser()
    for flag in ("--train-iters", "--lr-warmup-iters", "--lr-decay-iters", "--lr-wsd-decay-iters"):
        parser.add_argument(flag, type=int)
    for flag in ("--lr", "--min-lr", "--lr-warmup-init"):
        parser.add_argument(flag, type=float)
    parser.add_argument("--lr-decay-style", choices=["constant", "linear", "cosine", "WSD"])
    parser.add_argument("--lr-wsd-decay-style", choices=["linear", "cosine", "minus_sqrt"])
    given = parser.parse_args(shlex.split(text.replace("\\\n", " "), comments=True))
    return megatron_core(given)


def megatron_core(given):
    end, warmup, low, style = given.lr_decay_iters, given.lr_warmup_iters, given.min_lr, given.lr_decay_style
    assert warmup < end == given.train_iters

    def rate(count):
        if warmup and count <= warmup:
            return given.lr_warmup_init + (given.lr - given.lr_warmup_init) * count / warmup
        if style == "constant":
            return given.lr
        if style != "WSD":
            return low + (given.lr - low) * falling(style, (count - warmup) / (end - warmup))
        x = max(0, count - (end - given.lr_wsd_decay_iters)) / given.lr_wsd_decay_iters
        return low + (given.lr - low) * falling(given.lr_wsd_decay_style.replace("minus_sqrt", "root"), x)

    return rate


def megatron_bridge(text):
    optimizer, scheduler = call_in(text, "OptimizerConfig"), call_in(text, "SchedulerConfig")
    total = int(re.findall(r"^train_iters = (\d+)", text, re.M)[0])
    return megatron_core(SimpleNamespace(train_iters=total, **optimizer, **scheduler))


def axolotl(text):
    given = yaml_in(text)
    keys = {"learning_rate", "max_steps", "warmup_steps"}
    kwargs = {key: value for key, value in given.items() if key not in keys | {"lr_scheduler"}}
    arguments = {key: given[key] for key in keys} | {"lr_scheduler_type": given["lr_scheduler"]}
    return huggingface_rates(arguments | {"lr_scheduler_kwargs": kwargs})


def nanotron(text):
    given = SimpleNamespace(**yaml_in(text))
    peak, low = given.learning_rate, given.min_decay_lr
    warmup, start = given.lr_warmup_steps, given.lr_decay_starting_step
    assert warmup or given.lr_decay_steps  # else its multiplier is the rate itself

    def rate(count):
        if count <= warmup:
            return peak * count / max(warmup, 1) if given.lr_warmup_style == "linear" else peak
        if count < start:
            return peak
        if count >= start + given.lr_decay_steps:
            return low
        shape = given.lr_decay_style.replace("1-sqrt", "root")
        return low + (peak - low) * falling(shape, (count - start) / given.lr_decay_steps)

    return rate


def olmo_core(text):
    peak = call_in(text, "AdamWConfig")["lr"]
    (scheduler,) = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.List)]
    stages = [{keyword.arg: ast.literal_eval(keyword.value) for keyword in stage.keywords} for stage in scheduler.elts]
    total = int(re.findall(r"Duration\.steps\((\d+)\)", text)[0])
    assert peak == max(stage["end_lr"] for stage in stages)
    assert sum(stage["duration"] for stage in stages) == total + 1

    def rate(count):
        current = count + 1  # its global step of the first update
        for stage in stages:
            assert stage["duration"] > 0
            if current < stage["duration"]:
                low, high, x = stage["end_lr"], stage["start_lr"], current / stage["duration"]
                return low + (high - low) * falling(stage["shape"], x)
            current -= stage["duration"]
        return stages[-1]["end_lr"]

    return rate


FORMULAS = {
    "huggingface": huggingface,
    "maxtext": maxtext,
    "levanter": levanter,
    "torchtitan": torchtitan,
    "megatron": megatron,
    "axolotl": axolotl,
    "megatron-bridge": megatron_bridge,
    "nanochat": nanochat,
    "nanotron": nanotron,
    "olmo-core": olmo_core,
}


@pytest.mark.parametrize(("trainer", "name"), PAIRS)
def test_rates_of_the_trainer(trainer, name):
    schedule, text = SCHEDULES[name], export(SCHEDULES[name], trainer)
    rate = FORMULAS[trainer](text)
    agree(np.array([rate(count) for count in range(schedule.total_steps)]), text, schedule)


@pytest.mark.parametrize(
    ("trainer", "name"), [(trainer, name) for trainer, names in CANNOT.items() for name in sorted(names)]
)
def test_what_a_trainer_cannot_express(trainer, name):
    with pytest.raises(ValueError, match=f"^{trainer}: expected .+, got .+"):
        export(SCHEDULES[name], trainer)


@pytest.mark.parametrize("trainer", FORMULAS)
def test_only_warmups_from_elsewhere_and_rounding_change_rates(trainer):
    texts = {name: export(SCHEDULES[name], trainer) for other, name in PAIRS if other == trainer}
    changed = {name for name, text in texts.items() if "rates off" in text} - {"rounded"}
    assert "rates off" in texts["rounded"]
    ahead = {name for name in texts if SCHEDULES[name].warmup_steps} - {"flat-warmup", "from-final"}
    low = {"linear-final-warm", "1-sqrt-final-warm"}
    expected = {"torchtitan": ahead, "nanochat": ahead, "huggingface": low, "axolotl": low}
    assert changed == expected.get(trainer, set())


# The registry


def test_every_file_is_registered():
    files = {info.name for info in pkgutil.iter_modules(exporters.__path__)} - {"layout", "phases", "snippets"}
    assert {name.replace("-", "_") for name in EXPORTERS} == files
    assert set(EXPORTERS) == {"optax", "pytorch", *FORMULAS}


@pytest.mark.parametrize("trainer", EXPORTERS)
def test_text_is_plain(trainer):
    text = export(WSD(1e-3, T, 0.25, warmup_steps=50), trainer)
    fields = (jnp.float64(1e-3), jnp.int32(T), jnp.float64(0.25))
    assert export(WSD(*fields, warmup_steps=jnp.int32(50)), trainer) == text
    assert text.isascii()
    assert "fmjax" not in text
    assert text == text.strip()


@pytest.mark.parametrize(
    ("schedule", "to", "message"),
    [
        (SCHEDULES["linear"], "torchtitn", "unknown trainer 'torchtitn'; did you mean 'torchtitan'?"),
        (
            SCHEDULES["exponential"],
            "torchtitan",
            "torchtitan: expected decay linear, 1-sqrt or cosine, got expo",
        ),
        (SCHEDULES["step"], "levanter", "levanter: expected Constant, Cosine or WSD, got Step"),
        (SCHEDULES["overlap"], "maxtext", "expected an anneal that starts after warmup, got 50 + 380 of 400 updates"),
        (SCHEDULES["from-between"], "nanotron", "nanotron: expected a warmup from init_lr 0, got 1e-05"),
        (
            SCHEDULES["1-sqrt"],
            "olmo-core",
            "olmo-core: expected decay linear or cosine, got 1-sqrt",
        ),
        (lambda count: 1e-3, "optax", "optax: expected Constant, Cosine, WSD, Step or Tabulated, got function"),
        (Constant(-1.0, T), "pytorch", "peak_lr: expected a number above zero, got -1.0"),
    ],
)
def test_errors_say_what_was_expected(schedule, to, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        export(schedule, to)


def test_fractions_give_back_their_steps():
    whole = np.random.default_rng(0).integers(2, 10**6, 2000).tolist()
    parts = [int(n * share) for n, share in zip(whole, np.random.default_rng(1).random(2000), strict=True)]
    assert [int(fraction(part, n) * n) for part, n in zip(parts, whole, strict=True)] == parts
    assert all(fraction(part, n) + fraction(n - part, n) <= 1 for part, n in zip(parts, whole, strict=True))


def test_phases_fill_the_run():
    plan = phases(SCHEDULES["linear-warm"], "any", {"linear": "LINEAR"})
    assert (plan.warmup, plan.stable, plan.anneal, plan.decay) == (50, 250, 100, "LINEAR")
