"""Cooldown curves of the schedule studies at EPFL: validation loss of Llama models, one JSON log a run.

Cooldown runs are logged only from where they branch off a run at constant rate; ``load`` gives them the rows of that
stem, so that each curve tells its whole schedule.
"""

import json
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fmjax._checks import choose, finite, positive, require, whole, within
from fmjax.curves.loss_curve import LossCurve
from fmjax.schedules.checks import check_schedule
from fmjax.schedules.kinds import WSD, Constant, Cosine, Schedule

COOLDOWN_DECAYS = {"linear": "linear", "sqrt": "1-sqrt", "cosine": "cosine", "exp": "exponential"}
"""Shapes of the cooldown, from the names in the logs to those of ``WSD``."""

_NAME = re.compile(r".+_lr[^_]+_sched_.+_iter\d+_.+")
_MODELS = ("llama", "llama_norm")
_SCHEDULERS = ("wsd", "cos")
_SAME_RUN = ("model", "n_layer", "n_embd", "lr", "warmup_steps", "seed", "data_seed")  # of a cooldown and its stem
_SAME_BATCH = ("batch_size", "acc_steps", "world_size", "sequence_length")
_ZERO = 1e-7  # the lowest ``cos_final_lr`` in use; the runs that have it are named "cos-zero"
_TOLERANCE = 0.01  # of the peak: how far a logged rate may lie from the schedule


_Settings: TypeAlias = Mapping[str, Any]
"""A table of a log."""


class _CooldownLog(NamedTuple):
    """What one file tells of its run."""

    file: str
    name: str
    config: _Settings
    schedule: Schedule
    loss: dict[int, float]
    """Validation loss by step, steps rising."""
    rate: dict[int, float]
    """Logged learning rate by step, steps rising."""
    final_loss: float | None


def load(clone: str | PathLike[str], *, size: int | None = None, dataset: str = "slimpajama") -> tuple[LossCurve, ...]:
    r"""Reads the runs of one model size from a clone of fabian-sp/lr-scheduling.

    Each curve holds the validation loss of a small batch, logged every 200 updates or so; ``final_loss`` is that of
    the full validation set after the last update. Names tell the schedule, peak rate and length:
    ``constant_lr0.001_T10000``, ``cosine-0.1_lr0.002_T10000`` (ends at 0.1 of the peak), or
    ``wsd-linear-0.2_lr0.001_T3000`` (annealing ratio 0.2).

    A run logged only from its cooldown on gets the earlier rows of its stem: the run at constant rate it was resumed
    from, else the longest of the same model, rate, batch and seeds. Of a step logged twice the later row counts. The
    rate of zero that is logged after the last update is no part of the schedule.

    All schedules warm up linearly from a hundredth of the peak rate. The cosine runs in fact did so along half a cosine
    between the same rates, which ends at nearly the same forward effect.

    Files whose schedule is not known, whose logged rates depart from it, or which repeat a run of an earlier file are
    ignored, with one warning that says why.

    Args:
      clone: the folder of the clone; the JSON files of its folder ``data`` are read.
      size: millions of parameters, rounded; may be left out where the clone has one size.
      dataset: the training data, such as "slimpajama" or "openwebtext2".

    Returns:
      The runs, by name.

    Raises:
      ValueError: naming the folder, or the file and row (counted from 1), what was expected and what was found; also
        for a size or data set that the clone does not have and a cooldown run without its stem.

    Reference: arXiv 2405.18392 (runs); arXiv 2501.18965 (logs).
    """
    folder = Path(clone) / "data"
    require(folder.is_dir(), f"{folder}: expected this folder in a clone of fabian-sp/lr-scheduling, found none")
    ignored: dict[str, str] = {}
    with within(folder):
        contents = _of_size(_of_dataset(_read_all(folder, ignored), dataset, ignored), size)
        logs = [_log(file, content) for file, content in contents.items()]
        sound = [log for log in logs if not _departs(log, ignored)]
        curves = [_curve(log, sound) for log in _first_of_each(sound, ignored)]
    if ignored:
        reasons = "; ".join(f"{file} ({why})" for file, why in ignored.items())
        warnings.warn(f"{folder}: ignored {len(ignored)} files: {reasons}", stacklevel=2)
    return tuple(sorted(curves, key=lambda curve: curve.name))


