"""Runs simulated from known laws by plain NumPy loops, independent of the package's recursions."""

from dataclasses import replace

import jax
import numpy as np

from fmjax.curves.loss_curve import LossCurve
from fmjax.schedules.kinds import WSD, Constant, Cosine, lrs

DECAY = 0.99
TRUTH = {
    "forward-momentum": {"L0": 2.5, "A": 0.4, "C": 0.15, "alpha": 0.45},
    "lr-annealing": {"L0": 2.5, "A": 0.4, "C": 4.0, "alpha": 0.45},
    "forward-only": {"L0": 2.5, "A": 0.4, "alpha": 0.45},
    "chinchilla": {"L0": 2.5, "A": 9.0, "alpha": 0.45},
    "intrinsic-momentum": {
        **{"L0": 2.5, "A": 0.4},
        **{"c0.3": 0.0, "c1": 0.0, "c3": 4.0, "c10": 0.0, "c30": 6.0, "c100": 0.0, "c300": 2.0},
        **{"d0.3": 0.0, "d1": 2.0, "d3": 0.0, "d10": 0.0, "d30": 0.0, "d100": 3.0, "d300": 0.0},
        **{"alpha": 0.45, "rho": 0.8, "xi": 0.625},
    },
    "multi-power": {"L0": 2.5, "A": 0.4, "B": 400.0, "alpha": 0.45, "C": 2.0, "beta": 0.6, "gamma": 0.6},
    "functional": {"L0": 2.5, "A": 0.4, "B": 100.0, "C": 50.0, "alpha": 0.45, "kappa": 100.0, "gamma": 0.6},
    "convex-bound": {"L0": 2.5, "D2": 0.3, "G2": 80.0},
    "kaplan": {"L0": 2.5, "A": 9.0, "alpha": 0.45},
}
"""Parameters without model-size terms; ``DECAY`` is lr-annealing's memory."""
SIZE_TERMS = (30.0, 0.25)
SIZE_NAMES = {"multi-power": ("D", "delta"), "functional": ("D", "delta"), "intrinsic-momentum": ("C", "beta")}
"""Where they are not called B and beta."""
SIZE_POWERS = {"lr-annealing": {"gamma": 0.1, "C": 1.0}, "intrinsic-momentum": {"gamma": 0.02, "q": 0.03}}
"""How other terms change with the size."""
SIZES = (1e6, 5e6, 2e7)
SAME_FIT = 1e-6
"""Relative difference of parameters that two fits of one problem may end with, on any processor: a fit stops where a
step promises 1e-13 of the objective, and a parameter is known to the square root of that."""


def schedules(peak_lr=1e-3):
    """A handful of schedules by name; all but the first anneal."""
    common = {"peak_lr": peak_lr, "total_steps": 400, "warmup_steps": 20}
    return {
        "constant": Constant(**common),
        "cosine": Cosine(**common, final_lr=0.1 * peak_lr),
        "wsd-0.2": WSD(**common, anneal_ratio=0.2),
        "wsd-0.5": WSD(**common, anneal_ratio=0.5, decay="1-sqrt"),
    }


def rates(schedule):
    """Rate of every update in float64."""
    with jax.enable_x64(True):
        return np.asarray(lrs(schedule))


def rate_drops(rates, warmup_steps=0):
    """Rate of the update before minus that of each update; none until the end of warmup."""
    drops = -np.diff(rates, prepend=rates[:1])
    return np.where(np.arange(rates.size) > warmup_steps, drops, 0.0)


def area(rates, warmup_steps=0, decay=DECAY):
    """S2 after every update."""
    m, total, out = 0.0, 0.0, []
    for drop in rate_drops(rates, warmup_steps):
        m = decay * m + drop
        total += m
        out.append(total)
    return np.array(out)


def momentum(rates, warmup_steps=0):
    """M after every update, with the published constants."""
    m = v = total = 0.0
    out = []
    for i, drop in enumerate(rate_drops(rates, warmup_steps), start=1):
        m, v = 0.9 * m + 0.1 * drop, 0.999 * v + 0.001 * drop**2
        total += m / (1 - 0.9**i) / (np.sqrt(1e5 * v / (1 - 0.999**i) + 1e-8) + 1e-8)
        out.append(total)
    return np.array(out)


