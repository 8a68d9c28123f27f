"""The grids of runs that can be trained by name."""

from collections.abc import Iterable

from benchmarks.proxy_runs.config import ModelConfig, RunConfig, Setup
from fmjax.schedules.kinds import WSD, Constant, Cosine, Schedule, Step

SIZES = {
    "0.025M": ModelConfig(32, 2, 1),
    "0.1M": ModelConfig(64, 2, 2),
    "0.4M": ModelConfig(128, 2, 4),
    "1.6M": ModelConfig(256, 2, 4),
    "moe-0.1M": ModelConfig(64, 2, 2, experts=8),
    "moe-0.4M": ModelConfig(128, 2, 4, experts=8),
}
"""Model shapes by their number of parameters without embeddings; of experts only those that a token uses."""

HORIZONS = (4000, 2000, 1000)
"""Updates of a run; the longest first, as the shorter ones start from its checkpoints."""

WARMUP = 100

TRAIN = ("constant", "cosine", "wsd-linear-0.2")
"""Schedules whose runs laws are fitted to; the others test them."""


DEMO = "0.1M-lr0.0025-T4000-"
"""What the names of the runs that ``fmjax demo`` shows start with; ``demo.toml`` has them alone."""


def wide() -> list[RunConfig]:
    """The runs that ship with fmjax; about two hours on two cores."""
    few, many = (0.1, 0.2, 0.4, 0.6, 0.8), (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
    return [
        *family("1.6M", 0.0025, few),
        *family("0.1M", 0.0025, many, other=(4000, 2000)),
        *family("0.4M", 0.0025, few),
        *family("0.025M", 0.0025, few, (2000, 1000)),
        *family("0.1M", 0.0064, many),
        *family("0.1M", 0.001, many),
        *family("0.1M", 0.016, many),
        *family("0.1M", 0.0025, few, (2000,), seed=1),
        *family("0.1M", 0.0025, few, (2000,), seed=2),
        *family("0.1M", 0.0025, few, (2000,), batch=32),
        *family("0.025M", 0.0064, few, (2000, 1000)),
    ]


SPREAD = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Annealing ratios of the runs below, which all log three losses."""


def mixtures() -> list[RunConfig]:
    """Mixtures of experts: two sizes, two peak rates, three lengths."""
    return [
        *probed("moe-0.1M", 0.0025),
        *probed("moe-0.1M", 0.0064),
        *probed("moe-0.4M", 0.0025),
        *probed("moe-0.4M", 0.0064),
        *probed("moe-0.1M", 0.0025, (2000,), seed=1),
    ]


def batches() -> list[RunConfig]:
    """A dense model at five batch sizes and two peak rates."""
    return [
        *probed("0.1M", 0.0025, (2000,), batch=4),
        *probed("0.1M", 0.0025, (2000,), batch=8),
        *probed("0.1M", 0.0025, batch=16),
        *probed("0.1M", 0.0025, (2000,), batch=64),
        *probed("0.1M", 0.0025, (2000,), batch=32),
        *probed("0.1M", 0.0064, batch=16),
        *(run for batch in (4, 8, 32, 64) for run in probed("0.1M", 0.0064, (2000,), batch=batch)),
        *probed("0.1M", 0.0025, (2000,), batch=16, seed=1),
    ]


def large() -> list[RunConfig]:
    """The largest dense model at a rate that suits it better than that of ``wide``."""
    return probed("1.6M", 0.001, batch=16)


def smoke() -> list[RunConfig]:
    """A minute of training, to see that everything works."""
    setup = Setup(ModelConfig(32, 1, 1), validation_sequences=128)
    chosen = {"constant": Constant(0.004, 100, 10), **annealed(0.004, 100, (0.2, 0.4), 10), **others(0.004, 100, 10)}
    return [RunConfig(name, schedule, setup, _split(name), log_every=10) for name, schedule in chosen.items()]


def family(
    size: str,
    peak: float,
    ratios: tuple[float, ...],
    horizons: tuple[int, ...] = HORIZONS,
    *,
    other: Iterable[int] = (),
    batch: int = 16,
    seed: int = 0,
    probes: int = 0,
) -> list[RunConfig]:
    """The runs of one setup and peak rate: a constant stem, and what anneals from it at every horizon.

    Args:
      size: key of ``SIZES``.
      peak: learning rate of the stable phase.
      ratios: annealing ratios of the linear WSD schedules.
      horizons: numbers of updates.
      other: horizons that get the other schedules as well.
      batch: sequences per update.
      seed: of the initial parameters and the data.
      probes: sequences of the sets of the second and third loss; the runs then log every 100 updates.
    """
    setup = Setup(SIZES[size], batch=batch, seed=seed, probe_sequences=probes)
    has_batch = batch != 16 or probes
    prefix = f"{size}-lr{peak:g}" + (f"-b{batch}" if has_batch else "") + (f"-s{seed}" if seed else "")
    longest = max(horizons)
    chosen: dict[str, Schedule] = {f"T{longest}-constant": Constant(peak, longest, WARMUP)}
    for total in horizons:
        shapes = annealed(peak, total, ratios, WARMUP) | (others(peak, total, WARMUP) if total in other else {})
        chosen |= {f"T{total}-{name}": schedule for name, schedule in shapes.items()}
    every = 100 if probes else 50
    return [RunConfig(f"{prefix}-{name}", one, setup, _split(name), every) for name, one in chosen.items()]


def probed(
    size: str, peak: float, horizons: tuple[int, ...] = HORIZONS, *, batch: int = 16, seed: int = 0
) -> list[RunConfig]:
    """A family of runs that log three losses."""
    return family(size, peak, SPREAD, horizons, batch=batch, seed=seed, probes=256)


def annealed(peak: float, total: int, ratios: tuple[float, ...], warmup: int) -> dict[str, Schedule]:
    """One WSD schedule with linear annealing to zero for each ratio."""
    return {f"wsd-linear-{ratio:g}": WSD(peak, total, ratio, warmup_steps=warmup) for ratio in ratios}


def others(peak: float, total: int, warmup: int) -> dict[str, Schedule]:
    """WSD with 1-sqrt, cosine to a tenth, a step down, and one that is warmed up again."""
    return {
        **{f"wsd-1-sqrt-{ratio:g}": WSD(peak, total, ratio, "1-sqrt", warmup_steps=warmup) for ratio in (0.2, 0.5)},
        "cosine": Cosine(peak, total, peak / 10, warmup),
        "step": Step(peak, total, (total * 3 // 5,), (peak / 5,), warmup),
        "rewarmed": rewarmed(peak, total, warmup),
    }


def rewarmed(peak: float, total: int, warmup: int) -> Schedule:
    """A step schedule that drops at 1/2 of the run, is back at its peak at 3/4, and drops again at 9/10."""
    boundaries = (total // 2, total * 3 // 4, total * 9 // 10)
    return Step(peak, total, boundaries, (peak / 10, peak, peak / 10), warmup)


def _split(name: str) -> str:
    return "train" if name.endswith(TRAIN) else "test"


GRIDS = {"wide": wide, "moe": mixtures, "batches": batches, "large": large, "smoke": smoke}
"""Grids by name."""
