"""Names and defaults that options can have, apart from what they stand for.

Help and completion of the command line list them without importing JAX. A new law, trainer or tool is named here as
well as where it is defined; ``tests/test_start.py`` compares the two.
"""

LAW_NAMES = (
    "intrinsic-momentum",
    "forward-momentum",
    "lr-annealing",
    "multi-power",
    "functional",
    "convex-bound",
    "forward-only",
    "chinchilla",
    "kaplan",
)
"""Keys of ``laws.LAWS``."""

PREFERRED_LAWS = ("intrinsic-momentum", "lr-annealing")
"""Laws tried where none is asked for: the first holds best on real runs, the second needs less data."""

DECAY_NAMES = ("linear", "cosine", "1-sqrt", "exponential")
"""Keys of ``schedules.anneals.DECAYS``."""

TRAINERS = (
    "optax",
    "pytorch",
    "huggingface",
    "axolotl",
    "maxtext",
    "levanter",
    "torchtitan",
    "megatron",
    "megatron-bridge",
    "nanotron",
    "nanochat",
    "olmo-core",
)
"""Keys of ``exporters.EXPORTERS``."""

TOOLS = (
    "huggingface",
    "maxtext",
    "levanter",
    "wandb",
    "torchtitan",
    "megatron",
    "tensorboard",
    "nanotron",
    "olmo",
    "composer",
    "maxtext-stdout",
    "litgpt",
    "nanogpt",
    "build-nanogpt",
    "llmc",
    "nanochat",
    "modded-nanogpt",
    "torchtitan-stdout",
    "fairseq",
    "huggingface-stdout",
    "clu",
    "progress-bar",
    "lines",
    "two-columns",
    "csv",
)
"""Keys of ``importers.SOURCES``."""

RESIDUALS = ("log", "raw")
"""Residuals by name: log predicted - log loss, or predicted - loss."""

DTYPES = ("float64", "float32")
"""Precisions a fit or a search can compute in."""

DEVICES = ("cpu", "cuda", "rocm", "tpu")
"""Kinds of devices that can be measured."""

CRITERIA = ("objective", "leave-one-out", "rollout")
"""What candidates for a law's options are compared by: training objective, runs left out, or the last part of each
run left out."""

METHODS = ("noise", "blocks", "runs")
"""What a bootstrap sample can redraw: keys of ``fitting.sampling.DRAWS``."""

LEVEL = 0.9
"""Probability that intervals aim to cover, unless told otherwise."""