def noise_memory(rates, forget, xi=0.625):
    """E of intrinsic-momentum after every update."""
    level, out = 0.0, []
    for rate in rates:
        kept = np.exp(-forget * rate)
        level = kept * level + (1 - kept) * rate**xi
        out.append(level)
    return np.array(out)


def forward(law, rates):
    """What a law counts: updates, rates, or for intrinsic-momentum rates to the power of 0.8."""
    if law == "intrinsic-momentum":
        return np.cumsum(1e-3 * (rates / 1e-3) ** 0.8)
    return np.arange(1, rates.size + 1.0) if law in ("chinchilla", "kaplan") else np.cumsum(rates)


def multi_power(params, rates, at=None, warmup_steps=0):
    """Annealing term of multi-power after the updates ``at``, by default every one: the double sum."""
    seen, before, drops = np.cumsum(rates), np.cumsum(rates) - rates, rate_drops(rates, warmup_steps)
    steep = params["C"] * np.where(rates > 0, rates, 1.0) ** -params["gamma"]
    out = [
        drops[: t + 1] @ (1 - (1 + steep[: t + 1] * (seen[t] - before[: t + 1])) ** -params["beta"])
        for t in (range(rates.size) if at is None else at)
    ]
    return params["B"] * np.array(out)


def functional(params, rates, warmup_steps=0):
    """Annealing term of functional after every update: the double sum."""
    seen, drops = np.cumsum(rates), rate_drops(rates, warmup_steps)
    early = params["B"] + params["C"] * np.where(seen > 0, seen, 1.0) ** -params["alpha"]
    out = [
        (drops * early)[: t + 1] @ (1 - (1 + params["kappa"] * (seen[t] - seen[: t + 1])) ** -params["gamma"])
        for t in range(rates.size)
    ]
    return np.array(out)


def convex_bound(rates, distance=1.0, gradient_norm=1.0):
    """The bound as published, after the last update."""
    ahead, squares = np.cumsum(rates[::-1])[::-1], np.cumsum(rates[::-1] ** 2)[::-1] * gradient_norm**2
    shares = rates[:-1] / ahead[1:] * squares[:-1] / ahead[:-1]
    return (distance**2 + squares[0]) / (2 * ahead[0]) + 0.5 * np.sum(shares)


def losses(law, params, rates, size=None, warmup_steps=0):
    """Loss after every update of a run under a law; the rise of ``warmup_steps`` does not count as a drop."""
    (coefficient, exponent), size = SIZE_NAMES.get(law, ("B", "beta")), size or 1.0
    sized = params[coefficient] * size ** -params[exponent] if exponent in params and size > 1 else 0.0
    if law == "convex-bound":
        root = np.sqrt(params["D2"]), np.sqrt(params["G2"])
        bounds = [convex_bound(rates[: t + 1], *root) if rates[: t + 1].sum() else 0.0 for t in range(rates.size)]
        return params["L0"] + sized + np.array(bounds)
    seen = forward(law, rates)
    power = np.where(seen > 0, np.where(seen > 0, seen, 1.0) ** -params["alpha"], np.inf)
    nothing = lambda rates, _: np.zeros_like(rates)  # noqa: E731 - other laws have no such term
    memory = {"forward-momentum": momentum, "lr-annealing": area}.get(law, nothing)(rates, warmup_steps)
    slower = size ** -params["gamma"] if law == "intrinsic-momentum" and "gamma" in params else 1.0
    out = params.get("L0", 0.0) + params["A"] * slower * power + sized
    if law in ("forward-momentum", "lr-annealing"):
        out = out - params["C"] * memory * size ** params.get("gamma", 0)
    if law in ("multi-power", "functional"):
        terms = {"multi-power": multi_power, "functional": functional}
        out = out - terms[law](params, rates, warmup_steps=warmup_steps)
    if law == "intrinsic-momentum":
        for forget in (0.3, 1, 3, 10, 30, 100, 300):
            faded = np.where(np.isfinite(power), power, 0.0)  # nothing to remember before the first update
            scale = size ** params.get("q", 0.0)
            out = out + scale * (params[f"c{forget:g}"] + params[f"d{forget:g}"] * faded) * noise_memory(rates, forget)
    return out


