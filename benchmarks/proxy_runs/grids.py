"""The grids of runs that can be trained by name."""

from itertools import product

from benchmarks.proxy_runs.config import ModelConfig, RunConfig, Setup
from fmjax.schedules import WSD, Constant, Cosine, Schedule, Step

SIZES = {"0.15M": ModelConfig(80, 2, 2), "0.4M": ModelConfig(128, 2, 2), "1.6M": ModelConfig(256, 2, 4)}
"""Model shapes by their number of parameters without embeddings."""

TRAIN = ("constant", "cosine", "wsd-linear-0.2")
"""Schedules whose runs laws are fitted to; the others test them."""


def schedules(
    peak: float, total: int, warmup: int, ratios: tuple[float, ...], decays: tuple[str, ...]
) -> dict[str, Schedule]:
    """Constant, cosine and step schedules, and one WSD schedule for each pair of ratio and decay."""
    shape = {"peak_lr": peak, "total_steps": total, "warmup_steps": warmup}
    wsd = {f"wsd-{d}-{r:g}": WSD(anneal_ratio=r, decay=d, **shape) for d, r in product(decays, ratios)}
    return {
        "constant": Constant(**shape),
        "cosine": Cosine(final_lr=peak / 10, **shape),
        "step": Step(boundaries=(total * 3 // 5,), lrs=(peak / 5,), **shape),
        **wsd,
    }


def rewarmed(peak: float, total: int, warmup: int) -> Schedule:
    """A step schedule that drops at 1/2 of the run, is back at its peak at 3/4, and drops again at 9/10."""
    boundaries = (total // 2, total * 3 // 4, total * 9 // 10)
    return Step(peak, total, boundaries, (peak / 10, peak, peak / 10), warmup)


def core() -> list[RunConfig]:
    """The shipped runs: one size, one peak rate, one horizon."""
    shape = (0.004, 3000, 100)
    chosen = schedules(*shape, ratios=(0.1, 0.2, 0.4, 0.6), decays=("linear",))
    chosen |= {"wsd-1-sqrt-0.2": WSD(*shape[:2], 0.2, "1-sqrt", warmup_steps=shape[2])}
    return [RunConfig(name, schedule, split=_split(name)) for name, schedule in chosen.items()]


def wide() -> list[RunConfig]:
    """Every size, peak rate, horizon, batch size and seed under every schedule; days on a laptop."""
    axes = product(SIZES, (0.001, 0.002, 0.004), (4000, 2000, 1000), (16, 32), (0, 1))
    return [run for axis in axes for run in _family(*axis)]


def smoke() -> list[RunConfig]:
    """A minute of training, to see that everything works."""
    setup = Setup(ModelConfig(32, 1, 2), validation_sequences=128)
    chosen = schedules(0.004, 100, 10, ratios=(0.2, 0.4), decays=("linear",))
    return [RunConfig(name, schedule, setup, _split(name), log_every=10) for name, schedule in chosen.items()]


def _family(size: str, peak: float, total: int, batch: int, seed: int) -> list[RunConfig]:
    setup = Setup(SIZES[size], batch=batch, seed=seed)
    chosen = schedules(peak, total, 100, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), ("linear", "cosine", "1-sqrt"))
    chosen |= {"rewarmed": rewarmed(peak, total, 100)}
    prefix = f"{size}-b{batch}-s{seed}-lr{peak:g}-T{total}"
    return [RunConfig(f"{prefix}-{name}", schedule, setup, _split(name)) for name, schedule in chosen.items()]


def _split(name: str) -> str:
    return "train" if name in TRAIN else "test"


GRIDS = {"core": core, "wide": wide, "smoke": smoke}
"""Grids by name."""
