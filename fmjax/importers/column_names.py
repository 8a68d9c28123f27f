"""Which column holds the steps, the losses and the rates: names that tools write, the best first.

Names are compared in plain form, so that ``train/CE loss``, ``train_ce_loss`` and ``Train CE-Loss`` are one. A pattern
is a glob over that form. A new name is one entry here.
"""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import NamedTuple

import numpy as np


class Preference(NamedTuple):
    """Names of columns of one kind."""

    patterns: tuple[str, ...]
    """Globs over names as written or in plain form, the most telling first."""
    never: frozenset[str] = frozenset()
    """Words that make a column another thing: ``scale`` in ``loss_scale``."""
    later: frozenset[str] = frozenset()
    """Words of columns that are taken where there is no other: means over an epoch, running means."""


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


EVALUATION_ROLES = words("val valid validation eval evaluation dev test")
EVALUATION = EVALUATION_ROLES | words("heldout held holdout")

_OTHER_LOSSES = words(
    "scale scaler scaling z aux auxiliary balance balancing lb load router mtp moe best min max std stdev var count "
    "time num weight weights kl reg regularization vs delta diff change grad per target patience spike ratio"
)
_MEANS = words("epoch ema smooth smoothed running ma moving avg100")

COUNTERS = Preference(
    (
        *("train_global_step", "trainer_global_step", "global_step", "num_updates", "train_step", "training_step"),
        *("step", "steps", "iter", "iters", "iteration", "iterations", "iter_num", "update", "updates", "global_iter*"),
        *("train_iter*", "*_global_step", "*_step", "*_steps", "*_iter", "*_iteration", "*_update", "count"),
        *("batch", "tokens", "*_tokens", "tokens_*", "_step"),
    ),
    never=words(
        "per second sec time avg max total warmup interval skipped loss lr rate acc accuracy norm grad every save log "
        "logging remaining s ms throughput device gpu batch_size decay estimated"
    )
    | EVALUATION,
)
"""The counter that the losses were plotted against, before a logger's own (``_step``)."""

LOSSES = Preference(
    (
        *("train_ce_loss", "train_cross_entropy_loss", "train_cross_entropy", "*train_language_cross_entropy"),
        *("train_lm_loss", "lm_loss", "train_loss_step", "train_loss_batch", "train_batch_loss", "train_step_loss"),
        *("train_loss", "loss_train", "training_loss", "loss_step", "loss_batch", "batch_loss", "step_loss", "loss"),
        *("*_global_avg_loss", "global_avg_loss", "*train*loss", "*loss_train*", "*train*loss*", "ce_loss"),
        *(
            "cross_entropy_loss",
            "cross_entropy",
            "nll",
            "nll_loss",
            "*_loss",
            "loss_*",
            "*loss*",
            "*train*cross_entropy*",
        ),
    ),
    never=_OTHER_LOSSES | EVALUATION,
    later=_MEANS,
)
"""Losses of training: of batches before means, the cross-entropy before sums with other terms."""

HELD_OUT = Preference(
    (
        *("val_loss", "eval_loss", "valid_loss", "validation_loss", "val_lm_loss", "dev_loss", "test_loss"),
        *("eval_avg_loss", "loss_val", "loss_eval", "loss_valid*", "*val*loss", "*eval*loss", "*val*loss*"),
        *("*eval*loss*", "*heldout*loss*", "*held_out*loss*", "*dev_loss*", "*test*loss*", "*loss*test*"),
        *("*eval*cross_entropy*", "*val*cross_entropy*"),
    ),
    never=_OTHER_LOSSES,
    later=words("ema smooth smoothed running ma moving"),
)
"""Losses on held-out text."""

RATES = Preference(
    (
        *("train_learning_rate", "train_lr", "learning_rate", "lr", "optim_learning_rate", "optim_lr", "rate"),
        *("optimizer_lr", "optimizer_learning_rate", "lr_0", "lr_group_0", "lr0", "*learning_rate", "*_lr", "lr_*"),
        *("*learning_rate*", "*_lr_*", "*_lr[0-9]*", "lr[0-9]*", "optim_lr*"),
    ),
    never=words(
        "mult multiplier scale factor ratio min max final peak base initial init end decay warmup relative vs wd "
        "momentum beta beta1 norm loss scheduler dropout"
    ),
)
"""Learning rates; of several parameter groups the first."""