def curve(name, schedule, law="lr-annealing", params=None, *, noise=0.0, size=None, rows=30, **fields):
    """One run, logged from the end of warmup to the last update; ``noise`` is relative."""
    step = np.linspace(schedule.warmup_steps, schedule.total_steps - 1, rows).astype(int)
    loss = losses(law, params or TRUTH[law], rates(schedule), size, int(schedule.warmup_steps))[step]
    loss = loss * np.exp(noise * np.random.default_rng(len(name)).normal(size=step.size))
    return LossCurve(name, step, loss, schedule, model_size=size, **fields)


def runs(law="lr-annealing", params=None, *, peak_lr=1e-3, noise=0.0, size=None, prefix=""):
    """One run of each of ``schedules``."""
    named = schedules(peak_lr).items()
    return tuple(curve(prefix + name, schedule, law, params, noise=noise, size=size) for name, schedule in named)


def constant_runs(peak_lrs=(5e-4, 1e-3, 2e-3, 4e-3), prefix="constant"):
    """Runs without annealing."""
    schedules = (Constant(peak_lr=lr, total_steps=400, warmup_steps=20) for lr in peak_lrs)
    return tuple(curve(f"{prefix}-{i}", schedule, noise=1e-5) for i, schedule in enumerate(schedules))


def five_runs(noise=1e-6):
    """Four runs to train on and one to test with."""
    test = curve("unseen", WSD(1e-3, 400, 0.35, warmup_steps=20), noise=noise, split="test")
    return (*(replace(run, split="train") for run in runs(noise=noise)), test)


def two_rates():
    """Nearly noise-free runs at peak rates 1e-3 and 2e-3."""
    return (*runs(prefix="low-", noise=1e-6), *runs(peak_lr=2e-3, prefix="high-", noise=1e-6))


def cells(peak_lrs=(5e-4, 1e-3), lengths=(300, 400, 600), ratios=(0.1, 0.2, 0.4, 0.6, 0.8), noise=1e-6):
    """Runs at every peak rate, length and annealing ratio; nearly noise-free."""
    return tuple(
        curve(f"p{peak:g}-t{steps}-r{ratio}", WSD(peak, steps, ratio, warmup_steps=20), noise=noise)
        for peak in peak_lrs
        for steps in lengths
        for ratio in ratios
    )


def final_losses(ratios, *, peak_lr, total_steps, decay="linear", warmup_steps=20):
    """True final loss of lr-annealing at each annealing ratio."""
    schedules = [WSD(peak_lr, total_steps, ratio, decay, warmup_steps=warmup_steps) for ratio in ratios]
    truth = TRUTH["lr-annealing"]
    return np.array([losses("lr-annealing", truth, rates(s), warmup_steps=warmup_steps)[-1] for s in schedules])


def write_manifest(folder, curves):
    """Writes runs as CSV with a manifest; returns the folder."""
    tables = []
    for run in curves:
        rows = "".join(f"{step},{loss!r}\n" for step, loss in zip(run.step.tolist(), run.loss.tolist(), strict=True))
        (folder / f"{run.name}.csv").write_text("step,loss\n" + rows, encoding="utf-8")
        keys = {"kind": type(run.schedule).__name__.lower(), **vars(run.schedule)}
        schedule = ", ".join(f"{key} = {value!r}" for key, value in keys.items())
        tables.append(
            f"[[runs]]\nname = '{run.name}'\nfile = '{run.name}.csv'\nschedule = {{ {schedule} }}\n"
            + (f"split = '{run.split}'\n" if run.split else "")
        )
    (folder / "runs.toml").write_text("\n".join(tables), encoding="utf-8")
    return folder


def sized_truth(law):
    """Parameters with model-size terms."""
    named = dict(zip(SIZE_NAMES.get(law, ("B", "beta")), SIZE_TERMS, strict=True))
    found = {**TRUTH[law], **named, **SIZE_POWERS.get(law, {})}
    return {name: value for name, value in found.items() if (law, name) != ("kaplan", "L0")}


def sized_runs(law, noise=0.0):
    """``runs`` of several model sizes under ``sized_truth``."""
    return tuple(run for n in SIZES for run in runs(law, sized_truth(law), size=n, noise=noise, prefix=f"{n:g}-"))