def _read_all(folder: Path, ignored: dict[str, str]) -> dict[str, _Settings]:
    paths = sorted(folder.glob("*.json"))
    ignored.update({path.name: "not named as a run" for path in paths if not _NAME.fullmatch(path.stem)})
    contents = {path.name: _read(path) for path in paths if path.name not in ignored}
    require(contents, "expected files named ..._lr..._sched_..._iter..._....json, found none")
    return contents


def _read(path: Path) -> _Settings:
    with within(path.name):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"expected JSON, but {error}") from None
        for key in ("config", "history"):
            require(isinstance(_entry(content, key), Mapping), f"{key}: expected a table, found {content[key]!r:.80}")
    return content


def _entry(table: object, *keys: str) -> Any:
    """The value under nested keys."""
    for key in keys:
        if not isinstance(table, Mapping) or key not in table:
            raise ValueError(f"expected the key {'/'.join(keys)}, found no {key!r}")
        table = table[key]
    return table


def _of_dataset(contents: dict[str, _Settings], dataset: str, ignored: dict[str, str]) -> dict[str, _Settings]:
    """Runs on the data set whose model and schedule are known."""
    choose(dataset, sorted({str(content["config"].get("dataset")) for content in contents.values()}), "dataset")
    kept = {file: content for file, content in contents.items() if content["config"].get("dataset") == dataset}
    strange = {file: _strange(content["config"]) for file, content in kept.items()}
    ignored.update({file: why for file, why in strange.items() if why})
    return {file: content for file, content in kept.items() if not strange[file]}


def _strange(config: _Settings) -> str:
    """The first setting that is not known, empty if all are."""
    known = {"model": _MODELS, "scheduler": _SCHEDULERS, "decay_type": tuple(COOLDOWN_DECAYS)}
    given = {"decay_type": "linear", **config}
    return next((f"{key} {given.get(key)!r}" for key, values in known.items() if given.get(key) not in values), "")


def _of_size(contents: dict[str, _Settings], size: int | None) -> dict[str, _Settings]:
    sizes = {}
    for file, content in contents.items():
        with within(file):
            sizes[file] = round(_model_size(content["config"]) / 1e6)
    found = [str(n) for n in sorted(set(sizes.values()))]
    require(found, "expected runs of a known model and schedule, found none")
    require(size is not None or len(found) == 1, f"expected size, one of {', '.join(found)} million parameters")
    chosen = found[0] if size is None else choose(str(size), found, "size in millions of parameters")
    return {file: content for file, content in contents.items() if str(sizes[file]) == chosen}