MULTIPLIERS = Preference(
    ("lrm", "lr_mult", "lr_multiplier", "lr_scale", "lr_factor", "lr_ratio", "*_lr_mult*", "*_lrm", "*lr_scale*"),
    never=words("min max final"),
)
"""Rates relative to their peak."""

SPENT = Preference(
    (
        *("consumed_tokens", "consumed_train_tokens", "tokens_seen", "seen_tokens", "train_tokens", "num_tokens"),
        *("tokens", "total_tokens", "consumed_samples", "consumed_train_samples", "samples_seen", "seen_samples"),
        *("*_consumed_tokens", "*_consumed_samples", "*_tokens_seen", "*_total_tokens", "*_consumed_train_samples"),
    ),
    never=words("per second sec time avg max throughput device gpu valid val eval validation test"),
)
"""Counters of tokens or samples so far."""

LOGGED_BATCHES = Preference(
    (
        *("tokens_per_step", "tokens_per_update", "tokens_per_iter", "tokens_per_iteration", "tokens_per_batch"),
        *("batch_tokens", "batch_size_tokens", "batch_size_in_tokens", "token_batch_size", "*_tokens_per_step"),
        *("*_tokens_per_update", "*_batch_tokens", "*_batch_size_tokens", "*_batch_size_in_tokens"),
        *("global_batch_size", "total_batch_size", "effective_batch_size", "*_global_batch_size", "train_batch_size"),
        *("sequences_per_step", "sequences_per_update", "seqs_per_step", "samples_per_step", "samples_per_update"),
        *("batch_sequences", "batch_size", "*_batch_size", "gbs", "bsz", "bs"),
    ),
    never=words("micro mini device gpu rank local host vs max min target sec second time gen generation rollout")
    | EVALUATION,
)
"""The batch of each row: in tokens before sequences, of all devices before those of which some log a part."""

SPARSE = 0.1
"""A column with fewer rows than this share of the fullest of its kind is a summary beside it, and comes after it."""


@lru_cache(maxsize=10_000)
def plain_name(name: str) -> str:
    """A name in lower case, its words joined by ``_``; a leading ``_``, by which loggers mark their own, stays.

    >>> [plain_name(name) for name in ("train/CE loss", "optim/LR (group 0)", "lr-AdamW", "CrossEntropyLoss", "_step")]
    ['train_ce_loss', 'optim_lr_group_0', 'lr_adam_w', 'cross_entropy_loss', '_step']
    """
    parted = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z]+$)", "_", name.strip())
    joined = re.sub(r"[\W_]+", "_", parted.lower()).strip("_")
    return "_" + joined if name.startswith("_") else joined


def ranked(columns: Mapping[str, np.ndarray], preference: Preference | Sequence[str]) -> list[str]:
    """Names of the columns of a kind that hold at least one number, the best first.

    >>> table = {"a/lr": np.ones(2), "lr": np.ones(2), "min_lr": np.ones(2), "loss_scale": np.ones(2)}
    >>> ranked(table, RATES), ranked(table, LOSSES), ranked(table, ("lr", "*/lr"))
    (['lr', 'a/lr'], [], ['lr', 'a/lr'])
    """
    kind = preference if isinstance(preference, Preference) else Preference(tuple(preference))
    known = _of_kind(kind, tuple(columns))
    counts = {key: int(np.isfinite(columns[key]).sum()) for key in known}
    few = SPARSE * max(counts.values(), default=0) if isinstance(preference, Preference) else 0
    found = [key for key in known if counts[key]]
    return sorted(found, key=lambda key: (bool(kind.later & _words_of(key)), counts[key] < few))


@lru_cache(maxsize=1000)
def _of_kind(kind: Preference, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the names that are of a kind; kept, since the files of a folder have the same columns."""
    matched = (name for pattern in kind.patterns for name in names if named_by(pattern, name))
    return tuple(name for name in dict.fromkeys(matched) if not kind.never & _words_of(name))


def named_by(pattern: str, name: str) -> bool:
    """Whether a pattern names a column, as it is written or in plain form."""
    return fnmatchcase(name, pattern) or fnmatchcase(plain_name(name), pattern)


def _words_of(name: str) -> frozenset[str]:
    return frozenset(plain_name(name).split("_"))