def _model_size(config: _Settings) -> int:
    """Parameters of a Llama with tied embeddings: d (V + 1) + L (4 d^2 + 3 d h + 2 d), h = 8 d / 3 rounded up."""
    keys = ("n_embd", "n_layer", "vocab_size", "multiple_of")
    width, layers, words, multiple = (whole(_entry(config, key), key, least=1) for key in keys)
    hidden = -(-(8 * width // 3) // multiple) * multiple
    return width * (words + 1) + layers * width * (4 * width + 3 * hidden + 2)


def _log(file: str, content: _Settings) -> _CooldownLog:
    with within(file):
        config, history = content["config"], content["history"]
        name, schedule = _named_schedule(config)
        loss = _rows(history, "val", "val_loss", positive)
        require(loss, "expected rows in history/val, found none")
        rate = _rows(history, "train", "train_lr", finite)
        final = _rows(history, "final-val", "final_val_loss", positive)
    return _CooldownLog(file, name, config, schedule, loss, rate, final.get(int(schedule.total_steps)))


def _rows(history: _Settings, part: str, column: str, read: Callable[[object, str], float]) -> dict[int, float]:
    """A column by step, rising; of a step logged twice the later row, and nothing where the part is missing."""
    if part not in history:
        return {}
    steps, values = _entry(history, part, "iter"), _entry(history, part, column)
    lists = isinstance(steps, list) and isinstance(values, list) and len(steps) == len(values)
    require(lists, f"history/{part}: expected lists iter and {column} of one length, found others")
    rows = {}
    for i, (step, value) in enumerate(zip(steps, values, strict=True), start=1):
        with within(f"history/{part}, row {i}"):
            rows[whole(step, "iter")] = read(value, column)
    return dict(sorted(rows.items()))


def _named_schedule(config: _Settings) -> tuple[str, Schedule]:
    total, warmup = (whole(_entry(config, key), key) for key in ("iterations", "warmup_steps"))
    peak = positive(_entry(config, "lr"), "lr")
    kind, schedule = (_wsd if config["scheduler"] == "wsd" else _cosine)(config, peak, total, warmup)
    check_schedule(schedule)
    return f"{kind}_lr{peak:g}_T{total}", schedule


def _wsd(config: _Settings, peak: float, total: int, warmup: int) -> tuple[str, Schedule]:
    ratio = finite(_entry(config, "wsd_fract_decay"), "wsd_fract_decay")
    if ratio == 0:
        return "constant", Constant(peak, total, warmup, peak / 100)
    shape, steps = COOLDOWN_DECAYS[config.get("decay_type", "linear")], int(ratio * total)
    final = peak * finite(config.get("wsd_final_lr_scale", 0), "wsd_final_lr_scale")
    return f"wsd-{shape}-{ratio:g}", WSD(peak, total, steps / total, shape, final, warmup, peak / 100)


def _cosine(config: _Settings, peak: float, total: int, warmup: int) -> tuple[str, Schedule]:
    """A tenth of the peak is where the logs without ``cos_final_lr`` end."""
    final = finite(config.get("cos_final_lr", peak / 10), "cos_final_lr")
    final = 0.0 if final <= _ZERO else final
    return f"cosine-{final / peak:g}", Cosine(peak, total, final, warmup, peak / 100)


def _departs(log: _CooldownLog, ignored: dict[str, str]) -> bool:
    """Whether a rate logged between warmup and end is not that of the schedule."""
    step = np.array(list(log.rate), int)
    logged, expected = np.array(list(log.rate.values())), np.asarray(log.schedule(step))
    inside = (step >= log.schedule.warmup_steps) & (step < log.schedule.total_steps)
    off = inside & (abs(logged - expected) > _TOLERANCE * log.config["lr"])
    if off.any():
        i = np.argmax(off)
        ignored[log.file] = f"logged rate {logged[i]:.4g} at step {step[i]}, but {expected[i]:.4g} by its config"
    return bool(off.any())


def _first_of_each(logs: Sequence[_CooldownLog], ignored: dict[str, str]) -> list[_CooldownLog]:
    """The first run of each name."""
    first: dict[str, _CooldownLog] = {}
    for log in logs:
        if first.setdefault(log.name, log) is not log:
            ignored[log.file] = f"run {log.name!r} is already in {first[log.name].file}"
    return list(first.values())


def _curve(log: _CooldownLog, logs: Sequence[_CooldownLog]) -> LossCurve:
    loss = log.loss
    if isinstance(log.schedule, WSD) and min(loss) > log.schedule.warmup_steps:
        loss = {step: value for step, value in _stem(log, logs).loss.items() if step < min(loss)} | loss
    with within(log.file):
        batch = [whole(_entry(log.config, key), key, least=1) for key in _SAME_BATCH]
        return LossCurve(
            log.name,
            list(loss),
            list(loss.values()),
            log.schedule,
            model_size=_model_size(log.config),
            tokens_per_step=math.prod(batch),
            final_loss=log.final_loss,
        )


def _stem(log: _CooldownLog, logs: Sequence[_CooldownLog]) -> _CooldownLog:
    """The run at constant rate that a cooldown run branches from."""
    start, resumed = min(log.loss), str(log.config.get("resume_from"))
    alike = [other for other in logs if _may_be_stem(other, log)]
    with within(f"{log.file}: run {log.name!r}"):
        settings = ", ".join(f"{key} {log.config.get(key)}" for key in _SAME_RUN)
        expected = f"expected the run at constant rate that it branches from ({settings})"
        require(alike, f"logged only from step {start} on; {expected}, found none")
    return max(alike, key=lambda other: (f"/{Path(other.file).stem}/" in resumed, other.schedule.total_steps))


def _may_be_stem(other: _CooldownLog, log: _CooldownLog) -> bool:
    alike = all(other.config.get(key) == log.config.get(key) for key in (*_SAME_RUN, *_SAME_BATCH))
    return alike and isinstance(other.schedule, Constant) and int(other.schedule.total_steps) >= min(log.loss)
